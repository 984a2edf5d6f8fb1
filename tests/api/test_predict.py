"""Segmenting single images: bit for bit the masks that the run was scored by, and one clear error for the rest."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.quick_protocol import write_quick_protocol

import cosam_bench as cb
from cosam_bench.evaluation.metrics import METRICS, measure
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run

GREY = np.full((40, 60, 3), 90, dtype=np.uint8)
BOX = (10, 5, 40.5, 30)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick protocol with the package's own tiny SAM, whose masks are not noise."""
    path = write_quick_protocol(tmp_path_factory.mktemp("protocol"))
    path.write_text(path.read_text().replace(', checkpoint = "random"', ""))
    return path


@pytest.fixture(scope="module")
def record(protocol: Path) -> cb.Record:
    return cb.run("average", protocol=protocol, results=protocol.with_name("results"))


def prompt_of(prompts: cb.Prompts, row: int, kind: str) -> dict[str, Any]:
    """What a user would give for a frozen prompt."""
    given = {
        "box": prompts.boxes[row].tolist(),
        "points": prompts.points[row].tolist(),
        "mask": prompts.masks[row].numpy(),
    }
    return {} if kind == "image" else {kind: given[kind]}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("average", {}),
        ("finetune", {"prompts.test": "points", "prompts.train": "points"}),
        ("finetune", {"prompts.test": "image", "prompts.train": "image"}),
        ("finetune", {"prompts.test": "mask", "prompts.train": "mask", "resize": "squash"}),
        ("frozen", {"score.upsampling": "nearest", "score.precision": "bf16", "score.batch_size": 1}),
        ("moda", {"prompts.masks": "raw", "prompts.test": "mask"}),
        ("experts", {"score.upsampling": "direct", "resize": "squash", "resampling": "torch"}),
        ("average", {"adapter.kind": "hq", "adapter.rank": 8, "adapter.alpha": 8.0}),
    ],
)
def test_every_mask_is_the_one_that_the_run_scored(
    method: str, settings: dict[str, object], protocol: Path, tmp_path: Path
) -> None:
    record = cb.run(method, protocol=protocol, settings=settings, results=protocol.with_name("results"))
    experiment = open_experiment(resolve_run(config=record.folder / "config.toml"), tmp_path)
    kind = experiment.config.protocol.prompts.test
    with (record.folder / "scores.csv").open() as file:
        rows = {(row["domain"], row["key"]): row for row in csv.DictReader(file) if row["step"] == "3"}
    predictor = cb.load_predictor(record)
    for domain in experiment.columns:
        prompts = experiment.test_prompts[domain.name]
        for row, sample in enumerate(domain.test):
            image = sample.image.permute(1, 2, 0).numpy()
            told = {"domain": domain.name} if predictor.domains else {}
            mask = predictor.predict(image, **prompt_of(prompts, row, kind), **told)
            assert mask.dtype == np.bool_
            assert mask.shape == tuple(sample.mask.shape)
            found = measure(torch.from_numpy(mask)[None].float() - 0.5, sample.mask[None])
            for metric in set(METRICS) - {"mae"}:  # of soft masks
                assert found[metric].item() == float(rows[domain.name, sample.key][metric]), (domain.name, row, metric)


