"""Which file is whose expert, files of updates, and experts of different layers and ranks made alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.experts.reading import read_expert, read_experts
from cosam_bench.experts.sources import expert_sources
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.sam import Sam
from cosam_bench.training.given_experts import given_experts

QKV, PROJ = "image_encoder.blocks.1.attn.qkv", "image_encoder.blocks.2.attn.proj"


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_experts_are_found_by_the_names_of_their_domains(tmp_path: Path) -> None:
    for name in ("pill@cosam.safetensors", "polyp.pth", "unused.pt"):
        (tmp_path / name).touch()
    (tmp_path / "road").mkdir()
    found = expert_sources(tmp_path, ["road", "pill@cosam", "polyp"])
    assert [path.name for path in found.values()] == ["road", "pill@cosam.safetensors", "polyp.pth"]
    with pytest.raises(CosamError, match=r"no expert for crack. It holds pill@cosam.safetensors, polyp.pth, road"):
        expert_sources(tmp_path, ["road", "crack"])
    (tmp_path / "road.pt").touch()
    with pytest.raises(CosamError, match=r"road and .*road.pt are both an expert of one domain"):
        expert_sources(tmp_path, ["road"])
    with pytest.raises(CosamError, match="is not a folder of experts"):
        expert_sources(tmp_path / "missing", ["road"])


def test_experts_are_found_by_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "one").touch()
    file = tmp_path / "stream.toml"
    file.write_text('[experts]\nroad = "adapters/one"\npolyp = "missing"\n')
    assert expert_sources(file, ["road"]) == {"road": tmp_path / "adapters" / "one"}
    with pytest.raises(CosamError, match=r"names no expert for crack\. It names road, polyp\. Add a line"):
        expert_sources(file, ["road", "crack"])
    with pytest.raises(CosamError, match=r"missing, which \[experts\] in .* does not exist"):
        expert_sources(file, ["polyp"])
    monkeypatch.setenv("MY_ADAPTERS", str(tmp_path / "adapters"))
    file.write_text('[experts]\nroad = "$MY_ADAPTERS/one"\n')
    assert expert_sources(file, ["road"]) == {"road": tmp_path / "adapters" / "one"}
    table = r"has no table \[experts\] of domains and paths"
    for text, said in (
        ("", table),
        ("experts = 1", table),
        ("[experts]\nroad = 1", r"road = 1 in \[experts\] of .* is no"),
    ):
        file.write_text(text)
        with pytest.raises(CosamError, match=said):
            expert_sources(file, ["road"])
    with pytest.raises(CosamError, match="No file"):
        expert_sources(tmp_path / "none.toml", ["road"])


def test_an_update_is_read_as_it_was_written(tiny: Sam, tmp_path: Path) -> None:
    update = Update({QKV: LowRank(draw(2, 96), draw(288, 2))}, {"image_encoder.neck.1.weight": draw(64)})
    save_file(update.tensors(), tmp_path / "update.safetensors")
    for path in (tmp_path, tmp_path / "update.safetensors"):
        assert read_expert(path, sam=tiny, adapter=AdapterSettings()).digest() == update.digest()


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({}, "is empty"),
        ({"base_model.model.x.lora_A.weight": draw(2, 3)}, "not its alpha"),
        ({"image_encoder.pos_embed": draw(2)}, "holds image_encoder.pos_embed, which is no change of a layer"),
        (
            {"side.reduce.a": draw(2, 3), "side.reduce.b": draw(4, 2)},
            "'side.reduce', a layer beside SAM, whose first weights it lacks",
        ),
        ({f"{QKV}.a": draw(2, 96)}, "do not fit each other"),
        ({f"{QKV}.a": draw(2, 96), f"{QKV}.b": draw(288, 3)}, "do not fit each other"),
        ({f"{QKV}.a": draw(2, 95), f"{QKV}.b": draw(288, 2)}, r"of shape \(288, 95\), the model has \(288, 96\)"),
        ({"image_encoder.blocks.9.attn.qkv.weight.dense": draw(2, 2)}, "no such weight"),
        ({f"{QKV}.a": torch.ones(2, 96, dtype=torch.int8), f"{QKV}.b": draw(288, 2)}, "whole numbers"),
        ({f"{QKV}.weight.dense": torch.full((288, 96), torch.nan)}, "not finite"),
        ({f"{QKV}.weight.dense": torch.full((288, 96), torch.nan).to(torch.float8_e4m3fn)}, "not finite"),
    ],
)
def test_other_files_are_refused(tensors: dict[str, Tensor], named: str, tiny: Sam, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CosamError, match=named):
        read_expert(tmp_path / "a.safetensors", sam=tiny, adapter=AdapterSettings())


def test_places_without_an_expert_are_refused(tiny: Sam, tmp_path: Path) -> None:
    def refused(path: Path, named: str, **adapter: Any) -> None:
        with pytest.raises(CosamError, match=named):
            read_expert(path, sam=tiny, adapter=AdapterSettings(**adapter))

    refused(tmp_path, "a folder without adapter_config.json or update.safetensors")
    refused(tmp_path / "missing.safetensors", "The update .* cannot be read")
    update = Update({QKV: LowRank(draw(2, 96), draw(288, 2))})
    save_file(update.tensors(), tmp_path / "update.safetensors")
    refused(tmp_path, "the protocol's adapter is 'hq'. Set adapter.kind=lora", kind="hq")


def test_experts_of_different_layers_and_ranks_become_alike(tiny: Sam, tmp_path: Path) -> None:
    norm = "image_encoder.neck.1.weight"
    updates = {
        "first": Update({QKV: LowRank(draw(2, 96), draw(288, 2))}),
        "second": Update({PROJ: LowRank(draw(1, 96), draw(96, 1)), QKV: LowRank(draw(4, 96), draw(288, 4))}),
        "third": Update({QKV: LowRank(draw(3, 96).half(), draw(288, 3).half())}, {norm: draw(64)}),
        "fourth": Update({}, {f"{PROJ}.weight": draw(96, 96)}),
    }
    for name, update in updates.items():
        save_file(update.tensors(), tmp_path / f"{name}.safetensors")
    sources = {name: tmp_path / f"{name}.safetensors" for name in updates}
    given = read_experts(sources, sam=tiny, adapter=AdapterSettings())
    assert given.layers == (QKV, PROJ)
    assert given.changed == (QKV, PROJ, norm)
    for name, update in given.updates.items():
        assert [factors.rank for factors in update.low_rank.values()] == [4, 96]
        assert {tensor.dtype for tensor in update.tensors().values()} == {torch.float32}
        before, after = weight_changes(updates[name]), weight_changes(update)
        assert after.keys() == {f"{QKV}.weight", f"{PROJ}.weight", norm}
        for weight, change in after.items():  # fp16 factors are multiplied in float32
            wanted = before.get(weight, torch.zeros(change.shape)).float()
            torch.testing.assert_close(change, wanted, atol=2e-2 if name == "third" else 0, rtol=1e-6)


def test_alike_experts_stay_as_they_are(tiny: Sam) -> None:
    updates = {
        name: Update({QKV: LowRank(draw(2, 96), draw(288, 2))}, {"mask_decoder.iou_token.weight": draw(1, 64)})
        for name in ("a", "b")
    }
    given = given_experts(updates, sam=tiny)
    assert given.digests == {name: update.digest() for name, update in updates.items()}
    assert given.digest == given_experts(dict(reversed(updates.items())), sam=tiny).digest
    with pytest.raises(CosamError, match="No expert was brought in for the domain 'c'"):
        given.of("c")


def test_dense_changes_of_the_decoder_stay_dense_unless_one_has_factors(tiny: Sam) -> None:
    layer = "mask_decoder.transformer.layers.0.self_attn.q_proj"
    shape = tuple(tiny.get_parameter(f"{layer}.weight").shape)
    dense = Update({}, {f"{layer}.weight": draw(*shape)})
    assert given_experts({"a": dense, "b": dense}, sam=tiny).layers == ()
    factors = Update({layer: LowRank(draw(1, shape[1]), draw(shape[0], 1))})
    assert given_experts({"a": dense, "b": factors}, sam=tiny).layers == (layer,)
