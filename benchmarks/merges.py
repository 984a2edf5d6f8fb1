"""What each method's merge takes at ViT-B: seconds, and its highest memory as a multiple of its state.

A merge is what the harness does between two trainings: read the state, let the method learn a domain, write the new
state. Trainings and passes over data give random results at once, and their time does not count; what they return
does count as memory. ``python -m benchmarks.merges CASE FILE`` measures one merge in a process of its own, as a
highest use never falls.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import subjects
from benchmarks.measuring import Row, above_now
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.merging.updates import LowRank, Update, add
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.inputs import View
from cosam_bench.sam.models import model_spec
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import Fitted, TrainingHooks
from cosam_bench.training.fit_settings import FitSettings

ADAPTER = AdapterSettings(rank=10, alpha=10.0)  # qkv and proj of all 12 blocks
ADAM_STEPS = (2, 6)  # of dop's 200; their difference is what four cost


@dataclass(frozen=True)
class Case:
    """A method with settings.

    Attributes:
        note: what stands beside the figures.
        before: domains before the one whose merge is measured.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    before: int = 7

    def build(self, bench: Workbench) -> MergingMethod:
        """The method on this workbench."""
        method = load_method(self.method)
        assert issubclass(method, MergingMethod)
        return method(method.Settings(**self.settings), bench)


def cases() -> dict[str, Case]:
    """What is measured, by name: every registered merging method, and what some of them do by another setting."""
    found = {name: Case(name) for name in method_names() if issubclass(load_method(name), MergingMethod)}
    del found["trm"]  # searches with passes over data
    adam = found.pop("dop").method
    found["dop, closed"] = Case(adam, {"solver": "closed"})
    for steps in ADAM_STEPS:  # from the third domain on the weights are of full rank, and cost the same
        found[f"dop, adam, {steps} steps"] = Case(adam, {"steps": steps}, "of the 200 of its default", before=2)
    found["dare, ties"] = Case("dare", {"combine": "ties"})
    found["opcm, rank 10"] = Case("opcm", {"rank": 10})
    found["regcl, product"] = Case("regcl", {"space": "product"})
    found["regmean, rank 10"] = Case("regmean", {"rank": 10})
    return dict(sorted(found.items()))


class Clock:
    """Processor seconds that do not count."""

    def __init__(self) -> None:
        self.stopped = 0.0

    @contextmanager
    def stop(self) -> Iterator[None]:
        """Do not count what is done within."""
        began = time.process_time()
        yield
        self.stopped += time.process_time() - began

    def seconds(self, work: Callable[[], object]) -> float:
        """Those of a piece of work, without what was not to count."""
        began, before = time.process_time(), self.stopped
        work()
        return time.process_time() - began - (self.stopped - before)


