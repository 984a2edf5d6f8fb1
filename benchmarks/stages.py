"""The stages that are compared, each with the plain way to do it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from benchmarks import subjects
from benchmarks.figures import Figure
from benchmarks.measuring import in_a_process, in_turns, peak_above_now
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import iou
from cosam_bench.evaluation.scoring import score_split
from cosam_bench.merging.updates import Update
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.lora_linear import LoraLinear
from cosam_bench.sam.attention import LeanAttention
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import serving

MATRIX_ROWS = 9  # CoSAM's: frozen SAM and eight domains
PRECISIONS = ("fp32", "bf16")


def encoder() -> Iterator[Figure]:
    """One image through ViT-B's encoder, and the peak memory of one global block."""
    stock, lean = (subjects.model(is_lean=is_lean) for is_lean in (False, True))
    yield from encoder_figures(stock.image_encoder, lean.image_encoder, subjects.image(), name="encoder")
    for what in (*PRECISIONS, "training"):
        plain, ours = (in_a_process(block_memory, what, is_lean=is_lean) for is_lean in (False, True))
        yield Figure(f"global block, {what}", plain, ours, "MiB")


def encoder_figures(stock: nn.Module, lean: nn.Module, image: Tensor, *, name: str) -> Iterator[Figure]:
    """One image through two encoders with the same weights, in both precisions."""
    for precision in PRECISIONS:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            one, other = stock(image).float(), lean(image).float()
            plain, ours = in_turns(lambda: stock(image), lambda: lean(image), repeats=2)
        apart = ((one - other).norm() / one.norm()).item()
        yield Figure(f"{name}, {precision}", plain, ours, "s", f"{apart:.0e} apart" if apart else "the same bits")


def block_memory(what: str, *, is_lean: bool) -> float:
    """Peak MiB of one of ViT-B's global blocks on one image, in a precision or while training."""
    layer = Block(768, 12, use_rel_pos=True, input_size=(64, 64))
    if is_lean:
        layer.attn.__class__ = LeanAttention
    maps = torch.randn(1, 64, 64, 768, requires_grad=what == "training")
    if what == "training":
        return peak_above_now(lambda: layer(maps).sum().backward())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=what == "bf16"):
        return peak_above_now(lambda: layer(maps))


def matrix(*, images: int = 1) -> Iterator[Figure]:
    """Nine rows of some images: stock's predictor with the whole encoder each time, against kept features."""
    split, prompts = subjects.split(images)
    stock = sam_model_registry["vit_b"]()
    yield from matrix_figures(subjects.model(is_lean=True), stock, split, prompts, adapter=subjects.ADAPTER)


