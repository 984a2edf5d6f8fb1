"""Sweeps without processes, as if on one machine or on as many as there are tasks; and what came of two compared."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cosam_bench.sweeps import performing
from cosam_bench.sweeps.engine_choice import EngineChoice
from cosam_bench.sweeps.engines import Engine, Outcome, Perform
from cosam_bench.sweeps.sweep import SweepResult


class AtOnce:
    """Does each task in this process."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform
        self._waiting: deque[str] = deque()

    def submit(self, key: str) -> None:
        self._waiting.append(key)

    def gather(self) -> list[Outcome]:
        return [self._perform(self._waiting.popleft(), None)]

    def close(self) -> None:
        performing._opened.clear()


class AtOnceChoice(EngineChoice):
    """Chooses it; the memory of this process is a store, too."""

    def check(self, *, store: str | None = None) -> None:
        pass

    def open(self, perform: Perform, **_: object) -> Engine:
        return AtOnce(perform)


AT_ONCE = AtOnceChoice()


@dataclass(frozen=True)
class Elsewhere(AtOnceChoice):
    """Does each task in this process, but with nothing on the disk, as on a machine that has just been started."""

    folder: Path = Path()
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    machines: list[Path] = field(default_factory=list)

    @property
    def is_here(self) -> bool:
        return False

    def open(self, perform: Perform, **_: object) -> Engine:
        def on_a_new_machine(key: str, device: str | None) -> Outcome:
            performing._opened.clear()
            self.machines.append(self.folder / str(len(self.machines)))
            self.patch.setenv("COSAM_BENCH_CACHE", str(self.machines[-1]))
            return perform(key, device)

        return AtOnce(on_a_new_machine)


def missing(result: SweepResult) -> dict[str, int]:
    """By kind, how many tasks were to be done."""
    return {count.kind: count.missing for count in result.counts}


def assert_same_bytes(one: SweepResult, other: SweepResult) -> None:
    """Both have the same records, and these the same bytes, except for times."""
    assert len(one.records) == len(other.records) > 0
    for there, here in zip(one.records, other.records, strict=True):
        assert there.folder.parts[-3:] == here.folder.parts[-3:]
        for name in ("matrix.csv", "scores.csv", "update.safetensors", "state.safetensors"):
            first, second = there.folder / name, here.folder / name
            assert first.exists() == second.exists()
            assert not first.exists() or first.read_bytes() == second.read_bytes(), first
