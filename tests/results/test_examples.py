"""Example images of a record: chosen by score, read back as written, and refused when damaged."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.recorded import record

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_file
from cosam_bench.results.examples import FILE, choose, decode_mask, encode_image, encode_mask, read_examples
from cosam_bench.results.records import Record


def test_the_best_median_and_worst_are_those_of_sorting() -> None:
    rng = np.random.default_rng(0)
    for count in range(3, 12):
        scores = rng.random(count).tolist()
        ranked = sorted(scores)
        found = choose(scores, is_higher_better=True)
        wanted = [ranked[-1], ranked[(count - 1) // 2], ranked[0]]
        assert [scores[found[place]] for place in ("best", "median", "worst")] == wanted
        turned = choose(scores, is_higher_better=False)
        assert (turned["best"], turned["worst"]) == (found["worst"], found["best"])


def test_few_or_unknown_scores_give_fewer_places() -> None:
    assert choose([0.1, 0.2], is_higher_better=True) == {"best": 1, "worst": 0}
    assert choose([0.1, math.nan], is_higher_better=True) == {"best": 0}
    assert choose([math.nan], is_higher_better=True) == {}


def test_a_mask_is_read_back_bit_for_bit() -> None:
    mask = np.random.default_rng(0).random((17, 31)) < 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_a_large_image_becomes_a_thumbnail_of_its_colours() -> None:
    image = np.zeros((640, 320, 3), dtype=np.uint8)
    image[:, :, 0] = 200
    found = Image.open(io.BytesIO(base64.b64decode(encode_image(image))))
    assert found.size == (80, 160)
    assert np.abs(np.asarray(found, dtype=float).mean(axis=(0, 1)) - [200, 0, 0]).max() < 4


def test_examples_are_read_back_and_their_absence_is_no_error(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    found = read_examples(made)
    assert found is not None
    assert len(found.examples) == 4 * 3
    assert read_examples(record(tmp_path, method="old")) is None


def damaged(folder: Path, **changes: object) -> None:
    path = folder / "examples.json"
    data = json.loads(path.read_text())
    data["examples"][0] |= changes
    path.write_text(json.dumps(data))


def png(side: int) -> str:
    return encode_mask(np.zeros((side, side), dtype=np.bool_))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": '"><script>'}, "image"),
        ({"image": png(16)}, "cannot be decoded"),
        ({"truth": png(15)}, "no PNG of 16 x 16"),
        ({"after": png(400)}, "at most 160"),
        ({"width": 4000}, "width"),
        ({"place": "second"}, "place"),
        ({"more": 1}, "more"),
    ],
)
def test_damaged_examples_are_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    made = record(tmp_path, method="regcl", side=16)
    damaged(made.folder, **changes)
    with pytest.raises(CosamError, match=message) as found:
        read_examples(made)
    assert "examples.json" in str(found.value)


def test_examples_of_a_domain_that_the_run_has_not_are_refused(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    damaged(made.folder, domain="../../elsewhere/x")
    with pytest.raises(CosamError, match="is no domain of this run"):
        read_examples(made)


def test_examples_that_were_changed_since_the_run_are_refused(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    hashed = Record(made.folder, made.info.model_copy(update={"files": {FILE: sha256_file(made.folder / FILE)}}))
    assert read_examples(hashed) is not None
    damaged(made.folder, score_after=0.999)
    with pytest.raises(CosamError, match="was changed since the run"):
        read_examples(hashed)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    path = made.folder / "examples.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CosamError, match="cannot be read"):
        read_examples(made)
