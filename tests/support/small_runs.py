"""Runs of a second: two domains of two images, and methods that do one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core import environment
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.experiments.step_result import StepResult

METHODS = '''
import torch
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import Method, State


class Quick(Method):
    """Predicts by one number, which it draws and remembers: as good as any method, for the runner."""

    card = MethodCard(title="Quick", order_dependent=True)

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.total = torch.zeros(1)

    def learn(self, domain, *, step):
        drawn = torch.rand(1, generator=self.bench.generator("quick", domain.name, step))
        self.total = self.total + drawn + domain[0].mask.float().mean()

    def predict(self, batch):
        grid = self.bench.view.grid
        edge = torch.arange(grid) / grid
        return (edge[:, None] + edge - self.total).expand(len(batch), grid, grid)

    def state(self):
        return State({"total": self.total, "same memory": self.total})

    def load(self, state):
        self.total = state.tensors["total"]


class AtOnce(Quick):
    card = MethodCard(title="At once", all_at_once=True)

    def learn(self, domain, *, step):
        self.total = torch.tensor([float(len(domain)), float(step)])

    def predict(self, batch):
        assert self.total.tolist() == [4.0, 1.0]
        return torch.zeros(len(batch), self.bench.view.grid, self.bench.view.grid)


class RaisesIn(Quick):
    act = ""

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "act"):
            raise ZeroDivisionError("one over nothing")
        return super().__getattribute__(name)


class RaisesInLearn(RaisesIn):
    act = "learn"


class RaisesInPredict(RaisesIn):
    act = "predict"


class RaisesInState(RaisesIn):
    act = "state"


class RaisesInLoad(RaisesIn):
    act = "load"


class RaisesInInit(Quick):
    def __init__(self, settings, bench):
        raise ZeroDivisionError("one over nothing")


class ReturnsMasks(Quick):
    def predict(self, batch):
        return super().predict(batch) > 0


class NeedsMemory(Quick):
    """On a device whose memory holds ``most`` images, and that is full only after they were encoded."""

    most = 1

    def predict(self, batch):
        self.bench.encode(batch)
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().predict(batch)


class NeedsMoreMemory(NeedsMemory):
    most = 0


class NeedsMemoryToLearn(Quick):
    def learn(self, domain, *, step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Complains(Quick):
    def learn(self, domain, *, step):
        from cosam_bench.core.errors import CosamError

        raise CosamError("Training diverged.")


class HooksTheBase(Quick):
    def learn(self, domain, *, step):
        self.bench.sam.image_encoder.register_forward_hook(lambda module, inputs, output: output + 1)


class TrainsTheBase(Quick):
    def learn(self, domain, *, step):
        self.bench.sam.requires_grad_(True)


class ChangesTheBase(Quick):
    def learn(self, domain, *, step):
        next(self.bench.sam.parameters()).data += 1


class KeepsTheDomain(Quick):
    def learn(self, domain, *, step):
        self.kept = domain

    def state(self):
        return State({"image": self.kept[0].image})
'''


STREAM = """
name = "small"
retention = ["natural"]
"""


CARD = """
[[domain]]
name = "{name}"
kind = "synthetic"
generator = "{name}"
size = 32
split = {{ kind = "counts", train = {train}, test = 2, seed = 0 }}
"""


PROTOCOL = """
name = "small"
stream = "stream.toml"
model = { name = "tiny", checkpoint = "random" }
"""


class Killed(BaseException):
    """The process is gone: nothing may handle this."""


Opener = Callable[[str], Experiment]


@contextmanager
def software_looked_up_once() -> Iterator[None]:
    """Its versions and commit are a third of what one of these hundred runs would take."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("versions", "commit"):
            patch.setattr(f"cosam_bench.experiments.running_record.{name}", cache(getattr(environment, name)))
        patch.setattr("cosam_bench.experiments.row_reuse.versions", cache(environment.versions))
        yield


def small_experiments(folder: Path) -> Opener:
    """Two domains of two images, a retention domain, and the methods above by their class's name."""
    (folder / "methods.py").write_text(METHODS)
    cards = [CARD.format(name=name, train=train) for name, train in (("pill", 2), ("polyp", 2), ("natural", 0))]
    (folder / "stream.toml").write_text(STREAM + "".join(cards))
    (folder / "small.toml").write_text(PROTOCOL)
    known: dict[str, Experiment] = {}

    def experiment(name: str) -> Experiment:
        if name not in known:
            method = name if name.islower() else f"{folder / 'methods.py'}:{name}"
            known[name] = open_experiment(
                resolve_run(method=method, protocol=str(folder / "small.toml")), folder / "shared"
            )
        return known[name]

    return experiment


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a record by name; of run.json what does not tell the time."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    info = json.loads(found.pop("run.json"))
    kept = ("status", "summary", "conditions", "prompts", "settings", "order", "error", "config")
    return found | {"run.json": json.dumps({key: info[key] for key in kept}).encode()}


def status(folder: Path) -> tuple[str, str | None]:
    info = json.loads((folder / "run.json").read_text())
    return info["status"], info["error"]


def raising(error: type[BaseException], *args: object) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error(*args)

    return fail


@contextmanager
def stopped_after(step: int, experiment: Experiment, results: Path) -> Iterator[Path]:
    """The folder of a run that was killed as soon as this step was final."""
    runner = Runner(experiment, results=results)
    finish = RunningRecord.finish_step

    def finish_and_die(self: RunningRecord, result: StepResult) -> None:
        finish(self, result)
        if result.step == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningRecord, "finish_step", finish_and_die)
        with pytest.raises(Killed):
            runner.run()
    yield runner.folder


class Counter:
    """Adds up what it is told."""

    on_step = None

    def __init__(self) -> None:
        self.total = self.done = 0.0
        self.said: list[str] = []

    def begin(self, total: float) -> None:
        self.total = total

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)

    def advance(self, units: float) -> None:
        self.done += units
