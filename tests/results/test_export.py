"""Exports: other programs load them, and give the masks of the model that the record's method serves."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything.modeling import Sam as StockSam
from torch import Tensor

import cosam_bench as cb
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.merging.factoring import factor_update
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.results.export.formats import FORMATS, export_record
from cosam_bench.results.export.model_card import _building
from cosam_bench.results.export.served import load_served, recorded_update
from cosam_bench.results.records import Record
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.serving import serving
from cosam_bench.sam.tiny_sam import tiny_parts

METHODS = {
    "regcl": (),
    "opcm": (),
    "average": (),
    "finetune": (),
    "trm": ("method.passes=1",),
    "decoder": ("adapter.kind=decoder", "adapter.rank=8", "adapter.alpha=8.0"),
}
BOX = (20.0, 24.0, 100.0, 90.0)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """Makes a short run of a method on the trained tiny SAM, once each."""
    folder, made = tmp_path_factory.mktemp("export"), {}
    cards = [
        f'[[domain]]\nname = "{name}"\nkind = "synthetic"\ngenerator = "{name}"\nsize = 64\n'
        "split = { kind = 'counts', train = 4, test = 2, seed = 0 }\n"
        for name in ("pill", "polyp")
    ]
    (folder / "stream.toml").write_text('name = "short"\n' + "".join(cards))
    (folder / "short.toml").write_text(
        'name = "short"\nstream = "stream.toml"\nmodel = { name = "tiny" }\nadapter = { rank = 2, alpha = 2.0 }\n'
        "fit = { epochs = 2, batch_size = 2, learning_rate = 0.01 }\n"
    )

    def make(name: str) -> Record:
        if name not in made:
            method = "average" if name == "decoder" else name
            config = resolve_run(method=method, protocol=str(folder / "short.toml"), overrides=METHODS.get(name, ()))
            made[name] = Runner(open_experiment(config, folder / name), results=folder / name).run()
        return made[name]

    return make


def image() -> Tensor:
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1


def logits_of(sam: Any) -> Tensor:
    """The single mask's logits for one image and box."""
    with torch.no_grad():
        embedding = sam.image_encoder(image())
        sparse, dense = sam.prompt_encoder(points=None, boxes=torch.tensor([BOX]), masks=None)
        masks, _ = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    return masks[0, 0]


def served_logits(record: Record) -> Tensor:
    """What the harness itself serves, with its own attention."""
    sam = build_sam("tiny")
    with serving(sam, recorded_update(record)):
        return logits_of(sam)


def stock_sam() -> StockSam:
    """segment-anything's own class with the base weights."""
    encoder, prompts, decoder = tiny_parts()
    stock = StockSam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)
    stock.load_state_dict(build_sam("tiny").state_dict(), strict=False)
    return stock.eval()


def assert_same_masks(found: Tensor, wanted: Tensor, *, tolerance: float = 1e-4) -> None:
    assert (found - wanted).abs().max() < tolerance
    assert torch.equal(found > 0, wanted > 0)


@pytest.mark.parametrize("name", METHODS)
def test_the_update_changes_the_mask(record: Callable[[str], Record], name: str) -> None:
    assert (served_logits(record(name)) - logits_of(stock_sam())).abs().max() > 1e-2


