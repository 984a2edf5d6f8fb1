"""A grid planned and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.method.registry import short_name
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import read_run_info
from cosam_bench.sweeps.artifact_store import open_store
from cosam_bench.sweeps.dispatch import dispatch
from cosam_bench.sweeps.engine_choice import EngineChoice
from cosam_bench.sweeps.engines import Engine, Outcome
from cosam_bench.sweeps.estimate import Estimate, Times, like, missing_tasks
from cosam_bench.sweeps.exchange import done_there, exchange, pull_records
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.local_engine import local_slots
from cosam_bench.sweeps.performing import perform
from cosam_bench.sweeps.planning import Plan, plan
from cosam_bench.sweeps.status import reasons_in_words
from cosam_bench.sweeps.task import KINDS, Task
from cosam_bench.sweeps.task_store import Listed, TaskList, TaskStore

LOCAL = EngineChoice()
_DAMAGED = "A file of its record was damaged in the store."


@dataclass(frozen=True)
class Count:
    """Tasks of one kind.

    Attributes:
        kind: of the tasks.
        unshared: how many there were if each run did all of its own.
        planned: how many there are, each once.
        missing: how many of these are still to be done.
        left: how long they take in one process.
    """

    kind: str
    unshared: int
    planned: int
    missing: int
    left: Estimate


@dataclass(frozen=True)
class SweepResult:
    """What a sweep is, and what has become of it.

    Attributes:
        counts: of each kind of task, before the sweep began.
        left: how long all that was missing takes in one process.
        unshared: how long all runs take in one process if each does all of its own.
        workers: the number of processes.
        records: of the runs that are complete, in the order of the grid.
        failed: by what a task is, in words, why it failed.
    """

    counts: tuple[Count, ...]
    left: Estimate
    unshared: Estimate
    workers: int
    records: tuple[Record, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def sweep(
    grid: Grid,
    *,
    results: Path,
    workers: int | None = None,
    dry_run: bool = False,
    engine: EngineChoice = LOCAL,
    store: str | None = None,
    on_start: Callable[[SweepResult], None] = lambda result: None,
    on_task: Callable[[str, Outcome], None] = lambda name, outcome: None,
) -> SweepResult:
    """Run what is missing of a grid.

    Args:
        grid: what varies.
        results: the folder of records.
        workers: how many processes, or jobs of Slurm at once; None: one per GPU, or per ``grid.threads`` cores.
        dry_run: only count and estimate.
        engine: what runs the tasks.
        store: the address through which workers exchange files; None: the grid's, else they all see ``results``.
        on_start: called with the counts and estimates.
        on_task: called with each task, in words, once it has ended.

    Raises:
        CosamError: the grid does not fit, what the engine needs is not installed, or a file cannot be written.
    """
    if workers is not None and workers < 1:
        raise CosamError(f"{workers} workers were asked for. Ask for at least one, or leave the number out.")
    address = store or grid.store or None
    engine.check(store=address)
    local = TaskStore(results.absolute())
    tasks = local if address is None else TaskStore(local.results, open_store(address))
    planned = plan(grid, results=local.results, is_here=engine.is_here)
    if address is None or dry_run:
        there = done_there(local, planned) | ({} if tasks is local else done_there(tasks, planned))
    else:
        there = exchange(planned, grid, local=local, shared=tasks)
    missing = missing_tasks(planned, there)
    slots = local_slots(grid.device, threads=grid.threads, workers=workers)
    times = Times((local.all_done() | there).values())
    result = _overview(planned, missing, times, workers=len(slots))
    failed: dict[str, str] = {}
    if not dry_run:
        tasks.forget_failures([task.key for task in missing])
        tasks.write_list(_listed(planned, workers=len(slots)))
    on_start(result)
    if missing and not dry_run:
        do = partial(perform, address or str(local.results), results=local.results if engine.is_here else None)
        slots = slots[: len(missing)]
        opened = engine.open(do, grid=grid, slots=slots, workers=workers, results=local.results)
        failed = _run(planned, missing, tasks, opened, grid=grid, on_task=on_task)
        if address is not None:
            ended = tasks.done(task.key for task in missing if task.key not in failed)
            failed |= dict.fromkeys(pull_records(ended, local=local, shared=tasks), _DAMAGED)
    words = {key: in_words(planned, planned.tasks[key]) for key in failed}
    return replace(result, records=_records(planned, local), failed=reasons_in_words(failed, words))


def _run(
    planned: Plan,
    missing: list[Task],
    store: TaskStore,
    engine: Engine,
    *,
    grid: Grid,
    on_task: Callable[[str, Outcome], None],
) -> dict[str, str]:
    """By the key of each missing task that could not be done, why."""

    def before(tasks: Sequence[Task]) -> None:
        described = ((task, planned.config(task)) for task in tasks)
        store.describe(described, threads=grid.threads, isolated=grid.isolated)

    def after(task: Task, outcome: Outcome) -> None:
        if outcome.error:
            store.fail(task.key, outcome.error)
        on_task(in_words(planned, task), outcome)

    try:
        failed = dispatch(missing, engine, before=before, after=after)
    finally:
        engine.close()
    for key, reason in failed.items():  # also those that were not begun, since they need another
        store.fail(key, reason)
    return failed


def _listed(planned: Plan, *, workers: int) -> TaskList:
    """All tasks, for who wants to know how far the sweep is."""
    tasks = {
        key: Listed(
            kind=task.kind,
            words=in_words(planned, task),
            like=like(planned, task),
            settings=planned.labels[task.config],
        )
        for key, task in planned.tasks.items()
    }
    return TaskList(workers=workers, tasks=tasks)


def _overview(planned: Plan, missing: list[Task], times: Times, *, workers: int) -> SweepResult:
    counts = []
    for kind in KINDS:
        left = [task for task in missing if task.kind == kind]
        counts.append(
            Count(kind, planned.unshared.get(kind, 0), planned.count(kind), len(left), times.of(planned, left))
        )
    return SweepResult(tuple(counts), times.of(planned, missing), times.unshared(planned), workers)


def _records(planned: Plan, store: TaskStore) -> tuple[Record, ...]:
    done = store.all_done()
    found = []
    for task in planned.tasks.values():
        if task.kind == "run" and (one := done.get(task.key)) is not None and store.is_there(one):
            path = store.results / one.made
            found.append(Record(path.parent, read_run_info(path)))
    return tuple(found)


def in_words(planned: Plan, task: Task) -> str:
    """What a task is, for people."""
    config = planned.configs[task.config]
    model = config.protocol.model.name
    if task.kind == "run":
        label = f", {planned.labels[task.config]}" if planned.labels[task.config] else ""
        return f"{short_name(config.method)} on {model}{label}, seed {task.seed}, {' '.join(task.order)}"
    return f"{task.kind}{f' {task.domain}' if task.domain else ''} of {model}, seed {task.seed}"
