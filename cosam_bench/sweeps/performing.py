"""One task, in the process that was given its key."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.isolated_methods import runs_isolated
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.shared_parts import keep_expert, keep_frozen_row
from cosam_bench.method.registry import short_name
from cosam_bench.sweeps.engines import Outcome
from cosam_bench.sweeps.task_store import Described, Done, TaskStore, task_store


def perform(place: str, key: str, device: str | None = None, *, results: Path | None = None) -> Outcome:
    """Do the task of a key, and write what came of it.

    Args:
        place: the folder of records or the address of the store in which the task is described.
        key: of the task.
        device: in place of the one in the task's settings, of the same kind.
        results: the folder of records, with a store; None: this machine's own folder for it.
    """
    try:
        tasks = task_store(place, results=results)
    except CosamError as error:
        return Outcome(key, error=str(error))
    try:
        _do(tasks, key, device)
    except CosamError as error:
        _opened.clear()  # a method that failed may have left the model changed
        return Outcome(key, error=str(error))
    except Exception as error:  # a fault of one task ends no other one
        _opened.clear()
        name = f"{key}.error.txt"
        with suppress(CosamError):
            tasks.files.write_all({name: traceback.format_exc()})
        return Outcome(key, error=f"{type(error).__name__}: {error} (traceback: {tasks.files.where(name)})")
    return Outcome(key)


def _do(tasks: TaskStore, key: str, device: str | None) -> None:
    """Do a task, after what it needs of a store was brought."""
    import torch

    began = time.monotonic()
    task = tasks.described(key)
    if tasks.store is not None:
        _bring(tasks, task.needs, device)
    torch.set_num_threads(task.threads)
    config = task.config if device is None else task.config.model_copy(update={"device": device})
    with tasks.doing(key):
        made = _made(task, config, tasks.results)
    shown = "" if made is None else made.relative_to(tasks.results).as_posix()
    own = short_name(config.method) if task.kind == "run" else task.domain
    like = (config.protocol.model.name, own, config.protocol.name)
    isolated = task.kind == "run" and runs_isolated(config.method, task.isolated)
    seconds = time.monotonic() - began
    tasks.finish(key, Done(kind=task.kind, like=like, made=shown, seconds=seconds, isolated=isolated))


_brought: set[tuple[Path, str]] = set()
"""The folders and keys of tasks that this process needs nothing more of."""


def _bring(tasks: TaskStore, needs: Sequence[str], device: str | None) -> None:
    """Have what earlier tasks made in the folder of results; what the store has lost is made again, here.

    If it cannot be made again, the task that needs it makes it for itself, as every run can.
    """
    new = [key for key in needs if (tasks.results, key) not in _brought]
    done = {key: one for key, one in tasks.done(new).items() if tasks.is_there(one)}
    whole = tasks.bring(done)
    for key in new:
        if key not in whole:
            with suppress(CosamError):
                _do(tasks, key, device)
    _brought.update((tasks.results, key) for key in new)


def _made(task: Described, config: RunConfig, results: Path) -> Path | None:
    """Do a task, and return the file that it made; None if what it measured is not shared.

    Raises:
        CosamError: the code of the run's method is not what it was when the run was planned; or anything that a run
            raises.
    """
    experiment = _experiment(config, results, isolated=task.isolated if task.kind == "run" else False)
    if task.kind == "frozen row":
        return keep_frozen_row(experiment, results=results)
    if task.kind == "expert":
        return keep_expert(experiment, task.domain)
    if task.rule and experiment.rule != task.rule:
        raise CosamError(
            f"The code of method {experiment.method_name!r} was edited after this run was planned, so it was not "
            "begun. Give the same command again."
        )
    runner = Runner(experiment, results=results)
    record = runner.finished() or runner.run()
    return record.folder / "run.json"


_opened: dict[str, Experiment] = {}
"""The data and model of this process's last task, which the next one likely needs, too."""


def _experiment(config: RunConfig, results: Path, *, isolated: bool | None) -> Experiment:
    name = f"{results} {config.model_dump_json(exclude={'method', 'settings'})}"
    if name in _opened:
        return _opened[name].with_method(config, isolated=isolated)
    _opened.clear()
    _opened[name] = open_experiment(config, results, isolated=isolated)
    return _opened[name]
