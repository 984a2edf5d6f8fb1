"""Where ``torch.compile`` and channels last would pay on the CPU; the package itself uses neither.

(MobileSAM's encoder is the exception: it has channels last, see the stage ``mobile``.)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import subjects
from benchmarks.figures import Figure
from benchmarks.measuring import Skipped, in_turns
from benchmarks.stages import PRECISIONS


def figures(name: str = "vit_b") -> Iterator[Figure]:
    """Parts of ViT-B on one image, as they are and in the other way, fp32 and bf16.

    Raises:
        Skipped: the machine has no C++ compiler.
    """
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise Skipped("torch.compile needs a C++ compiler on the CPU; install one")
    sam = subjects.model(is_lean=True, name=name)
    encoder: Any = sam.image_encoder
    block, decoder = encoder.blocks[0], sam.mask_decoder
    grid, width = sam.logits_size // 4, decoder.transformer_dim
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(encoder.pos_embed.shape, generator=generator)
    embeddings = torch.randn(1, width, grid, grid, generator=generator)
    tokens = torch.randn(1, 7, width, generator=generator)
    for precision in PRECISIONS:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            yield _compiled("MLP", precision, block.mlp, maps)
            yield _compiled("block with windows", precision, block, maps)
            yield _compiled("decoder's transformer", precision, decoder.transformer, embeddings, embeddings, tokens)
            yield _channels_last("neck", precision, encoder.neck, maps.permute(0, 3, 1, 2))
            yield _channels_last("decoder's upscaling", precision, decoder.output_upscaling, embeddings)


def _compiled(name: str, precision: str, module: nn.Module, *given: Tensor) -> Figure:
    torch._dynamo.reset()  # else the second precision counts as a change of the first
    other: Callable[..., object] = torch.compile(module)
    began = time.perf_counter()
    other(*given)
    compiling = time.perf_counter() - began
    plain, ours = in_turns(lambda: module(*given), lambda: other(*given), repeats=5)
    return Figure(f"{name}, compiled, {precision}", plain, ours, "s", f"compiling took {compiling:.0f} s")


def _channels_last(name: str, precision: str, module: nn.Module, maps: Tensor) -> Figure:
    """The module on the same map: the layout of weights and map changes, the result is taken as it comes."""
    usual = maps.contiguous()
    [plain] = in_turns(lambda: module(usual), repeats=5)
    module.to(memory_format=torch.channels_last)
    [ours] = in_turns(lambda: module(usual.contiguous(memory_format=torch.channels_last)), repeats=5)
    module.to(memory_format=torch.contiguous_format)
    return Figure(f"{name}, channels last, {precision}", plain, ours, "s")
