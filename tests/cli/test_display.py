"""What is shown: in any encoding, without escapes, and after what was measured."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cosam_bench.cli import run_command, run_session
from cosam_bench.core.console import write_data
from cosam_bench.core.files import CannotWrite
from cosam_bench.experiments.progress import LineReporter

Cli = Callable[..., Result]
RECORDS = Path(__file__).parents[2] / "results/reference/records"
MAIN = [sys.executable, "-m", "cosam_bench.cli.main"]


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_a_leaderboard_is_shown_in_any_encoding(encoding: str) -> None:
    command = [*MAIN, "leaderboard", "--with-published", "--results", str(RECORDS)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert "regcl" in shown
    assert "\ufffd" not in shown


@pytest.mark.parametrize("name", ["csv", "markdown"])
def test_a_format_is_the_same_on_the_output_as_in_a_file(name: str, tmp_path: Path) -> None:
    command = [*MAIN, "leaderboard", "--no-intervals", "--with-published", "--results", str(RECORDS), "-f", name]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([*command, "--out", str(tmp_path / "file")], capture_output=True, check=False).returncode == 0
    assert done.stdout == (tmp_path / "file").read_bytes()
    assert (name == "csv") or not done.stdout.isascii()


def test_data_cannot_command_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    shown = {}
    for kind in (Terminal, io.TextIOWrapper):
        shown[kind] = io.BytesIO()
        monkeypatch.setattr("sys.stdout", kind(shown[kind], encoding="ascii"))
        write_data("0.5 ±0.1 \x1b[2J")
    assert shown[Terminal].getvalue() == b"0.5 ~0.1 ?[2J"
    assert shown[io.TextIOWrapper].getvalue() == "0.5 ±0.1 \x1b[2J".encode()


def test_help_is_shown_in_any_encoding() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run([*MAIN, "data", "fetch", "--help"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"--accept-l" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["settings", "-h"], ["settings", "fit"]])
def test_a_full_disk_as_output_is_one_clear_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*MAIN, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: The output cannot be written: No space left on device.\n")


def test_all_methods_are_measured_before_a_display_that_fails_is_reported(
    cli: Cli, quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(record: object, **options: object) -> None:
        raise UnicodeEncodeError("ascii", "│", 0, 1, "ordinal not in range")

    monkeypatch.setattr(run_session, "show_record", fails)
    result = cli("run", "--method", "average,finetune", "--protocol", quick_protocol, "--matrices")
    assert result.exit_code == 70  # the display is at fault, and nothing else
    assert len((tmp_path / "results/leaderboard.csv").read_text().splitlines()) == 3


def test_a_complete_run_is_shown_from_a_folder_that_cannot_be_written(
    cli: Cli, quick_protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_write(results: Path, path: Path, **options: object) -> None:
        raise CannotWrite(f"{path} cannot be written: Read-only file system.")

    run = ["run", "--method", "frozen", "--protocol", quick_protocol]
    assert cli(*run).exit_code == 0
    monkeypatch.setattr(run_command, "refresh_leaderboard", cannot_write)
    again = cli(*run)
    assert again.exit_code == 0
    assert "The leaderboard was left as it is" in again.stderr
    assert "0 frozen" in again.stdout
    assert cli(*run, "--csv", "board.csv").exit_code == 2
    assert cli(*run, "--fresh").exit_code == 2


def test_titles_and_names_of_files_cannot_command_a_terminal(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a\x1b]52;c;aGk=\x07.png").symlink_to("nowhere\x1b[31m")
    (tmp_path / "s.toml").write_text(
        'name = "s"\ntitle = "\\u001b]0;owned\\u0007 \\u009b2J"\n[[domain]]\nname = "a"\nroot = "."\n'
        'title = "\\u001b[2J\\u202e"\n'
    )
    for arguments in (
        ["domains", "s.toml"],
        ["data", "check", "s.toml"],
        ["run", "-m", "average", "--stream", "s.toml"],
    ):
        result = cli(*arguments)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output)
    assert "owned" in cli("domains", "s.toml").stdout


def test_progress_that_cannot_be_written_does_not_end_a_run() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    reporter = LineReporter(Full())
    reporter.say("Learning")
    reporter.note("note")
    shown = io.StringIO()
    LineReporter(shown).note("a\x1b]0;b\x07")
    assert shown.getvalue() == "a\ufffd]0;b\ufffd\n"
