"""A LoRA folder that peft saved, as an update of the base model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.tensor_files import read_tensors
from cosam_bench.data.faults import first_few
from cosam_bench.experts.layer_names import layers_by_name
from cosam_bench.experts.peft_config import CONFIG_FILE, PeftConfig, read_peft_config
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.sam.build import read_checkpoint
from cosam_bench.sam.sam import Sam

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_FACTOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
# What tensors that are no factors of linear layers are called, by a part of their name.
_OTHERS = {
    "lora_magnitude_vector": "DoRA",
    "lora_embedding_": "LoRA of an embedding",
    "modules_to_save": "a whole module saved beside LoRA",
    ".lora_B.bias": "LoRA with biases of its own",
    ".bias": "a trained bias",
}
_NO_FACTOR = "no name that peft writes, such as 'base_model.model.LAYER.lora_A.weight'"


def is_peft_folder(folder: Path) -> bool:
    """Whether the folder is one that peft saved."""
    return (folder / CONFIG_FILE).is_file() or any((folder / name).is_file() for name in _FILES)


def read_peft_folder(folder: Path, *, sam: Sam) -> Update:
    """The change ``scale * B A`` of each layer that the adapter has, the scale folded into B.

    Args:
        folder: with ``adapter_config.json`` and the factors.
        sam: the base model; a layer may have the name that it has there, in the published code or in transformers.

    Raises:
        CosamError: a file is missing or damaged, the adapter is not plain LoRA, or a target is not a linear layer of
            the model.
    """
    config = read_peft_config(folder / CONFIG_FILE)
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise CosamError(f"{folder} has an {CONFIG_FILE}, but no {_FILES[0]}. Save the adapter again.")
    what, advice = "The adapter", "Save or copy it again."
    is_safe = path.suffix == ".safetensors"
    tensors = read_tensors(path, what=what, advice=advice).tensors if is_safe else _read_bin(path)
    return _update(path, tensors, config, sam=sam)


def _read_bin(path: Path) -> Mapping[str, Tensor]:
    return read_checkpoint(path, what="The adapter", advice="Save it again, as safetensors.")


def _update(path: Path, tensors: Mapping[str, Tensor], config: PeftConfig, *, sam: Sam) -> Update:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise _foreign_tensor(path, name)
        parts.setdefault(match["layer"], {})[match["part"]] = tensor
    if not parts:
        raise CosamError(f"{path} is empty: it changes no layer. Save the adapter again.")
    for layer, pair in parts.items():
        _refuse_convolution(path, layer, pair)
    names = layers_by_name(sam)
    _refuse_foreign(path, [layer for layer in parts if layer not in names], sam=sam)
    changes = {names[layer]: _layer(path, layer, pair, config) for layer, pair in parts.items()}
    return Update(changes)


def _foreign_tensor(path: Path, name: str) -> CosamError:
    kind = next((kind for part, kind in _OTHERS.items() if part in name), _NO_FACTOR)
    return CosamError(
        f"{path} holds {name[:120]!r}: {kind}. Only lora_A and lora_B of linear layers can be merged: train plain LoRA."
    )


def _refuse_foreign(path: Path, foreign: list[str], *, sam: Sam) -> None:
    if foreign:
        known = [name for name, layer in layers_by_name(sam).items() if name == layer]
        known.sort(key=lambda name: not name.startswith("image_encoder."))
        raise CosamError(
            f"{path} changes {first_few(foreign)}, which {sam.name} does not have as a linear layer. Its layers look "
            f"like {known[0]!r}. Name the model that the adapter belongs to, or train on these layers."
        )


def _refuse_convolution(path: Path, layer: str, pair: Mapping[str, Tensor]) -> None:
    dimensions = max(tensor.ndim for tensor in pair.values())
    if any(tensor.ndim != 2 for tensor in pair.values()):
        raise CosamError(
            f"{path} has LoRA of a convolution: the factors of {layer} have {dimensions} dimensions. Only linear "
            "layers can be merged: leave it out of the adapter's targets."
        )


def _layer(path: Path, layer: str, pair: Mapping[str, Tensor], config: PeftConfig) -> LowRank:
    if len(pair) < 2:
        raise CosamError(f"{path} has only one of the two factors of {layer}. Save or copy the adapter again.")
    a, b = pair["A"], pair["B"]
    if not (a.is_floating_point() and b.is_floating_point()):
        kinds = " and ".join(dict.fromkeys(str(part.dtype).removeprefix("torch.") for part in (a, b)))
        raise CosamError(
            f"{path} has factors of {layer} of type {kinds}, which are no floating point numbers. Save the adapter "
            "again without quantisation."
        )
    if a.shape[0] != b.shape[1]:
        raise CosamError(
            f"{path} has factors of {layer} of ranks {a.shape[0]} and {b.shape[1]}, which do not fit each other. "
            "Save or copy the adapter again."
        )
    return LowRank(a.float(), b.float() * config.scale(layer, rank=a.shape[0]))
