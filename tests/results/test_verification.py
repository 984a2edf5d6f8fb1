"""Verifying a record: what is right passes, and every kind of change is caught and named."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.quick_protocol import write_quick_protocol
from support.records import run_info

from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.run_info import read_run_info
from cosam_bench.results.verification import _compensated_sum, _means_of, verify_record


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run; tests copy it."""
    folder = tmp_path_factory.mktemp("verification")
    config = resolve_run(method="frozen", protocol=str(write_quick_protocol(folder)))
    return Runner(open_experiment(config, folder / "results"), results=folder / "results").run().folder


@pytest.fixture
def record(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "quick" / "frozen" / complete.name))


def replaced(path: Path, line: int, *, column: int, by: Callable[[str], str]) -> tuple[str, str]:
    """Change one value of a CSV; the old and the new one come back."""
    lines = path.read_text(encoding="utf-8").split("\n")
    values = lines[line - 1].split(",")
    old, values[column] = values[column], by(values[column])
    lines[line - 1] = ",".join(values)
    path.write_text("\n".join(lines), encoding="utf-8")
    return old, values[column]


def edited(folder: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]  # JSON of any form
    path = folder / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def faults(folder: Path) -> list[str]:
    return [str(fault) for fault in verify_record(folder).faults]


def next_float(text: str) -> str:
    return repr(math.nextafter(float(text), 0.5))


def test_a_complete_record_verifies(record: Path) -> None:
    found = verify_record(record)
    assert found.faults == found.notes == ()
    assert found.cells == 4 * 4 * 5  # steps, columns, metrics
    assert found.images == 4 * 4 * 3
    assert sorted(read_run_info(record / "run.json").files) == sorted(
        {path.name for path in record.iterdir()} - {"run.json"}
    )


def test_a_record_without_its_state_verifies_with_a_note(record: Path) -> None:
    (record / "state.safetensors").unlink()
    found = verify_record(record)
    assert found.faults == ()
    assert found.notes == ("not in the folder, so not checked: state.safetensors",)


def test_the_last_bit_of_a_cell_counts(record: Path) -> None:
    old, new = replaced(record / "matrix.csv", 7, column=3, by=next_float)
    edited(record, lambda data: data["files"].clear())
    found = faults(record)
    assert found[0].startswith("matrix.csv, line 7: iou of 'pill' after step 0 is " + new)
    assert f"expected {old}, the mean of 3 scores from line 5 of scores.csv on" in found[0]
    assert len(found) == 1


def test_a_step_that_is_missing_from_all_files_is_named(record: Path) -> None:
    for name in ("matrix.csv", "scores.csv"):
        lines = (record / name).read_text().splitlines(keepends=True)
        (record / name).write_text("".join(line for line in lines if not line.startswith("2,")))
    edited(record, lambda data: data["files"].clear())
    assert "scores.csv: 'pitting' has no scores after step 2." in faults(record)


def test_a_changed_count_is_named(record: Path) -> None:
    replaced(record / "matrix.csv", 2, column=4, by=lambda text: "30")
    assert any("matrix.csv, line 2: iou" in text and "counts 30 images, expected 3" in text for text in faults(record))


def test_a_changed_image_score_is_caught_by_its_cell_and_by_the_hash(record: Path) -> None:
    replaced(record / "scores.csv", 2, column=3, by=lambda text: "0.123")
    found = faults(record)
    assert found[0].startswith("scores.csv: its sha256 is ")
    assert found[1].startswith("matrix.csv, line 2: iou of 'pitting' after step 0 is ")
    assert len(found) == 2


@pytest.mark.parametrize("value", ["1.5", "-0.25", "nan", "much"])
def test_an_impossible_image_score_is_named_with_its_line(record: Path, value: str) -> None:
    replaced(record / "scores.csv", 4, column=4, by=lambda text: value)
    [found] = [text for text in faults(record) if text.startswith("scores.csv, line 4: ")]
    assert value in found


def test_a_changed_figure_of_the_summary_is_named(record: Path) -> None:
    edited(record, lambda data: data["summary"]["dice"].update(last=0.75))
    [found] = faults(record)
    assert found.startswith("run.json: 'summary.dice.last' is 0.75, expected 0.")


def test_a_figure_that_is_missing_is_noted(record: Path) -> None:
    edited(record, lambda data: data["summary"]["dice"].pop("last"))
    found = verify_record(record)
    assert found.faults == ()
    assert found.notes == ("only in run.json or only in this version, so not compared: dice.last",)


def test_a_changed_file_is_named_with_both_hashes(record: Path) -> None:
    right = read_run_info(record / "run.json").files["state.safetensors"]
    with (record / "state.safetensors").open("ab") as file:
        file.write(b"\0")
    [found] = faults(record)
    assert found.startswith("state.safetensors: its sha256 is ")
    assert found.endswith(f"expected {right} as in run.json.")


def test_a_changed_hash_is_caught(record: Path) -> None:
    edited(record, lambda data: data["files"].update({"config.toml": "0" * 64}))
    [found] = faults(record)
    assert found.startswith("config.toml: its sha256 is ")
    assert f"expected {'0' * 64}" in found


def test_a_hash_of_a_file_elsewhere_is_refused(record: Path) -> None:
    edited(record, lambda data: data["files"].update({"../secret": "0" * 64}))
    assert faults(record) == ["run.json: 'files' names '../secret', which is not a file of the record's own folder."]