@pytest.mark.parametrize("name", METHODS)
def test_peft_gives_the_same_masks(record: Callable[[str], Record], name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    exported = export_record(record(name), tmp_path / "peft", format_name="peft")
    model = PeftModel.from_pretrained(stock_sam(), str(exported.folder))
    wanted = served_logits(record(name))
    assert_same_masks(logits_of(model.base_model.model), wanted)
    assert_same_masks(logits_of(model.merge_and_unload()), wanted)


@pytest.mark.parametrize("name", METHODS)
def test_merged_weights_give_the_same_masks(record: Callable[[str], Record], name: str, tmp_path: Path) -> None:
    exported = export_record(record(name), tmp_path / "merged", format_name="merged")
    stock = stock_sam()
    state = torch.load(exported.folder / "merged.pth", weights_only=True)
    assert set(stock.state_dict()) - set(state) <= {"pixel_mean", "pixel_std"}
    stock.load_state_dict(state, strict=False)
    assert_same_masks(logits_of(stock), served_logits(record(name)))


@pytest.mark.parametrize("name", METHODS)
def test_transformers_gives_the_same_masks(record: Callable[[str], Record], name: str, tmp_path: Path) -> None:
    from transformers import SamModel

    exported = export_record(record(name), tmp_path / "transformers", format_name="transformers")
    model = SamModel.from_pretrained(exported.folder).eval()
    with torch.no_grad():
        out = model(pixel_values=image(), input_boxes=torch.tensor([[BOX]]), multimask_output=False)
    assert_same_masks(out.pred_masks[0, 0, 0], served_logits(record(name)))


@pytest.mark.parametrize("name", METHODS)
def test_onnx_gives_the_same_masks(record: Callable[[str], Record], name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    exported = export_record(record(name), tmp_path / "onnx", format_name="onnx")

    def run(file: str, **inputs: Tensor) -> list[Tensor]:
        session = onnxruntime.InferenceSession(exported.folder / file, providers=["CPUExecutionProvider"])
        return [
            torch.from_numpy(out) for out in session.run(None, {key: value.numpy() for key, value in inputs.items()})
        ]

    [embedding] = run("encoder.onnx", image=image())
    served = load_served(record(name))
    served.sam.load_state_dict(served.merged_state())
    with torch.no_grad():
        assert (served.sam.image_encoder(image()) - embedding).abs().max() < 1e-4
    grid = 4 * embedding.shape[-1]
    _, _, low = run(
        "decoder.onnx",
        image_embeddings=embedding,
        point_coords=torch.tensor([[BOX[:2], BOX[2:]]]),
        point_labels=torch.tensor([[2.0, 3.0]]),
        mask_input=torch.zeros(1, 1, grid, grid),
        has_mask_input=torch.zeros(1),
        orig_im_size=torch.tensor([128.0, 128.0]),
    )
    assert_same_masks(low[0, 0], served_logits(record(name)))


def test_a_smaller_rank_is_kept_and_its_loss_stated(record: Callable[[str], Record], tmp_path: Path) -> None:
    exported = export_record(record("average"), tmp_path / "peft", format_name="peft", rank=1)
    config = json.loads((exported.folder / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == {1}
    assert config["target_modules"] == sorted(config["rank_pattern"])
    assert "rank 1 to 1" in exported.notes[0]
    assert float(exported.notes[0].rsplit(" ", 1)[1]) > 1e-3


def test_a_cut_adapter_claims_no_score(record: Callable[[str], Record], tmp_path: Path) -> None:
    cards = {}
    for rank in (1, 64):
        folder = export_record(record("average"), tmp_path / str(rank), format_name="peft", rank=rank).folder
        cards[rank] = (folder / "README.md").read_text(encoding="utf-8")
    assert "model-index" in cards[64]
    assert "## Scores (IoU)\n" in cards[64]
    assert "model-index" not in cards[1]
    assert "## Scores (IoU) of the run, before its factors were cut\n" in cards[1]


@pytest.mark.parametrize("format_name", ["transformers", "merged", "safetensors"])
def test_other_preparation_of_images_is_told(record: Callable[[str], Record], format_name: str, tmp_path: Path) -> None:
    one = record("regcl")
    config = json.loads(json.dumps(one.info.config))
    config["protocol"] |= {"resize": "squash"}
    config["protocol"]["score"]["upsampling"] = "direct"
    exported = export_record(changed(one, config=config), tmp_path / "out", format_name=format_name)
    note = 'scored with resize = "squash", score.upsampling = "direct"'
    assert any(note in one for one in exported.notes)
    assert note[1:] in (exported.folder / "README.md").read_text(encoding="utf-8")
    assert "preprocessor_config.json" not in exported.files
    assert not any("scored with" in note for note in export_record(one, tmp_path / "usual", format_name="merged").notes)


@pytest.mark.parametrize("format_name", ["merged", "transformers", "peft"])
def test_a_full_disk_is_one_clear_error(record: Callable[[str], Record], format_name: str, tmp_path: Path) -> None:
    one = record("regcl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match="cannot be written"):
            export_record(one, tmp_path / "out", format_name=format_name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_factors_of_a_dense_change_are_the_change() -> None:
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    extra = LowRank(a=torch.randn(1, 5, generator=generator), b=torch.randn(6, 1, generator=generator))
    update = Update({"x": extra}, {"x.weight": b @ a, "norm.weight": torch.ones(3)})
    factored = factor_update(update, linear=["x"])
    assert factored.ranks == {"x": 3}
    assert (factored.layers["x"].dense() - (b @ a + extra.dense())).abs().max() < 1e-5
    assert factored.discarded["x"] < 1e-12
    assert set(factored.others) == {"norm.weight"}


def test_a_change_of_nothing_has_no_factors() -> None:
    factored = factor_update(Update(dense={"x.weight": torch.zeros(3, 4)}), linear=["x"])
    assert not factored.layers
    assert not factored.others


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_folder_has_a_model_card(record: Callable[[str], Record], format_name: str, tmp_path: Path) -> None:
    exported = export_record(record("regcl"), tmp_path / "out", format_name=format_name)
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: mask-generation" in card
    assert record("regcl").info.conditions.checkpoint in card
    assert "## Loading" in card


@pytest.mark.parametrize("format_name", ["merged", "peft"])
@pytest.mark.parametrize("base", ["the package's own", "a file", "random"])
def test_the_loading_code_of_a_card_loads_the_model(
    record: Callable[[str], Record], format_name: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, file = record("regcl"), tmp_path / "own.pth"
    if base != "the package's own":
        sam = build_sam("tiny", checkpoint="random", seed=3 if base == "a file" else 0)
        torch.save(sam.state_dict(), file)
        config = json.loads(json.dumps(one.info.config))
        config["protocol"]["model"]["checkpoint"] = str(file) if base == "a file" else "random"
        given = build_sam("tiny", checkpoint=file) if base == "a file" else sam
        one = changed(with_checkpoint(one, given.digest), config=config)
    folder = export_record(one, tmp_path / "out", format_name=format_name).folder
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder if format_name == "merged" else tmp_path)
    exec(code.replace("PATH/OF/THIS/FOLDER", str(folder)), names)
    served = load_served(one)
    with serving(served.sam, served.update):
        assert_same_masks(logits_of(names["sam"]), logits_of(served.sam))


def test_a_model_of_others_is_loaded_by_their_registry() -> None:
    said = {name: _building(name, Path("base.pth")) for name in ("vit_b", "mobile_sam")}
    assert said == {
        "vit_b": (
            "from segment_anything import sam_model_registry",
            'sam_model_registry["vit_b"](checkpoint="base.pth")',
        ),
        "mobile_sam": (
            "from mobile_sam import sam_model_registry",
            'sam_model_registry["vit_t"](checkpoint="base.pth")',
        ),
    }
    random = 'build_sam("vit_b", checkpoint="random", is_attention_lean=False)'
    assert _building("vit_b", None) == ("from cosam_bench.sam.build import build_sam", random)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_run_that_is_not_complete_is_refused(
    record: Callable[[str], Record], format_name: str, tmp_path: Path
) -> None:
    with pytest.raises(CosamError, match=r"is interrupted\. Complete it by the same command"):
        export_record(changed(record("regcl"), status="interrupted"), tmp_path / "out", format_name=format_name)
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_the_files(record: Callable[[str], Record], tmp_path: Path) -> None:
    for name in ("peft", "merged", "transformers"):
        folder = export_record(record("regcl"), tmp_path / name, format_name=name).folder
        rights = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
        assert len(rights) == 1, name


def test_safetensors_is_the_served_change_itself(record: Callable[[str], Record], tmp_path: Path) -> None:
    exported = export_record(record("regcl"), tmp_path / "out", format_name="safetensors")
    found = (exported.folder / "update.safetensors").read_bytes()
    assert found == (record("regcl").folder / "update.safetensors").read_bytes()


def test_what_cannot_be_exported_is_refused(record: Callable[[str], Record], tmp_path: Path) -> None:
    one = record("regcl")
    with pytest.raises(CosamError, match=r"No export format is called 'pft'. Did you mean 'peft'"):
        export_record(one, tmp_path / "out", format_name="pft")
    with pytest.raises(CosamError, match="a rank of at least 1"):
        export_record(one, tmp_path / "out", format_name="peft", rank=0)
    with pytest.raises(CosamError, match="Leave it out"):
        export_record(one, tmp_path / "out", format_name="onnx", rank=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(CosamError, match="not an empty folder"):
        export_record(one, tmp_path / "full", format_name="peft")
    with pytest.raises(CosamError, match="serves no single update"):
        export_record(record("experts"), tmp_path / "out", format_name="peft")
    with pytest.raises(CosamError, match="is running"):
        export_record(changed(one, status="running"), tmp_path / "out", format_name="peft")
    with pytest.raises(CosamError, match="not those of the run"):
        export_record(with_checkpoint(one, "0" * 64), tmp_path / "out", format_name="peft")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(record: Callable[[str], Record], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot be written"):
        export_record(record("regcl"), tmp_path / "file" / "out", format_name="merged")


def test_side_layers_are_refused_by_name(record: Callable[[str], Record], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one = record("regcl")
    folder = tmp_path / "record"
    folder.mkdir()
    for name in ("run.json", "matrix.csv"):
        (folder / name).write_bytes((one.folder / name).read_bytes())
    update = Update(dense={"side.expand.0.weight": torch.ones(2, 2)})
    save_file(update.tensors(), folder / "update.safetensors")
    side = Record(folder, one.info.model_copy(update={"files": {}}))
    with pytest.raises(CosamError, match=r"side\.expand\.0\.weight .* --format safetensors"):
        export_record(side, tmp_path / "out", format_name="peft")
    assert export_record(side, tmp_path / "out", format_name="safetensors").files
    with pytest.raises(CosamError, match=r"update\.safetensors was changed since the run"):
        export_record(Record(folder, one.info), tmp_path / "other", format_name="safetensors")


def changed(record: Record, **fields: object) -> Record:
    return Record(record.folder, record.info.model_copy(update=fields))


def with_checkpoint(record: Record, digest: str) -> Record:
    conditions: Mapping[str, Any] = record.info.conditions.model_dump(exclude={"digest", "checkpoint"})
    return changed(record, conditions=type(record.info.conditions)(**conditions, checkpoint=digest))


def test_the_python_interface_takes_a_record_its_folder_or_its_name(
    record: Callable[[str], Record], tmp_path: Path
) -> None:
    one = record("regcl")
    asked = (one, one.folder, "regcl")
    for place, name in enumerate(asked):
        out = cb.export(name, tmp_path / str(place), format="safetensors", results=one.folder.parents[2])
        assert out.files == ("README.md", "update.safetensors")
