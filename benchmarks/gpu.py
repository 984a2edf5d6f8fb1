"""``python -m benchmarks.gpu``: from the attention's numbers on a GPU to a whole matrix of CoSAM's size.

It has not been run on a GPU yet. Its logic is tested on the CPU with the tiny model.
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
from benchmarks.__main__ import measured as announced
from benchmarks.figures import Figure, read_figures, replaced, table, write_figures
from benchmarks.imitation import RETENTION, TEST, write_stream
from benchmarks.limits import Cost, Machine, counted, limit_figures, measured
from benchmarks.measuring import in_turns
from benchmarks.pages import markdown
from cosam_bench.core.devices import synchronise
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.merging.updates import Update
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.sam import Sam

TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2}  # of our attention against segment-anything's, relative


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it; the defaults are those of the page.

    Attributes:
        models: whose encoders are measured; the first one's attention, training and matrix, too.
        blocks: of the first model that are adapted.
        side: of the matrices in the limit of products.
        test: images of each of the eight domains in the matrix.
        retention: natural images in the matrix.
        train: images of the measured training.
        shrunk: divide the sides of the matrix's images by this.
        counts: images per pass of the encoder to try, until one fits in memory.
    """

    device: torch.device
    models: tuple[str, ...] = ("vit_b", "vit_l", "vit_h")
    blocks: tuple[int, ...] = (7, 8, 9, 10, 11)
    side: int = 8192
    test: int = TEST
    retention: int = RETENTION
    train: int = 64
    shrunk: int = 1
    counts: tuple[int, ...] = (64, 32, 16, 8, 4, 2, 1)

    def encoder(self, name: str, *, is_lean: bool) -> Sam:
        """A model on the device."""
        return subjects.model(is_lean=is_lean, name=name).to(self.device)


class RandomAdapters(MergingMethod):
    """Serves another random adapter after each domain, so that a matrix costs its scoring and nothing else."""

    card = MethodCard(title="Random adapters, to measure scoring", deviations=())

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Draw the next one, without training."""
        self.served = subjects.updates(self.bench.sam, step, settings=self.bench.adapter)[-1]

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The expert: nothing is merged here."""
        return expert


