"""What the machine can do, as measured, and how near to it each stage comes by the cost model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import costs, subjects
from benchmarks.costs import Cost, VitShape
from benchmarks.figures import amount
from benchmarks.measuring import CPU, Row, in_turns
from benchmarks.stages import trainer
from cosam_bench.evaluation.metrics import measure
from cosam_bench.merging.regression import merge_by_regression
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.registry import load_method
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.frames import FramePrompts
from cosam_bench.sam.sam import Features, Sam

_NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Machine:
    """The measured limits of one device.

    Attributes:
        flops: by type, operations a second in matrix products.
        bytes_a_second: read and written by a copy.
    """

    flops: dict[torch.dtype, float]
    bytes_a_second: float

    def least(self, cost: Cost, dtype: torch.dtype) -> float:
        """The least seconds for a cost in numbers of a type."""
        return cost.least_seconds(
            flops_a_second=self.flops[dtype], bytes_a_second=self.bytes_a_second, itemsize=dtype.itemsize
        )


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
        megabytes: of what is copied; more than any cache holds.
    """
    flops = {}
    for dtype in dtypes:
        one, other = torch.randn(2, side, side, device=device, dtype=dtype).unbind()
        answer = torch.empty_like(one)
        multiply: Callable[[], object] = lambda one=one, other=other, answer=answer: torch.mm(one, other, out=answer)  # type: ignore[misc]  # noqa: E731
        multiply()
        flops[dtype] = 2 * side**3 / in_turns(multiply, repeats=repeats, device=device)[0]
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    [seconds] = in_turns(lambda: target.copy_(source), repeats=2 * repeats, device=device)
    return Machine(flops, 2 * source.nbytes / seconds)


def rows(
    name: str = "vit_b", *, adapter: AdapterSettings = subjects.ADAPTER, machine: Machine | None = None
) -> Iterator[Row]:
    """The limits, then each stage with the least seconds that they allow.

    Args:
        machine: its limits, where they were measured already.
    """
    machine = machine or measured()
    yield from limit_rows(machine)
    sam = subjects.model(is_lean=True, name=name)
    for dtype in (torch.float32, torch.bfloat16):
        yield from _parts(machine, dtype, sam=sam, adapter=adapter)
        yield _training(machine, dtype, sam=sam, adapter=adapter)
    yield _average(machine, sam=sam)
    yield _regression(machine)
    yield _metrics(machine)


def limit_rows(machine: Machine) -> Iterator[Row]:
    """The limits themselves, as rates."""
    for dtype, rate in machine.flops.items():
        yield Row(f"limit of products, {_NAMES[dtype]}", None, rate / 1e9, "GFLOP/s")
    yield Row("limit of copies", None, machine.bytes_a_second / 1e9, "GB/s", "read and written")


def against(machine: Machine, stage: str, cost: Cost, seconds: float, dtype: torch.dtype) -> Row:
    """One stage against the limit; what it costs stands in the note."""
    note = f"{amount(cost.flops / 1e9)} GFLOP, {amount(cost.numbers * dtype.itemsize / 2**20)} MiB"
    return Row(f"{stage}, {_NAMES[dtype]}", None, seconds, "s", note, machine.least(cost, dtype))


def _parts(machine: Machine, dtype: torch.dtype, *, sam: Sam, adapter: AdapterSettings) -> Iterator[Row]:
    """The encoder, as a whole and cut before the first adapted block, and the decoder: one image each."""
    shape, depth = VitShape.of(sam.image_encoder), min(adapter.blocks or (0,))
    image, grid = subjects.images(1, side=sam.image_size), sam.logits_size
    box = torch.tensor([[0.2, 0.1, 0.7, 0.6]]) * sam.image_size
    prompts = FramePrompts(("box",), box, torch.zeros(1, 1, 2), torch.zeros(1, 1, grid, grid))
    found: dict[str, Features] = {}

    def prefix() -> None:
        found["maps"] = sam.prefix(image, depth=depth)

    def suffix() -> None:
        found["embeddings"] = sam.suffix(found["maps"], depth=depth)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        taken = in_turns(prefix, suffix, lambda: sam.decode(found["embeddings"], prompts), repeats=2)
    blocks = len(shape.windows)
    yield against(machine, f"encoder, {blocks} blocks", shape.encoder(), taken[0] + taken[1], dtype)
    yield against(machine, f"prefix, {depth} blocks", shape.prefix(depth), taken[0], dtype)
    yield against(machine, f"suffix, {blocks - depth} blocks", shape.suffix(depth), taken[1], dtype)
    yield against(machine, "decoder", costs.decoder(sam), taken[2], dtype)


def _training(machine: Machine, dtype: torch.dtype, *, sam: Sam, adapter: AdapterSettings) -> Row:
    """A training step of one image with kept features."""
    split, prompts = subjects.split(1)
    with tempfile.TemporaryDirectory() as folder:
        step = trainer(sam, Path(folder), split, prompts, is_bf16=dtype == torch.bfloat16, adapter=adapter)
        step()  # keeps the features
        [seconds] = in_turns(step, repeats=2)
    shape = VitShape.of(sam.image_encoder)
    cost = costs.training_step(shape, sam, first=min(adapter.blocks or (0,)), rank=adapter.rank)
    return against(machine, "training step, kept features", cost, seconds, dtype)


def _average(machine: Machine, *, sam: Sam) -> Row:
    """The mean of dense changes of every attention layer, one expert more."""
    settings = subjects.ADAPTER.model_copy(update={"blocks": None})
    first, second = subjects.updates(sam, 2, settings=settings)
    method = load_method("average")
    average = method(method.Settings(), subjects.workbench(sam, adapter=settings))
    assert isinstance(average, MergingMethod)
    domain = TrainingDomain("noise", *subjects.split(1))
    average.served = average.merge(first, domain, step=1)
    [seconds] = in_turns(lambda: average.merge(second, domain, step=2), repeats=3)
    layers = [(factors.b.shape[0], factors.a.shape[1]) for factors in first.low_rank.values()]
    cost = costs.average_merge(layers, rank=settings.rank)
    return against(machine, f"merge average, {len(layers)} layers", cost, seconds, torch.float32)


def _regression(machine: Machine) -> Row:
    """One layer's regression, of the size of ViT-B's largest."""
    outputs, inputs = 2304, 768
    tokens = torch.randn(2 * inputs, inputs, dtype=torch.float64)
    gram, products = tokens.T @ tokens, torch.randn(outputs, inputs, dtype=torch.float64)
    [seconds] = in_turns(lambda: merge_by_regression(gram, products, ridge=1e-6), repeats=3)
    return against(machine, "regression of one layer", costs.regression(outputs, inputs), seconds, torch.float64)


def _metrics(machine: Machine) -> Row:
    """The five metrics of one image: logits of four bytes and a mask of one, read once."""
    logits, target = torch.randn(1, 768, 1024), torch.rand(1, 768, 1024) < 0.3
    [seconds] = in_turns(lambda: measure(logits, target), repeats=5)
    return against(machine, "five metrics, 768 x 1024", Cost(numbers=logits.numel() * 5 / 4), seconds, torch.float32)
