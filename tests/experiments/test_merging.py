"""Merging without a benchmark: the update that a run over these experts ends with, and one clear error for all else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from support.made_experts import learn
from support.shifted_method import SHIFTED
from torch import Tensor
from typer.testing import CliRunner

import cosam_bench as cb
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.experts.reading import read_experts
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.registry import load_method
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam

LAYERS = {"image_encoder.blocks.1.attn.qkv": (288, 96), "image_encoder.blocks.2.attn.proj": (96, 96)}
DATA_FREE = (
    "average",
    "task_arithmetic",
    "ties",
    "continual_ties",
    "opcm",
    "knots",
    "pcb",
    "nullfilter",
    "iso_c",
    "tsvm",
    "nufilt",
)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three experts of different ranks, one of which lacks a layer."""
    folder, generator = tmp_path_factory.mktemp("experts"), torch.Generator().manual_seed(0)
    paths = []
    for name, rank in (("road", 2), ("polyp", 3), ("crack", 1)):
        layers = {
            layer: LowRank(torch.randn(rank, n, generator=generator), torch.randn(m, rank, generator=generator) / 50)
            for layer, (m, n) in list(LAYERS.items())[: 1 if name == "crack" else 2]
        }
        paths.append(folder / f"{name}.safetensors")
        save_file(Update(layers).tensors(), paths[-1])
    return paths


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("method", DATA_FREE)
def test_it_is_the_methods_own_rule_over_all_experts(
    method: str, experts: list[Path], tiny: Sam, tmp_path: Path
) -> None:
    merged = cb.merge(experts, method=method, out=tmp_path / "out", model="tiny")
    assert merged.files == ("merge.json", "update.safetensors")
    given = read_experts({path.stem: path for path in experts}, sam=tiny, adapter=AdapterSettings())

    class Bench:
        sam, adapter, view = tiny, AdapterSettings(), SimpleNamespace(device=torch.device("cpu"))

        def generator(self, *names: str | int) -> torch.Generator:
            return torch_generator(0, *names)

        def train(self, domain: Any, **options: Any) -> Any:
            assert all(options.get(name) is None for name in ("start", "hooks"))
            return type("Fitted", (), {"update": list(given.updates.values())[int(domain.name)]})

    states = learn((load_method(method), {}), list(given.updates.values()), bench=Bench())  # type: ignore[arg-type]
    wanted = Update.from_tensors(states[-1].tensors, "served/")
    found = Update.from_tensors(load_file(tmp_path / "out" / "update.safetensors"))
    same(weight_changes(found), weight_changes(wanted))


def test_the_mean_is_worked_out_by_hand(experts: list[Path], tmp_path: Path) -> None:
    cb.merge(experts, method="average", out=tmp_path / "out", model="tiny")
    changes = [weight_changes(Update.from_tensors(load_file(path))) for path in experts]
    for name, change in load_file(tmp_path / "out" / "update.safetensors").items():
        parts = [one[name.removesuffix(".dense")] for one in changes if name.removesuffix(".dense") in one]
        torch.testing.assert_close(change, sum(parts[1:], parts[0]) / 3)


def test_settings_and_seed_count(experts: list[Path], tmp_path: Path) -> None:
    one = cb.merge(experts, method="task_arithmetic", out=tmp_path / "1", model="tiny", settings={"method.scale": 1.0})
    half = cb.merge(experts, method="task_arithmetic", out=tmp_path / "2", model="tiny", settings={"method.scale": 0.5})
    whole, halved = (load_file(merged.folder / "update.safetensors") for merged in (one, half))
    same({name: tensor / 2 for name, tensor in whole.items()}, halved)
    facts = json.loads((half.folder / "merge.json").read_text())
    assert facts["settings"]["scale"] == 0.5
    assert list(facts["experts"]) == ["road", "polyp", "crack"]
    assert (facts["method"], facts["model"]) == ("task_arithmetic", "tiny")
    drawn = [cb.merge(experts, method="dare", out=tmp_path / f"s{n}", model="tiny", seed=n) for n in (0, 1)]
    first, second = (load_file(merged.folder / "update.safetensors") for merged in drawn)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_peft_loads_what_it_writes(experts: list[Path], tmp_path: Path) -> None:
    merged = cb.merge(experts, method="opcm", out=tmp_path / "out", model="tiny", format="peft")
    assert "adapter_config.json" in merged.files
    assert any("largest share of a layer's energy discarded" in note for note in merged.notes)
    base = build_sam("tiny", checkpoint="random", is_attention_lean=False)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    after = PeftModel.from_pretrained(base, str(merged.folder)).merge_and_unload().state_dict()
    update = Update.from_tensors(load_file(merged.folder / "update.safetensors"))
    for name, change in weight_changes(update).items():
        torch.testing.assert_close(after[name] - before[name], change, rtol=0, atol=1e-6)
    again = cb.merge([merged.folder, merged.folder], method="average", out=tmp_path / "again", model="tiny")
    for name, change in load_file(again.folder / "update.safetensors").items():
        torch.testing.assert_close(change, weight_changes(update)[name.removesuffix(".dense")], rtol=0, atol=1e-6)