def test_conditions_with_another_digest_are_caught(record: Path) -> None:
    edited(record, lambda data: data["conditions"].update(checkpoint="0" * 64))
    [found] = faults(record)
    assert "the record was edited" in found


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("name", ["scores.csv", "matrix.csv", "run.json", "config.toml"])
def test_a_truncated_file_is_named(record: Path, name: str, keep: float) -> None:
    data = (record / name).read_bytes()
    (record / name).write_bytes(data[: round(keep * len(data))])
    found = faults(record)
    assert any(text.startswith(name) for text in found)
    if name != "run.json":  # it is caught by its contents, too
        edited(record, lambda data: data["files"].clear())
        assert faults(record)


def test_scores_that_end_at_a_whole_line_are_caught_without_hashes(record: Path) -> None:
    path = record / "scores.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    edited(record, lambda data: data["files"].clear())
    found = faults(record)
    assert found[0] == "scores.csv, line 47: the 2 images of 'natural' after step 3 are not the 3 of step 0."
    assert "counts 3 images, expected 2" in found[1]


def test_an_image_that_is_scored_twice_is_caught(record: Path) -> None:
    path = record / "scores.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:4], lines[3], *lines[4:]]), encoding="utf-8")
    assert any(
        text.startswith("scores.csv, line 5: image ") and "second score after step 0" in text for text in faults(record)
    )


@pytest.mark.parametrize("name", ["scores.csv", "matrix.csv", "config.toml"])
def test_a_missing_file_is_named(record: Path, name: str) -> None:
    (record / name).unlink()
    assert f"{name}: the file is missing." in faults(record)


def test_a_run_json_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    [found] = faults(tmp_path)
    assert found.startswith("run.json: ")


def test_another_seed_in_run_json_or_the_configuration_is_named(record: Path) -> None:
    edited(record, lambda data: data.update(seed=7))
    assert faults(record) == ["run.json: 'seed' is 7, expected 0 as in its own 'config'."]
    edited(record, lambda data: data["config"].update(seed=7))
    assert faults(record) == ["config.toml: 'seed' is 0, expected 7 as in run.json."]


def test_another_method_in_run_json_is_named(record: Path) -> None:
    edited(record, lambda data: data.update(method="regcl"))
    assert faults(record) == ["run.json: 'method' is 'regcl', expected 'frozen' as in its own 'config'."]


def test_other_settings_in_run_json_are_named(record: Path) -> None:
    edited(record, lambda data: data.update(settings={"scale": 9.0}))
    assert faults(record) == ["run.json: 'settings.scale' is 9.0, expected None as in its own 'config'."]


def test_an_upper_bound_without_its_mark_is_named(record: Path) -> None:
    def as_experts(data: dict) -> None:  # type: ignore[type-arg]  # JSON of any form
        data.update(method="experts")
        data["config"].update(method="experts")

    edited(record, as_experts)
    without_mark = "run.json: 'marks' lacks 'upper bound', which experts has by its card."
    assert without_mark in faults(record)
    edited(record, lambda data: data.update(marks=["upper bound", "told the domain"]))
    assert not any("'marks'" in fault for fault in faults(record))


def test_a_mark_that_older_versions_did_not_know_may_be_missing(record: Path) -> None:
    def as_replay(data: dict) -> None:  # type: ignore[type-arg]  # JSON of any form
        data.update(method="er")
        data["config"].update(method="er")

    edited(record, as_replay)
    assert not any("'marks'" in fault for fault in faults(record))


def test_an_incomplete_record_does_not_verify(record: Path) -> None:
    edited(record, lambda data: data.update(status="failed"))
    assert faults(record) == [
        "run.json: 'status' is 'failed', expected 'complete'. Complete the record by the same run again."
    ]


def test_a_record_of_the_first_schema_verifies_with_a_note(record: Path) -> None:
    def older(data: dict[str, object]) -> None:
        del data["files"]
        data.update(schema=1, extra={})

    edited(record, older)
    found = verify_record(record)
    assert found.faults == ()
    assert "no hashes" in found.notes[0]


@pytest.mark.skipif("COSAM_BENCH_CASES" not in os.environ, reason="COSAM_BENCH_CASES names no folder of cases")
def test_a_record_whose_seed_was_edited_is_told_from_a_true_one() -> None:
    folder = Path(os.environ["COSAM_BENCH_CASES"]) / "leaderboard_mixes_versions" / "mix" / "mini" / "regcl"
    assert faults(folder / "4c8d68f22dc5") == []
    assert faults(folder / "aaaaaaaaaaaa") == ["config.toml: 'seed' is 0, expected 1 as in run.json."]


SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the built-in sum compensates from Python 3.12 on")
@given(SCORES)
def test_the_compensated_sum_is_the_built_in_one(values: list[float]) -> None:
    assert _compensated_sum(values) == sum(values)


@given(SCORES)
def test_the_compensated_sum_is_the_exact_one_to_the_last_bit_but_one(values: list[float]) -> None:
    exact = math.fsum(values)
    assert abs(_compensated_sum(values) - exact) <= math.ulp(exact)


def test_ten_tenths_are_one_from_python_3_12_on() -> None:
    assert _compensated_sum([0.1] * 10) == 1.0


def test_the_means_that_are_right_follow_from_the_python_of_the_run() -> None:
    assert _means_of(run_info(versions={"python": "3.11.7"}))([0.1] * 10) == (0.09999999999999999,)
    assert _means_of(run_info(versions={"python": "3.12.1"}))([0.1] * 10) == (0.09999999999999999, 0.1)
