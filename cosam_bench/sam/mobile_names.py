"""The names of MobileSAM's tensors: those of its published checkpoint, and this package's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_ENCODER = "image_encoder."
# TinyViT's classifier, which MobileSAM never calls and its checkpoint still carries.
_UNUSED = (f"{_ENCODER}norm_head.", f"{_ENCODER}head.")


def rename_published(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint under this module's names.

    MobileSAM's encoder has the same tensors as timm's, in the same order under other names, so they are paired in
    order; if a pair differs in shape or in the last part of its name, the published name is kept and the caller
    finds it unexpected. The unused classifier is dropped.

    Args:
        state: the checkpoint's tensors.
        wanted: the model's tensors, by name.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}
    theirs = [name for name in kept if name.startswith(_ENCODER)]
    ours = [name for name in wanted if name.startswith(_ENCODER)]
    names = dict(zip(theirs, ours, strict=False))
    for their, our in names.items():
        same_leaf = their.rsplit(".", 1)[-1] == our.rsplit(".", 1)[-1]
        if not same_leaf or kept[their].shape != wanted[our].shape:
            names[their] = their
    return {names.get(name, name): tensor for name, tensor in kept.items()}


_OURS, _PUBLISHED = "image_encoder.stages.", "image_encoder.layers."


def published_name(name: str) -> str:
    """The name, in MobileSAM's own code, of one of its encoder's linear layers; other models' names stay as they are.

    >>> published_name("image_encoder.stages.1.blocks.0.attn.qkv")
    'image_encoder.layers.1.blocks.0.attn.qkv'
    """
    return _PUBLISHED + name.removeprefix(_OURS) if name.startswith(_OURS) else name
