from __future__ import annotations

import hashlib
import io
import json
import math
import re
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save
from support.records import run_info

from cosam_bench.cli.matrix_table import render_matrix, render_summary
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.evaluation.scoring import ImageScore
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.merging.updates import Update
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.records import (
    Record,
    RecordWriter,
    read_cells,
    record_folder,
)
from cosam_bench.results.results_folder import find_records, load_record
from cosam_bench.results.run_info import Cost, read_run_info

CELLS = [
    Cell(step, domain, metric, (step + 1) / 7 + 0.1 * place, 12)
    for step in range(3)
    for place, domain in enumerate(("pill", "camo", "photo"))
    for metric in METRICS
]


def record(results: Path, *, digest: str = "0123456789abcdef", **changes: Any) -> Path:
    info = run_info(**changes)
    folder = record_folder(results, protocol=info.protocol, method=info.method, digest=digest)
    writer = RecordWriter(folder)
    writer.write_info(info)
    writer.write_matrix(CELLS)
    return folder


def image_scores(*values: float) -> list[ImageScore]:
    return [ImageScore(f"image {index}, of many", dict.fromkeys(METRICS, value)) for index, value in enumerate(values)]


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Writing past this size fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = record(tmp_path)
    assert folder == tmp_path / "mini" / "regcl" / "0123456789ab"
    found = load_record(folder, results=tmp_path)
    assert found.name == "mini/regcl/0123456789ab"
    expected = run_info()
    assert found.info.model_dump(exclude={"summary", "cost"}) == expected.model_dump(exclude={"summary", "cost"})
    assert found.info.cost.total_train_seconds == 3.75
    assert math.isnan(found.info.cost.encoder_passes_per_image)
    assert found.info.summary["iou"]["last"] == 1 / 3
    assert math.isnan(found.info.summary["iou"]["ff"])
    matrix = found.score_matrix("dice")
    assert matrix.domains == ("pill", "camo")
    assert matrix.retention == ("photo",)
    assert matrix.values[2, 2] == 3 / 7 + 0.1 * 2
    assert matrix.count.min() == matrix.count.max() == 12


def test_a_record_that_lacks_a_metric_or_a_figure_is_read_and_gives_nan(tmp_path: Path) -> None:
    folder = record(tmp_path)
    RecordWriter(folder).write_matrix(cell for cell in CELLS if cell.metric != "dice")
    path = folder / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["summary"] = {"iou": {"last": 0.5}, "metric of another version": {"figure of another version": None}}
    path.write_text(json.dumps(data), encoding="utf-8")
    found = load_record(folder, results=tmp_path)
    assert np.isnan(found.matrix("dice").values).all()
    assert not np.isnan(found.matrix("iou").values).any()
    row = leaderboard([found], metric="dice").iloc[0]
    assert row["runs"] == 1
    assert all(math.isnan(row[name]) for name in FIGURES)
    assert row["train_seconds"] == 3.75
    shown = io.StringIO()
    Console(file=shown, width=120).print(render_summary(found), render_matrix(found, "dice"))
    assert "Dice" in shown.getvalue()


def test_extra_figures_of_an_old_record_are_dropped(tmp_path: Path) -> None:
    path = record(tmp_path) / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert "extra" not in data
    path.write_text(json.dumps(data | {"schema": 1, "extra": {}}), encoding="utf-8")
    assert read_run_info(path) == read_run_info(record(tmp_path / "new") / "run.json")


