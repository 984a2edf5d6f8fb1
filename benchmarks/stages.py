"""The stages that are compared, each against the plain way to do it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft.tuners.lora.layer import Linear
from segment_anything import SamPredictor, sam_model_registry
from torch import Tensor, nn

from benchmarks import subjects
from benchmarks.measuring import Row, in_a_process, in_turns
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import iou
from cosam_bench.evaluation.scoring import score_split
from cosam_bench.merging.updates import Update
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attach import attach
from cosam_bench.sam.adapters.lean_lora import LeanLora
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import serving

MATRIX_ROWS = 9  # CoSAM's: frozen SAM and eight domains


def encoder() -> Iterator[Row]:
    """One image through ViT-B's encoder, and the highest memory of one global block."""
    stock, lean = (subjects.model(is_lean=is_lean) for is_lean in (False, True))
    yield from encoder_rows(stock.image_encoder, lean.image_encoder, subjects.images(1), name="encoder")
    for what in ("fp32", "bf16", "training"):
        plain, ours = in_a_process(f"block-{what}-plain"), in_a_process(f"block-{what}-ours")
        yield Row(f"global block, {what}", plain, ours, "MiB")


def encoder_rows(stock: nn.Module, lean: nn.Module, image: Tensor, *, name: str) -> Iterator[Row]:
    """One image through two encoders of the same weights, in both precisions."""
    for precision in ("fp32", "bf16"):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            one, other = stock(image).float(), lean(image).float()
            plain, ours = in_turns(lambda: stock(image), lambda: lean(image), repeats=2)
        apart = ((one - other).norm() / one.norm()).item()
        yield Row(f"{name}, {precision}", plain, ours, "s", f"{apart:.0e} apart" if apart else "the same bits")


def matrix(*, images: int = 1) -> Iterator[Row]:
    """Nine rows of some images: stock's predictor with the whole encoder each time, against kept features."""
    split, prompts = subjects.split(images)
    yield from matrix_rows(
        subjects.model(is_lean=True), sam_model_registry["vit_b"](), split, prompts, adapter=subjects.ADAPTER
    )


def matrix_rows(
    sam: Sam, stock: nn.Module, split: Split, prompts: Prompts, *, adapter: AdapterSettings, count: int = MATRIX_ROWS
) -> Iterator[Row]:
    """So many rows of a split by random adapters.

    Args:
        stock: segment-anything's model of the same kind; it is given the weights of each row.
    """
    updates: list[Update | None] = [None, *subjects.updates(sam, count - 1, settings=adapter)]
    found: dict[str, list[list[float]]] = {}

    def plain() -> None:
        found["plain"] = [_plain_row(stock, sam, update, split, prompts) for update in updates]

    def ours(precision: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            is_bf16 = precision == "bf16"
            bench = subjects.workbench(sam, folder=Path(folder), is_bf16=is_bf16, adapter=adapter)
            loader = Loader.for_device(bench.view.device, with_digests=True)  # one for all rows, as in a run
            found[precision] = [row_of(bench, update, split, prompts, loader=loader) for update in updates]

    taken, *mine = in_turns(plain, lambda: ours("fp32"), lambda: ours("bf16"), repeats=1)
    for precision, seconds in zip(("fp32", "bf16"), mine, strict=True):
        cells, images = (
            max(abs(gap) for gap in gaps)
            for gaps in (_mean_gaps(found["plain"], found[precision]), _gaps(found["plain"], found[precision]))
        )
        note = f"IoU {cells:.4f} apart a cell" + (f", {images:.4f} an image" if len(split) > 1 else "")
        note += f", of {_mean(found['plain'][0]):.2f}"
        yield Row(f"{count} rows, {precision} against fp32", taken, seconds, "s", note)


def _gaps(one: list[list[float]], other: list[list[float]]) -> list[float]:
    return [a - b for row, same in zip(one, other, strict=True) for a, b in zip(row, same, strict=True)]


def _mean_gaps(one: list[list[float]], other: list[list[float]]) -> list[float]:
    return [_mean(row) - _mean(same) for row, same in zip(one, other, strict=True)]


def _mean(row: list[float]) -> float:
    return sum(row) / len(row)


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
    """The IoU of each image by the model that an update makes, as this package scores, one image at a time."""
    scores = score_split(
        lambda batch: bench.predict(update, batch),
        split,
        prompts,
        kind="box",
        view=bench.view,
        batch_size=1,
        loader=loader,
    )
    return [score.values["iou"] for score in scores]


def step() -> Iterator[Row]:
    """A training step of one image: the whole stock encoder, against kept features and lean attention."""
    split, prompts = subjects.split(1)
    stock, lean = (subjects.model(is_lean=is_lean) for is_lean in (False, True))
    yield from step_rows(stock, lean, split, prompts, adapter=subjects.ADAPTER)
    yield Row("training step, fp32", in_a_process("step-plain"), in_a_process("step-ours"), "MiB")


def step_rows(stock: Sam, lean: Sam, split: Split, prompts: Prompts, *, adapter: AdapterSettings) -> Iterator[Row]:
    """A forward and a backward pass of a split's first image, in both precisions."""
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            is_bf16 = precision == "bf16"
            plain = trainer(stock, None, split, prompts, is_bf16=is_bf16, adapter=adapter)
            ours = trainer(lean, Path(folder), split, prompts, is_bf16=is_bf16, adapter=adapter)
            ours()  # keeps the features
            slow, fast = in_turns(plain, ours, repeats=2)
        yield Row(f"training step, {precision}", slow, fast, "s")


def trainer(
    sam: Sam,
    folder: Path | None,
    split: Split,
    prompts: Prompts,
    *,
    is_bf16: bool,
    adapter: AdapterSettings = subjects.ADAPTER,
) -> Callable[[], None]:
    """A forward and a backward pass of the first image; by peft's own layers where no features are kept."""
    bench = subjects.workbench(sam, folder=folder, is_bf16=is_bf16, adapter=adapter)
    batch, target = bench.augmented(split, prompts, [0], order=torch.Generator().manual_seed(0))

    def work() -> None:
        with attach(sam, bench.adapter, generator=torch.Generator().manual_seed(0)):
            if folder is None:
                as_peft(sam)
            loss, _ = bench.loss(batch, target)
            loss.backward()  # type: ignore[no-untyped-call]

    return work


def as_peft(sam: Sam) -> None:
    """Let the adapter that is attached compute as peft's own layers do."""
    for module in sam.modules():
        if isinstance(module, LeanLora):
            module.__class__ = Linear  # type: ignore[assignment]  # its base class


def start() -> Iterator[Row]:
    """The command line, from nothing to its last line: wall seconds, the least of three."""
    for words in (["--help"], ["methods"]):
        command = [sys.executable, "-m", "cosam_bench.cli.main", *words]
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        yield Row(f"cosam-bench {words[0]}", None, min(seconds), "s")
