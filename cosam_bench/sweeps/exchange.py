"""Between the folder of results and a store: what one has and the other lacks."""

from __future__ import annotations

from collections.abc import Mapping

from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.planning import Plan
from cosam_bench.sweeps.task_store import Done, TaskStore


def exchange(plan: Plan, grid: Grid, *, local: TaskStore, shared: TaskStore) -> dict[str, Done]:
    """Store what tasks of a plan made in the folder, and bring the records that only the store has.

    A run of whose record a file is missing in the store, or was changed there, is no longer called done.

    Returns:
        By key, what came of the tasks that are done.

    Raises:
        CosamError: the store does not answer or does not take a file, or the folder cannot be read or written.
    """
    here, stored = done_there(local, plan), done_there(shared, plan)
    new = [plan.tasks[key] for key in here if key not in stored]
    described = ((task, plan.config(task)) for task in new)
    shared.describe(described, threads=grid.threads, isolated=grid.isolated)
    for task in new:
        shared.finish(task.key, here[task.key])
    lost = pull_records({key: one for key, one in stored.items() if key not in here}, local=local, shared=shared)
    shared.forget(lost)
    return {key: one for key, one in (here | stored).items() if key not in lost}


def pull_records(done: Mapping[str, Done], *, local: TaskStore, shared: TaskStore) -> set[str]:
    """Bring the records of runs from the store into the folder.

    Args:
        done: what came of tasks by key; those that are no runs are left out.
        local: of the folder.
        shared: of the store.

    Returns:
        The keys of runs of which a file is missing in the store, or was changed there.

    Raises:
        CosamError: the store does not answer, or the folder cannot be written.
    """
    runs = {key: one for key, one in done.items() if one.kind == "run"}
    brought = shared.bring(runs)
    for key in brought:
        local.finish(key, runs[key])
    return runs.keys() - brought


def done_there(tasks: TaskStore, plan: Plan) -> dict[str, Done]:
    """By key, what came of the tasks of a plan that are done, and of which what they made is still there."""
    return {key: one for key, one in tasks.all_done(plan.tasks).items() if tasks.is_there(one)}