def test_peft_takes_linear_layers_of_the_decoder(tmp_path: Path) -> None:
    """As LoRA, like those of the encoder; only other weights of a decoder make peft save it whole."""
    generator = torch.Generator().manual_seed(0)
    layer = "mask_decoder.transformer.layers.0.self_attn.q_proj"
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    base = build_sam("tiny", checkpoint="random", is_attention_lean=False)
    before = base.get_parameter(f"{layer}.weight").clone()
    for path in paths:
        factors = LowRank(*(torch.randn(shape, generator=generator) / 7 for shape in ((2, 64), (64, 2))))
        save_file(Update({layer: factors}).tensors(), path)
    merged = cb.merge(paths, method="average", out=tmp_path / "out", model="tiny", format="peft")
    after = PeftModel.from_pretrained(base, str(merged.folder)).merge_and_unload().get_parameter(f"{layer}.weight")
    update = Update.from_tensors(load_file(merged.folder / "update.safetensors"))
    torch.testing.assert_close(after - before, weight_changes(update)[f"{layer}.weight"], rtol=0, atol=1e-6)
    save_file(Update(dense={"mask_decoder.iou_token.weight": torch.ones(1, 64)}).tensors(), paths[1])
    with pytest.raises(CosamError, match=r"more of the mask decoder than linear layers\. peft then saves it whole"):
        cb.merge(paths, method="average", out=tmp_path / "other", model="tiny", format="peft")


def test_experts_of_like_names_are_all_merged(experts: list[Path], tmp_path: Path) -> None:
    places = [tmp_path / part for part in ("x/2 a.safetensors", "y/a.safetensors", "z/a.safetensors")]
    for expert, place in zip(experts, places, strict=True):
        place.parent.mkdir()
        shutil.copyfile(expert, place)
    merged = cb.merge(places, method="average", out=tmp_path / "out", model="tiny")
    assert list(json.loads((merged.folder / "merge.json").read_text())["experts"]) == ["1 2 a", "2 a", "3 a"]
    same(
        load_file(merged.folder / "update.safetensors"),
        load_file(
            cb.merge(experts, method="average", out=tmp_path / "wanted", model="tiny").folder / "update.safetensors"
        ),
    )


def test_numbers_that_are_not_finite_are_refused(experts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"'task_arithmetic' merged the experts to numbers that are not finite, first"):
        cb.merge(experts, method="task_arithmetic", settings={"method.scale": 1e42}, out=tmp_path / "out", model="tiny")
    assert list(tmp_path.iterdir()) == []


