"""Where ``torch.compile`` and channels that lie last would pay on the CPU; the package uses neither by itself.

(MobileSAM's encoder is the exception: its channels lie last, see the stage ``mobile``.)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import subjects
from benchmarks.measuring import Row, Skipped, in_turns


def rows(name: str = "vit_b") -> Iterator[Row]:
    """Parts of ViT-B on one image, as they are and in the other way, fp32 and bf16.

    Raises:
        Skipped: there is no C++ compiler.
    """
    if not (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")):
        raise Skipped("torch.compile needs a C++ compiler on the CPU, and there is none")
    sam = subjects.model(is_lean=True, name=name)
    encoder: Any = sam.image_encoder
    block, decoder = encoder.blocks[0], sam.mask_decoder
    generator = torch.Generator().manual_seed(0)
    grid = sam.logits_size // 4
    maps = torch.randn(1, grid, grid, block.norm1.normalized_shape[0], generator=generator)
    embeddings = torch.randn(1, decoder.transformer_dim, grid, grid, generator=generator)
    tokens = torch.randn(1, 7, decoder.transformer_dim, generator=generator)
    for precision in ("fp32", "bf16"):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            yield _compiled(f"MLP, compiled, {precision}", block.mlp, maps)
            yield _compiled(f"block with windows, compiled, {precision}", block, maps)
            yield _compiled(
                f"decoder's transformer, compiled, {precision}", decoder.transformer, *[embeddings] * 2, tokens
            )
            patches = maps.permute(0, 3, 1, 2)
            yield _channels_last(f"neck, channels last, {precision}", encoder.neck, patches)
            yield _channels_last(
                f"decoder's upscaling, channels last, {precision}", decoder.output_upscaling, embeddings
            )


def _compiled(stage: str, module: nn.Module, *given: Tensor) -> Row:
    torch._dynamo.reset()  # else the second precision counts as a change of the first
    other: Callable[..., object] = torch.compile(module)
    began = time.perf_counter()
    other(*given)
    compiling = time.perf_counter() - began
    plain, ours = in_turns(lambda: module(*given), lambda: other(*given), repeats=5)
    return Row(stage, plain, ours, "s", f"compiling took {compiling:.0f} s")


def _channels_last(stage: str, module: nn.Module, maps: Tensor) -> Row:
    """The module on the same map; weights and map change their layout, what it gives is taken as it comes."""
    usual = maps.contiguous()

    def other() -> None:
        module(usual.contiguous(memory_format=torch.channels_last))

    plain = in_turns(lambda: module(usual), repeats=5)[0]
    module.to(memory_format=torch.channels_last)
    ours = in_turns(other, repeats=5)[0]
    module.to(memory_format=torch.contiguous_format)
    return Row(stage, plain, ours, "s")
