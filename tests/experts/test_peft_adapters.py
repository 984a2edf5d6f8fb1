"""Folders of peft: the change of each layer is the one that peft itself makes; what is not plain LoRA is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.experts.layer_names import layers_by_name
from cosam_bench.experts.reading import read_expert
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam

LAYER = "image_encoder.blocks.1.attn.qkv"
BOTH = r".*\.blocks\.[12]\.attn\.(qkv|proj)"


def read(folder: Path, sam: Sam) -> Update:
    return read_expert(folder, sam=sam, adapter=AdapterSettings())


def trained(folder: Path, **options: Any) -> tuple[Path, dict[str, Tensor]]:
    """A folder that peft saves, and by weight what peft adds to it; the factors are drawn."""
    base = build_sam("tiny", checkpoint="random", is_attention_lean=False)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(**{"target_modules": BOTH, **options}))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    model.save_pretrained(str(folder))
    again = PeftModel.from_pretrained(build_sam("tiny", checkpoint="random", is_attention_lean=False), str(folder))
    merged = again.merge_and_unload().state_dict()
    changes = {name: merged[name] - tensor for name, tensor in before.items()}
    return folder, {name: change for name, change in changes.items() if change.abs().max() > 0}


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 6, "use_rslora": True},
        {"r": 4, "lora_alpha": 4, "rank_pattern": {"blocks.1.attn.qkv": 2, "proj": 3}, "alpha_pattern": {"qkv": 5}},
        {"r": 2, "rank_pattern": {r"blocks\.\d\.attn\.qkv": 3}, "use_rslora": True, "init_lora_weights": "gaussian"},
        {"r": 2, "target_modules": ["qkv", "lin1", "q_proj"], "lora_dropout": 0.1},
    ],
)
def test_the_change_is_that_of_peft(options: dict[str, Any], tiny: Sam, tmp_path: Path) -> None:
    folder, theirs = trained(tmp_path / "adapter", **options)
    ours = weight_changes(read(folder, tiny))
    assert ours.keys() == theirs.keys()
    for name, change in theirs.items():  # theirs is a difference of rounded sums
        torch.testing.assert_close(ours[name], change, rtol=0, atol=1e-6)


def by_hand(folder: Path, *, rank: int = 2, layer: str = LAYER, **config: object) -> Path:
    """A folder as peft saves it, with all entries 1."""
    folder.mkdir()
    factors = {"A": torch.ones(rank, 96), "B": torch.ones(288, rank)}
    tensors = {f"base_model.model.{layer}.lora_{part}.weight": factor for part, factor in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": rank, "lora_alpha": 6} | config
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    ("config", "entry"),
    [
        ({}, 6.0),  # 2 factors of 1, times 6 / 2
        ({"use_rslora": True}, 2 * 6 / 2**0.5),
        ({"alpha_pattern": {"qkv": 1}}, 1.0),
        ({"alpha_pattern": {"kv": 1}}, 6.0),  # a pattern matches from a dot on
        ({"r": 8, "rank_pattern": {"attn.qkv": 2}}, 6.0),
    ],
)
def test_the_scale_is_worked_out_by_hand(config: dict[str, Any], entry: float, tiny: Sam, tmp_path: Path) -> None:
    change = weight_changes(read(by_hand(tmp_path / "adapter", **config), tiny))
    assert list(change) == [f"{LAYER}.weight"]
    torch.testing.assert_close(change[f"{LAYER}.weight"], torch.full((288, 96), entry))


def test_names_of_transformers_and_of_mobile_sam_are_known(tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter", layer="vision_encoder.layers.1.attn.qkv")
    assert list(read(folder, tiny).low_rank) == [LAYER]
    mobile = layers_by_name(build_sam("mobile_sam", checkpoint="random"))
    assert mobile["image_encoder.layers.1.blocks.0.attn.qkv"] == "image_encoder.stages.1.blocks.0.attn.qkv"


def test_a_state_dict_of_torch_is_read_too(tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter")
    wanted = read(folder, tiny)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert read(folder, tiny).digest() == wanted.digest()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"modules_to_save": ["neck"]}, "whole modules"),
    ],
)
def test_what_peft_saves_beside_lora_is_refused_by_name(
    options: dict[str, Any], named: str, tiny: Sam, tmp_path: Path
) -> None:
    model = get_peft_model(build_sam("tiny", checkpoint="random"), LoraConfig(target_modules=BOTH, **options))  # type: ignore[arg-type]
    model.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(CosamError, match=named):
        read(tmp_path / "adapter", tiny)
    config = tmp_path / "adapter" / "adapter_config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({key: facts[key] for key in ("peft_type", "r", "lora_alpha")}))
    with pytest.raises(CosamError, match="holds 'base_model"):  # the tensors say it as well
        read(tmp_path / "adapter", tiny)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("patch_embed.proj", "LoRA of a convolution: the factors of image_encoder.patch_embed.proj"),
        ("point_embeddings.0", "embedding"),
    ],
)
def test_layers_that_are_not_linear_are_refused(target: str, named: str, tiny: Sam, tmp_path: Path) -> None:
    model = get_peft_model(build_sam("tiny", checkpoint="random"), LoraConfig(target_modules=[target]))
    model.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(CosamError, match=named):
        read(tmp_path / "adapter", tiny)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"peft_type": "LOHA"}, "type 'LOHA'"),
        ({"init_lora_weights": "pissa"}, "starts by 'pissa'"),
        ({"lora_bias": True}, "biases of its own"),
        ({"layer_replication": [[0, 2]]}, "replicated layers"),
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow = 1"),
        ({"r": 4}, "says rank 4 for .*but its factors have rank 2"),
        ({"lora_alpha": "8"}, "lora_alpha = '8', expected a number"),
        ({"lora_alpha": float("nan")}, "expected a number"),
        ({"rank_pattern": {"(": 2}}, "not a pattern"),
        ({"alpha_pattern": [1]}, "not a table of numbers"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes', expected true or false"),
        ({"use_rslora": 1}, "use_rslora = '1', expected true or false"),
    ],
)
def test_configurations_that_are_not_understood_are_refused(
    config: dict[str, Any], named: str, tiny: Sam, tmp_path: Path
) -> None:
    with pytest.raises(CosamError, match=named):
        read(by_hand(tmp_path / "adapter", **config), tiny)


def test_adapters_of_other_models_are_refused(tiny: Sam, tmp_path: Path) -> None:
    said = r"changes image_encoder.blocks.9.attn.q, which tiny does not have .* Its layers look like 'image_encoder\."
    with pytest.raises(CosamError, match=said):
        read(by_hand(tmp_path / "foreign", layer="image_encoder.blocks.9.attn.q"), tiny)
    folder = by_hand(tmp_path / "wide")
    prefix = f"base_model.model.{LAYER}.lora_"
    wide = {f"{prefix}A.weight": torch.ones(2, 768), f"{prefix}B.weight": torch.ones(288, 2)}
    save_file(wide, folder / "adapter_model.safetensors")
    with pytest.raises(CosamError, match=re.escape(f"changes '{LAYER}' of shape (288, 768), the model has (288, 96)")):
        read(folder, tiny)
    del wide[f"{prefix}B.weight"]
    save_file(wide, folder / "adapter_model.safetensors")
    with pytest.raises(CosamError, match="only one of the two factors"):
        read(folder, tiny)
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CosamError, match=r"adapter_model.safetensors cannot be read"):
        read(folder, tiny)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CosamError, match=r"but no adapter_model.safetensors"):
        read(folder, tiny)
    save_file({f"{prefix}A.weight": torch.ones(2, 96)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CosamError, match=r"adapter_config.json cannot be read: No such file or directory\. Save"):
        read(folder, tiny)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_factors_of_other_numbers_are_refused(kind: torch.dtype, tiny: Sam, tmp_path: Path) -> None:
    """Quantised factors have lost their scale; their bytes would merge into nonsense."""
    folder = by_hand(tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = f"base_model.model.{LAYER}.lora_A.weight"
    if kind is torch.complex64:  # safetensors of some versions cannot write it
        torch.save(tensors | {name: tensors[name].to(kind)}, folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    else:
        save_file(tensors | {name: tensors[name].to(kind)}, folder / "adapter_model.safetensors")
    said = f"of type {str(kind).removeprefix('torch.')} and float32, which are no floating point numbers"
    with pytest.raises(CosamError, match=said):
        read(folder, tiny)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_factors_of_other_precisions_are_read(kind: torch.dtype, tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter")
    wanted = read(folder, tiny)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor.to(kind) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    assert read(folder, tiny).digest() == wanted.digest()


class Code:
    """What runs if its pickle is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


def test_code_in_a_state_dict_is_neither_run_nor_recommended(tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter")
    torch.save({"x": Code(tmp_path)}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CosamError) as error:
        read(folder, tiny)
    path = folder / "adapter_model.bin"
    said = f"The adapter {path} cannot be read: it holds something else than tensors (posix.mkdir), of which nothing"
    assert str(error.value) == f"{said} was executed. Save it again, as safetensors."
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [f"{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_A.default.weight"])
def test_other_names_of_factors_are_told_what_peft_writes(name: str, tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter")
    save_file({name: torch.ones(2, 96)}, folder / "adapter_model.safetensors")
    with pytest.raises(CosamError, match=re.escape("such as 'base_model.model.LAYER.lora_A.weight'")):
        read(folder, tiny)


def test_numbers_that_are_not_finite_are_refused(tiny: Sam, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"base_model.model.{LAYER}.lora_A.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CosamError, match="not finite, first in"):
        read(folder, tiny)
