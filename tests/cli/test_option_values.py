"""Paths and numbers of every command's options: written out, and refused before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from support.command_line import words
from typer.main import get_command
from typer.testing import Result

from cosam_bench.cli.main import app
from cosam_bench.cli.option_values import FILE_TO_WRITE, FOLDER_TO_WRITE, NEW_FOLDER, RESULTS_TO_ADD_TO, Written

Cli = Callable[..., Result]
COMMAND: Any = get_command(app)
READ = {"config", "tuned", "results", "source", "space", "checkpoint"}
READ_AS_TEXT = {"record", "checkpoint", "experts", "status"}
FOLDERS = (".", "", "/", "folder")
WITHIN_A_FILE = ("file/x", "file/x/y")
REFUSED = {
    FILE_TO_WRITE: (*FOLDERS, *WITHIN_A_FILE, "/dev/null", "x" * 300),
    FOLDER_TO_WRITE: ("file", *WITHIN_A_FILE, "x" * 300),
    NEW_FOLDER: (*FOLDERS, "file", *WITHIN_A_FILE),
    RESULTS_TO_ADD_TO: ("file", *WITHIN_A_FILE),
}


@dataclass(frozen=True)
class Parameter:
    """One of a command: the words before its value, its type, and what else its annotation says."""

    before: tuple[str, ...]
    parameter: Any
    kinds: frozenset[type]
    marks: tuple[Written, ...]

    @property
    def is_option(self) -> bool:
        return self.parameter.param_type_name == "option"

    def __str__(self) -> str:
        return " ".join(word for word in self.before if word != "x") + f" {self.parameter.name}"


def parameters(command: Any = COMMAND, name: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """All of all commands, each with whatever else its command requires."""
    for short, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*name, short))
    if not name or hasattr(command, "commands"):
        return
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for one in command.params:
        if one.name not in hints:
            continue  # --help
        others = [other for other in command.params if other.required and other is not one]
        given = [word for other in others for word in (*_option(other), "x")]
        kind, *marks = get_args(hints[one.name]) if hasattr(hints[one.name], "__metadata__") else (hints[one.name],)
        written = tuple(mark for mark in marks if isinstance(mark, Written))
        yield Parameter((*name, *given, *_option(one)), one, frozenset(_kinds(kind)), written)


def _option(parameter: Any) -> list[str]:
    return parameter.opts[:1] if parameter.param_type_name == "option" else []


def _kinds(hint: Any) -> Iterator[type]:
    if not (inner := get_args(hint)):
        yield hint
    for one in inner:
        yield from _kinds(one) if not isinstance(one, str) else ()


ALL = list(parameters())
PATHS = [one for one in ALL if Path in one.kinds]
WRITTEN = [one for one in ALL if one.marks]


@pytest.fixture(autouse=True)
def _one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)


def test_the_walk_finds_paths_and_numbers() -> None:
    assert len(PATHS) > 30
    assert {str(one) for one in WRITTEN} >= {"run --csv csv", "data init --out out", "merge --method --out out"}


@pytest.mark.parametrize("one", PATHS, ids=str)
def test_a_home_folder_is_written_out(cli: Cli, one: Parameter) -> None:
    refused = cli(*one.before, "~nobody-has-this-name/x")
    assert refused.exit_code == 2
    assert "~nobody-has-this-name/x: there is no such home folder." in words(refused.stderr)


def test_home_folders_in_what_may_be_more_than_a_path(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metavars = ("FILE", "DIR", "PATH")
    texts = {one.parameter.name for one in ALL if one.parameter.metavar in metavars and Path not in one.kinds}
    assert texts == READ_AS_TEXT
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked = ["run", "-m", "average", "--dry-run", "--checkpoint", "~/sam.pth", "--experts", "~/experts"]
    resolved = cli(*asked).stdout
    assert f'checkpoint = "{tmp_path}/home/sam.pth"' in resolved
    assert f'experts = "{tmp_path}/home/experts"' in resolved
    assert f"{tmp_path}/home/sweep" in words(cli("sweep", "--status", "~/sweep").stderr).replace(" ", "")
    shown = cli("predict", "x.png", "--box", "0,0,1,1", "--model", "tiny", "--record", "~/update.safetensors")
    assert "~" not in shown.stderr


def test_results_and_files_of_a_home_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    records = Path(__file__).parents[2] / "results/reference/records"
    (tmp_path / "home").mkdir()
    (tmp_path / "home/records").symlink_to(records)
    board = ["leaderboard", "--results", "~/records", "--protocol", "mini", "--no-intervals"]
    assert cli(*board, "--csv", "~/a.csv", "-f", "json", "--out", "~/new/a.json").exit_code == 0
    assert cli("new-method", "of_my_own", "--folder", "~/of_my_own").exit_code == 0
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if "records" not in path.parts}
    assert made >= {"home/a.csv", "home/new/a.json", "home/of_my_own/pyproject.toml"}
    assert not (tmp_path / "~").exists()


def test_every_path_is_known_as_read_or_as_written() -> None:
    """A new option that writes must say so: FILE_TO_WRITE, FOLDER_TO_WRITE or NEW_FOLDER in its annotation."""
    unmarked = {one.parameter.name for one in PATHS if one.is_option and not one.marks}
    assert unmarked == READ
    unknown = [str(one) for one in WRITTEN for mark in one.marks if mark not in REFUSED]
    assert unknown == []


@pytest.mark.parametrize("one", WRITTEN, ids=str)
def test_what_cannot_be_written_is_refused_at_once(cli: Cli, tmp_path: Path, one: Parameter) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder/full").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for path in REFUSED[one.marks[0]]:
        refused = cli(*one.before, path)
        assert refused.exit_code == 2, (path, refused.output)
        option = next(name for name in one.parameter.opts if name.startswith("--"))
        assert refused.stderr.startswith(f"Error: {option}: "), (path, refused.stderr)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_to_give_is_said(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    run = ["run", "-m", "average", "--csv"]
    assert cli(*run, "folder").stderr == "Error: --csv: folder is a folder. Give the name of a file.\n"
    assert cli(*run, ".").stderr == "Error: --csv: '.' is the current folder. Give the name of a file.\n"
    new = "Error: --out: '.' is the current folder. Give the name of a new folder.\n"
    assert cli("export", "x", "--out", ".").stderr == new


def test_a_setting_may_be_empty(cli: Cli) -> None:
    for given in (["--set", "adapter.start="], ["--set=adapter.start="]):
        shown = cli("run", "-m", "average", "--dry-run", *given)
        assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["run", "-m", "average", "--results", ""], "--results"),
        (["run", "-m", "average", "--results="], "--results"),
        (["run", "-m", ""], "-m"),
        (["leaderboard", "--results", ""], "--results"),
        (["data", "check", ""], "An argument"),
        (["show", "first", ""], "An argument"),
    ],
)
def test_an_empty_value_is_refused(cli: Cli, tmp_path: Path, command: list[str], named: str) -> None:
    refused = cli(*command)
    said = f"Error: {named}: the value is empty. Give one; if it comes from a variable of the shell, set that first.\n"
    assert (refused.exit_code, refused.stderr) == (2, said)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", [["run", "-m"], ["sweep", "--methods"]])
def test_a_folder_in_the_leaderboards_place_is_found_before_the_runs(
    cli: Cli, quick_protocol: Path, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "results/leaderboard.csv").mkdir(parents=True)
    refused = cli(*command, "frozen", "--protocol", quick_protocol)
    assert refused.exit_code == 2
    assert refused.stderr == "Error: results/leaderboard.csv is a folder. Give the name of a file.\n"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["leaderboard.csv"]


@pytest.mark.parametrize("one", [one for one in ALL if float in one.kinds], ids=str)
def test_a_number_that_is_not_finite_is_refused(cli: Cli, tmp_path: Path, one: Parameter) -> None:
    (tmp_path / "results").mkdir()
    for number in ("inf", "nan", "1e400", "-inf"):
        refused = cli(*one.before, number)
        assert refused.exit_code == 2, refused.output
        assert "defect" not in refused.stderr
    assert cli(*one.before, "inf").stderr == f"Error: {one.before[-1]} is inf. Give a finite number.\n"


def test_a_huge_number_is_no_defect(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    kept = cli("clean", "--max-gib", "1e308", "--older-than", "1e308")
    assert kept.exit_code == 0, kept.output
    whole = [one for one in ALL if int in one.kinds]
    assert len(whole) > 8
    for one in whole:
        given = (
            [*one.before[:1], "-m", "average", "--dry-run", *one.before[1:]] if one.before[0] == "run" else one.before
        )
        for number in ("9" * 30, "-" + "9" * 30, "9" * 5000):
            refused = cli(*given, number)
            assert refused.exit_code == 2, (str(one), refused.output)
            assert "defect" not in refused.output
