"""What is left to do of a plan, and how long that takes, by what was measured in the same folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from cosam_bench.method.registry import short_name
from cosam_bench.sweeps.task import Kind, Task
from cosam_bench.sweeps.task_store import Done

if TYPE_CHECKING:
    from cosam_bench.sweeps.planning import Plan


def missing_tasks(plan: Plan, there: Container[str]) -> list[Task]:
    """The runs that are not complete, and the tasks that these need and that are not done, in the plan's order.

    Args:
        plan: of the sweep.
        there: the keys of tasks that are done, and of which what they made is still there.
    """
    wanted: set[str] = set()
    for task in plan.tasks.values():
        if task.kind == "run" and task.key not in there:
            wanted.update(key for key in (*task.needs, task.key) if key not in there)
    return [task for key, task in plan.tasks.items() if key in wanted]


@dataclass(frozen=True)
class Estimate:
    """How long tasks take in one process, by the median of those that were like them.

    Attributes:
        seconds: the sum over tasks whose like was measured.
        known: the number of these tasks.
        unknown: the number of the others.
    """

    seconds: float
    known: int
    unknown: int


class Times:
    """Measured seconds of tasks."""

    def __init__(self, done: Iterable[Done]) -> None:
        measured: defaultdict[tuple[Kind, tuple[str, ...]], list[float]] = defaultdict(list)
        for one in done:
            measured[one.kind, one.like].append(one.seconds)
        self._medians = {like: median(seconds) for like, seconds in measured.items()}

    def of(self, plan: Plan, tasks: Iterable[Task]) -> Estimate:
        """How long tasks take one after another."""
        return self.of_likes((task.kind, like(plan, task)) for task in tasks)

    def of_likes(self, likes: Iterable[tuple[Kind, tuple[str, ...]]]) -> Estimate:
        """How long tasks take one after another, given by kind and by what tasks of about the same length share."""
        found = [self._medians.get(one) for one in likes]
        known = [seconds for seconds in found if seconds is not None]
        return Estimate(sum(known), len(known), len(found) - len(known))

    def unshared(self, plan: Plan) -> Estimate:
        """How long the plan's runs take one after another if each does all of its own."""
        runs = [task for task in plan.tasks.values() if task.kind == "run"]
        return self.of(plan, (plan.tasks[key] for run in runs for key in (*run.needs, run.key)))


def like(plan: Plan, task: Task) -> tuple[str, ...]:
    """What tasks of about the same length have in common: model, method or domain, and protocol."""
    config = plan.configs[task.config]
    own = short_name(config.method) if task.kind == "run" else task.domain
    return (config.protocol.model.name, own, config.protocol.name)
