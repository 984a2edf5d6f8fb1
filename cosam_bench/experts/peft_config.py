"""What the ``adapter_config.json`` of a peft folder says: each layer's scale, and whether it is plain LoRA at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_text

CONFIG_FILE = "adapter_config.json"
_BYTES = 1 << 20
_MOST = 1e9  # of a rank or an alpha; NaN and infinity are not below it

# What changes nothing for a trained adapter of linear layers, or is read below.
_HARMLESS = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_NAMES = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "LoRA with biases of its own",
    "modules_to_save": "whole modules saved beside LoRA",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "LoRA on parameters that are not a linear layer's",
}
# These start A and B at zero change; others, such as PiSSA, change the base model's weights as well.
_STARTS = (True, False, "true", "false", "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class PeftConfig:
    """How a folder's factors are scaled.

    Attributes:
        path: of the file.
        rank: r, of layers that ``rank_pattern`` does not name.
        alpha: lora_alpha, of layers that ``alpha_pattern`` does not name.
        rank_pattern: by regular expression of a layer's name.
        alpha_pattern: likewise.
        is_rank_stabilised: divide alpha by the root of the rank (rsLoRA), not by the rank.
    """

    path: Path
    rank: float
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    is_rank_stabilised: bool

    def scale(self, layer: str, *, rank: int) -> float:
        """What B A is multiplied by in a layer.

        Args:
            layer: its name in the adapted model.
            rank: of its factors.

        Raises:
            CosamError: the file says another rank.
        """
        stated = _matched(self.rank_pattern, layer, self.rank)
        if stated != rank:
            raise CosamError(
                f"{self.path} says rank {stated:g} for {layer}, but its factors have rank {rank}. The two files do not "
                "belong together: save the adapter again."
            )
        alpha = _matched(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_peft_config(path: Path) -> PeftConfig:
    """An ``adapter_config.json`` of plain LoRA.

    Raises:
        CosamError: the file is missing or damaged, or describes an adapter that is not plain LoRA, which is named.
    """
    try:
        config = json.loads(read_text(path, limit_bytes=_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CosamError(f"{path} cannot be read: {reason}. Save the adapter again.") from None
    if not isinstance(config, dict):
        raise CosamError(f"{path} is not the configuration of a peft adapter. Give a folder that peft saved.")
    _refuse_others(path, config)
    return PeftConfig(
        path,
        rank=_number(path, config, "r"),
        alpha=_number(path, config, "lora_alpha"),
        rank_pattern=_numbers(path, config, "rank_pattern"),
        alpha_pattern=_numbers(path, config, "alpha_pattern"),
        is_rank_stabilised=_is_on(path, config, "use_rslora"),
    )


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    kind, bias, start = config.get("peft_type"), config.get("bias", "none"), config.get("init_lora_weights", True)
    found = None
    if kind != "LORA":
        found = f"an adapter of type {str(kind)[:40]!r}"
    elif bias not in ("none", None):
        found = f"trained biases (bias = {str(bias)[:40]!r})"
    elif (start.lower() if isinstance(start, str) else start) not in (*_STARTS, None):
        found = f"LoRA that starts by {str(start)[:40]!r}, which changes the base model's weights too"
    else:
        other = next((key for key, value in config.items() if value and key not in _HARMLESS), None)
        if other is not None:
            found = f"{_NAMES.get(other, 'something else than plain LoRA')} ({other} = {str(config[other])[:40]})"
    if found is not None:
        raise CosamError(
            f"{path} describes {found}. Only plain LoRA of linear layers can be merged: merge it into the base model "
            "by peft, or train plain LoRA."
        )


def _number(path: Path, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not _is_number(value):
        raise CosamError(f"{path} has {key} = {str(value)[:40]!r}, expected a number above 0. Save the adapter again.")
    return float(value)  # type: ignore[arg-type]  # checked in the line above


def _is_on(path: Path, config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise CosamError(f"{path} has {key} = {str(value)[:40]!r}, expected true or false. Save the adapter again.")
    return value is True


def _numbers(path: Path, config: Mapping[str, Any], key: str) -> dict[str, float]:
    table = config.get(key) or {}
    if not isinstance(table, dict) or not all(map(_is_number, table.values())):
        raise CosamError(f"{path} has a {key} that is not a table of numbers. Save the adapter again.")
    for pattern in table:
        try:
            re.compile(pattern)
        except re.error as error:
            raise CosamError(f"{path} has a {key} with {pattern[:40]!r}, which is not a pattern: {error}.") from None
    return {pattern: float(value) for pattern, value in table.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST


def _matched(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """As peft: the first pattern that the layer's name ends in, at a dot or from its beginning."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), default)
