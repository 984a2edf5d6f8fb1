"""The table of scales of made records: which runs count, what is left out, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.recorded import ORDER
from support.recorded import record as made
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.scales import ScaleScore
from cosam_bench.results.records import Record, RecordWriter
from cosam_bench.results.results_folder import read_scale_table
from cosam_bench.results.scale_table import scale_table


def record(
    results: Path, method: str, *, last: float = 0.5, started: str = "", scales: tuple[float, ...] = (1.0, 2.0)
) -> Record:
    """A record with the test score ``last`` at each scale after each step."""
    plain = made(results, method=method)
    changes = {"config": {**plain.info.config, "scales": list(scales)}, "started": started or plain.info.started}
    info = plain.info.model_copy(update=changes)
    writer = RecordWriter(plain.folder)
    writer.write_info(info)
    writer.write_scales(
        [
            ScaleScore(step, scale, part, domain, "iou", last, 5)
            for step in range(1, len(ORDER) + 1)
            for scale in scales
            for part in ("held_out", "test")
            for domain in (*ORDER, "natural")
        ]
    )
    return Record(plain.folder, info)


def test_of_repeated_runs_the_last_one_counts_and_a_note_names_the_other(tmp_path: Path) -> None:
    first = record(tmp_path / "first", "opcm", last=0.4, started="2026-01-01T00:00:00+00:00")
    again = record(tmp_path / "again", "opcm", last=0.6, started="2026-01-02T00:00:00+00:00", scales=(1.0, 4.0))
    frame = scale_table([again, first])
    (row,) = frame.to_dict("records")
    assert row["runs"] == 1
    assert frame.attrs["curve"] == ("last_at_1", "last_at_4")
    assert (row["last_at_1"], row["last_at_4"]) == pytest.approx((0.6, 0.6))
    (note,) = frame.attrs["notes"]
    assert note == f"Left out: {first.name} repeats the seed and order of {again.name}."


@pytest.mark.parametrize("line", ["", "1,0.0,held_out,pill,iou,0.5,5\n", "9,1.0,test,pill,iou,0.5,5\n"])
def test_a_damaged_file_leaves_out_its_run_alone(tmp_path: Path, line: str) -> None:
    good, bad = record(tmp_path, "opcm"), record(tmp_path, "average")
    path = bad.folder / "scales.csv"
    path.write_text(path.read_text() + line if line else "step,scale\n")
    frame = read_scale_table(tmp_path)
    assert list(frame["method"]) == ["opcm"]
    (note,) = frame.attrs["notes"]
    assert note.startswith(f"Left out: {path}")
    (good.folder / "scales.csv").write_text("step,scale\n")
    with pytest.raises(CosamError, match=r"(?s)No record in .* can be read.*average.*opcm"):
        read_scale_table(tmp_path)


def test_the_csv_holds_no_formulas(tmp_path: Path) -> None:
    record(tmp_path, "=cmd")
    path = tmp_path / "scales.csv"
    result = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path), "--scales", "--csv", str(path)])
    assert result.exit_code == 0, result.output
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["method"] == "'=cmd"
    assert float(row["last_at_2"]) == scale_table([record(tmp_path, "=cmd")])["last_at_2"][0]
