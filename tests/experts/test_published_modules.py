"""Checkpoints of RegCL's and SAMCL's code, imitated: their layers serve as what they are; none of their code runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.experts.reading import read_expert
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.augmodule import AugModule
from cosam_bench.sam.adapters.targets import add_side_layers, target_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import serving
from cosam_bench.training.given_experts import given_experts

RANK, WIDTH, EMBEDDING, BLOCKS = 3, 96, 64, (2, 3)
OURS = {"A": "reduce", "layer": "heat.0", "norm": "heat.1", "upward": "before_neck", "upward_": "after_neck"}


class Extra(nn.Module):
    """The parts that both codes keep in a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(RANK, RANK), nn.LayerNorm(RANK)
        self.upward, self.upward_ = nn.Linear(RANK, WIDTH), nn.Linear(RANK, EMBEDDING)


def drawn(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape) / 3
    return module


def write(path: Path, content: dict[str, Any], *, module: str = "samcl_module") -> Path:
    """Saved while the class can be imported, and read when it cannot."""
    Extra.__module__, Extra.__qualname__ = module, "Extra"
    sys.modules[module] = ModuleType(module)
    sys.modules[module].Extra = Extra  # type: ignore[attr-defined]
    torch.save(content, path)
    del sys.modules[module]
    return path


def augmodule(*, has_mixing: bool, blocks: Sequence[int] = BLOCKS) -> dict[str, Any]:
    torch.manual_seed(0)
    content: dict[str, Any] = {"extra": drawn(Extra()), "lora_layer": list(blocks), "A": drawn(nn.Linear(WIDTH, RANK))}
    for place in range(len(blocks)):
        content |= {
            f"B_{place:03d}": drawn(nn.Linear(RANK, WIDTH)),
            f"norm1_{place:03d}": drawn(nn.LayerNorm(RANK)),
            f"norm2_{place:03d}": drawn(nn.LayerNorm(RANK)),
        }
        if has_mixing:
            content[f"C_{place:03d}"] = drawn(nn.Linear(RANK, RANK))
    return content


def with_side(**options: Any) -> tuple[Sam, AdapterSettings]:
    chosen = AdapterSettings(**({"kind": "augmodule", "rank": RANK, "blocks": BLOCKS} | options))
    sam = build_sam("tiny", checkpoint="random")
    add_side_layers(sam, chosen, generator=torch.Generator().manual_seed(5))
    return sam, chosen


def logits(sam: Sam) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    images, points = torch.randn(2, 3, 128, 128, generator=draw), torch.rand(2, 3, 2, generator=draw) * 128
    prompts = FramePrompts(("points",) * 2, torch.zeros(2, 4), points, torch.zeros(2, 1, 64, 64))
    with torch.no_grad():
        return sam.decode(sam.encode(images, prompts), prompts).logits


def set_by_hand(sam: Sam, content: dict[str, Any]) -> None:
    """Put the checkpoint's layers in place of the side layers, C an identity if it has none."""
    modules: dict[str, nn.Module] = {OURS[name]: part for name, part in content["extra"].named_children()}
    modules["reduce"] = content["A"]
    for place, block in enumerate(content["lora_layer"]):
        parts = {"expand": "B", "mix": "C", "norm_input": "norm1", "norm_heat": "norm2"}
        modules |= {f"{ours}.{block}": content.get(f"{theirs}_{place:03d}") for ours, theirs in parts.items()}
    for name, module in modules.items():
        own = sam.side.get_submodule(name)  # type: ignore[union-attr]
        if module is None:
            own.weight.data, own.bias.data = torch.eye(RANK), torch.zeros(RANK)  # type: ignore[union-attr]
        else:
            own.load_state_dict(module.state_dict())


@pytest.mark.parametrize("has_mixing", [True, False])
@pytest.mark.parametrize("is_faithful", [True, False])
def test_an_augmodule_serves_as_the_layers_that_it_is(has_mixing: bool, is_faithful: bool, tmp_path: Path) -> None:
    content = augmodule(has_mixing=has_mixing)
    path = write(tmp_path / "polyp.pth", content)
    switches = {"transposed_heatmap": is_faithful, "whole_heatmap_in_windows": is_faithful}
    sam, chosen = with_side(mixing=has_mixing, **switches)
    update = read_expert(path, sam=sam, adapter=chosen)
    assert set(update.low_rank) == {f"side.{layer}" for layer in sam.side.linear}  # type: ignore[union-attr]
    given = given_experts({"polyp": update}, sam=sam)
    assert set(given.layers) == set(target_layers(sam, chosen))  # the others are averaged, as if they were trained
    assert given.digests["polyp"] == update.digest()
    other, _ = with_side(**switches)
    set_by_hand(other, content)
    with serving(sam, update), other.side.enabled(True):  # type: ignore[union-attr]
        assert (logits(sam) - logits(build_sam("tiny", checkpoint="random"))).abs().max() > 0.01
        torch.testing.assert_close(logits(sam), logits(other), rtol=0, atol=2e-5)


