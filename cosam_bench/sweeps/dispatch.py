"""Tasks through an engine, each after those that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from graphlib import TopologicalSorter

from cosam_bench.sweeps.engines import Engine, Outcome
from cosam_bench.sweeps.task import Task


def dispatch(
    tasks: Iterable[Task],
    engine: Engine,
    *,
    before: Callable[[Sequence[Task]], None] = lambda tasks: None,
    after: Callable[[Task, Outcome], None] = lambda task, outcome: None,
) -> dict[str, str]:
    """Run tasks; one that fails keeps those from running that need it, and no others.

    Args:
        tasks: a task that is needed but is not among them counts as done.
        engine: what runs them.
        before: called with tasks before they are submitted: all that can begin at the same time.
        after: called with each task once it has ended.

    Returns:
        By the key of each task that is not done, why.
    """
    by_key = {task.key: task for task in tasks}
    graph = {key: [need for need in task.needs if need in by_key] for key, task in by_key.items()}
    ready: TopologicalSorter[str] = TopologicalSorter(graph)
    ready.prepare()
    failed: dict[str, str] = {}
    running = 0
    while True:
        if keys := ready.get_ready():
            before([by_key[key] for key in keys])
        for key in keys:
            engine.submit(key)
            running += 1
        if not running:
            break
        for outcome in engine.gather():
            running -= 1
            if outcome.error:
                failed[outcome.key] = outcome.error
            else:
                ready.done(outcome.key)
            after(by_key[outcome.key], outcome)
    for key, needs in graph.items():
        if reason := next((failed[need] for need in needs if need in failed), ""):
            failed.setdefault(key, reason)
    return failed
