"""A served update as a folder that ``PeftModel.from_pretrained`` loads on stock segment-anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.tensor_files import write_tensors
from cosam_bench.merging.factoring import Factored, factor_update
from cosam_bench.merging.updates import LowRank
from cosam_bench.results.export.served import ServedModel

_DECODER = "mask_decoder"
_ROUNDING = 1e-8  # share of a layer's energy; factors of a change's whole numerical rank leave out less


class PeftFolder(NamedTuple):
    """What was written.

    Attributes:
        notes: what a reader should know, such as ranks and discarded energy.
        is_cut: whether a layer kept fewer factors than its change has, so that the model is another one.
    """

    notes: tuple[str, ...]
    is_cut: bool


def write_peft_folder(
    served: ServedModel,
    folder: Path,
    *,
    rank: int | None = None,
    otherwise: str = "Export the whole weights by --format merged.",
) -> PeftFolder:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Linear layers become LoRA layers, each of its own rank with ``alpha = rank``, so that peft's scale is 1; dense
    changes are factored by a float64 SVD. A decoder whose other weights change, too, is saved whole.

    Args:
        served: the model.
        folder: exists, and is empty.
        rank: at most this many factors per layer; none: as many as each change has.
        otherwise: the advice if peft has no adapter for a change.

    Raises:
        CosamError: a changed weight is neither a linear layer's nor the decoder's.
    """
    factored = factor_update(served.update, linear=served.linear_layers, rank=rank)
    names = served.published_names()
    tuned: set[str] = set()
    if needs_whole_decoder(served):
        tuned = {name for name in (*factored.layers, *factored.others) if name.startswith(f"{_DECODER}.")}
    _refuse_foreign(factored, tuned, otherwise)
    layers: Mapping[str, LowRank] = {name: factors for name, factors in factored.layers.items() if name not in tuned}
    if not layers and not tuned:
        raise CosamError("The served update changes nothing, so there is nothing to export.")
    notes = _notes(factored, layers=list(layers), has_decoder=bool(tuned))
    is_cut = any(factored.ranks[name] == rank and factored.discarded[name] > _ROUNDING for name in layers)
    if not layers:
        name, layers = _idle_layer(served)
        notes.append(f"peft refuses a folder without a LoRA layer, so {name} has one that changes nothing")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, factors in layers.items():
        published = names[f"{name}.weight"].removesuffix(".weight")
        tensors[f"base_model.model.{published}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"base_model.model.{published}.lora_B.weight"] = factors.b.contiguous()
        ranks[published] = factors.rank
    if tuned:
        merged = served.merged_state()
        decoder = {name: tensor for name, tensor in merged.items() if name.startswith(f"{_DECODER}.")}
        tensors |= {f"base_model.model.{names[name]}": tensor.contiguous() for name, tensor in decoder.items()}
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    config = _config(ranks, served, has_decoder=bool(tuned))
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return PeftFolder(tuple(notes), is_cut)


def needs_whole_decoder(served: ServedModel) -> bool:
    """Whether the update changes more of the mask decoder than linear layers' weights, as no adapter of peft does."""
    linear = {f"{name}.weight" for name in served.linear_layers}
    return any(name.startswith(f"{_DECODER}.") and name not in linear for name in served.update.dense)


def _idle_layer(served: ServedModel) -> tuple[str, dict[str, LowRank]]:
    """A layer of the encoder with factors of rank 1 that add nothing."""
    name = next(name for name in served.linear_layers if name.startswith("image_encoder."))
    outputs, inputs = served.sam.get_parameter(f"{name}.weight").shape
    return name, {name: LowRank(a=torch.zeros(1, inputs), b=torch.zeros(outputs, 1))}


def _refuse_foreign(factored: Factored, tuned: set[str], otherwise: str) -> None:
    foreign = sorted(set(factored.others) - tuned)
    if foreign:
        raise CosamError(
            f"peft has no adapter for {foreign[0]}, which this update changes ({len(foreign)} such weights). "
            f"{otherwise}"
        )


def _config(ranks: dict[str, int], served: ServedModel, *, has_decoder: bool) -> dict[str, object]:
    highest = max(ranks.values(), default=1)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": served.checkpoint.name if served.checkpoint else served.sam.name,
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": sorted(ranks),
        "modules_to_save": [_DECODER] if has_decoder else None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _notes(factored: Factored, *, layers: list[str], has_decoder: bool) -> list[str]:
    notes = []
    if layers:
        ranks = [factored.ranks[name] for name in layers]
        lost = max(factored.discarded[name] for name in layers)
        notes.append(
            f"{len(layers)} layers of rank {min(ranks)} to {max(ranks)}; largest share of a layer's energy "
            f"discarded: {lost:.2g}"
        )
    if has_decoder:
        notes.append("the mask decoder is saved whole (modules_to_save)")
    return notes