def test_an_image_may_be_a_file_an_array_or_a_pillow_image(record: cb.Record, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    pixels[10:30, 20:40] = 220
    Image.fromarray(pixels).save(tmp_path / "image.png")
    predictor = cb.load_predictor(f"average/{record.folder.name}", results=record.folder.parents[2])
    mask = predictor.predict(pixels, box=BOX)
    assert 0 < mask.sum() < mask.size
    for image in (tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(pixels)):
        assert (predictor.predict(image, box=list(BOX)) == mask).all()
        assert (cb.predict(record, image, box=np.array(BOX)) == mask).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    assert (predictor.predict(tmp_path / "turned.png", box=BOX) == mask).all()
    see_through = Image.fromarray(pixels).convert("RGBA")
    see_through.putalpha(0)
    assert (predictor.predict(see_through, box=BOX) == mask).all()
    pixels.setflags(write=False)
    assert (predictor.predict(pixels, box=BOX) == mask).all()


def test_background_points_take_away(record: cb.Record) -> None:
    predictor = cb.load_predictor(record)
    points = [(30.5, 20.5), (31.5, 20.5)]
    plain = predictor.predict(GREY, points=points)
    assert (predictor.predict(GREY, points=points, labels=[1, 1]) == plain).all()
    assert (predictor.predict(GREY, points=points, labels=[1, 0]) != plain).any()


def test_an_update_alone_serves_the_same(record: cb.Record, tmp_path: Path) -> None:
    update = Path(shutil.copy(record.folder / "update.safetensors", tmp_path))
    mask = cb.predict(update, GREY, box=BOX, model="tiny")
    assert (mask == cb.predict(record, GREY, box=BOX)).all()
    with pytest.raises(cb.CosamError, match="does not name its base model"):
        cb.load_predictor(update)
    with pytest.raises(cb.CosamError, match=r"update does not fit mobile_sam|weights of mobile_sam are not at"):
        cb.load_predictor(update, model="mobile_sam")
    with pytest.raises(cb.CosamError, match="No file"):
        cb.load_predictor(record.folder / "none.safetensors", model="tiny")
    with pytest.raises(cb.CosamError, match="No checkpoint file random"):
        cb.load_predictor(update, model="tiny", checkpoint="random")
    update.write_bytes(b"junk")
    with pytest.raises(cb.CosamError, match="cannot be read"):
        cb.load_predictor(update, model="tiny")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["mask_decoder.iou_token.weight"], "holds mask_decoder.iou_token.weight, which is no change of a layer"),
        (["layer.weight", "layer.bias"], "holds layer.bias and 1 more, which is no change"),
        (["base_model.model.layer.lora_A.weight"], "holds a peft adapter's factors"),
        (["layer.a"], "do not fit each other"),
    ],
)
def test_other_tensors_are_not_taken_for_an_update(names: list[str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({name: torch.ones(2, 2) for name in names}, file)
    with pytest.raises(cb.CosamError, match=said):
        cb.load_predictor(file, model="tiny")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({}, "Give one prompt"),
        ({"box": BOX, "points": [(1, 1)]}, "Give one prompt"),
        ({"box": (10, 5, 61, 30)}, r"box 10,5,61,30 is not inside the image, which is 60 pixels wide and 40 high"),
        ({"box": (-1, 5, 40, 30)}, "not inside the image"),
        ({"box": (40, 5, 10, 30)}, "x0 must be below x1"),
        ({"box": (1, 2, 3)}, "x0, y0, x1, y1; found"),
        ({"box": (1, 2, 3, float("nan"))}, "finite numbers"),
        ({"box": "1,2,3,4"}, "finite numbers"),
        ({"points": []}, "finite numbers"),
        ({"points": [(1, 2, 3)]}, "x, y each"),
        ({"points": [(5, 41)]}, "point 5,41 is not inside"),
        ({"points": [(5, 5)], "labels": [2]}, "one per point"),
        ({"points": [(5, 5)], "labels": [1, 0]}, "one per point"),
        ({"box": BOX, "labels": [1]}, "one per point"),
        ({"mask": np.zeros((40, 60))}, "some pixels inside"),
        ({"mask": np.ones((40, 60, 3))}, r"should be \(H, W\)"),
        ({"box": BOX, "domain": "pill"}, "is not told an image's domain"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt: dict[str, Any], said: str, record: cb.Record) -> None:
    with pytest.raises(cb.CosamError, match=said):
        cb.predict(record, GREY, **prompt)


def test_an_image_of_16_bits_needs_the_cards_levels(record: cb.Record, tmp_path: Path) -> None:
    levels = np.linspace(0, 4095, 40 * 60).reshape(40, 60).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    predictor = cb.load_predictor(record)
    with pytest.raises(cb.CosamError, match=r"deep\.png has 16 bits and levels up to 4095, .* levels = 4095, or 65535"):
        predictor.predict(path, box=BOX)
    grey = np.repeat(np.round(levels / 4095 * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(predictor.predict(path, box=BOX, levels=4095), predictor.predict(grey, box=BOX))
    for levels_given, said in ((0, "from 1 to 65535"), (65536, "from 1 to 65535")):
        with pytest.raises(cb.CosamError, match=said):
            predictor.predict(path, box=BOX, levels=levels_given)
    with pytest.raises(cb.CosamError, match="levels is of image files of 16 bits"):
        predictor.predict(grey, box=BOX, levels=4095)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    with pytest.raises(cb.CosamError, match=r"levels is of image files of 16 bit greys, and .*grey\.png is not one"):
        predictor.predict(tmp_path / "grey.png", box=BOX, levels=4095)
    with pytest.raises(cb.CosamError, match=r"deep\.png holds the level 4095, above levels = 4094\. Give the level"):
        predictor.predict(path, box=BOX, levels=4094)
    Image.fromarray(np.zeros_like(levels)).save(path)
    black = predictor.predict(np.zeros_like(grey), box=BOX)
    assert np.array_equal(predictor.predict(path, box=BOX, levels=4095), black)


def test_flipped_arrays_are_taken(record: cb.Record) -> None:
    predictor = cb.load_predictor(record)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for flipped in (pixels[:, :, ::-1], pixels[:, ::-1], pixels[::-1], pixels[:1, :, :][::-1]):
        box = (10, 0, 40, flipped.shape[0])
        expected = predictor.predict(flipped.copy(), box=box)
        assert np.array_equal(predictor.predict(flipped, box=box), expected)
        assert np.array_equal(predictor.predict(flipped, box=np.array(box[::-1], dtype=np.float64)[::-1]), expected)
    places, labels = np.array([(20.5, 30.5), (5.5, 8.5)]), np.array([0, 1])
    expected = predictor.predict(pixels, points=places[::-1, ::-1].tolist(), labels=labels[::-1].tolist())
    assert np.array_equal(predictor.predict(pixels, points=places[::-1, ::-1], labels=labels[::-1]), expected)
    mask = np.zeros((40, 60))
    mask[5:20, 10:30] = 1
    flat = predictor.predict(pixels, mask=mask[::-1, ::-1].copy())
    assert np.array_equal(predictor.predict(pixels, mask=mask[::-1, ::-1]), flat)


def test_a_pillow_image_that_cannot_be_read_is_refused(record: cb.Record, tmp_path: Path) -> None:
    def refused(image: Image.Image, said: str) -> None:
        with pytest.raises(cb.CosamError, match=f"The PIL image cannot be read: {said}"):
            predictor.predict(image, box=BOX)

    predictor = cb.load_predictor(record)
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    with Image.open(path) as left:
        pass
    refused(left, "")
    closed = Image.open(path)
    closed.close()
    refused(closed, "Operation on closed image")
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as truncated:
        refused(truncated, "image file is truncated")


def test_an_image_that_is_none_is_refused(record: cb.Record, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    predictor = cb.load_predictor(record)
    for image, said in (
        (tmp_path / "text.png", "text.png"),
        (tmp_path / "none.png", "none.png cannot be read"),
        (GREY.astype(np.float32), r"float32 \(40, 60, 3\)"),
        (GREY[..., 0], r"uint8 \(40, 60\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (Image.new("F", (4, 4)), "mode 'F'"),
        (torch.zeros(3, 4, 4), "is Tensor"),
    ):
        with pytest.raises(cb.CosamError, match=said):
            predictor.predict(image, box=(0, 0, 2, 2))


def test_a_method_that_is_told_the_domain_asks_for_it(protocol: Path) -> None:
    predictor = cb.load_predictor(cb.run("experts", protocol=protocol, results=protocol.with_name("results")))
    assert predictor.domains == ("pitting", "pill", "polyp", "natural")
    with pytest.raises(cb.CosamError, match=r"must be told the image's domain. Give one of: pitting, pill"):
        predictor.predict(GREY, box=BOX)
    with pytest.raises(cb.CosamError, match="Did you mean 'pill'"):
        predictor.predict(GREY, box=BOX, domain="pil")


def test_a_run_that_was_given_the_object_needs_a_prompt(record: cb.Record, protocol: Path) -> None:
    with pytest.raises(cb.CosamError, match="Give one prompt"):
        cb.load_predictor(record).predict(GREY)
    settings = {"prompts.test": "image", "prompts.train": "image"}
    whole = cb.load_predictor(
        cb.run("finetune", protocol=protocol, settings=settings, results=protocol.with_name("results"))
    )
    assert not whole.needs_prompt
    height, width, _ = GREY.shape
    assert np.array_equal(whole.predict(GREY), whole.predict(GREY, box=(0, 0, width, height)))
    assert not np.array_equal(whole.predict(GREY), whole.predict(GREY, box=BOX))


def test_a_record_that_cannot_be_served_says_why(record: cb.Record, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(record.folder, tmp_path / "copy"))
    info = json.loads((copy / "run.json").read_text())
    state = (copy / "state.safetensors").read_bytes()

    def refused(said: str, **arguments: Any) -> None:
        with pytest.raises(cb.CosamError, match=said):
            cb.load_predictor(copy, **arguments)

    refused("Leave the model out", model="tiny")
    refused("No device is called 'tpu'", device="tpu")
    refused(r"torch sees \d+ GPUs", device="cuda:99")
    refused("No checkpoint file", checkpoint=tmp_path / "none.pth")
    refused("used other weights of tiny than those found now", checkpoint="random")
    (copy / "state.safetensors").write_bytes(state[:-9])
    refused("state.safetensors was changed since the run wrote it")
    (copy / "state.safetensors").unlink()
    refused("state.safetensors cannot be read")
    (copy / "run.json").write_text(json.dumps(info | {"status": "failed"}))
    refused("is failed")
    (copy / "run.json").write_text("{")
    refused("run.json")
    with pytest.raises(cb.CosamError, match="No record in results fits 'nothing'"):
        cb.load_predictor("nothing")


def test_a_method_that_was_changed_since_the_run_does_not_read_its_state(record: cb.Record, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(record.folder, tmp_path / "copy"))
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"rule": "0" * 64}))
    (copy / "state.safetensors").unlink()
    as_then = cb.load_predictor(record).predict(GREY, box=BOX)
    assert np.array_equal(cb.load_predictor(copy).predict(GREY, box=BOX), as_then)  # by the update
    gone = info["config"] | {"method": str(tmp_path / "gone.py")}
    (copy / "run.json").write_text(json.dumps(info | {"config": gone}))
    assert np.array_equal(cb.load_predictor(copy).predict(GREY, box=BOX), as_then)
    (copy / "update.safetensors").unlink()
    with pytest.raises(cb.CosamError, match=r"No file .*gone\.py"):
        cb.load_predictor(copy)
    (copy / "run.json").write_text(json.dumps(info | {"rule": "0" * 64}))
    with pytest.raises(cb.CosamError, match="code of 'average' was changed since the run"):
        cb.load_predictor(copy)


def test_a_methods_own_faults_name_it(record: cb.Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise KeyError("lost")

    predictor = cb.load_predictor(record)
    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.predict", fails)
    with pytest.raises(cb.MethodFailed, match=r"'average' raised KeyError in predict\(\)"):
        predictor.predict(GREY, box=BOX)
    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.load", fails)
    with pytest.raises(cb.MethodFailed, match=r"'average' raised KeyError in load\(\)"):
        cb.load_predictor(record)


def test_predictions_that_are_not_finite_name_what_made_them(
    record: cb.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Path(shutil.copy(record.folder / "update.safetensors", tmp_path))
    save_file({name: tensor * torch.inf for name, tensor in load_file(update).items()}, update)
    with pytest.raises(cb.CosamError, match=r"The update .*\.safetensors cannot be served: .* not finite") as caught:
        cb.predict(update, GREY, box=BOX, model="tiny")
    assert not isinstance(caught.value, cb.MethodFailed)
    predictor = cb.load_predictor(record)
    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.predict", diverged)
    with pytest.raises(cb.MethodFailed, match=r"The method 'average' failed in predict\(\): .* not finite"):
        predictor.predict(GREY, box=BOX)


def diverged(method: cb.MergingMethod, batch: cb.Batch) -> torch.Tensor:
    grid = method.bench.view.grid
    return torch.full((len(batch), grid, grid), torch.nan)


def test_a_full_memory_is_one_clear_error(record: cb.Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    predictor = cb.load_predictor(record)
    monkeypatch.setattr("cosam_bench.method.interface.MergingMethod.predict", full)
    with pytest.raises(cb.CosamError, match="too little memory to predict a single image"):
        predictor.predict(GREY, box=BOX)
