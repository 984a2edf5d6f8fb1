"""Which methods run in processes of their own, and what the harness is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.core.errors import CosamError
from cosam_bench.method.registry import is_built_in

if TYPE_CHECKING:
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


def described(asked: str, settings: Mapping[str, Any], *, source: str) -> MethodFacts:
    """What a process of its own says about a method; this process imports none of its code.

    Args:
        asked: the method.
        settings: those that are given.
        source: of the settings, in messages.

    Raises:
        CosamError: the method cannot be imported, or a setting is not one of its own.
    """
    from cosam_bench.isolation.descriptions import describe, text_of
    from cosam_bench.isolation.faults import WorkerFault

    try:
        return describe(asked, settings, source=source)
    except WorkerFault as fault:
        raise CosamError(text_of(fault, asked)) from None
