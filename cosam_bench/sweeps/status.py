"""How far the last sweep of a folder or store is, by its files alone: for the process that runs it, or any other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.estimate import Estimate, Times
from cosam_bench.sweeps.task import Kind
from cosam_bench.sweeps.task_store import Done, task_store

State = Literal["waiting", "running", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Standing:
    """The complete runs of one method on one model with one table of settings.

    Attributes:
        method: its name.
        model: the base model's name.
        settings: the table of settings, if the sweep has several; else empty.
        runs: how many are complete.
        iou: the mean over them of ``last``, the mean IoU of all domains after the last one.
    """

    method: str
    model: str
    settings: str
    runs: int
    iou: float


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
        counts: by kind of task and state, how many.
        running: in words, the tasks that run now.
        failed: by what a task is, in words, why it failed.
        left: how long what waits or runs takes in one process.
        workers: the number of processes.
        standings: the leaderboard as it fills, best first.
    """

    counts: Mapping[Kind, Mapping[State, int]]
    running: tuple[str, ...]
    failed: Mapping[str, str]
    left: Estimate
    workers: int
    standings: tuple[Standing, ...]

    def count(self, *states: State) -> int:
        """How many tasks of all kinds are in these states."""
        return sum(counts[state] for counts in self.counts.values() for state in states)


def reasons_in_words(failed: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Why tasks failed, by what they are.

    Args:
        failed: the reasons by key.
        words: by key, what the task is; a second one in the same words is told apart by its key.
    """
    found: dict[str, str] = {}
    for key, reason in failed.items():
        name = words[key]
        found[f"{name} ({key[:8]})" if name in found else name] = reason
    return found


class StatusReader:
    """Reads how far the last sweep of a folder or store is, as often as asked; what is done is read once."""

    def __init__(self, results: Path | str) -> None:
        """Find the sweep's list of tasks.

        Args:
            results: the folder of records, or the address of a store.

        Raises:
            CosamError: no sweep was started there, its list is damaged, or the store does not answer.
        """
        self._store = task_store(str(results))
        self._listed = self._store.listed()
        self._done: dict[str, Done] = {}
        self._scores: dict[str, float] = {}

    def read(self) -> Status:
        """The state of each task now."""
        names = set(self._store.names())
        new = [key for key in self._listed.tasks if key not in self._done and self._store.done_name(key) in names]
        self._done |= {key: done for key, done in self._store.done(new).items() if self._store.is_there(done)}
        counts: dict[Kind, Counter[State]] = defaultdict(Counter)
        failed: dict[str, str] = {}  # by key
        running: list[str] = []
        left: list[tuple[Kind, tuple[str, ...]]] = []
        for key, task in self._listed.tasks.items():
            reason = None if key in self._done else self._store.failure(key, names)
            state = self._state(key, names, is_failed=reason is not None)
            counts[task.kind][state] += 1
            if state == "running":
                running.append(task.words)
            if state == "failed":
                failed[key] = reason or ""
            if state in ("waiting", "running"):
                left.append((task.kind, task.like))
        times = Times(self._done.values()).of_likes(left)
        reasons = reasons_in_words(failed, {key: self._listed.tasks[key].words for key in failed})
        return Status(counts, tuple(running), reasons, times, self._listed.workers, self._standings())

    def _state(self, key: str, names: set[str], *, is_failed: bool) -> State:
        if key in self._done:
            return "done"
        if self._store.is_running(key, names):
            return "running"
        return "failed" if is_failed else "waiting"

    def _standings(self) -> tuple[Standing, ...]:
        found: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for key, done in self._done.items():
            if done.kind != "run":
                continue
            if key not in self._scores:
                iou = self._iou(done)
                if iou is None:
                    continue
                self._scores[key] = iou
            model, method, _ = done.like
            found[method, model, self._listed.tasks[key].settings].append(self._scores[key])
        standings = [Standing(*like, len(ious), fmean(ious)) for like, ious in found.items()]
        return tuple(sorted(standings, key=lambda one: (-one.iou, one.method, one.model, one.settings)))

    def _iou(self, done: Done) -> float | None:
        try:
            return self._store.run_info(done).summary["iou"]["last"]
        except (CosamError, KeyError):
            return None
