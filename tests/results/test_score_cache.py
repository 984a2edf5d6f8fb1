"""The cache of image scores: the same numbers whatever is in it, and never an error."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.recorded import record

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import is_temporary
from cosam_bench.core.hashing import sha256_file
from cosam_bench.evaluation.contributions import RunScores
from cosam_bench.results import score_cache
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.records import Record
from cosam_bench.results.score_cache import cached_image_scores


@pytest.fixture
def made(tmp_path: Path) -> Record:
    (tmp_path / "_shared").mkdir()
    return record(tmp_path, method="regcl")


def files(made: Record) -> list[Path]:
    return sorted((made.folder.parents[2] / "_shared").rglob("*"))


def cache_file(made: Record) -> Path:
    (found,) = [path for path in files(made) if path.is_file()]
    return found


def assert_same(one: RunScores, other: RunScores) -> None:
    assert (one.metric, one.seed, one.domains, one.retention) == (
        other.metric,
        other.seed,
        other.domains,
        other.retention,
    )
    assert dict(one.keys) == dict(other.keys)
    assert list(one.values) == list(other.values)
    for name, table in one.values.items():
        np.testing.assert_array_equal(table, other.values[name])


def without_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(score_cache, "parse_image_scores", fail)


@pytest.mark.parametrize("metric", ["iou", "mae"])
def test_the_second_reading_comes_from_the_cache_to_the_last_bit(
    made: Record, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_image_scores(made, metric=metric)
    assert_same(cached_image_scores(made, metric=metric), expected)
    without_parsing(monkeypatch)
    assert_same(cached_image_scores(made, metric=metric), expected)


def test_scores_that_are_read_from_the_cache_count_as_used(made: Record) -> None:
    cached_image_scores(made)
    os.utime(cache_file(made), (0, 0))
    cached_image_scores(made)
    assert time.time() - cache_file(made).stat().st_mtime < 60


def test_scores_that_were_not_measured_stay_unknown(made: Record) -> None:
    path = made.folder / "scores.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("2,")))
    cached_image_scores(made)
    found = cached_image_scores(made)
    assert np.isnan(found.values["pill"][2]).all()
    assert_same(found, read_image_scores(made))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, replace_by_a_folder])
def test_a_damaged_file_changes_no_number(made: Record, damage: Callable[[Path], None]) -> None:
    cached_image_scores(made)
    damage(cache_file(made))
    assert_same(cached_image_scores(made), read_image_scores(made))


def test_a_damaged_file_is_written_again(made: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_image_scores(made)
    truncate(cache_file(made))
    expected = cached_image_scores(made)
    without_parsing(monkeypatch)
    assert_same(cached_image_scores(made), expected)


def test_a_changed_scores_csv_is_read_again(made: Record) -> None:
    before = cached_image_scores(made).values["pill"][0, 0]
    path = made.folder / "scores.csv"
    header, first, rest = path.read_text().split("\n", 2)
    cells = first.split(",")
    path.write_text("\n".join([header, ",".join([*cells[:3], "0.125", *cells[4:]]), rest]))
    assert cached_image_scores(made).values["pill"][0, 0] == 0.125 != before


def test_the_file_of_another_record_under_this_ones_name_is_not_used(made: Record, tmp_path: Path) -> None:
    cached_image_scores(made)
    mine = cache_file(made)
    cached_image_scores(record(tmp_path, method="other"))
    (theirs,) = [path for path in mine.parent.iterdir() if path != mine]
    shutil.copy(theirs, mine)
    assert_same(cached_image_scores(made), read_image_scores(made))


def test_a_folder_that_cannot_be_written_is_left_alone(made: Record) -> None:
    (made.folder.parents[2] / "_shared" / "image_scores").write_text("a file where the folder belongs")
    assert_same(cached_image_scores(made), read_image_scores(made))


def test_a_full_or_read_only_disk_is_no_error(made: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    expected = read_image_scores(made)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert_same(cached_image_scores(made), expected)
    assert [path for path in files(made) if path.is_file()] == []


def test_a_folder_of_records_alone_gets_no_cache(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl")
    assert_same(cached_image_scores(made), read_image_scores(made))
    assert not (tmp_path / "_shared").exists()


def test_a_record_without_scores_is_refused_as_ever(made: Record) -> None:
    (made.folder / "scores.csv").unlink()
    with pytest.raises(CosamError, match=r"scores\.csv cannot be read"):
        cached_image_scores(made)


def test_what_a_killed_process_left_is_known_as_temporary(made: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def remember(path: Path, content: bytes) -> int:
        written.append(path)
        return len(content)

    monkeypatch.setattr(Path, "write_bytes", remember)
    cached_image_scores(made)
    assert [is_temporary(path) for path in written] == [True]


def test_scores_that_were_edited_since_the_run_are_refused(made: Record) -> None:
    path = made.folder / "scores.csv"
    files = {"scores.csv": sha256_file(path)}
    hashed = Record(made.folder, made.info.model_copy(update={"files": files}))
    assert_same(cached_image_scores(hashed), read_image_scores(made))
    path.write_text(path.read_text().replace("test-0", "test-9"))
    with pytest.raises(CosamError, match="was changed since the run"):
        cached_image_scores(hashed)