def test_numbers_are_those_that_were_published() -> None:
    """40 tensors of 61,524 numbers in SAMCL's files, 50 of 62,074 with RegCL's mixing layers."""
    for has_mixing, tensors, numbers in ((False, 40, 61_524), (True, 50, 62_074)):
        with torch.device("meta"):
            encoder = ImageEncoderViT(depth=12)
        layers = AugModule(
            encoder,
            {number: encoder.blocks[number] for number in range(7, 12)},
            rank=10,
            generator=torch.Generator(),
            transposed_heatmap=True,
            whole_heatmap_in_windows=True,
            has_mixing=has_mixing,
        )
        parameters = list(layers.parameters())
        assert (len(parameters), sum(parameter.numel() for parameter in parameters)) == (tensors, numbers)


def test_regcl_s_lora_is_read_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content: dict[str, Any] = {"lora_layer": list(BLOCKS)}
    for place in range(len(BLOCKS)):
        content |= {f"A_{place:03d}": drawn(nn.Linear(WIDTH, RANK)), f"B_{place:03d}": drawn(nn.Linear(RANK, WIDTH))}
    sam, chosen = with_side(kind="regcl_lora")
    update = read_expert(write(tmp_path / "a.pth", content), sam=sam, adapter=chosen)
    with serving(sam, update):
        for place, block in enumerate(BLOCKS):
            for ours, theirs in (("down", "A"), ("up", "B")):
                layer: Any = sam.side.get_submodule(f"{ours}.{block}")  # type: ignore[union-attr]
                torch.testing.assert_close(layer.weight, content[f"{theirs}_{place:03d}"].weight.data)
                torch.testing.assert_close(layer.bias, content[f"{theirs}_{place:03d}"].bias.data)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"rank": 4}, "--set adapter.rank=3"),
        ({"mixing": True}, "--set adapter.mixing=false"),
        ({"blocks": (1, 2)}, r"--set adapter.blocks=\[2,3\]"),
        ({"kind": "regcl_lora", "mixing": True}, "--set adapter.kind=augmodule --set adapter.mixing=false"),
    ],
)
def test_an_adapter_of_another_form_is_told_the_settings(options: dict[str, Any], advice: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", augmodule(has_mixing=False))
    sam, chosen = with_side(**({"mixing": False} | options))
    with pytest.raises(CosamError, match=advice):
        read_expert(path, sam=sam, adapter=chosen)


def test_under_lora_all_settings_are_named(tmp_path: Path, tiny: Sam) -> None:
    path = write(tmp_path / "a.pth", augmodule(has_mixing=False))
    with pytest.raises(CosamError, match=r"Add --set adapter.kind=augmodule --set adapter.rank=3") as error:
        read_expert(path, sam=tiny, adapter=AdapterSettings(rank=2, alpha=4.0))
    for text in ("adapter.mixing=false", "adapter.blocks=[2,3]", "adapter.alpha=8.0"):
        assert f"--set {text}" in str(error.value)


def test_other_contents_are_refused(tmp_path: Path) -> None:
    sam, chosen = with_side()
    cases: dict[str, dict[str, Any]] = {
        "a model": dict(nn.Linear(2, 2).state_dict()),
        "no blocks": {key: value for key, value in augmodule(has_mixing=True).items() if key != "lora_layer"},
        "unknown": augmodule(has_mixing=True) | {"D": nn.Linear(2, 2)},
        "no A": {key: value for key, value in augmodule(has_mixing=True).items() if key != "A"},
    }
    for content in cases.values():
        with pytest.raises(CosamError, match="is not a checkpoint of RegCL's or SAMCL's code: it holds"):
            read_expert(write(tmp_path / "a.pth", content), sam=sam, adapter=chosen)
    missing = {key: value for key, value in augmodule(has_mixing=True).items() if key != "B_001"}
    wide = augmodule(has_mixing=True) | {"B_001": nn.Linear(RANK, 7)}
    for content in (missing, wide):
        with pytest.raises(CosamError, match=r"side.expand.3.*are missing, unknown or of another shape"):
            read_expert(write(tmp_path / "a.pth", content), sam=sam, adapter=chosen)
    torch.save(torch.ones(2), tmp_path / "a.pth")
    with pytest.raises(CosamError, match="it holds tensors without names"):
        read_expert(tmp_path / "a.pth", sam=sam, adapter=chosen)
    (tmp_path / "a.pth").write_bytes(b"text")
    with pytest.raises(CosamError, match=r"The expert .*cannot be read: it is not an archive of torch.save"):
        read_expert(tmp_path / "a.pth", sam=sam, adapter=chosen)
