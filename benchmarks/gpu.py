"""``python -m benchmarks.gpu``: what a GPU makes of it, from the attention's numbers to a whole matrix of CoSAM's size.

Nobody has run this on a GPU yet. Its logic is tested on the CPU with the tiny model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import subjects
from benchmarks.costs import VitShape
from benchmarks.figures import Figure, machine_name, read_figures, replaced, show, write_figures
from benchmarks.imitation import RETENTION, TEST, write_stream
from benchmarks.limits import Machine, limit_rows, measured
from benchmarks.measuring import Row, in_turns
from cosam_bench.core.environment import synchronise
from cosam_bench.experiments.experiment import Prepared, prepare
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.sam import Sam

TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2}  # of our attention against segment-anything's, relative


@dataclass(frozen=True)
class Asked:
    """What is measured, and how much of it; the defaults are what the figures are about.

    Attributes:
        device: of the model.
        models: whose encoders are measured; the first one's attention, training and matrix too.
        blocks: of the first model that are adapted.
        side: of the matrices in the limit of products.
        test: images of each of the eight domains in the matrix.
        retention: natural images in the matrix.
        train: images of the measured training.
        shrunk: divide the sides of the matrix's images by this.
        score_batch: images a pass in the matrix.
        counts: images a pass of the encoder that are tried, until one fits into the memory.
    """

    device: torch.device
    models: tuple[str, ...] = ("vit_b", "vit_l", "vit_h")
    blocks: tuple[int, ...] = (7, 8, 9, 10, 11)
    side: int = 8192
    test: int = TEST
    retention: int = RETENTION
    train: int = 64
    shrunk: int = 1
    score_batch: int | str = "auto"
    counts: tuple[int, ...] = (64, 32, 16, 8, 4, 2, 1)


def rows(asked: Asked) -> Iterator[Row]:
    """All of it, one part after another."""
    yield from attention(asked)
    machine = measured(asked.device, dtypes=(torch.float32, torch.bfloat16), side=asked.side, megabytes=asked.side // 8)
    yield from limit_rows(machine)
    for name in asked.models:
        yield encoder(name, machine, asked)
    with tempfile.TemporaryDirectory() as folder:
        yield from training(asked, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield matrix(asked, Path(folder))


def attention(asked: Asked) -> Iterator[Row]:
    """How far our attention is from stock's, forward through a whole encoder and backward through a global block."""
    stock, lean = (_encoder(asked.models[0], asked.device, is_lean=is_lean) for is_lean in (False, True))
    images = subjects.images(1, side=stock.image_size).to(asked.device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for precision in TOLERANCES:
            with torch.autocast(asked.device.type, torch.bfloat16, enabled=precision == "bf16"):
                truth, ours = stock.image_encoder(images), lean.image_encoder(images)
            yield _apart(f"encoder's answers, {precision}", ours, truth, precision)
    truth, ours = (_gradient(sam) for sam in (stock, lean))
    yield _apart("a global block's gradient, fp32", ours, truth, "fp32")


def _gradient(sam: Sam) -> torch.Tensor:
    """Of a scalar of the first global block's answer, by its map ``(1, h, w, C)``."""
    encoder: Any = sam.image_encoder
    shape = VitShape.of(encoder)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, shape.grid, shape.grid, shape.width, generator=generator).to(sam.device).requires_grad_()
    loss = encoder.blocks[shape.windows.index(0)](maps).square().sum()
    [gradient] = torch.autograd.grad(loss, maps)
    return gradient


def _apart(what: str, ours: torch.Tensor, truth: torch.Tensor, precision: str) -> Row:
    found = ((ours.float() - truth.float()).norm() / truth.float().norm()).item()
    within = "within" if found <= TOLERANCES[precision] else "TOO FAR:"
    return Row(f"{what}, from stock's", None, found, "relative", f"{within} {TOLERANCES[precision]:g}")


def encoder(name: str, machine: Machine, asked: Asked) -> Row:
    """Seconds an image: stock in fp32 one by one, ours in bf16 in the largest batch that fits."""
    _, plain = _image_seconds(_encoder(name, asked.device, is_lean=False), counts=(1,), is_bf16=False)
    lean = _encoder(name, asked.device, is_lean=True)
    count, ours = _image_seconds(lean, counts=asked.counts, is_bf16=True)
    limit = machine.least(VitShape.of(lean.image_encoder).encoder(), torch.bfloat16)
    note = f"{1 / ours:.1f} images a second, {count} a pass"
    return Row(f"encoder, {name}, bf16 against fp32, one image", plain, ours, "s", note, limit)


