"""The image encoder as a sequence of sections, so that a pass can be interrupted between two blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

_ENCODER = "image_encoder."


@dataclass(frozen=True)
class Section:
    """A part of the encoder that runs as a whole.

    Attributes:
        parts: names, within the encoder, of its modules and of its parameters outside any module.
        run: from its input map to its output map.
    """

    parts: tuple[str, ...]
    run: Callable[[Tensor], Tensor]


def encoder_sections(encoder: nn.Module) -> tuple[Section, ...]:
    """The encoder's sections; run one after another, they give the encoder's output bit for bit.

    The first is all that comes before block 0; then each block is one, together with a TinyViT downsampling that
    follows it; the last is the neck. Between two of them the map is ``(B, h, w, C)``. Blocks are
    those of ``ModelSpec.block_names``.
    """
    if isinstance(encoder, ImageEncoderViT):
        return _vit_sections(encoder)
    from cosam_bench.sam.mobile_sam import TinyViTEncoder  # timm, which takes a second

    if isinstance(encoder, TinyViTEncoder):
        return _tiny_vit_sections(encoder)
    raise TypeError(f"A {type(encoder).__name__} has no known sections.")


def _vit_sections(encoder: Any) -> tuple[Section, ...]:
    def embed(images: Tensor) -> Tensor:
        patches: Tensor = encoder.patch_embed(images)
        return patches if encoder.pos_embed is None else patches + encoder.pos_embed

    blocks = (Section((f"blocks.{number}",), block) for number, block in enumerate(encoder.blocks))
    return (Section(("patch_embed", "pos_embed"), embed), *blocks, _neck(encoder))


def _tiny_vit_sections(encoder: Any) -> tuple[Section, ...]:
    first, *stages = encoder.stages.children()  # the first stage has no attention

    def embed(images: Tensor) -> Tensor:
        patches = encoder.patch_embed(encoder.channels_last(images))
        return _channels_last(stages[0].downsample(first(patches)))

    sections = [Section(("patch_embed", "stages.0", "stages.1.downsample"), embed)]
    for number, (stage, following) in enumerate(pairwise([*stages, None]), start=1):
        names = [f"stages.{number}.blocks.{place}" for place in range(len(stage.blocks))]
        last = len(names) - 1 if following else len(names)
        sections += [
            Section((name,), _tiny_vit_block(block)) for name, block in zip(names[:last], stage.blocks, strict=False)
        ]
        if following:
            run = _tiny_vit_block(stage.blocks[last], following.downsample)
            sections.append(Section((names[last], f"stages.{number + 1}.downsample"), run))
    return (*sections, _neck(encoder))


def _tiny_vit_block(block: Any, downsample: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
    def run(maps: Tensor) -> Tensor:
        maps = block(maps)
        return maps if downsample is None else _channels_last(downsample(maps.permute(0, 3, 1, 2)))

    return run


def _channels_last(maps: Tensor) -> Tensor:
    """``(B, C, h, w)`` as ``(B, h, w, C)``, a view."""
    return maps.permute(0, 2, 3, 1)


def _neck(encoder: Any) -> Section:
    return Section(("neck",), lambda maps: encoder.neck(maps.permute(0, 3, 1, 2)))


def early_section(encoder: Any) -> int:
    """The section whose map HQ-SAM's decoder layers read: that of the first block with global attention.

    TinyViT has none; there it is the first map of the embedding's size, as in the small HQ-SAM.
    """
    if isinstance(encoder, ImageEncoderViT):
        return 1 + next(number for number, block in enumerate(encoder.blocks) if block.window_size == 0)
    first_stages: list[Any] = list(encoder.stages.children())[1:2]  # the stage before has no attention
    return sum(len(stage.blocks) for stage in first_stages)


def parts(encoder: nn.Module, sections: Iterable[Section]) -> Iterator[nn.Module | Tensor]:
    """The modules and the single parameters of some sections."""
    for section in sections:
        found = (attrgetter(name)(encoder) for name in section.parts)
        yield from (part for part in found if part is not None)


def frozen_depth(encoder: nn.Module, changed: Iterable[str]) -> int | None:
    """How many blocks run before the first changed layer.

    Args:
        changed: names of a SAM's layers or parameters; those outside the image encoder do not count.

    Returns:
        The number of blocks, with all that follows them up to the next; one more than there are means the whole
        encoder, including the neck. None if only the patch embedding comes before, which takes no longer than
        reading its cached output.
    """
    sections = encoder_sections(encoder)
    inside = [name.removeprefix(_ENCODER) for name in changed if name.startswith(_ENCODER)]
    cut = min((_section_of(name, sections) for name in inside), default=len(sections)) - 1
    least = 1 if isinstance(encoder, ImageEncoderViT) else 0  # TinyViT's first section has a stage in it
    return cut if cut >= least else None


def _section_of(name: str, sections: tuple[Section, ...]) -> int:
    for number, section in enumerate(sections):
        if any(name == part or name.startswith(f"{part}.") for part in section.parts):
            return number
    raise ValueError(f"The image encoder has no layer {name!r}")
