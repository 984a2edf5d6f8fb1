from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cosam_bench.core.errors import CosamError
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.mobile_names import rename_published
from cosam_bench.sam.sam import Sam


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return build_sam("tiny", checkpoint="random", seed=1)


def assert_same_weights(first: Sam, second: Sam) -> None:
    theirs = second.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items())


def test_random_weights_depend_on_the_seed_alone(tiny: Sam) -> None:
    torch.rand(1)
    before = torch.random.get_rng_state()
    again = build_sam("tiny", checkpoint="random", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert_same_weights(tiny, again)
    other = build_sam("tiny", checkpoint="random", seed=2)
    assert tiny.checkpoint_digest == again.checkpoint_digest != other.checkpoint_digest


@pytest.mark.parametrize("name", ["tiny", "mobile_sam"])
def test_a_built_model_is_frozen_and_stays_in_evaluation_mode(name: str) -> None:
    sam = build_sam(name, checkpoint="random").train()
    assert not any(module.training for module in sam.modules())
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in sam.parameters())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_gives_its_weights_and_its_hash(tiny: Sam, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = tiny.state_dict()
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    loaded = build_sam("tiny", checkpoint=path, seed=9)
    assert_same_weights(tiny, loaded)
    assert loaded.checkpoint_digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No checkpoint file .*nowhere\.pth"):
        build_sam("tiny", checkpoint=tmp_path / "nowhere.pth")


def test_weights_not_fetched_yet_give_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path))
    with pytest.raises(CosamError, match="cosam-bench models --fetch vit_h"):
        build_sam("vit_h")


def test_a_damaged_file_in_the_cache_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path))
    (tmp_path / "mobile_sam.pt").write_bytes(b"half")
    with pytest.raises(CosamError, match=r"is damaged.*--fetch mobile_sam"):
        build_sam("mobile_sam")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tiny: Sam, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(tiny.state_dict(), path) if suffix == ".pth" else save_file(tiny.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CosamError, match=r"The checkpoint .* cannot be read: "):
        build_sam("tiny", checkpoint=path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": nn.Linear(1, 1)}, path)
    with pytest.raises(CosamError, match=r"The checkpoint .* cannot be read: "):
        build_sam("tiny", checkpoint=path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html></html>", "torch.save did not write it; it begins with b'<!DOCTYPE html><html></h'"),
        (b"PK\x03\x04 and no more", "it is damaged or cut short, or holds something else than tensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CosamError, match=re.escape(f"The checkpoint {path} cannot be read: {why}")):
        build_sam("tiny", checkpoint=path)


def test_a_nested_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(CosamError, match="does not hold a mapping of names to tensors"):
        build_sam("tiny", checkpoint=path)


@pytest.mark.parametrize("name", ["mobile_sam", "vit_b"])
def test_another_models_weights_are_refused(tiny: Sam, tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tiny.state_dict(), path)
    with pytest.raises(CosamError, match=f"not a checkpoint of {name}: .* missing .* of another shape"):
        build_sam(name, checkpoint=path)


def test_one_tensor_too_few_or_too_many_is_an_error(tiny: Sam, tmp_path: Path) -> None:
    state = tiny.state_dict()
    state["image_encoder.stranger"] = state.pop("image_encoder.pos_embed")
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(CosamError, match=r"1 missing \(first image_encoder.pos_embed\), 1 unexpected"):
        build_sam("tiny", checkpoint=path)


def test_published_names_are_paired_in_order_and_checked() -> None:
    weight, scale = torch.zeros(2, 3), torch.zeros(3)
    wanted = {"image_encoder.conv.weight": weight, "image_encoder.norm.weight": scale, "mask.bias": scale}
    published = {
        "image_encoder.c.weight": weight,
        "image_encoder.bn.weight": scale,
        "image_encoder.norm_head.weight": scale,
        "mask.bias": scale,
    }
    assert [*rename_published(published, wanted)] == [*wanted]
    published["image_encoder.bn.weight"] = torch.zeros(4)
    assert "image_encoder.bn.weight" in rename_published(published, wanted)


def test_mobile_sam_has_the_grid_of_sam() -> None:
    sam = build_sam("mobile_sam", checkpoint="random")
    with torch.no_grad():
        assert sam.encode(torch.zeros(1, 3, 1024, 1024)).maps.shape == (1, 256, 64, 64)
    assert sam.logits_size == 256


def test_the_published_mobile_sam_loads_whole() -> None:
    folder = os.environ.get("COSAM_BENCH_REAL")
    if not folder:
        pytest.skip("COSAM_BENCH_REAL names no folder of real images and weights")
    path = Path(folder) / "mobile_sam.pt"
    published = torch.load(path, weights_only=True)
    sam = build_sam("mobile_sam", checkpoint=path)
    dropped = [name for name in published if name.startswith(("image_encoder.norm_head", "image_encoder.head"))]
    assert len(sam.state_dict()) == len(published) - len(dropped) == 435
    last = sam.get_submodule("image_encoder.stages.3.blocks.1.attn.proj")
    assert torch.equal(last.weight, published["image_encoder.layers.3.blocks.1.attn.proj.weight"])
