"""The leaderboard as CSV, JSON, Markdown and LaTeX: full precision, and names with every odd character as text."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas
import pytest
from support.recorded import record

from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.results.leaderboard import COLUMNS, leaderboard
from cosam_bench.results.leaderboard_formats import FORMATS, csv_text, json_text, latex, markdown, tidy

ODD = ["=1+1", "+a", "-b", "@c", "a|b", "a_b & 50% $x$ #{y}~^\\", "`<script>*[z]*", 'say "hi", now', "été"]


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pandas.DataFrame:
    folder = tmp_path_factory.mktemp("odd")
    made = [record(folder, method=name, level=0.2 + 0.05 * place) for place, name in enumerate(ODD)]
    made += [record(folder, method="two", seed=seed, settings={"ridge": 0.1}) for seed in (0, 1)]
    made += [record(folder, method="two", settings={"ridge": 0.2}, marks=("upper bound",))]
    return leaderboard(made, intervals=tuple(FIGURES))


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_every_column_in_full_precision(frame: pandas.DataFrame) -> None:
    rows = parsed(csv_text(frame))
    assert list(rows[0]) == list(COLUMNS)
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        for name in FIGURES:
            for column in (name, f"{name}_std", f"{name}_low", f"{name}_high"):
                value = expected[column]
                assert row[column] == ("" if pandas.isna(value) else repr(float(value))), column


def test_no_text_of_a_csv_runs_as_a_formula(frame: pandas.DataFrame) -> None:
    for text in (csv_text(frame), FORMATS["tidy"](frame)):
        names = {row["method"] for row in parsed(text)}
        assert {"'=1+1", "'+a", "'-b", "'@c"} <= names
        assert names - {"'=1+1", "'+a", "'-b", "'@c"} == {*ODD[4:], "two"}


def test_the_tidy_csv_has_one_row_per_method_and_figure(frame: pandas.DataFrame) -> None:
    table = tidy(frame)
    known = {
        (row["method"], row["settings"], name)
        for _, row in frame.iterrows()
        for name in FIGURES
        if row[name] == row[name]
    }
    found = list(zip(table["method"], table["settings"], table["figure"], strict=True))
    assert len(found) == len(set(found))
    assert set(found) == known
    two = table[(table["settings"] == '{"ridge": 0.1}') & (table["figure"] == "ff")].iloc[0]
    wide = frame[frame["settings"] == '{"ridge": 0.1}'].iloc[0]
    assert (two["estimate"], two["low"], two["high"], two["std"]) == (
        wide["ff"],
        wide["ff_low"],
        wide["ff_high"],
        wide["ff_std"],
    )
    assert (two["runs"], two["interval_basis"]) == (2, "images and runs")


def test_the_json_is_the_same_table(frame: pandas.DataFrame) -> None:
    rows = json.loads(json_text(frame), parse_constant=pytest.fail)
    assert [list(row) for row in rows] == [list(COLUMNS)] * len(frame)
    for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
        for name in COLUMNS:
            assert row[name] == (None if pandas.isna(expected[name]) else expected[name]), name
    assert {row["method"] for row in rows} == {*ODD, "two"}


def unescaped(cell: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)


def test_a_markdown_table_shows_every_name_as_it_is(frame: pandas.DataFrame) -> None:
    lines = [line for line in markdown(frame).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    names = [unescaped(row[0]) for row in cells[2:]]
    assert set(names) == {*ODD, "two ridge=0.1", "two* ridge=0.2"}
    raw = "\n".join(row[0] for row in cells[2:])
    assert not re.search(r"(?<!\\)[*_`<>\[\]|~#$&]", raw)
    assert "**" in "".join(row[3] for row in cells[2:])


def test_latex_escapes_every_command(frame: pandas.DataFrame) -> None:
    text = latex(frame)
    assert text.startswith("% Needs \\usepackage{booktabs}.\n")
    for name in (r"a\_b \& 50\% \$x\$ \#\{y\}\textasciitilde{}\textasciicircum{}\textbackslash{}", r"a\textbar{}b"):
        assert name in text
    assert r"`\textless{}script\textgreater{}*[z]*" in text
    assert re.search(r"\$-\$0\.\d{3}", text)
    assert "\\toprule" in text
    assert "\\textbf{" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(frame: pandas.DataFrame, tmp_path: Path) -> None:
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\\begin{document}"
    (tmp_path / "a.tex").write_text(f"{head}\n{latex(frame)}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_notes_are_part_of_the_markdown(tmp_path: Path) -> None:
    made = [record(tmp_path, method="regcl"), record(tmp_path, method="opcm", status="failed")]
    text = markdown(leaderboard(made))
    assert re.search(r"^- Left out because they are not complete: made/opcm/\w+ \(failed\)\.$", text, re.MULTILINE)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_table_has_no_row(name: str) -> None:
    text = FORMATS[name](leaderboard([]))
    assert "nan" not in text.lower()
    assert len(text.splitlines()) <= 1
