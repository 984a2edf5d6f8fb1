"""Whole runs on masks with ignored pixels: what they hide changes nothing, in the process and isolated."""

from __future__ import annotations

import json
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosam_bench.core.hashing import sha256_json
from cosam_bench.data.samples import Manifest
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.run_notes import run_notes
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.records import Record

VOID = (254, 255)
CARD = """
[[domain]]
name = "{name}"
root = "{name}"
foreground = {{ values = [1, {of_void}] }}
ignore = [{ignored}]
split = {{ kind = "counts", train = 4, test = 2 }}
"""
COCO = """
[[domain]]
name = "{name}"
root = "{name}"
annotations = "coco.json"
split = {{ kind = "counts", train = 4, test = 2 }}
"""
PROTOCOL = """
name = "void"
stream = "stream.toml"
model = { name = "tiny", checkpoint = "random" }
adapter = { rank = 2, alpha = 2.0 }
fit = { epochs = 2, batch_size = 4 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of discs, each in a ring of level 254 beside a block of level 255; COCO's files say the same."""
    folder = tmp_path_factory.mktemp("void")
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for name in ("first", "second"):
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        images, annotations = [], []
        for number in range(6):
            distance = np.hypot(rows - generator.integers(14, 34), columns - generator.integers(14, 34))
            mask = np.select([distance < 8, distance < 12, rows > 42], [1, 254, 255], 0).astype(np.uint8)
            image = generator.integers(0, 128, (48, 48, 3)) + 100 * (mask == 1)[..., None]
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"images/{number}.png")
            Image.fromarray(mask).save(folder / name / f"masks/{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 48})
            for is_crowd, drawn in ((0, mask == 1), (1, mask > 1)):
                shape = {"size": [48, 48], "counts": runs(drawn)}
                row = {"image_id": number, "category_id": 1, "segmentation": shape, "iscrowd": is_crowd}
                annotations.append(row | {"id": len(annotations)})
        (folder / name / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def runs(mask: np.ndarray) -> list[int]:
    """COCO's lengths of runs, column by column, the first of background."""
    lengths = [len(list(group)) for _, group in groupby(mask.ravel(order="F").tolist())]
    return [0, *lengths] if mask[0, 0] else lengths


def record(
    folder: Path, *, method: str, of_void: int, ignored: str = "254, 255", isolated: bool = False, card: str = CARD
) -> Record:
    text = "".join(card.format(name=name, of_void=of_void, ignored=ignored) for name in ("first", "second"))
    (folder / "stream.toml").write_text('name = "void"\n' + text)
    (folder / "void.toml").write_text(PROTOCOL)
    config = resolve_run(method=method, protocol=str(folder / "void.toml"), isolated=isolated)
    results = folder / f"results-{of_void}-{ignored[:3]}-{isolated}-{card is CARD}"
    return Runner(open_experiment(config, results, isolated=isolated), results=results).run()


def scores(found: Record) -> str:
    return (found.folder / "scores.csv").read_text()


def test_whether_ignored_levels_are_foreground_changes_no_score(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three cards have the same samples by different rules; the last one ignores less.

    Training draws its order from the data's digest, which holds the rule, so here it is that of the keys.
    """
    monkeypatch.setattr(Manifest, "digest", property(lambda found: sha256_json([entry.key for entry in found.entries])))
    one, other = (scores(record(folder, method="finetune", of_void=level)) for level in VOID)
    assert one == other
    assert one == scores(record(folder, method="finetune", of_void=0, card=COCO))
    assert one != scores(record(folder, method="finetune", of_void=254, ignored="255"))


def test_a_run_says_how_many_samples_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "first", tmp_path / "first")
    Image.new("L", (48, 48)).save(tmp_path / "first/masks/3.png")
    card = CARD.format(name="first", of_void=255, ignored="254").replace("train = 4", "train = 3")
    (tmp_path / "stream.toml").write_text('name = "void"\n' + card)
    (tmp_path / "void.toml").write_text(PROTOCOL)
    experiment = open_experiment(resolve_run(method="frozen", protocol=str(tmp_path / "void.toml")), tmp_path)
    note = "first: 1 left out for having no foreground, or less than min_pixels; 5 samples are used."
    assert run_notes(experiment) == [note]


@pytest.mark.long
def test_isolated_methods_see_the_same(folder: Path) -> None:
    """Replay trains in the worker, on samples that it asks its parent for and on some from its memory."""
    here, isolated = (record(folder, method="er", of_void=254, isolated=isolated) for isolated in (False, True))
    assert scores(here) == scores(isolated)
