"""Whole runs on `mini` and its longer and shorter kin, with processor seconds by what they were spent on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.experiment import Prepared, prepare
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.records import Record


def stream_file(folder: Path, *, domains: int, train: int = 24, test: int = 24, retention: int = 24) -> Path:
    """A stream of so many domains by the generators of `mini`, in its order, then again from other seeds.

    Args:
        folder: where the file is written.
        domains: how many are learned.
        train: images of each.
        test: images of each.
        retention: test images of the retention domain.
    """
    mini = load_stream("mini")
    tables = []
    for number in range(domains):
        card = mini.card(mini.order[number % len(mini.order)])
        turn = number // len(mini.order)
        split = {"kind": "counts", "train": train, "test": test, "seed": card.split.seed + turn}
        tables.append(_table(f"{card.name}_{turn + 1}" if turn else card.name, card.generator, card.size, split))
    for name in mini.retention:
        card = mini.card(name)
        split = {"kind": "counts", "train": 0, "test": retention, "seed": card.split.seed}
        tables.append(_table(name, card.generator, card.size, split))
    path = folder / f"mini-{domains}-{train}-{test}-{retention}.toml"
    stream = {"name": path.stem, "retention": list(mini.retention), "domain": tables}
    path.write_text(tomli_w.dumps(stream), encoding="utf-8")
    return path


def _table(name: str, generator: str, size: int, split: dict[str, object]) -> dict[str, object]:
    return {"name": name, "kind": "synthetic", "generator": generator, "size": size, "split": split}


@dataclass
class Clock:
    """A reporter that adds up processor seconds by what the run says it does.

    Attributes:
        learning: trainings and merges.
        scoring: rows of the matrix.
    """

    learning: float = 0.0
    scoring: float = 0.0
    _began: float = field(default_factory=time.process_time)
    _is_learning: bool | None = None

    def begin(self, total: float) -> None:
        """A run starts: what was before counts for nothing."""
        self._began = time.process_time()

    def say(self, text: str) -> None:
        """What went on until now ends."""
        self.stop()
        self._is_learning = text.startswith("Learning")

    def note(self, text: str) -> None:
        """Nothing."""

    def advance(self, units: float) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Count the time since the last word."""
        now = time.process_time()
        if self._is_learning is not None:
            spent = now - self._began
            self.learning += spent * self._is_learning
            self.scoring += spent * (not self._is_learning)
        self._began = now


@dataclass(frozen=True)
class Taken:
    """What one method's run took.

    Attributes:
        seconds: of processor time, in all.
        learning: of them, on trainings and merges.
        scoring: of them, on rows of the matrix.
        record: what was measured.
    """

    seconds: float
    learning: float
    scoring: float
    record: Record


def run_each(methods: Sequence[str], *, results: Path, overrides: tuple[str, ...] = ()) -> list[Taken]:
    """Run methods on one opened protocol, as ``cosam-bench run --method a,b,c`` does.

    Opening it counts as the first one's.

    Args:
        overrides: as for ``cosam-bench run --set``, over `mini`.
    """
    found = []
    prepared: Prepared | None = None
    for method in methods:
        began, clock = time.process_time(), Clock()
        config = resolve_run(method=method, protocol="mini", overrides=("device=cpu", *overrides))
        prepared = prepared.with_method(config) if prepared else prepare(config, results)
        record = Runner(prepared, results=results, reporter=clock).run()
        clock.stop()
        found.append(Taken(time.process_time() - began, clock.learning, clock.scoring, record))
    return found
