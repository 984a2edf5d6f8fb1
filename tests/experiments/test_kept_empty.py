"""Images with empty masks that a card keeps: divided, trained on, scored apart, recorded and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.edited_record import with_last_field
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.opening import open_domain
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.rescoring import rescore
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.cell_text import number
from cosam_bench.results.records import Record, read_negatives

PROTOCOL = """
name = "parts"
stream = "stream.toml"
model = { name = "tiny", checkpoint = "random" }
adapter = { rank = 2, alpha = 2.0 }
prompts = { train = "image", test = "image" }
fit = { epochs = 1, batch_size = 4, jitter = true }
"""
GOOD = ("train/2", "train/3", "test/0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of four training and three test images, three of the seven with an empty mask in the first."""
    folder = tmp_path_factory.mktemp("parts")
    generator = np.random.default_rng(0)
    stream = 'name = "parts"\n'
    for name in ("gears", "belts"):
        for part, count in (("train", 4), ("test", 3)):
            for index in range(count):
                mask = np.zeros((40, 48), dtype=np.uint8)
                mask[5 : 20 + index, 8:30] = 0 if name == "gears" and f"{part}/{index}" in GOOD else 255
                image = generator.integers(0, 128, (40, 48, 3)) + (mask[..., None] > 0) * 100
                for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
                    path = folder / name / kind / f"{part}_{index}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
        stream += f'\n[[domain]]\nname = "{name}"\nroot = "{name}"\nmasks = "masks/{{stem}}.png"\n'
        stream += 'split = { kind = "folders", train = "images/train_*.png", test = "images/test_*.png" }\n'
        stream += 'empty = "keep"\n' if name == "gears" else ""
    (folder / "stream.toml").write_text(stream)
    (folder / "protocol.toml").write_text(PROTOCOL)
    return folder


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    return run(folder, folder / "results")


def run(folder: Path, results: Path, *, method: str = "finetune", overrides: tuple[str, ...] = ()) -> Record:
    config = resolve_run(method=method, protocol=str(folder / "protocol.toml"), overrides=overrides)
    return Runner(open_experiment(config, results), results=results).run()


def card(folder: Path, empty: str | None = "keep", name: str = "gears") -> Card:
    split = {"kind": "folders", "train": "images/train_*.png", "test": "images/test_*.png"}
    return Card.model_validate(
        {"name": name, "root": str(folder / name), "masks": "masks/{stem}.png", "split": split, "empty": empty}
    )


def test_training_keeps_them_and_testing_sets_them_apart(folder: Path) -> None:
    kept, dropped = open_domain(card(folder)), open_domain(card(folder, "drop"))
    assert [bool(sample.mask.any()) for sample in kept.train] == [True, True, False, False]
    assert kept.negatives is not None
    assert [sample.key for sample in kept.negatives] == ["images/test_0"]
    assert (kept.train.manifest.left_out, dropped.train.manifest.left_out) == (0, 3)
    assert (len(dropped.train), dropped.negatives) == (2, None)
    assert kept.test.keys == dropped.test.keys
    assert kept.digest != dropped.digest
    assert open_domain(card(folder, "drop")).digest == open_domain(card(folder, None)).digest
    assert draw_prompts(kept.train, points=2, seed=0).boxes[2:].eq(0).all()
    assert [bool(sample.mask.any()) for sample in hold_out(kept.train)[1]] == [True]


def test_a_domain_without_any_keeps_its_data(folder: Path) -> None:
    assert open_domain(card(folder, "keep", "belts")).negatives is None
    assert open_domain(card(folder, "drop", "belts")).digest == open_domain(card(folder, None, "belts")).digest


def test_the_check_counts_them(folder: Path) -> None:
    report = check_domain(card(folder))
    assert report.fault_count == 0
    assert report.notes == ["kept, as the card says: 2 training and 1 test images with empty masks"]
    assert (report.train, report.test) == (4, 3)
    assert report.digest == open_domain(card(folder)).digest


@pytest.mark.parametrize("part", ["train", "test"])
def test_prompts_that_would_have_to_be_drawn_are_refused(part: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=rf"gears: .* of kind 'box' .* --set prompts\.{part}=image"):
        run(folder, tmp_path, overrides=(f"prompts.{part}=box",))


def test_they_have_no_part_in_the_matrix(record: Record) -> None:
    assert record.score_matrix().count.tolist() == [[2, 3]] * 3
    rows = record.negative_scores()
    assert [(row.step, row.domain, row.key) for row in rows] == [(step, "gears", "images/test_0") for step in range(3)]
    assert "negatives.csv" in record.info.files


def test_frozen_scores_are_those_without_them(record: Record, folder: Path, tmp_path: Path) -> None:
    """Also if the shared row of frozen SAM is read again."""
    again = run(folder, folder / "results", method="average")
    assert again.negative_scores()[0] == record.negative_scores()[0]
    stream = (folder / "stream.toml").read_text()
    (tmp_path / "stream.toml").write_text(stream.replace("keep", "drop").replace('root = "', f'root = "{folder}/'))
    (tmp_path / "protocol.toml").write_text(PROTOCOL)
    dropped = run(tmp_path, tmp_path / "results", method="frozen")
    assert dropped.negative_scores() == []
    assert not (dropped.folder / "negatives.csv").exists()
    assert dropped.score_matrix().values[0].tolist() == record.score_matrix().values[0].tolist()


def test_the_area_is_the_share_of_predicted_pixels(record: Record, folder: Path) -> None:
    """By the prediction of the frozen model for the whole image as the box."""
    from cosam_bench.experiments.predictor import load_predictor

    frozen = run(folder, folder / "results", method="frozen")
    mask = load_predictor(frozen).predict(folder / "gears/images/test_0.png", box=(0, 0, 48, 40))
    assert record.negative_scores()[0].area == mask.mean()


def test_they_are_scored_again(record: Record, tmp_path: Path) -> None:
    found = rescore(record)
    assert (found.is_exact, found.images, found.faults) == (True, 2 + 3 + 1, ())
    edited = with_last_field(record, "negatives.csv", "0.125", folder=tmp_path / "edited")
    [fault] = rescore(edited).faults
    assert str(fault).startswith(
        "negatives.csv, line 4: area of image 'images/test_0' of 'gears' after step 2 is 0.125, scored again it is "
    )


def test_a_missing_line_is_not_scored_as_if_it_were_there(record: Record, tmp_path: Path) -> None:
    edited = with_last_field(record, "negatives.csv", "0.125", folder=tmp_path / "edited", domain="belts")
    with pytest.raises(CosamError, match=r"negatives\.csv does not have one score for each"):
        rescore(edited)


def test_show_prints_both_figures(record: Record) -> None:
    shown = CliRunner().invoke(app, ["show", str(record.folder)], env={"COLUMNS": "120"}).output
    assert "Images with empty masks" in shown
    area = record.negative_scores()[0].area
    [line] = [line for line in shown.splitlines() if line.strip().startswith("frozen")][-1:]
    assert line.split() == ["frozen", number(area), number(float(area > 0))]


def test_a_damaged_file_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "negatives.csv"
    header = (record.folder / "negatives.csv").read_text().splitlines()[0]
    path.write_text(f"{header}\n0,gears,images/test_0,1.5\n")
    with pytest.raises(CosamError, match=r"line 2: area is 1\.5, outside \[0, 1\]"):
        read_negatives(path)
