"""Which kind of work the time goes into, by torch's profiler: ViT-B, one image, fp32."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import subjects
from benchmarks.figures import Figure
from benchmarks.stages import row_of, trainer
from cosam_bench.evaluation.loader import Loader
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else the profiler complains that it finds no GPU

KINDS = ("linear layers", "attention", "convolutions", "elementwise", "the rest")
# The first that occurs in an operation's name decides; "upsample_bilinear" is not a linear layer.
_KIND_OF = {"upsample": "elementwise"}
_KIND_OF |= dict.fromkeys(("bmm", "softmax", "scaled_dot_product"), "attention") | {"conv": "convolutions"}
_KIND_OF |= dict.fromkeys(("addmm", "aten::mm", "linear", "aten::dot", "aten::mv"), "linear layers")


def figures(name: str = "vit_b", *, adapter: AdapterSettings = subjects.ADAPTER) -> Iterator[Figure]:
    """Seconds of each kind in an encoder's pass, a training step and a row of the matrix, stock's and ours."""
    stock, lean = (subjects.model(is_lean=is_lean, name=name) for is_lean in (False, True))
    split, prompts = subjects.split(1)
    image = subjects.image(lean.image_size)
    [update] = subjects.updates(lean, 1, settings=adapter)
    with tempfile.TemporaryDirectory() as folder:
        bench = subjects.workbench(lean, folder=Path(folder), adapter=adapter)
        plain_bench = subjects.workbench(stock, adapter=adapter)
        ours = trainer(lean, Path(folder), split, prompts, is_bf16=False, adapter=adapter)
        ours()  # keeps the features
        loader = Loader.for_device(bench.view.device, with_digests=True)
        row_of(bench, None, split, prompts, loader=loader)  # loads the image
        works: dict[str, Callable[[], object]] = {
            "encoder, stock": torch.inference_mode()(lambda: stock.image_encoder(image)),
            "encoder, ours": torch.inference_mode()(lambda: lean.image_encoder(image)),
            "training step, stock": trainer(stock, None, split, prompts, is_bf16=False, adapter=adapter),
            "training step, ours": ours,
            "row of one image, stock": lambda: row_of(plain_bench, update, split, prompts),
            "row of one image, ours": lambda: row_of(bench, update, split, prompts, loader=loader),
        }
        for what, work in works.items():
            seconds = by_kind(work)
            for kind in KINDS:
                share = seconds[kind] / sum(seconds.values())
                yield Figure(f"{kind}, {what}", None, seconds[kind], "s", f"{share:.0%}")


def kind_of(operation: str) -> str:
    """The kind of work of one of torch's operations, by its name.

    >>> [kind_of(name) for name in ("aten::addmm", "aten::bmm", "aten::upsample_bilinear2d")]
    ['linear layers', 'attention', 'elementwise']
    """
    return next((kind for part, kind in _KIND_OF.items() if part in operation), "elementwise")


def by_kind(work: Callable[[], object]) -> dict[str, float]:
    """Processor seconds by kind: the profiler's shares of wall time, which a busy machine stretches alike."""
    found = dict.fromkeys(KINDS, 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        starts, inside = time.perf_counter(), time.process_time()
        work()
        wall, taken = time.perf_counter() - starts, time.process_time() - inside
    for event in profiler.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    found["the rest"] = max(0.0, wall - sum(found.values()))
    total = sum(found.values())
    return {kind: taken * seconds / total for kind, seconds in found.items()}
