"""What the machine can do, as measured, and how near each stage comes to it by a model of its cost.

Operations are those of matrix products and convolutions, two for each multiplication with its addition, as torch's
counter counts them in segment-anything's own model, which computes nothing twice. Bytes are those of a machine that
reads each layer's inputs and weights once and writes its result once; attention between its projections counts none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from benchmarks import subjects
from benchmarks.figures import Figure, amount
from benchmarks.measuring import CPU, in_turns
from benchmarks.stages import trainer
from cosam_bench.evaluation.metrics import measure
from cosam_bench.merging.regression import merge_by_regression
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.registry import load_method
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.sam import Features, Sam

_NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16"}
_LAYERS = {"mm", "addmm", "addmm_", "convolution", "_convolution", "convolution_backward"}


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and how many numbers are read and written."""

    flops: float
    numbers: float


def counted(work: Callable[[], object]) -> Cost:
    """What a piece of work costs, by running it twice."""
    # torch itself does not count products that are added where they belong
    in_place: dict[Any, Any] = {torch.ops.aten.addmm_: lambda _, a, b, **given: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as flops:
        work()
    numbers = {op: _moved if op.__name__ in _LAYERS else _nothing for op in {**flop_registry, **in_place}}
    with FlopCounterMode(display=False, custom_mapping=numbers) as moved:
        work()
    return Cost(flops.get_total_flops(), moved.get_total_flops())


def _moved(*given: Any, out_shape: Any = None, **_: Any) -> int:
    leaves = tree_leaves((given, out_shape), is_leaf=lambda part: isinstance(part, torch.Size))
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Size))


def _nothing(*_: Any, **__: Any) -> int:
    return 0


@dataclass(frozen=True)
class Machine:
    """The measured limits of one device.

    Attributes:
        flops: by type, operations per second in matrix products.
        bytes_per_second: read and written by a copy.
    """

    flops: dict[torch.dtype, float]
    bytes_per_second: float

    def least(self, cost: Cost, dtype: torch.dtype) -> float:
        """The seconds of the products alone or of the traffic alone, whichever takes longer."""
        return max(cost.flops / self.flops[dtype], cost.numbers * dtype.itemsize / self.bytes_per_second)


def measured(
    device: torch.device = CPU,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float64),
    side: int = 2048,
    megabytes: int = 256,
    repeats: int = 5,
) -> Machine:
    """The limits of a device: the best of several products of square matrices, and of several copies.

    Args:
        side: of the matrices; large enough to keep the device busy, 8192 on a GPU.
        megabytes: to copy; more than any cache holds.
    """
    flops = {}
    for dtype in dtypes:
        one, other, answer = torch.randn(3, side, side, device=device, dtype=dtype).unbind()
        torch.mm(one, other, out=answer)
        multiply = partial(torch.mm, one, other, out=answer)
        flops[dtype] = 2 * side**3 / in_turns(multiply, repeats=repeats, device=device)[0]
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = source.clone()
    [seconds] = in_turns(lambda: target.copy_(source), repeats=2 * repeats, device=device)
    return Machine(flops, 2 * source.nbytes / seconds)


def figures(
    name: str = "vit_b", *, adapter: AdapterSettings = subjects.ADAPTER, machine: Machine | None = None
) -> Iterator[Figure]:
    """The limits, then each stage with the least seconds that they allow.

    Args:
        machine: its limits, if they were measured already.
    """
    machine = machine or measured()
    yield from limit_figures(machine)
    stock, lean = (subjects.model(is_lean=is_lean, name=name) for is_lean in (False, True))
    costs = stage_costs(stock, adapter)
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            seconds = in_turns(*_works(lean, adapter, Path(folder), is_bf16=dtype == torch.bfloat16), repeats=2)
        for (stage, cost), taken in zip(costs.items(), [seconds[0] + seconds[1], *seconds], strict=True):
            yield against(machine, stage, cost, taken, dtype)
    yield _average(machine, sam=lean)
    yield _regression(machine)
    yield _metrics(machine)


def limit_figures(machine: Machine) -> Iterator[Figure]:
    """The limits themselves, as rates."""
    for dtype, rate in machine.flops.items():
        yield Figure(f"limit of products, {_NAMES[dtype]}", None, rate / 1e9, "GFLOP/s")
    yield Figure("limit of copies", None, machine.bytes_per_second / 1e9, "GB/s", "read and written")


def against(machine: Machine, stage: str, cost: Cost, seconds: float, dtype: torch.dtype) -> Figure:
    """One stage against the limit, with its cost as the note."""
    note = f"{amount(cost.flops / 1e9)} GFLOP, {amount(cost.numbers * dtype.itemsize / 2**20)} MiB"
    return Figure(f"{stage}, {_NAMES[dtype]}", None, seconds, "s", note, machine.least(cost, dtype))


