"""``python -m benchmarks.memory NAME``: the highest memory of one piece of work, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from segment_anything.modeling.image_encoder import Block

from benchmarks import subjects
from benchmarks.measuring import above_now
from benchmarks.stages import trainer
from cosam_bench.sam.attention import LeanAttention


def block(what: str, *, is_lean: bool) -> Callable[[], object]:
    """One of ViT-B's global blocks on one image."""
    layer = Block(768, 12, use_rel_pos=True, input_size=(64, 64))
    if is_lean:
        layer.attn.__class__ = LeanAttention
    maps = torch.randn(1, 64, 64, 768)

    def work() -> None:
        if what == "training":
            layer(maps.requires_grad_()).sum().backward()
            return
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=what == "bf16"):
            layer(maps)

    return work


def main() -> None:
    """Print the MiB of the piece of work that is named; or keep a training step's features in a folder."""
    torch.set_num_threads(1)
    if sys.argv[1] == "keep":
        keep_features(Path(sys.argv[2]))
        return
    stage, *rest = sys.argv[1].split("-")
    is_ours = rest[-1] == "ours"
    if stage == "block":
        print(above_now(block(rest[0], is_lean=is_ours)))
        return
    split, prompts = subjects.split(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) if is_ours else None
        if is_ours:  # another process keeps the features, as in every epoch but the first
            subprocess.run([sys.executable, "-m", "benchmarks.memory", "keep", folder], check=True)
        print(above_now(trainer(subjects.model(is_lean=is_ours), path, split, prompts, is_bf16=False)))


def keep_features(folder: Path) -> None:
    """Let the frozen blocks see the first image of a training, and keep what they make of it."""
    split, prompts = subjects.split(1)
    bench = subjects.workbench(subjects.model(is_lean=True), folder=folder)
    batch, _ = bench.augmented(split, prompts, [0], order=torch.Generator().manual_seed(0))
    assert bench.prefixes
    bench.prefixes.features(batch.images, known=batch.known)


if __name__ == "__main__":
    main()
