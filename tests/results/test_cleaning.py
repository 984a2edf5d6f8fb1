"""What `cosam-bench clean` finds and removes, and what it leaves alone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.records import run_info
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import is_temporary, only_writer, replacing
from cosam_bench.results.cleaning import cached, leftovers, to_free
from cosam_bench.results.records import RecordWriter

OLD = time.time() - 7200


def file(path: Path, size_bytes: int = 10, *, used: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)
    os.utime(path, (used, used))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two records, a complete and a running one, and shared files."""
    folder = tmp_path / "results"
    for name, status in (("done", "complete"), ("stopped", "interrupted")):
        RecordWriter(folder / "mini" / "regcl" / name).write_info(run_info(status=status))
        file(folder / "mini" / "regcl" / name / "steps" / "001.json")
    for name, days in (("a", 30), ("b", 20), ("c", 10)):
        file(folder / "_shared" / "experts" / f"{name}.safetensors", 2**20, used=time.time() - days * 86_400)
    file(folder / "_shared" / "prompts" / "p.json")
    return folder


def test_a_name_of_a_file_being_written_is_known(tmp_path: Path) -> None:
    with replacing(tmp_path / "run.json") as temporary:
        assert is_temporary(temporary)
    assert not any(map(is_temporary, (tmp_path / "run.json", tmp_path / ".lock", tmp_path / ".gitignore")))


def test_leftovers_are_what_nobody_needs(results: Path) -> None:
    record = results / "mini" / "regcl" / "stopped"
    stale = file(record / ".scores.csv.0123abcd")
    file(record / ".run.json.0123abcd", used=time.time())  # perhaps being written
    free, held = file(record / ".lock"), file(results / "_shared" / "experts" / "a.lock")
    with held.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        found = {one.path for one in leftovers(results)}
    assert found == {stale, free, results / "mini" / "regcl" / "done" / "steps"}


def test_steps_that_a_run_writes_again_stay(results: Path) -> None:
    record = results / "mini" / "regcl" / "done"
    [steps] = leftovers(results)
    with only_writer(record, busy=CosamError("busy")):
        assert not steps.remove()
        assert steps.path.exists()
    RecordWriter(record).write_info(run_info(status="running"))  # by --fresh, which was killed
    steps.remove()
    assert steps.path.exists()
    RecordWriter(record).write_info(run_info(status="complete"))
    assert steps.remove()
    assert steps.remove()
    assert not steps.path.exists()


def test_states_of_a_trial_that_was_killed_go_unless_the_method_is_tuned(results: Path) -> None:
    folder = results / "_tune" / "mini" / "ties" / "0123456789ab"
    file(folder / "trials.log")
    file(folder / "states-abc" / "001.safetensors")
    kept = file(results / "_tune" / "states-of" / "ties.toml")  # of a protocol of this name
    done = results / "mini" / "regcl" / "done" / "steps"
    with only_writer(folder, busy=CosamError("busy")):
        assert {one.path for one in leftovers(results)} == {done}
    [states] = [one for one in leftovers(results) if one.path.parent == folder and one.path.is_dir()]
    with only_writer(folder, busy=CosamError("busy")):
        assert not states.remove()
    assert states.remove()
    assert [path.name for path in folder.iterdir()] == ["trials.log"]
    assert kept.exists()


def test_what_runs_do_not_write_is_not_theirs(results: Path) -> None:
    for name in (
        ".bashrc.20240101", "notes/.env.deadbeef", "sub/.lock", "tasks/mine.lock", "a/b/c/.lock", "a/b/c/.x.0123abcd",
        ".git/a/0123456789ab/.x.0123abcd",
    ):  # fmt: skip
        file(results / name)
    ours = [
        file(results / name)
        for name in (
            ".leaderboard.csv.0123abcd", "_tune/mini/ties/0123456789ab/.lock", "_shared/rows/.x.json.0123abcd",
            "mini/ties/0123456789ab/.run.json.0123abcd",
        )
    ]  # fmt: skip
    assert {one.path for one in leftovers(results)} == {*ours, results / "mini" / "regcl" / "done" / "steps"}


def test_a_link_is_not_followed(results: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file(tmp_path / "elsewhere" / ".x.0123abcd")
    (results / "link").symlink_to(tmp_path / "elsewhere")
    (results / ".y.0123abcd").symlink_to(tmp_path / "elsewhere")
    assert all("elsewhere" not in one.path.resolve().as_posix() for one in leftovers(results))


@pytest.mark.parametrize(
    ("days", "limit", "freed"),
    [(None, None, ""), (25, None, "a"), (15, None, "ab"), (None, 2**20, "ab"), (None, 0, "abc"), (25, 2 * 2**20, "a"),
     (5, 2**40, "abc")],
)  # fmt: skip
def test_the_oldest_go_first(results: Path, days: float | None, limit: int | None, freed: str) -> None:
    chosen = to_free(cached(results), older_than_days=days, limit_bytes=limit)
    assert "".join(one.path.stem for one in chosen) == freed


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="No folder"):
        leftovers(tmp_path / "none")


@pytest.fixture
def clean(results: Path) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, ["clean", "--results", str(results), *arguments])


def test_the_command_removes_only_what_is_asked(results: Path, clean: Callable[..., Result]) -> None:
    before = sorted(results.rglob("*"))
    listed = clean("--dry-run", "--max-gib", "0.001")
    assert sorted(results.rglob("*")) == before
    assert "Would remove 1 leftover (0.0 MiB) and 2 cached files (2.0 MiB)." in listed.stdout
    assert "a.safetensors" in listed.stdout
    assert clean().stdout.splitlines() == [
        "Removed 1 leftover (0.0 MiB) and 0 cached files (0.0 MiB).",
        "Cached files that stay: 3 files (3.0 MiB).",
    ]
    assert not (results / "mini/regcl/done/steps").exists()
    assert (results / "mini/regcl/stopped/steps/001.json").exists()
    assert "Removed 0 leftovers (0.0 MiB) and 1 cached file (1.0 MiB)." in clean("--older-than", "25").stdout
    assert [path.name for path in sorted((results / "_shared" / "experts").iterdir())] == [
        "b.safetensors",
        "c.safetensors",
    ]
    assert (results / "_shared" / "prompts" / "p.json").exists()


def test_what_is_in_use_is_not_counted_as_removed(results: Path, clean: Callable[..., Result]) -> None:
    with only_writer(results / "mini" / "regcl" / "done", busy=CosamError("busy")):
        assert "Removed 0 leftovers (0.0 MiB) and 0 cached files" in clean().stdout
    assert "Removed 2 leftovers" in clean().stdout  # the steps, and the lock


def test_wrong_input_is_one_error(clean: Callable[..., Result], tmp_path: Path) -> None:
    for arguments in (("--results", str(tmp_path / "none")), ("--older-than", "-1"), ("--max-gib", "x")):
        found = clean(*arguments)
        assert (found.exit_code, found.stdout) == (2, "")