@dataclass(frozen=True)
class RandomBench(Workbench):
    """A workbench whose trainings and passes over data give random results of the right shapes.

    Attributes:
        has_one_a: the experts' first factors are equal, as where A is frozen.
    """

    clock: Clock = field(default_factory=Clock)
    has_one_a: bool = False

    def train(
        self,
        domain: TrainingDomain,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: TrainingHooks | None = None,
    ) -> Fitted:
        """An expert as training would leave it: alone, or above what it started from."""
        with self.clock.stop():
            draw, same = self.generator("expert", domain.name), self.generator("adapter")
            low_rank = {}
            for layer in self.layers:
                outputs, inputs = self.sam.get_parameter(f"{layer}.weight").shape
                a = torch.randn(self.adapter.rank, inputs, generator=same) / inputs**0.5
                if not self.has_one_a:
                    a += torch.randn(a.shape, generator=draw) / inputs**0.5
                low_rank[layer] = LowRank(a, 0.02 * torch.randn(outputs, self.adapter.rank, generator=draw))
            beneath = start if start is not None and from_scratch else Update()
            return Fitted(add(beneath, Update(low_rank)), (), 0, 0.0)

    def input_grams(
        self, domain: TrainingDomain, update: Update | None, *, projections: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The Gram matrix of a few hundred random inputs, of another size for each layer."""
        with self.clock.stop():
            draw = self.generator("grams", domain.name)
            grams: dict[str, Tensor] = {}
            drawn: dict[int, Tensor] = {}
            for number, layer in enumerate(self.layers, start=1):
                projection = projections.get(layer) if projections else None
                width = self.sam.get_parameter(f"{layer}.weight").shape[1] if projection is None else len(projection)
                if width not in drawn:
                    rows = torch.randn(2 * width, width, generator=draw)
                    drawn[width] = (rows.T @ rows / len(rows)).double()
                grams[layer] = drawn[width] * number
            return grams

    def squared_gradients(
        self, domain: TrainingDomain, update: Update, *, labels: Literal["true", "sampled"], images: int = 256
    ) -> dict[str, Tensor]:
        """Squares of random numbers for each changed weight."""
        with self.clock.stop():
            draw = self.generator("fisher", domain.name)
            layers = {f"{layer}.weight" for layer in update.low_rank}
            return {
                name: torch.randn(self.sam.get_parameter(name).shape, generator=draw).square_()
                for name in dict.fromkeys([*sorted(layers), *update.dense])
            }


def workbench(case: Case, sam: Sam) -> RandomBench:
    """The workbench of a case, with every attention layer of the model adapted."""
    return RandomBench(
        sam=sam,
        adapter=ADAPTER,
        fit=FitSettings(epochs=1, batch_size=1),
        prompt_kind="box",
        view=View(model_spec(sam.name).image_size, sam.logits_size, "pad", torch.device("cpu"), "fp32"),
        seed=0,
        has_one_a=case.method == "lorm",
    )


def learn(case: Case, bench: RandomBench, *, step: int, before: Path | None) -> MergingMethod:
    """The method after its state was read, if there is one, and a domain learned."""
    with bench.clock.stop():
        domain = TrainingDomain(str(step), *_noise())
    method = case.build(bench)
    if before:
        method.load(State.read(before))
    method.learn(domain, step=step)
    return method


@cache
def _noise() -> tuple[Split, Prompts]:
    return subjects.split(1)


def prepare(case: Case, bench: RandomBench, folder: Path, *, domains: int) -> Path:
    """Learn this many domains, each from the state that the one before wrote; the last state's file."""
    before = None
    for step in range(1, domains + 1):
        state = learn(case, bench, step=step, before=before).state()
        before = folder / f"{step % 2}.safetensors"  # not the file that is being read
        state.save(before)
    assert before
    return before


@dataclass(frozen=True)
class Figures:
    """Of one merge.

    Attributes:
        seconds: of processor time.
        peak: MiB that the process holds at most above what it held before the state was read.
        state: MiB of the state's file afterwards.
    """

    seconds: float
    peak: float
    state: float


def measure(case: Case, bench: RandomBench, before: Path, *, step: int) -> Figures:
    """One merge, from the state that is read to the one that is written beside it."""
    sizes: list[int] = []
    peaks: list[float] = []

    def work() -> None:
        state = learn(case, bench, step=step, before=before).state()
        with bench.clock.stop():  # as in a record, where a merge's seconds are those of learning
            sizes.append(state.save(before.with_name("after.safetensors")))

    _noise()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be at hand, as it would not count
    seconds = bench.clock.seconds(lambda: peaks.append(above_now(work)))
    return Figures(seconds, peaks[0], sizes[0] / 2**20)


def rows() -> Iterator[Row]:
    """For every merging method the seconds and the memory of a merge, ``times`` meaning the bytes of its state."""
    sam = subjects.model(is_lean=True)
    for name, case in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            prepare(case, workbench(case, sam), Path(folder), domains=case.before)
            found = in_a_process(name, Path(folder))
        yield Row(f"merge, {name}", None, found.seconds, "s", case.note)
        yield Row(f"merge, {name}", None, found.peak / found.state, "times", f"its state of {found.state:.1f} MiB")


def in_a_process(name: str, folder: Path) -> Figures:
    """What ``python -m benchmarks.merges NAME FILE`` reports."""
    state = folder / f"{cases()[name].before % 2}.safetensors"
    command = [sys.executable, "-m", "benchmarks.merges", name, str(state)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Figures(**json.loads(done.stdout))


def main() -> None:
    """Print the figures of the case that is named, from the state that is named."""
    torch.set_num_threads(1)
    case = cases()[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:  # libraries are loaded and their workspaces made at a first use
        bench = workbench(case, subjects.model(is_lean=True, name="tiny"))
        measure(case, bench, prepare(case, bench, Path(folder), domains=2), step=3)
    bench = workbench(case, subjects.model(is_lean=True))
    print(json.dumps(asdict(measure(case, bench, Path(sys.argv[2]), step=case.before + 1))))


if __name__ == "__main__":
    main()
