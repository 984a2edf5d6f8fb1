"""The stages that are compared, each against the plain way to do it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from segment_anything import SamPredictor, sam_model_registry
from torch import Tensor

from benchmarks import subjects
from benchmarks.measuring import Row, in_a_process, in_turns
from cosam_bench.domains.prompts import Prompts
from cosam_bench.domains.samples import Sample, Split
from cosam_bench.metrics import iou
from cosam_bench.sam.adapters import attach
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import serving
from cosam_bench.score import score_split
from cosam_bench.updates import Update
from cosam_bench.workbench import Workbench

MATRIX_ROWS = 9  # CoSAM's: frozen SAM and eight domains


def encoder() -> Iterator[Row]:
    """One image through ViT-B's encoder, and the highest memory of one global block."""
    stock, lean = (subjects.model(is_lean=is_lean) for is_lean in (False, True))
    image = subjects.images(1)
    for precision in ("fp32", "bf16"):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            one, other = stock.image_encoder(image).float(), lean.image_encoder(image).float()
            plain, ours = in_turns(lambda: stock.image_encoder(image), lambda: lean.image_encoder(image), repeats=2)
        apart = ((one - other).norm() / one.norm()).item()
        yield Row(f"encoder, {precision}", plain, ours, "s", f"{apart:.0e} apart")
    for what in ("fp32", "bf16", "training"):
        plain, ours = in_a_process(f"block-{what}-plain"), in_a_process(f"block-{what}-ours")
        yield Row(f"global block, {what}", plain, ours, "MiB")


def matrix() -> Iterator[Row]:
    """Nine rows of one image: stock's predictor with the whole encoder each time, against kept features."""
    split, prompts = subjects.split(1)
    sam = subjects.model(is_lean=True)
    rows: list[Update | None] = [None, *subjects.updates(sam, MATRIX_ROWS - 1)]
    stock = sam_model_registry["vit_b"]()
    found: dict[str, list[float]] = {}

    def plain() -> None:
        found["plain"] = [_plain_score(stock, sam, update, split[0], prompts.boxes[0]) for update in rows]

    def ours(precision: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = subjects.workbench(sam, folder=Path(folder), is_bf16=precision == "bf16")
            found[precision] = [_score(bench, update, split, prompts) for update in rows]

    taken, *mine = in_turns(plain, lambda: ours("fp32"), lambda: ours("bf16"), repeats=1)
    for precision, seconds in zip(("fp32", "bf16"), mine, strict=True):
        apart = max(abs(one - other) for one, other in zip(found["plain"], found[precision], strict=True))
        yield Row(f"{MATRIX_ROWS} rows, {precision} against fp32", taken, seconds, "s", f"IoU {apart:.4f} apart")


def _plain_score(stock: torch.nn.Module, sam: Sam, update: Update | None, sample: Sample, box: Tensor) -> float:
    """As published harnesses score: weights in place, one image at a time through segment-anything's predictor."""
    with serving(sam, update):
        stock.load_state_dict({name: tensor for name, tensor in sam.state_dict().items() if name in stock.state_dict()})
    predictor = SamPredictor(stock)
    predictor.set_image(sample.image.permute(1, 2, 0).numpy())
    masks, _, _ = predictor.predict(box=box.numpy(), multimask_output=False)
    return iou(torch.from_numpy(masks), sample.mask[None]).item()


def _score(bench: Workbench, update: Update | None, split: Split, prompts: Prompts) -> float:
    scores = score_split(
        lambda batch: bench.predict(update, batch),
        split,
        prompts,
        kind="box",
        view=bench.view,
        batch_size=1,
    )
    return scores[0].values["iou"]


def step() -> Iterator[Row]:
    """A training step of one image: the whole stock encoder, against kept features and lean attention."""
    split, prompts = subjects.split(1)
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            stock = trainer(subjects.model(is_lean=False), None, split, prompts, is_bf16=precision == "bf16")
            lean = trainer(subjects.model(is_lean=True), Path(folder), split, prompts, is_bf16=precision == "bf16")
            lean()  # keeps the features
            plain, ours = in_turns(stock, lean, repeats=2)
        yield Row(f"training step, {precision}", plain, ours, "s")
    yield Row("training step, fp32", in_a_process("step-plain"), in_a_process("step-ours"), "MiB")


def trainer(sam: Sam, folder: Path | None, split: Split, prompts: Prompts, *, is_bf16: bool) -> Callable[[], None]:
    """A forward and a backward pass of the first image."""
    bench = subjects.workbench(sam, folder=folder, is_bf16=is_bf16)
    batch, target = bench.augmented(split, prompts, [0], order=torch.Generator().manual_seed(0))

    def work() -> None:
        with attach(sam, bench.adapter, generator=torch.Generator().manual_seed(0)):
            loss, _ = bench.loss(batch, target)
            loss.backward()  # type: ignore[no-untyped-call]

    return work


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


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"encoder": encoder, "step": step, "matrix": matrix, "start": start}