def matrix_figures(
    sam: Sam, stock: nn.Module, split: Split, prompts: Prompts, *, adapter: AdapterSettings, count: int = MATRIX_ROWS
) -> Iterator[Figure]:
    """This many rows of a split by random adapters.

    Args:
        stock: segment-anything's model of the same kind; it receives the weights of each row.
    """
    updates: list[Update | None] = [None, *subjects.updates(sam, count - 1, settings=adapter)]
    found: dict[str, np.ndarray] = {}  # IoU by row and image

    def plain() -> None:
        found["plain"] = np.array([_plain_row(stock, sam, update, split, prompts) for update in updates])

    def ours(precision: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = subjects.workbench(sam, folder=Path(folder), is_bf16=precision == "bf16", adapter=adapter)
            loader = Loader.for_device(bench.view.device, with_digests=True)  # one for all rows, as in a run
            found[precision] = np.array([row_of(bench, update, split, prompts, loader=loader) for update in updates])

    plain_seconds, *seconds = in_turns(plain, lambda: ours("fp32"), lambda: ours("bf16"), repeats=1)
    for precision, taken in zip(PRECISIONS, seconds, strict=True):
        apart = found["plain"] - found[precision]
        note = f"IoU {abs(apart.mean(axis=1)).max():.4f} apart per cell"
        note += f", {abs(apart).max():.4f} per image" if len(split) > 1 else ""
        note += f", of {found['plain'][0].mean():.2f}"
        yield Figure(f"{count} rows, {precision} against fp32", plain_seconds, taken, "s", note)


def _plain_row(stock: nn.Module, sam: Sam, update: Update | None, split: Split, prompts: Prompts) -> list[float]:
    """As published harnesses score: weights in place, one image at a time through segment-anything's predictor."""
    names = stock.state_dict().keys()
    with serving(sam, update):
        stock.load_state_dict({name: tensor for name, tensor in sam.state_dict().items() if name in names})
    predictor = SamPredictor(stock)
    return [_plain_score(predictor, split[row], prompts.boxes[row]) for row in range(len(split))]


def _plain_score(predictor: SamPredictor, sample: Sample, box: Tensor) -> float:
    predictor.set_image(sample.image.permute(1, 2, 0).numpy())
    masks, _, _ = predictor.predict(box=box.numpy(), multimask_output=False)
    return iou(torch.from_numpy(masks), sample.mask[None]).item()


def row_of(
    bench: Workbench, update: Update | None, split: Split, prompts: Prompts, *, loader: Loader | None = None
) -> list[float]:
    """The IoU of each image with an update served, as this package scores, one image at a time."""

    def predict(batch: Batch) -> Tensor:
        return bench.predict(update, batch)

    scores = score_split(predict, split, prompts, kind="box", view=bench.view, batch_size=1, loader=loader)
    return [score.values["iou"] for score in scores]


def step() -> Iterator[Figure]:
    """A training step on one image: the whole stock encoder, against kept features and lean attention."""
    split, prompts = subjects.split(1)
    stock, lean = (subjects.model(is_lean=is_lean) for is_lean in (False, True))
    yield from step_figures(stock, lean, split, prompts, adapter=subjects.ADAPTER)
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(step_memory, Path(folder))  # keeps the features, as the first epoch does
        plain, ours = in_a_process(step_memory, None), in_a_process(step_memory, Path(folder))
    yield Figure("training step, fp32", plain, ours, "MiB")


def step_figures(
    stock: Sam, lean: Sam, split: Split, prompts: Prompts, *, adapter: AdapterSettings
) -> Iterator[Figure]:
    """A forward and a backward pass of a split's first image, in both precisions."""
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            is_bf16 = precision == "bf16"
            plain = trainer(stock, None, split, prompts, is_bf16=is_bf16, adapter=adapter)
            ours = trainer(lean, Path(folder), split, prompts, is_bf16=is_bf16, adapter=adapter)
            ours()  # keeps the features
            slow, fast = in_turns(plain, ours, repeats=2)
        yield Figure(f"training step, {precision}", slow, fast, "s")


def step_memory(folder: Path | None) -> float:
    """Peak MiB of a training step; the plain one's without a folder of features."""
    sam = subjects.model(is_lean=folder is not None)
    return peak_above_now(trainer(sam, folder, *subjects.split(1), is_bf16=False))


def trainer(
    sam: Sam,
    folder: Path | None,
    split: Split,
    prompts: Prompts,
    *,
    is_bf16: bool,
    adapter: AdapterSettings = subjects.ADAPTER,
) -> Callable[[], None]:
    """A forward and a backward pass of the first image; by peft's own layers without a folder of features."""
    bench = subjects.workbench(sam, folder=folder, is_bf16=is_bf16, adapter=adapter)
    batch, target = bench.augmented(split, prompts, [0], order=torch.Generator().manual_seed(0))

    def work() -> None:
        with attach(sam, bench.adapter, generator=torch.Generator().manual_seed(0)):
            if folder is None:
                _as_peft(sam)
            loss, _ = bench.loss(batch, target)
            loss.backward()  # type: ignore[no-untyped-call]

    return work


def _as_peft(sam: Sam) -> None:
    """Let the attached adapter compute as peft's own layers do."""
    adapted = [(name, module) for name, module in sam.named_modules() if isinstance(module, LoraLinear)]
    for name, module in adapted:
        sam.set_submodule(name, peft_layer(module))


def peft_layer(layer: LoraLinear) -> nn.Module:
    """peft's layer with the same base layer, factors and scale; the factors are shared."""
    rank = len(layer.a)
    alpha: Any = layer.scale * rank  # peft takes a float, too
    holder = nn.ModuleDict({"layer": layer.base_layer})
    with torch.random.fork_rng(devices=[]):  # it draws factors of its own
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"]), holder)
    theirs: Any = holder["layer"]
    theirs.lora_A["default"].weight, theirs.lora_B["default"].weight = layer.a, layer.b
    return holder["layer"]


def start() -> Iterator[Figure]:
    """Wall seconds of the whole command line, the least of three."""
    for word in ("--help", "methods"):
        command, seconds = [sys.executable, "-m", "cosam_bench.cli.main", word], []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        yield Figure(f"cosam-bench {word}", None, min(seconds), "s")