def stage_costs(stock: Sam, adapter: AdapterSettings) -> dict[str, Cost]:
    """By stage what it costs for one image, counted in a model with segment-anything's own attention."""
    with tempfile.TemporaryDirectory() as folder:
        prefix, suffix, decoder, step = (counted(work) for work in _works(stock, adapter, Path(folder), is_bf16=False))
    blocks: Any = stock.image_encoder.blocks
    depth, count = _depth(adapter), len(blocks)
    return {
        f"encoder, {count} blocks": Cost(prefix.flops + suffix.flops, prefix.numbers + suffix.numbers),
        f"prefix, {depth} blocks": prefix,
        f"suffix, {count - depth} blocks": suffix,
        "decoder": decoder,
        "training step, kept features": step,
    }


def _depth(adapter: AdapterSettings) -> int:
    return min(adapter.blocks or (0,))


def _works(sam: Sam, adapter: AdapterSettings, folder: Path, *, is_bf16: bool) -> list[Callable[[], object]]:
    """One image through the encoder, cut before the first adapted block, and the decoder; and a training step.

    They are to be run in this order; the step's features are kept in the folder.
    """
    depth, image, grid = _depth(adapter), subjects.image(sam.image_size), sam.logits_size
    box = torch.tensor([[0.2, 0.1, 0.7, 0.6]]) * sam.image_size
    prompts = FramePrompts(("box",), box, torch.zeros(1, 1, 2), torch.zeros(1, 1, grid, grid))
    found: dict[str, Features] = {}

    def prefix() -> None:
        found["maps"] = sam.prefix(image, depth=depth)

    def suffix() -> None:
        found["embeddings"] = sam.suffix(found["maps"], depth=depth)

    def decode() -> None:
        sam.decode(found["embeddings"], prompts)

    step = trainer(sam, folder, *subjects.split(1), is_bf16=is_bf16, adapter=adapter)
    step()  # keeps the features
    within = torch.autocast("cpu", torch.bfloat16, enabled=is_bf16)
    return [*(torch.inference_mode()(within(part)) for part in (prefix, suffix, decode)), step]


def _average(machine: Machine, *, sam: Sam) -> Figure:
    """The mean of dense changes of every attention layer, with one more expert."""
    settings = subjects.ADAPTER.model_copy(update={"blocks": None})
    first, second = subjects.updates(sam, 2, settings=settings)
    method = load_method("average")
    average = method(method.Settings(), subjects.workbench(sam, adapter=settings))
    assert isinstance(average, MergingMethod)
    domain = TrainingDomain("noise", *subjects.split(1))
    average.served = average.merge(first, domain, step=1)
    [seconds] = in_turns(lambda: average.merge(second, domain, step=2), repeats=3)
    sizes = [(factors.b.shape[0], factors.a.shape[1]) for factors in first.low_rank.values()]
    return against(machine, f"merge average, {len(sizes)} layers", average_cost(sizes), seconds, torch.float32)


def average_cost(layers: list[tuple[int, int]], *, rank: int = subjects.ADAPTER.rank) -> Cost:
    """Each expert's ``(outputs, inputs)`` multiplied out and written; read with the mean, and the mean written."""
    flops = sum(2 * outputs * rank * inputs for outputs, inputs in layers)
    return Cost(flops, sum(rank * (outputs + inputs) + 4 * outputs * inputs for outputs, inputs in layers))


def regression_cost(outputs: int, inputs: int) -> Cost:
    """One layer's merge by Cholesky: the factor, and two triangular solves for each output."""
    return Cost(inputs**3 / 3 + 2 * inputs**2 * outputs, 2 * inputs**2 + 2 * outputs * inputs)


def _regression(machine: Machine) -> Figure:
    """One layer's regression, of the size of ViT-B's largest."""
    outputs, inputs = 2304, 768
    tokens = torch.randn(2 * inputs, inputs, dtype=torch.float64)
    gram, products = tokens.T @ tokens, torch.randn(outputs, inputs, dtype=torch.float64)
    [seconds] = in_turns(lambda: merge_by_regression(gram, products, ridge=1e-6), repeats=3)
    return against(machine, "regression of one layer", regression_cost(outputs, inputs), seconds, torch.float64)


def _metrics(machine: Machine) -> Figure:
    """The five metrics of one image: logits of four bytes and a mask of one, read once."""
    logits, target = torch.randn(1, 768, 1024), torch.rand(1, 768, 1024) < 0.3
    [seconds] = in_turns(lambda: measure(logits, target), repeats=5)
    cost = Cost(0, logits.numel() * 5 / 4)
    return against(machine, "five metrics, 768 x 1024", cost, seconds, torch.float32)