def _image_seconds(sam: Sam, *, counts: Sequence[int], is_bf16: bool) -> tuple[int, float]:
    """The first of the counts that fits into the memory, and the seconds an image in passes of so many."""
    device = sam.device
    images = subjects.images(1, side=sam.image_size).to(device)

    def seconds(count: int) -> float:
        batch = images.expand(count, -1, -1, -1).contiguous()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            sam.image_encoder(batch)
            return in_turns(lambda: sam.image_encoder(batch), repeats=5, device=device)[0] / count

    return largest(seconds, counts)


def largest(work: Callable[[int], float], counts: Sequence[int]) -> tuple[int, float]:
    """The first of the counts for which the memory suffices, and what the work gave."""
    for count in counts[:-1]:
        try:
            return count, work(count)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return counts[-1], work(counts[-1])


def training(asked: Asked, folder: Path) -> Iterator[Row]:
    """A training step of four images: stock's whole encoder in fp32, against kept features."""
    stream = write_stream(folder, train=asked.train, test=1, retention=1, shrunk=asked.shrunk)
    for precision in ("fp32", "bf16"):
        prepared = _prepared(asked, folder, stream, f"fit.precision={precision}", "fit.flip=false", "fit.epochs=1")
        if precision == "fp32":
            stock = _encoder(asked.models[0], asked.device, is_lean=False)
            plain_bench = replace(prepared.bench, sam=stock, prefixes=None, experts=None)
            _step_seconds(plain_bench, prepared)  # reads the files, and loads the kernels
            plain = _step_seconds(plain_bench, prepared)
        bench = replace(prepared.bench, experts=None)
        _step_seconds(bench, prepared)  # keeps the features
        ours = _step_seconds(bench, prepared)
        note = f"{1 / ours:.2f} steps a second; features {'kept' if bench.prefixes else 'not kept'}"
        yield Row(f"training step of 4 images, {precision} against fp32", plain, ours, "s", note)


def _step_seconds(bench: Workbench, prepared: Prepared) -> float:
    first = prepared.domains[0]
    domain = TrainingDomain(first.name, first.train, prepared.train_prompts[first.name])
    [seconds] = in_turns(lambda: bench.train(domain), repeats=1, device=bench.view.device)
    return seconds / -(-len(domain) // bench.fit.batch_size)


def matrix(asked: Asked, folder: Path) -> Row:
    """Nine rows from the files to the record, prompts and all, by random adapters."""
    stream = write_stream(folder, test=asked.test, retention=asked.retention, shrunk=asked.shrunk)
    began = time.perf_counter()
    prepared = _prepared(asked, folder, stream, "score.precision=bf16", f"score.batch_size={asked.score_batch}")
    opened = time.perf_counter() - began
    Runner(prepared, results=folder / "results").run()
    synchronise(asked.device)
    seconds = time.perf_counter() - began
    images = sum(len(domain.test) for domain in prepared.columns)
    note = f"of {images} images in bf16; opening files and model took {opened:.1f} s of it"
    return Row(f"a matrix of {len(prepared.steps)} rows", None, seconds, "s of the clock", note)


def _prepared(asked: Asked, folder: Path, stream: Path, *more: str) -> Prepared:
    overrides = (
        f"stream={stream}",
        f"device={asked.device}",
        "model.checkpoint=random",
        f"model.name={asked.models[0]}",
        "adapter.rank=10",
        "adapter.alpha=10",
        f"adapter.blocks={list(asked.blocks)}",
        "fit.batch_size=4",
        "prompts.test=box",
        "prompts.train=box",
        "prefix_cache_gib=48",
        *more,
    )
    return prepare(
        resolve_run(method="benchmarks.drawn:Drawn", protocol="mini", overrides=overrides), folder / "results"
    )


def _encoder(name: str, device: torch.device, *, is_lean: bool) -> Sam:
    return subjects.model(is_lean=is_lean, name=name).to(device)


def main() -> None:
    """Measure on a GPU, print a row for each figure as it comes, and write the file of figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures here too")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here. `python -m benchmarks` measures the CPU.")
    asked = Asked(torch.device(given.device))
    found = []
    for row in rows(asked):
        found.append(Figure("gpu", row, machine_name(asked.device)))
        print(f"{row.stage}: {row.ours:.4g} {row.unit}", file=sys.stderr, flush=True)
        if given.csv:
            known = read_figures(given.csv) if given.csv.exists() else []
            write_figures(given.csv, replaced(known, found, order=()))
    show(found)
    if any("TOO FAR" in figure.row.note for figure in found):
        sys.exit("Our attention is further from segment-anything's than it may be.")


if __name__ == "__main__":
    main()