def figures(plan: Plan) -> Iterator[Figure]:
    """All of it, one part after another."""
    yield from attention(plan)
    types = (torch.float32, torch.bfloat16)
    machine = measured(plan.device, dtypes=types, side=plan.side, megabytes=plan.side // 8)
    yield from limit_figures(machine)
    for name in plan.models:
        yield encoder(name, machine, plan)
    with tempfile.TemporaryDirectory() as folder:
        yield from training(plan, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield matrix(plan, Path(folder))


def attention(plan: Plan) -> Iterator[Figure]:
    """How far our attention is from stock's, forward through a whole encoder and backward through a global block."""
    stock, lean = (plan.encoder(plan.models[0], is_lean=is_lean) for is_lean in (False, True))
    image = subjects.image(stock.image_size).to(plan.device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for precision in TOLERANCES:
            with torch.autocast(plan.device.type, torch.bfloat16, enabled=precision == "bf16"):
                truth, ours = stock.image_encoder(image), lean.image_encoder(image)
            yield _apart(f"encoder's answers, {precision}", ours, truth, precision)
    yield _apart("a global block's gradient, fp32", _gradient(lean), _gradient(stock), "fp32")


def _gradient(sam: Sam) -> torch.Tensor:
    """The gradient of a scalar of the first global block's answer with respect to its map ``(1, h, w, C)``."""
    encoder: Any = sam.image_encoder
    maps = torch.randn(encoder.pos_embed.shape, generator=torch.Generator().manual_seed(0))
    maps = maps.to(sam.device).requires_grad_()
    block = next(block for block in encoder.blocks if block.window_size == 0)
    [gradient] = torch.autograd.grad(block(maps).square().sum(), maps)
    return gradient


def _apart(what: str, ours: torch.Tensor, truth: torch.Tensor, precision: str) -> Figure:
    found = ((ours.float() - truth.float()).norm() / truth.float().norm()).item()
    within = "within" if found <= TOLERANCES[precision] else "TOO FAR:"
    return Figure(f"{what}, from stock's", None, found, "relative", f"{within} {TOLERANCES[precision]:g}")


def encoder(name: str, machine: Machine, plan: Plan) -> Figure:
    """Seconds per image: stock in fp32 one by one, ours in bf16 in the largest batch that fits."""
    cost, plain = _stock_encoder(plan.encoder(name, is_lean=False))
    count, ours = _image_seconds(plan.encoder(name, is_lean=True), counts=plan.counts, is_bf16=True)
    note = f"{1 / ours:.1f} images per second, {count} per pass"
    stage = f"encoder, {name}, bf16 against fp32, one image"
    return Figure(stage, plain, ours, "s", note, machine.least(cost, torch.bfloat16))


def _stock_encoder(stock: Sam) -> tuple[Cost, float]:
    image = subjects.image(stock.image_size).to(stock.device)
    with torch.inference_mode():
        cost = counted(lambda: stock.image_encoder(image))
    return cost, _image_seconds(stock, counts=(1,), is_bf16=False)[1]


def _image_seconds(sam: Sam, *, counts: Sequence[int], is_bf16: bool) -> tuple[int, float]:
    """The first of the counts that fits in memory, and the seconds per image in passes of so many."""
    device = sam.device
    image = subjects.image(sam.image_size).to(device)

    def seconds(count: int) -> float:
        batch = image.repeat(count, 1, 1, 1)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            sam.image_encoder(batch)
            return in_turns(lambda: sam.image_encoder(batch), repeats=5, device=device)[0] / count

    return largest(seconds, counts)


def largest(work: Callable[[int], float], counts: Sequence[int]) -> tuple[int, float]:
    """The first of the counts for which the memory suffices, and what the work returned."""
    for count in counts[:-1]:
        try:
            return count, work(count)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return counts[-1], work(counts[-1])


def training(plan: Plan, folder: Path) -> Iterator[Figure]:
    """A training step of four images: stock's whole encoder in fp32, against kept features."""
    stream = write_stream(folder, train=plan.train, test=1, retention=1, shrunk=plan.shrunk)
    for precision in TOLERANCES:
        experiment = _experiment(plan, folder, stream, f"fit.precision={precision}", "fit.flip=false", "fit.epochs=1")
        bench = replace(experiment.bench, experts=None)
        if precision == "fp32":
            stock = plan.encoder(plan.models[0], is_lean=False)
            plain = _step_seconds(replace(bench, sam=stock, prefixes=None), experiment)
        ours = _step_seconds(bench, experiment)
        note = f"{1 / ours:.2f} steps per second; features {'kept' if bench.prefixes else 'not kept'}"
        yield Figure(f"training step of 4 images, {precision} against fp32", plain, ours, "s", note)


def _step_seconds(bench: Workbench, experiment: Experiment) -> float:
    """Those of the second training; the first reads the files, loads the kernels and keeps the features."""
    first = experiment.domains[0]
    domain = TrainingDomain(first.name, first.train, experiment.train_prompts[first.name])
    bench.train(domain)
    [seconds] = in_turns(lambda: bench.train(domain), repeats=1, device=bench.view.device)
    return seconds / -(-len(domain) // bench.fit.batch_size)


def matrix(plan: Plan, folder: Path) -> Figure:
    """Nine rows from the files to the record, prompts and all, by random adapters."""
    stream = write_stream(folder, test=plan.test, retention=plan.retention, shrunk=plan.shrunk)
    began = time.perf_counter()
    experiment = _experiment(plan, folder, stream, "score.precision=bf16", "score.batch_size=auto")
    opened = time.perf_counter() - began
    Runner(experiment, results=folder / "results").run()
    synchronise(plan.device)
    seconds = time.perf_counter() - began
    images = sum(len(domain.test) for domain in experiment.columns)
    note = f"of {images} images in bf16; opening files and model took {opened:.1f} s of it"
    return Figure(f"a matrix of {len(experiment.steps)} rows", None, seconds, "s of wall time", note)


def _experiment(plan: Plan, folder: Path, stream: Path, *more: str) -> Experiment:
    model = ("model.checkpoint=random", f"model.name={plan.models[0]}", "prefix_cache_gib=48")
    adapter = ("adapter.rank=10", "adapter.alpha=10", f"adapter.blocks={list(plan.blocks)}", "fit.batch_size=4")
    rest = (f"stream={stream}", f"device={plan.device}", "prompts.test=box", "prompts.train=box")
    overrides = (*model, *adapter, *rest, *more)
    config = resolve_run(method="benchmarks.gpu:RandomAdapters", protocol="mini", overrides=overrides)
    return open_experiment(config, folder / "results")


def main() -> None:
    """Measure on a GPU, print each figure as it comes, and write the file of figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here. `python -m benchmarks` measures the CPU.")
    device, found = torch.device(given.device), []
    for figure in announced("gpu", figures(Plan(device)), device=device):
        found.append(figure)
        if given.csv:
            known = read_figures(given.csv) if given.csv.exists() else []
            write_figures(given.csv, replaced(known, found, order=()))
    print(markdown(table(found)))
    if any("TOO FAR" in figure.note for figure in found):
        sys.exit("Our attention is further from segment-anything's than the tolerance allows.")


if __name__ == "__main__":
    main()
