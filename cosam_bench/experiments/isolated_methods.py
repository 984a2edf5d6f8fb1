"""Which methods run in processes of their own, and what the harness is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.core.errors import CosamError
from cosam_bench.method.registry import is_built_in

if TYPE_CHECKING:
    from cosam_bench.data.streams import Stream
    from cosam_bench.isolation.descriptions import MethodFacts


def runs_isolated(asked: str, isolated: bool | None) -> bool:
    """Whether a method runs in processes of its own.

    Args:
        asked: the method.
        isolated: what the user chose; None: all methods but the built-in ones.
    """
    return not is_built_in(asked) if isolated is None else isolated


def own_files(asked: str) -> list[Path]:
    """The files that a process of its own needs to import a method: its own, if the method is a file."""
    file = asked.partition(":")[0]
    return [Path(file)] if file.endswith(".py") else []


def private_folders(stream: Stream, results: Path, experts: Iterable[Path] = ()) -> list[Path]:
    """The folders of records, data and experts, which an isolated method has no reason to read."""
    from cosam_bench.data.locations import data_folder
    from cosam_bench.experts.sources import expert_folders

    roots = [Path(root) for name in (*stream.order, *stream.retention) if (root := stream.card(name).root)]
    return [results, data_folder(), *roots, *expert_folders(experts)]


def named_private_folders(stream: str, experts: str | None, results: Path | None) -> list[Path]:
    """The private folders that a run's settings name, before anything is opened.

    Args:
        stream: a built-in stream's name or the path of its file. One that cannot be read names no folder.
        experts: the place of experts, if they are brought in.
        results: the folder of records; None: the default one.

    Raises:
        CosamError: the path of the folder of data cannot be resolved.
    """
    from cosam_bench.data.locations import data_folder
    from cosam_bench.data.streams import load_stream
    from cosam_bench.experts.sources import expert_sources

    records = Path("results") if results is None else results
    sources: Mapping[str, Path] = {}
    try:
        opened = load_stream(stream)
    except CosamError:  # whoever opens the run says what is wrong
        return [records, data_folder()]
    if experts is not None:
        with suppress(CosamError):
            sources = expert_sources(Path(experts), opened.order)
    return private_folders(opened, records, sources.values())


def described(asked: str, settings: Mapping[str, Any], *, source: str, private: Sequence[Path] = ()) -> MethodFacts:
    """What a process of its own says about a method; this process imports none of its code.

    Args:
        asked: the method.
        settings: those that are given.
        source: of the settings, in messages.
        private: folders that the process must not see, as far as it needs nothing in them.

    Raises:
        CosamError: the method cannot be imported, or a setting is not one of its own.
    """
    from cosam_bench.isolation.descriptions import describe, text_of
    from cosam_bench.isolation.faults import WorkerFault
    from cosam_bench.isolation.private_folders import hidden_folders

    try:
        hidden = hidden_folders(private, needed=own_files(asked))
        return describe(asked, settings, source=source, hidden=hidden)
    except WorkerFault as fault:
        raise CosamError(text_of(fault, asked)) from None