def test_the_result_predicts(experts: list[Path], tmp_path: Path) -> None:
    merged = cb.merge(experts, method="average", out=tmp_path / "out", model="tiny")
    picture = Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8))
    mask = cb.predict(merged.folder / "update.safetensors", picture, box=(4, 4, 40, 30), model="tiny", device="cpu")
    assert mask.shape == (40, 60)
    update = merged.folder / "update.safetensors"
    for named in (update, merged.folder, str(merged.folder)):  # merge.json names the model
        assert (cb.predict(named, picture, box=(4, 4, 40, 30), device="cpu") == mask).all()
    (merged.folder / "merge.json").write_text('{"model": 3}')
    with pytest.raises(CosamError, match="does not name its base model"):
        cb.predict(update, picture, box=(4, 4, 40, 30), device="cpu")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "regcl"}, r"needs inputs of each domain's training images.*run --method regcl --experts"),
        ({"method": "trm"}, "'trm' continues training from its served update"),
        ({"method": "experts"}, "serves no update that alone predicts"),
        ({"method": "tyes"}, "Did you mean 'ties'"),
        ({"method": "ties", "settings": {"method.densty": 1}}, "densty"),
        ({"method": "ties", "settings": {"fit.epochs": 1}}, "is not a setting of the method. Write method.KEY=VALUE"),
        ({"method": "ties", "format": "onnx"}, "No format of a merge is called 'onnx'"),
        ({"method": "ties", "rank": 2}, "has none. Leave it out"),
        ({"method": "ties", "model": "vit_x"}, "vit_x"),
        ({"method": "ties", "model": "mobile_sam"}, "does not fit mobile_sam|no such weight"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    options: dict[str, Any], named: str, experts: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CosamError, match=named):
        cb.merge(experts, **{"model": "tiny", "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("isolated", [False, True])
def test_a_method_that_predicts_by_code_of_its_own_is_refused(
    experts: list[Path], tmp_path: Path, isolated: bool
) -> None:
    (tmp_path / "shifted.py").write_text(SHIFTED)
    with pytest.raises(CosamError, match="serves no update that alone predicts as it does"):
        cb.merge(experts, method=tmp_path / "shifted.py", out=tmp_path / "out", model="tiny", isolated=isolated)
    assert not (tmp_path / "out").exists()


def test_places_are_checked(experts: list[Path], tmp_path: Path) -> None:
    def refused(paths: Any, out: Path, named: str) -> None:
        with pytest.raises(CosamError, match=named):
            cb.merge(paths, method="average", out=out, model="tiny")

    refused(experts[:1], tmp_path / "out", "at least two experts; given: 1")
    refused(experts[0], tmp_path / "out", "at least two experts; given: 1")
    refused([*experts, tmp_path / "none.safetensors"], tmp_path / "out", r"No file or folder .*none.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    refused(experts, tmp_path / "full", "exists and is not an empty folder")
    refused(experts, tmp_path / "full" / "kept" / "out", "cannot be written")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["kept"]


PLUGIN = """
import os
from cosam_bench import MergingMethod, MethodCard

SEEN = os.getpid()

class Last(MergingMethod):
    card = MethodCard(title="Last")

    def merge(self, expert, domain, *, step):
        self.values["names"] = [*self.values.get("names", []), domain.name]
        assert len(domain) == 0
        return expert
"""


def test_a_plugin_merges_in_processes_of_its_own(experts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(PLUGIN)
    merged = cb.merge(experts[:2], method=tmp_path / "last.py", out=tmp_path / "out", model="tiny")
    wanted = weight_changes(Update.from_tensors(load_file(experts[1])))
    found = weight_changes(Update.from_tensors(load_file(merged.folder / "update.safetensors")))
    same(found, wanted)  # padded factors of the highest rank


READS_WEIGHTS = """
from cosam_bench import MergingMethod, MethodCard, Update

class Relative(MergingMethod):
    card = MethodCard(title="Relative")

    def merge(self, expert, domain, *, step):
        name = "image_encoder.blocks.1.attn.qkv"
        return Update(dense={f"{name}.weight": self.bench.sam.get_submodule(name).weight.detach().cpu().clone()})
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_a_rule_that_reads_the_base_weights_gets_them(experts: list[Path], tmp_path: Path, isolated: bool) -> None:
    (tmp_path / "relative.py").write_text(READS_WEIGHTS)
    merged = cb.merge(
        experts[:2], method=tmp_path / "relative.py", out=tmp_path / "out", model="tiny", isolated=isolated
    )
    (change,) = load_file(merged.folder / "update.safetensors").values()
    assert torch.equal(change, build_sam("tiny").state_dict()["image_encoder.blocks.1.attn.qkv.weight"])
    assert merged.notes == ()


def test_it_is_said_if_the_base_weights_are_not_here(
    experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosam_bench.experiments.merging._has_weights", lambda model: False)
    (tmp_path / "relative.py").write_text(READS_WEIGHTS)
    merged = cb.merge(experts[:2], method=tmp_path / "relative.py", out=tmp_path / "out", model="tiny", isolated=False)
    assert any("was given random ones" in note for note in merged.notes)
    assert cb.merge(experts[:2], method="average", out=tmp_path / "own", model="tiny").notes == ()


def test_an_experts_digest_does_not_depend_on_the_others(experts: list[Path], tmp_path: Path) -> None:
    found = []
    for number, paths in enumerate((experts[:2], [experts[0], experts[2]])):
        merged = cb.merge(paths, method="average", out=tmp_path / str(number), model="tiny")
        found.append(json.loads((merged.folder / "merge.json").read_text())["experts"]["road"])
    assert found[0] == found[1] == Update.from_tensors(load_file(experts[0])).digest()


def test_a_link_names_an_expert(experts: list[Path], tmp_path: Path) -> None:
    for path in experts[:2]:
        folder = tmp_path / "kept" / path.stem
        folder.mkdir(parents=True)
        (folder / "update.safetensors").write_bytes(path.read_bytes())
        (tmp_path / f"link-{path.stem}").symlink_to(folder)
    merged = cb.merge(sorted(tmp_path.glob("link-*")), method="average", out=tmp_path / "out", model="tiny")
    assert list(json.loads((merged.folder / "merge.json").read_text())["experts"]) == ["link-polyp", "link-road"]


def test_what_peft_cannot_hold_is_refused_with_the_advice_of_a_merge(experts: list[Path], tmp_path: Path) -> None:
    with_norm = tmp_path / "norm.safetensors"
    norm = Update(dense={"image_encoder.blocks.1.norm1.weight": torch.ones(96)})
    save_file(norm.tensors(), with_norm)
    with pytest.raises(CosamError, match=r"no adapter for .*norm1.* Leave the format at safetensors\.$"):
        cb.merge([experts[0], with_norm], method="average", out=tmp_path / "out", model="tiny", format="peft")


def test_from_the_command_line(experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def cli(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    asked = ("merge", "-m", "ties", *experts, "--model", "tiny", "--set", "method.density=0.5")
    found = cli(*asked, "--out", "merged")
    assert found.exit_code == 0, found.output
    assert "Written: merged (merge.json, update.safetensors)" in found.stdout
    assert json.loads(Path("merged/merge.json").read_text())["settings"]["density"] == 0.5
    assert cli(*asked, "--out", "merged").exit_code == 2
    assert cli("merge", "-m", "regcl", *experts, "--model", "tiny", "--out", "other").exit_code == 2
    Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save("photo.png")
    options = ("--record", "merged/update.safetensors", "--box", "4,4,40,30", "--device", "cpu")
    assert cli("predict", "photo.png", *options, "--model", "tiny").exit_code == 0
    assert cli("predict", "photo.png", *options, "--force").exit_code == 0
    assert cli("predict", "photo.png", "--record", "merged", *options[2:], "--force").exit_code == 0


def test_a_merge_says_if_its_isolated_method_could_read_the_experts_folder(experts: list[Path], tmp_path: Path) -> None:
    mine, code = (
        experts[0].parent / "mine.py",
        "from cosam_bench.methods.average import Average\n\n\nclass Mine(Average):\n    pass\n",
    )
    for place, is_named in ((mine, True), (tmp_path / "mine.py", False)):
        place.write_text(code)
        merged = cb.merge(experts, method=str(place), out=tmp_path / str(is_named), model="tiny")
        named = f"The isolated method 'mine' can read {experts[0].parent}: its own code is in there."
        assert [note.startswith(named) for note in merged.notes] == ([True] if is_named else [])
    mine.unlink()


def test_experts_that_change_nothing_and_equal_ones_are_named(experts: list[Path], tmp_path: Path) -> None:
    idle = Update({layer: LowRank(torch.ones(1, n), torch.zeros(m, 1)) for layer, (m, n) in LAYERS.items()})
    save_file(idle.tensors(), tmp_path / "idle.safetensors")
    copy = shutil.copy(experts[0], tmp_path / "copy.safetensors")
    merged = cb.merge(
        [*experts, tmp_path / "idle.safetensors", copy], method="average", out=tmp_path / "o", model="tiny"
    )
    assert merged.notes == (
        "The expert of idle changes nothing: its numbers are zero. Was it trained?",
        "The experts of road, copy have the same tensors. Is each of them meant?",
    )
    assert cb.merge(experts, method="average", out=tmp_path / "p", model="tiny").notes == ()
