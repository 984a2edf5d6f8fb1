"""What each method's merge takes at ViT-B: seconds, and its peak memory as a multiple of its state.

A merge is what the harness does between two trainings: read the state, let the method learn a domain, write the new
state. Trainings and passes over data return random results at once. Their time does not count; what they return does
count as memory.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from benchmarks import subjects
from benchmarks.figures import Figure
from benchmarks.measuring import in_a_process, peak_above_now
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.merging.updates import LowRank, Update, add
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import Fitted, TrainingHooks

P = ParamSpec("P")
T = TypeVar("T")
ADAPTER = AdapterSettings(rank=10, alpha=10.0)  # qkv and proj of all 12 blocks
ADAM_STEPS = (2, 6)  # of dop's 200 and wudi's 300; their difference is what four cost


@dataclass(frozen=True)
class Case:
    """A method with settings.

    Attributes:
        note: what is said beside the figures.
        before: domains before the one whose merge is measured.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    before: int = 7


def cases() -> dict[str, Case]:
    """What is measured, by name: every registered merging method, and some of them also with another setting."""
    found = {name: Case(name) for name in method_names() if issubclass(load_method(name), MergingMethod)}
    del found["trm"]  # searches with passes over data
    del found["dop"], found["wudi"]
    for name in ("dop", "wudi"):
        found[f"{name}, closed"] = Case(name, {"solver": "closed"})
    for steps in ADAM_STEPS:  # from the third domain on the weights are of full rank, and cost the same
        found[f"dop, adam, {steps} steps"] = Case("dop", {"steps": steps}, "of the 200 of its default", before=2)
        found[f"wudi, adam, {steps} steps"] = Case("wudi", {"steps": steps}, "of the 300 of its default")
    found["dare, ties"] = Case("dare", {"combine": "ties"})
    found["opcm, rank 10"] = Case("opcm", {"rank": 10})
    found["regcl, product"] = Case("regcl", {"space": "product"})
    for name in ("regcl", "regmean"):
        found[f"{name}, ridge to the mean"] = Case(name, {"ridge_to": "mean"})
    found["regmean, rank 10"] = Case("regmean", {"rank": 10})
    return dict(sorted(found.items()))


def _uncounted(work: Callable[Concatenate[RandomBench, P], T]) -> Callable[Concatenate[RandomBench, P], T]:
    """The same, with its processor seconds added to what the merge's seconds leave out."""

    def timed(bench: RandomBench, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.process_time()
        result = work(bench, *args, **kwargs)
        bench.meter.elapsed_training_seconds += time.process_time() - began
        return result

    return timed


@dataclass(frozen=True)
class RandomBench(Workbench):
    """A workbench whose trainings and passes over data return random results of the right shapes.

    Attributes:
        has_one_a: the experts' first factors are equal, as when A is frozen.
    """

    has_one_a: bool = False

    @_uncounted
    def train(
        self,
        domain: TrainingDomain,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: TrainingHooks | None = None,
    ) -> Fitted:
        """An expert as training would leave it: alone, or above what it started from."""
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

    @_uncounted
    def input_grams(
        self, domain: TrainingDomain, update: Update | None, *, projections: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The Gram matrix of a few hundred random inputs, scaled differently for each layer."""
        draw = self.generator("grams", domain.name)
        grams, drawn = {}, dict[int, Tensor]()
        for number, layer in enumerate(self.layers, start=1):
            projection = projections.get(layer) if projections else None
            width = self.sam.get_parameter(f"{layer}.weight").shape[1] if projection is None else len(projection)
            if width not in drawn:
                rows = torch.randn(2 * width, width, generator=draw)
                drawn[width] = (rows.T @ rows / len(rows)).double()
            grams[layer] = drawn[width] * number
        return grams

    @_uncounted
    def squared_gradients(
        self, domain: TrainingDomain, update: Update, *, labels: Literal["true", "sampled"], images: int = 256
    ) -> dict[str, Tensor]:
        """Squares of random numbers for each changed weight."""
        draw = self.generator("fisher", domain.name)
        names = [*sorted(f"{layer}.weight" for layer in update.low_rank), *update.dense]
        shapes = {name: self.sam.get_parameter(name).shape for name in names}
        return {name: torch.randn(shape, generator=draw).square_() for name, shape in shapes.items()}


def workbench(case: Case, sam: Sam) -> RandomBench:
    """The workbench of a case, with every attention layer of the model adapted."""
    plain = subjects.workbench(sam, adapter=ADAPTER)
    given = {one.name: getattr(plain, one.name) for one in fields(plain) if one.init}
    return RandomBench(**given | {"meter": Meter(), "has_one_a": case.method == "lorm"})


def learn(case: Case, bench: RandomBench, *, step: int, before: Path | None) -> MergingMethod:
    """The method after reading its state, if it has one, and learning a domain."""
    kind = load_method(case.method)
    method = kind(kind.Settings(**case.settings), bench)
    assert isinstance(method, MergingMethod)
    if before:
        method.load(State.read(before))
    method.learn(TrainingDomain(str(step), *noise()), step=step)
    return method


@cache
def noise() -> tuple[Split, Prompts]:
    """The images of every domain, of which nothing is read."""
    return subjects.split(1)


def prepare(case: Case, bench: RandomBench, folder: Path, *, domains: int) -> Path:
    """Learn this many domains, each from the state that the one before wrote; the last state's file."""
    files = [folder / f"{step % 2}.safetensors" for step in range(domains + 1)]  # never the one that is being read
    for step in range(1, domains + 1):
        before = files[step - 1] if step > 1 else None
        learn(case, bench, step=step, before=before).state().save(files[step])
    return files[-1]


class Merge(NamedTuple):
    """What one merge took: processor seconds, MiB of memory at most above what was held before, MiB of the state."""

    seconds: float
    peak: float
    state: float


def measure(case: Case, bench: RandomBench, before: Path, *, step: int) -> Merge:
    """One merge, from reading the state to writing the new one beside it."""
    taken = []

    def work() -> None:
        began, bench.meter.elapsed_training_seconds = time.process_time(), 0.0
        state = learn(case, bench, step=step, before=before).state()
        taken.append(time.process_time() - began - bench.meter.elapsed_training_seconds)
        taken.append(state.save(before.with_name("after.safetensors")) / 2**20)

    noise()
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed before would not count when it is used again
    peak = peak_above_now(work)
    return Merge(peak=peak, seconds=taken[0], state=taken[1])


def figures() -> Iterator[Figure]:
    """For every merging method the seconds and the memory of a merge, in multiples of the bytes of its state."""
    sam = subjects.model(is_lean=True)
    for name, case in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            before = prepare(case, workbench(case, sam), Path(folder), domains=case.before)
            found = in_a_process(measure_alone, case, before)
        yield Figure(f"merge, {name}", None, found.seconds, "s", case.note)
        yield Figure(f"merge, {name}", None, found.peak / found.state, "times", f"its state of {found.state:.1f} MiB")


def measure_alone(case: Case, before: Path, *, name: str = "vit_b") -> Merge:
    """One merge in a process that has done nothing else, from the state in a file."""
    with tempfile.TemporaryDirectory() as folder:  # a first use loads libraries and makes their workspaces
        bench = workbench(case, subjects.model(is_lean=True, name="tiny"))
        measure(case, bench, prepare(case, bench, Path(folder), domains=2), step=3)
    return measure(case, workbench(case, subjects.model(is_lean=True, name=name)), before, step=case.before + 1)
