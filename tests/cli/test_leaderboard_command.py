"""``cosam-bench leaderboard`` and ``compare``: what they print, write and refuse."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.command_line import words
from support.recorded import record
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.results import row_intervals

LONG = "a_method_with_a_very_long_name_from_somebodys_package"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    for seed in (0, 1):
        record(folder, method="regcl", seed=seed, level=0.7)
        record(folder, method="opcm", seed=seed, level=0.68)
    record(folder, method="ties", settings={"keep": 0.2}, level=0.3)
    record(folder, method="ties", settings={"keep": 0.5}, level=0.3)
    record(folder, method="joint", level=0.9, marks=("upper bound",))
    record(folder, method=LONG, level=0.2)
    record(folder, method="stopped", status="interrupted")
    record(folder, method="elsewhere", checkpoint="other")
    return folder


@pytest.fixture
def invoke(results: Path) -> Callable[..., Result]:
    def run(*arguments: str, columns: int = 160) -> Result:
        command = [arguments[0], "--results", str(results), *arguments[1:]]
        return CliRunner().invoke(app, command, env={"COLUMNS": str(columns)})

    return run


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_table_fits_and_cuts_no_name(invoke: Callable[..., Result], columns: int) -> None:
    found = invoke("leaderboard", columns=columns)
    assert found.exit_code == 0, found.output
    assert max(map(len, found.stdout.splitlines())) <= columns
    for name in ("regcl", "opcm", "keep=0.2", "keep=0.5", "joint*", "elsewhere"):
        assert name in found.stdout
    assert "…" not in found.stdout
    assert LONG in "".join(line.split(" ")[1] for line in found.stdout.splitlines() if line.startswith(" "))
    assert {"Last", "FF", "Avg"} <= set(words(found.stdout).split())
    assert "* upper bound" in found.stdout
    assert "with 1 run the interval is of images only and says nothing about the seed" in words(found.stdout)


def test_incomplete_runs_and_unlike_conditions_are_named(invoke: Callable[..., Result]) -> None:
    text = words(invoke("leaderboard").stdout)
    assert "Left out because they are not complete: made/stopped/" in text
    assert "are not comparable and listed apart: they differ in the model's weights" in text
    assert text.count("best Last first") == 2
    assert "stopped " not in text.split("Note:")[0]


def test_ranks_and_ties_are_in_the_table(invoke: Callable[..., Result]) -> None:
    lines = invoke("leaderboard", "--method", "regcl,opcm,ties").stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["regcl"][:3] == ["regcl", "2", "1-2≈"]
    assert rows["opcm"][:3] == ["opcm", "2", "1-2≈"]
    assert rows["ties"][:3] == ["ties", "1", "3-4"]
    assert "≈ rank not separable from the leader's" in [line.strip() for line in lines]


def test_filters_sort_and_domains_reach_the_table(invoke: Callable[..., Result]) -> None:
    found = invoke("leaderboard", "--method", "regcl,opcm", "--seeds", "1", "--sort", "-ff", "--domains", "pill,polyp")
    assert "over pill, polyp alone, worst FF first" in words(found.stdout)
    assert "joint" not in found.stdout
    kept = invoke("leaderboard", "--setting", "keep=0.5", "--format", "csv").stdout
    assert [row["settings"] for row in csv.DictReader(io.StringIO(kept))] == ['{"keep": 0.5}']


def test_without_intervals_no_image_scores_are_read(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("image scores were read")

    monkeypatch.setattr(row_intervals, "cached_image_scores", fail)
    found = invoke("leaderboard", "--no-intervals", "--method", "regcl,opcm")
    assert found.exit_code == 0
    assert "rank" not in found.stdout


def test_formats_are_printed_whole_or_written(invoke: Callable[..., Result], tmp_path: Path) -> None:
    printed = invoke("leaderboard", "--format", "json", columns=80).stdout
    rows = json.loads(printed)
    assert {row["method"] for row in rows} >= {"regcl", LONG}
    out = tmp_path / "board.md"
    written = invoke("leaderboard", "-f", "markdown", "--out", str(out))
    assert written.stdout == ""
    assert f"Written: {out}" in words(written.stderr)
    assert out.read_text().startswith("**made (version 1), conditions ")


def test_the_csv_option_writes_all_intervals_beside_the_table(invoke: Callable[..., Result], tmp_path: Path) -> None:
    found = invoke("leaderboard", "--csv", str(tmp_path / "a.csv"), "--method", "regcl,opcm")
    assert f"Written: {tmp_path / 'a.csv'} (2 rows)" in found.stdout
    printed = invoke("leaderboard", "--format", "csv", "--method", "regcl,opcm").stdout
    assert (tmp_path / "a.csv").read_text() == printed
    assert all(row["ff_max_low"] and row["rank_best"] for row in csv.DictReader(io.StringIO(printed)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sort", "lats"), "No column of the leaderboard is called 'lats'. Did you mean 'last'"),
        (("--method", "regcm"), "Did you mean 'regcl'"),
        (("--method", ","), "--method is empty"),
        (("--domains", ","), "--domains is empty"),
        (("--domains", "pil"), "Did you mean 'pill'"),
        (("--domains", "pill", "--with-published"), "Published numbers are means over all domains"),
        (("--seeds", "4-0"), "--seeds '4-0' is not a seed or a range of them"),
        (("--seeds", "-1"), "is not a seed or a range"),
        (("--seeds", "2-99999999999"), "No record here has the seed 2-99999999999. Found: 0, 1."),
        (("--orders", "random:3"), "No record here has the order 'random:3'"),
        (("--level", "95"), "between 0 and 1"),
        (("--format", "xlsx"), "No format is called 'xlsx'. Offered: csv, json, latex, markdown, tidy"),
        (("--out", "board.md"), "--out writes a format"),
        (("--format", "csv", "--out", "/dev/null/board.csv"), "cannot be written"),
        (("--csv", "/dev/null/board.csv"), "cannot be written"),
        (("--metric", "iuo"), "Did you mean 'iou'"),
    ],
)
def test_bad_requests_end_with_code_2(invoke: Callable[..., Result], arguments: tuple[str, ...], message: str) -> None:
    found = invoke("leaderboard", *arguments)
    assert found.exit_code == 2, found.output
    assert message in words(found.stderr)
    assert "Traceback" not in found.output


def test_compare_prints_the_difference_and_where_it_comes_from(invoke: Callable[..., Result]) -> None:
    found = invoke("compare", "regcl", "ties", columns=80)
    assert found.exit_code == 2
    assert "several settings" in words(found.stderr)
    found = invoke("compare", "regcl", "joint", "--by", "domain", "--images", "3", columns=80)
    assert found.exit_code == 0, found.output
    assert max(map(len, found.stdout.splitlines())) <= 80
    text = words(found.stdout)
    assert re.search(r"difference: -0\.\d{3} \[-0\.\d{3}, -0\.\d{3}\], 95% interval, p < 0\.001 joint is better", text)
    assert "based on 1 common seed, 1 order and 15 images of 3 domains" in text
    assert "With one run the interval is of images only and says nothing about the seed or order." in text
    assert {"pill", "polyp", "rim"} <= {line.split(" ")[0] for line in found.stdout.splitlines()}
    assert len(re.findall(r"test-\d", text)) == 3


def test_compare_of_several_seeds_speaks_of_runs_too(invoke: Callable[..., Result]) -> None:
    text = words(invoke("compare", "regcl", "opcm", "--images", "0").stdout)
    assert "based on 2 common seeds" in text
    assert "images only" not in text
    assert "test-" not in text


def test_what_does_not_differ_shows_no_image(invoke: Callable[..., Result]) -> None:
    text = words(invoke("compare", "regcl", "regcl").stdout)
    assert "+0.000 [+0.000, +0.000], 95% interval, p = 1.000 The two cannot be told apart" in text
    assert "Images that differ" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("regcl", "nothing"), "No record in"),
        (("regcl", "stopped"), "'stopped' has no complete run"),
        (("regcl", "elsewhere"), "they differ in the model's weights"),
        (("regcl", "opcm", "--figure", "ff_max"), "ff_max is not linear"),
        (("regcl", "opcm", "--by", "image"), "'domain'"),
        (("regcl", "opcm", "--images", "-1"), "--images is -1. Give 0 or more"),
        (("regcl", "opcm", "--level", "1"), "between 0 and 1"),
        (("regcl", "opcm", "--level", "nan"), "--level is nan. Give a finite number"),
    ],
)
def test_comparisons_that_cannot_be_made_end_with_code_2(
    invoke: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    found = invoke("compare", *arguments)
    assert found.exit_code == 2, found.output
    assert message in words(found.stderr)
    assert "Traceback" not in found.output
