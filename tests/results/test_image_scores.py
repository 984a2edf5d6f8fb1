"""Image scores: bit for bit as written, and damaged files are named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import RunInfo

HEAD = "step,domain,key,iou,mae\n"
ROWS = "0,a,x,0.1,0.2\n0,a,y,0.30000000000000004,0.5\n1,a,y,0.7,0.1\n1,r,z,1.0,0.0\n"


def record(folder: Path, text: str) -> Record:
    (folder / "scores.csv").write_text(text, encoding="utf-8")
    info = RunInfo.model_construct(seed=3, order=("a",), retention=("r",))
    return Record(folder, info)


def test_each_image_has_its_row(tmp_path: Path) -> None:
    found = read_image_scores(record(tmp_path, HEAD + ROWS))
    assert (found.seed, found.domains, found.retention) == (3, ("a",), ("r",))
    assert found.keys == {"a": ("x", "y"), "r": ("z",)}
    assert found.values["a"][0].tolist() == [0.1, 0.30000000000000004]
    assert math.isnan(found.values["a"][1, 0])
    assert np.isnan(found.values["r"][0]).all()
    assert read_image_scores(record(tmp_path, HEAD + ROWS), metric="mae").values["a"][1, 1] == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns nothing"),
        ("step,domain,iou\n", "expected step, domain, key and iou"),
        (HEAD + "0,a,x,0.1\n", "line 2: 4 values, expected 5"),
        (HEAD + "0,a,x,much,0\n", "line 2: could not convert"),
        (HEAD + "0,a,x,nan,0\n", r"line 2: iou is nan, outside \[0, 1\]"),
        (HEAD + "0,a,x,1.5,0\n", r"iou is 1.5, outside"),
        (HEAD + "2,a,x,0.5,0\n", "step 2 of domain 'a' is not part of this run"),
        (HEAD + "0,b,x,0.5,0\n", "domain 'b' is not part"),
        (HEAD + "0,a,x,0.5,0\n0,a,x,0.5,0\n", "line 3: image 'x' of 'a' has a second score after step 0"),
        (HEAD + '0,a,"x,0.5,0\n', "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=message):
        read_image_scores(record(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    one = record(tmp_path, HEAD)
    (tmp_path / "scores.csv").unlink()
    with pytest.raises(CosamError, match=r"scores\.csv cannot be read"):
        read_image_scores(one)


def test_a_domain_without_any_score_is_named(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="has no score of domain 'r'"):
        read_image_scores(record(tmp_path, HEAD + "0,a,x,0.1,0.2\n"))