def test_run_json_is_plain_json_with_the_schema_first(tmp_path: Path) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (record(tmp_path) / "run.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=no_constant)
    assert next(iter(data)) == "schema"
    assert data["summary"]["iou"] == {"last": 1 / 3, "ff": None}
    assert text.endswith("}\n")


def test_the_same_matrix_gives_the_same_bytes_in_any_order_of_arrival(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write_matrix(CELLS)
    first = (tmp_path / "matrix.csv").read_bytes()
    writer.write_matrix(sorted(CELLS, key=lambda cell: (-cell.step, CELLS.index(cell) // 4, cell.metric)))
    assert (tmp_path / "matrix.csv").read_bytes() == first
    lines = first.decode().split("\n")
    assert lines[0] == "step,domain,metric,value,count"
    assert lines[1] == f"0,pill,iou,{1 / 7!r},12"
    assert lines[-1] == ""
    assert b"\r" not in first
    assert read_cells(tmp_path / "matrix.csv") == CELLS


@given(st.floats(0, 1), st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_value_and_name_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, value: float, name: str
) -> None:
    folder = tmp_path_factory.mktemp("record")
    cells = [Cell(0, name, "iou", value, 1)]
    RecordWriter(folder).write_matrix(cells)
    assert read_cells(folder / "matrix.csv") == cells


def test_scores_are_written_step_by_step_and_image_by_image(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    steps = {
        1: {"pill": image_scores(0.6)},
        0: {"pill": image_scores(0.1, 0.2), "camo": [ImageScore("d", {"iou": 0.75})]},
    }
    for number in (1, 2):
        writer.write_scores(dict(list(steps.items())[:number]))
    header, *lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("step,domain,key,iou,boundary_iou,dice,mae,pixel_error")
    assert lines == [
        *(
            f"{place},{','.join([value] * len(METRICS))}"
            for place, value in (('0,pill,"image 0, of many"', "0.1"), ('0,pill,"image 1, of many"', "0.2"))
        ),
        "0,camo,d,0.75" + ",nan" * (len(METRICS) - 1),
        f"""1,pill,"image 0, of many",{",".join(["0.6"] * len(METRICS))}""",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-0.01", "1.01", "1e300"])
def test_a_score_that_the_metric_cannot_have_is_refused_by_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "matrix.csv"
    path.write_text(f"step,domain,metric,value,count\n0,pill,iou,0.5,3\n1,pill,iou,{value},3\n", encoding="utf-8")
    with pytest.raises(CosamError, match=re.escape(f"matrix.csv, line 3: iou is {float(value)}, outside [0, 1]")):
        read_cells(path)
    path.write_text(f"step,domain,metric,value,count\n0,pill,another,{value},3\n", encoding="utf-8")
    assert len(read_cells(path)) == 1, "nobody knows its range"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write_matrix(CELLS[:4])
    before = (tmp_path / "matrix.csv").read_bytes()
    with largest_file(300), pytest.raises(CosamError, match=r"matrix\.csv cannot be written"):
        writer.write_matrix(CELLS)
    assert (tmp_path / "matrix.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.csv"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "mini").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(CosamError, match=r"run\.json cannot be written"):
        record(tmp_path)


def test_names_that_file_systems_refuse_become_folders(tmp_path: Path) -> None:
    folder = record_folder(tmp_path, protocol="_shared", method="../my file.py:Class", digest="ab" * 32)
    assert folder == tmp_path / "shared" / "my-file.py-Class" / "abababababab"


@pytest.mark.parametrize(
    "asked",
    ["mini/regcl/01", "regcl/01", "01", "0123456789ab", "regcl", "mini/regcl", "real/moda/f", "moda", "real"],
)
def test_a_record_is_found_by_what_makes_it_unique(tmp_path: Path, asked: str) -> None:
    record(tmp_path)
    record(tmp_path, digest="feedfeedfeedfeed", protocol="real", method="moda")
    found = load_record(asked, results=tmp_path)
    assert found.info.method == ("moda" if asked in ("real/moda/f", "moda", "real") else "regcl")


def test_a_record_is_found_by_its_path(tmp_path: Path) -> None:
    folder = record(tmp_path)
    nowhere = tmp_path / "nowhere"
    assert load_record(str(folder), results=nowhere).folder == folder
    assert load_record(str(folder / "run.json"), results=nowhere).folder == folder


def test_a_name_that_fits_none_or_several_lists_what_there_is(tmp_path: Path) -> None:
    record(tmp_path)
    record(tmp_path, digest="0123ffffffffffff", seed=4)
    with pytest.raises(
        CosamError, match=r"2 records fit '0123'.*(?s:.*)mini/regcl/0123456789ab.*\n  mini/regcl/0123fff"
    ):
        load_record("0123", results=tmp_path)
    with pytest.raises(CosamError, match=r"No record in .* fits 'trm'\. Offered: mini/regcl/"):
        load_record("trm", results=tmp_path)
    with pytest.raises(CosamError, match=r"No folder .*nowhere\. Give another folder of results"):
        load_record("trm", results=tmp_path / "nowhere")


def test_damaged_records_are_problems_and_the_others_are_read(tmp_path: Path) -> None:
    record(tmp_path)
    record(tmp_path, digest="aaaaaaaaaaaaaaaa")
    bad = record(tmp_path, digest="bbbbbbbbbbbbbbbb")
    (bad / "run.json").write_text('{"schema": 1, "proto', encoding="utf-8")
    shared = tmp_path / "_shared" / "experts" / "cc" / "run.json"
    shared.parent.mkdir(parents=True)
    shared.write_text("{}", encoding="utf-8")
    records, problems = find_records(tmp_path)
    assert [found.name for found in records] == ["mini/regcl/0123456789ab", "mini/regcl/aaaaaaaaaaaa"]
    assert len(problems) == 1
    assert str(bad / "run.json") in problems[0]


def test_results_that_do_not_exist_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="No folder"):
        find_records(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run\.json cannot be read"),
        ("[1, 2]", "is not a record of a run"),
        ('{"protocol": "mini"}', "schema 0.*older version"),
        ('{"schema": 99}', "schema 99.*reads schema 1, 2.*update cosam-bench"),
        ('{"schema": true}', "Another program"),
        ('{"schema": [1]}', "Another program"),
        ('{"schema": "benchopt"}', "Another program"),
        ('{"schema": 1, "protocol": "mini"}', "'method' is missing"),
        ('{"schema": 1, "methud": "regcl"}', "did you mean 'method'"),
    ],
)
def test_a_run_json_of_another_form_says_so_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CosamError, match=message) as caught:
        read_run_info(path)
    assert str(path) in str(caught.value)


def test_a_run_json_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CosamError, match="cannot be read"):
        read_run_info(tmp_path / "run.json")


def test_conditions_that_were_edited_are_refused(tmp_path: Path) -> None:
    path = record(tmp_path) / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"pill": "aa"', '"pill": "ab"'), encoding="utf-8")
    with pytest.raises(CosamError, match="the record was edited"):
        read_run_info(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with nothing"),
        ("step,domain\n", "begins with step, domain, expected the columns"),
        ("step,domain,metric,value,count\n0,pill,iou\n", "line 2, has 3 values, expected 5"),
        ("step,domain,metric,value,count\n0,pill,iou,much,4\n", "line 2: could not convert"),
        ("step,domain,metric,value,count\n0,tile,iou,0.5,4\n", "No domain of this run is called 'tile'"),
        ("step,domain,metric,value,count\n0,pill,iou,0.5,4\n0,pill,iou,0.5,4\n", "twice"),
    ],
)
def test_a_damaged_matrix_names_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "matrix.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CosamError, match=message) as caught:
        Record(tmp_path, run_info()).score_matrix()
    assert str(tmp_path / "matrix.csv") in str(caught.value)


def test_a_record_without_a_matrix_says_so(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"matrix\.csv cannot be read"):
        Record(tmp_path, run_info()).score_matrix()


@pytest.mark.parametrize(
    ("state_bytes", "grows"),
    [
        ((), None),
        ((500,), None),
        ((500, 900), None),
        ((500, 900, 900), False),
        ((500, 900, 900, 1000), True),
        ((500, 900, 800, 900), False),
        ((500, 900, 964), False),  # a number that is written with more digits
        ((500, 900, 900, 965), True),
    ],
)
def test_a_state_grows_when_it_gets_larger_than_after_step_two(
    state_bytes: tuple[int, ...], grows: bool | None
) -> None:
    assert Cost(state_bytes=state_bytes).state_grows is grows


def test_the_outcome_is_kept_without_a_copy_in_memory(tmp_path: Path) -> None:
    config = SimpleNamespace(protocol=SimpleNamespace(name="mini"))
    experiment = SimpleNamespace(config=config, method_name="regcl", digest="0123456789abcdef", steps=(0, 1))
    running = RunningRecord(experiment, results=tmp_path)  # type: ignore[arg-type]  # all that it looks at here
    state = running.state_file(1)
    state.parent.mkdir(parents=True)
    state.write_bytes(bytes(range(256)) * 16_384)
    served = Update(dense={"w": torch.arange(1_000_000.0)})
    tracemalloc.start()
    try:
        running.keep_outcome(served)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (running.folder / "state.safetensors").read_bytes() == state.read_bytes()
    assert (running.folder / "update.safetensors").read_bytes() == save(served.tensors())
    assert peak < 1_000_000


@pytest.mark.parametrize("name", ["matrix.csv", "state.safetensors"])
def test_a_file_that_was_changed_after_the_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"step,domain")
    files = {name: hashlib.sha256(b"step,domain").hexdigest()}
    found = Record(tmp_path, run_info(files=files))
    assert found.checked_file(name) == tmp_path / name
    (tmp_path / name).write_bytes(b"step,domaim")
    with pytest.raises(CosamError, match=rf"{name} was changed since the run wrote it"):
        found.checked_file(name)


@pytest.mark.parametrize("has_results", [False, True])
def test_a_folder_that_is_no_record_is_named_as_such(tmp_path: Path, has_results: bool) -> None:
    merged, results = tmp_path / "merged", tmp_path / "results"
    merged.mkdir()
    if has_results:
        results.mkdir()
    with pytest.raises(CosamError, match=f"{merged} is not the record of a run: it has no run.json. Give the folder"):
        load_record(merged, results=results)
