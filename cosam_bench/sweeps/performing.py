"""One task, in the process that was given its key."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, exclusive, write_atomically
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.shared_parts import keep_expert, keep_frozen_row
from cosam_bench.method.registry import short_name
from cosam_bench.sweeps.engines import Outcome
from cosam_bench.sweeps.task_store import Described, Done, TaskStore


def perform(results: Path, key: str, device: str | None = None) -> Outcome:
    """Do the task of a key, and write what came of it to the folder of results.

    Args:
        results: the folder of records.
        key: of a task that is described there.
        device: in place of the one in the task's settings, of the same kind.
    """
    import torch

    store = TaskStore(results)
    began = time.monotonic()
    try:
        task = store.described(key)
        torch.set_num_threads(task.threads)
        config = task.config if device is None else task.config.model_copy(update={"device": device})
        with exclusive(store.lock(key)):
            made = _made(task, config, results)
        shown = "" if made is None else made.relative_to(results).as_posix()
        own = short_name(config.method) if task.kind == "run" else task.domain
        like = (config.protocol.model.name, own, config.protocol.name)
        store.finish(key, Done(kind=task.kind, like=like, made=shown, seconds=time.monotonic() - began))
    except CosamError as error:
        _opened.clear()  # a method that failed may have left the model changed
        return Outcome(key, error=str(error))
    except Exception as error:  # a fault of one task ends no other one
        _opened.clear()
        path = store.folder / f"{key}.error.txt"
        with suppress(CannotWrite):
            write_atomically(path, traceback.format_exc())
        return Outcome(key, error=f"{type(error).__name__}: {error} (traceback: {path})")
    return Outcome(key)


def _made(task: Described, config: RunConfig, results: Path) -> Path | None:
    """Do a task, and return the file that it made; None if what it measured is not shared."""
    experiment = _experiment(config, results, isolated=task.isolated if task.kind == "run" else False)
    if task.kind == "frozen row":
        return keep_frozen_row(experiment, results=results)
    if task.kind == "expert":
        return keep_expert(experiment, task.domain)
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
