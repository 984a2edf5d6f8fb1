"""Tasks through an engine that runs them at once, in the order in which they were submitted."""

from __future__ import annotations

from collections import deque

from cosam_bench.sweeps.dispatch import dispatch
from cosam_bench.sweeps.engines import Outcome
from cosam_bench.sweeps.task import Task


class AtOnce:
    """An engine without processes; one outcome per call."""

    def __init__(self, *, fails: tuple[str, ...] = ()) -> None:
        self.ran: list[str] = []
        self._fails = fails
        self._waiting: deque[str] = deque()

    def submit(self, key: str) -> None:
        self._waiting.append(key)

    def gather(self) -> list[Outcome]:
        key = self._waiting.popleft()
        self.ran.append(key)
        return [Outcome(key, error=f"{key} broke" if key in self._fails else "")]

    def close(self) -> None:
        assert not self._waiting


def task(key: str, *needs: str) -> Task:
    return Task(key, "run", 0, 0, needs=needs)


TASKS = [task("row"), task("a"), task("b"), task("first", "row", "a"), task("second", "row", "b"), task("third", "row")]


def test_each_task_runs_after_those_that_it_needs() -> None:
    engine = AtOnce()
    assert dispatch(TASKS, engine) == {}
    assert sorted(engine.ran) == sorted(one.key for one in TASKS)
    for one in TASKS:
        assert all(engine.ran.index(need) < engine.ran.index(one.key) for need in one.needs)


def test_a_failed_task_fails_what_needs_it_and_nothing_else() -> None:
    engine = AtOnce(fails=("a",))
    assert dispatch(TASKS, engine) == {"a": "a broke", "first": "a broke"}
    assert set(engine.ran) == {"row", "a", "b", "second", "third"}


def test_a_need_that_is_not_among_the_tasks_is_done_already() -> None:
    engine = AtOnce()
    assert dispatch([task("first", "row", "a")], engine) == {}
    assert engine.ran == ["first"]


def test_who_watches_sees_each_task_before_and_after() -> None:
    seen: list[str] = []
    dispatch(
        TASKS[:2],
        AtOnce(fails=("a",)),
        before=lambda ones: seen.extend(f"before {one.key}" for one in ones),
        after=lambda one, outcome: seen.append(f"after {one.key} {outcome.error}"),
    )
    assert seen == ["before row", "before a", "after row ", "after a a broke"]
