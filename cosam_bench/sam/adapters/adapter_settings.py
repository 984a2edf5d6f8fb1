"""Which adapter a protocol trains; importable without torch."""

from __future__ import annotations

import re
import warnings
from typing import Literal, Self

from pydantic import field_validator, model_validator

from cosam_bench.core.settings import Settings, setting

AdapterKind = Literal["lora", "hq", "augmodule", "regcl_lora", "decoder"]

# The kinds that each setting has a meaning for; with any other kind it must keep its default.
_USED_BY: dict[str, tuple[AdapterKind, ...]] = {
    "rank": ("lora", "augmodule", "regcl_lora"),
    "alpha": ("lora",),
    "targets": ("lora",),
    "blocks": ("lora", "augmodule", "regcl_lora"),
    "decoder": ("lora", "augmodule", "regcl_lora"),
    "start": ("hq",),
    "transposed_heatmap": ("augmodule",),
    "whole_heatmap_in_windows": ("augmodule",),
    "mixing": ("augmodule",),
}


class AdapterSettings(Settings):
    """Which layers are trained, and how many factors each has."""

    kind: AdapterKind = setting(
        "lora",
        "lora: factors within the model's linear layers; hq: HQ-SAM's decoder layers; augmodule and regcl_lora: "
        "RegCL's layers beside the attention; decoder: the mask decoder itself",
        source="this project: the one kind that every method takes",
    )
    rank: int = setting(8, "factors per layer", source="the default of peft's LoraConfig", gt=0, le=4096)
    alpha: float = setting(8.0, "the change is alpha / rank times B A", source="the default of peft's LoraConfig", gt=0)
    targets: str | None = setting(
        None,
        "regular expression of whole layer names; none: the model's own attention layers",
        source="this project: the projections of the encoder's attention (qkv and proj)",
    )
    blocks: tuple[int, ...] | None = setting(
        None,
        "encoder blocks that are adapted, counted from 0; none: all that the targets name, for augmodule and "
        "regcl_lora the last five",
        source="RegCL's released code for augmodule and regcl_lora; this project for lora",
    )
    decoder: bool = setting(
        False, "train the mask decoder's parameters too, as dense changes", source="this project: the encoder alone"
    )
    start: str = setting(
        "",
        "file of trained HQ layers to start from; empty: random ones",
        source="this project: trained layers come as a file of yours",
    )
    transposed_heatmap: bool = setting(
        False,
        "exchange x and y of the heat map around the neck, as RegCL's released code does",
        source="RegCL's evident intention; its released code has true",
    )
    whole_heatmap_in_windows: bool = setting(
        False,
        "show each attention window the whole image's heat map, as RegCL's released code does",
        source="RegCL's evident intention; its released code has true",
    )

    mixing: bool = setting(
        True,
        "have the layers C of AugModule, which SAMCL's released code does not have",
        source="RegCL's released code",
    )

    @field_validator("targets")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)  # a set within a set, whose meaning will change
                re.compile(value or "")
        except (re.error, FutureWarning) as error:
            raise ValueError(f"not a regular expression, {error}") from None
        return value

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        for name, kinds in _USED_BY.items():
            default = type(self).model_fields[name].default
            if self.kind not in kinds and getattr(self, name) != default:
                raise ValueError(
                    f"{name} means nothing to kind = {self.kind!r}, only to {', '.join(kinds)}. "
                    f"Set it back to its default, {default!r}"
                )
        if self.blocks is not None and (not self.blocks or len(set(self.blocks)) < len(self.blocks)):
            raise ValueError("blocks names at least one block, and each once; leave it out for the default")
        return self
