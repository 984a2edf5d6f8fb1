"""Runs with too little of something: files that may not grow, few file handles, a small disk, little memory.

Each ends with code 0 and the same files as ever, or with one clear error and no complete record; with enough, the same
command then goes on and ends with the same files.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.quick_protocol import write_quick_protocol

import cosam_bench.sam.build  # so that the forks have it
from cosam_bench.cli.main import main
from cosam_bench.method.registry import load_method

OUTCOME = ("config.toml", "matrix.csv", "scores.csv", "state.safetensors", "update.safetensors")
KIB, MIB = 2**10, 2**20

Limit = Callable[[], object]


def no_limit() -> None:
    pass


def largest_file(size: int) -> Limit:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def file_handles(more: int) -> Limit:
    """So many more than are open."""

    def limit() -> None:
        taken = {int(one.name) for one in Path("/proc/self/fd").iterdir()}
        free = (number for number in itertools.count() if number not in taken)
        last = next(itertools.islice(free, more, None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (last, last))

    return limit


def memory(size: int) -> Limit:
    """So much address space in all."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_protocol(tmp_path_factory.mktemp("resources"))


def arguments(protocol: Path, results: Path) -> list[str]:
    return ["cosam-bench", "run", "--method", "regcl", "--protocol", str(protocol), "--results", str(results)]


def in_fork(protocol: Path, results: Path, limit: Limit) -> tuple[int, str]:
    """The run in a fork of this process, which has all modules loaded: its exit code and what it printed."""
    said, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(told, 1)
            os.dup2(told, 2)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            torch.set_num_threads(1)  # a forked process has no other threads of OpenMP
            sys.argv = arguments(protocol, results)
            limit()
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(told)
    with open(said, errors="replace") as pipe:  # noqa: PTH123
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def in_new_process(protocol: Path, results: Path, limit: Limit) -> tuple[int, str]:
    """The run as a user starts it, so that the limit holds for the imports, too."""
    command = [sys.executable, "-m", "cosam_bench.cli.main", *arguments(protocol, results)[1:]]
    ended = subprocess.run(command, preexec_fn=limit, capture_output=True, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).decode(errors="replace")


def files(results: Path) -> dict[str, bytes] | None:
    """The outcome of a complete record; none if there is no complete record."""
    for path in results.glob("quick/*/*/run.json"):
        if json.loads(path.read_text())["status"] == "complete":
            return {name: (path.parent / name).read_bytes() for name in OUTCOME}
    return None


@pytest.fixture(scope="module")
def whole(protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    load_method("regcl")
    assert cosam_bench.sam.build
    results = tmp_path_factory.mktemp("whole")
    code, told = in_fork(protocol, results, no_limit)
    found = files(results)
    assert code == 0, told
    assert found is not None
    return found


def assert_one_clear_error(code: int, told: str) -> None:
    assert code in (1, 2), f"{code}: {told}"
    assert "Traceback" not in told
    assert "defect" not in told, told
    assert told.count("Error: ") == 1, told


def assert_nothing_is_lost(
    protocol: Path,
    folder: Path,
    limit: Limit,
    whole: dict[str, bytes],
    *,
    run: Callable[..., tuple[int, str]] = in_fork,
    relieve: Callable[[], object] = no_limit,
) -> bool:
    """Whether the limited run ended whole; if not, that it ended well, and that the next one goes on once relieved."""
    results = folder / "results"
    code, told = run(protocol, results, limit)
    if code == 0:
        assert files(results) == whole
        return True
    assert_one_clear_error(code, told)
    assert files(results) is None
    relieve()
    code, told = in_fork(protocol, results, no_limit)
    assert code == 0, told
    assert files(results) == whole
    return False


def test_files_that_may_not_grow(protocol: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert not assert_nothing_is_lost(protocol, tmp_path, largest_file(32 * KIB), whole)


def test_few_file_handles(protocol: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert not assert_nothing_is_lost(protocol, tmp_path, file_handles(1), whole)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory of this size on a folder."""
    folder.mkdir()
    options = f"size={size}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full_disk_loses_nothing(protocol: Path, folder: Path, size: int, whole: dict[str, bytes]) -> bool:
    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder / "results")], check=True)

    with small_disk(folder / "results", size):
        return assert_nothing_is_lost(protocol, folder, no_limit, whole, relieve=enlarge)


def test_a_full_disk(protocol: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    assert not full_disk_loses_nothing(protocol, tmp_path, 64 * KIB, whole)


@pytest.mark.long
def test_every_limit(protocol: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Prints a table: of so many runs with a limit, so many ended whole."""
    sizes = [0, 1, 100, 512, *(KIB * 2**power for power in range(11))]
    trials: dict[str, list[bool]] = {"largest file": [], "file handles": [], "disk": [], "memory": []}
    for number, size in enumerate(sizes):
        (folder := tmp_path / f"size-{number}").mkdir()
        trials["largest file"].append(assert_nothing_is_lost(protocol, folder, largest_file(size), whole))
    for more in range(1, 17):
        (folder := tmp_path / f"handles-{more}").mkdir()
        trials["file handles"].append(assert_nothing_is_lost(protocol, folder, file_handles(more), whole))
    for number, size in enumerate(4 * KIB * 2**power for power in range(12)):
        (folder := tmp_path / f"disk-{number}").mkdir()
        trials["disk"].append(full_disk_loses_nothing(protocol, folder, size, whole))
    # From 3 to 5 GiB of address space, the OpenBLAS in NumPy's and SciPy's packages may wait for memory forever.
    for number in (*range(1, 13), 24, 32, 48):
        (folder := tmp_path / f"memory-{number}").mkdir()
        limit = memory(number * 256 * MIB)
        trials["memory"].append(assert_nothing_is_lost(protocol, folder, limit, whole, run=in_new_process))
    for name, ended in trials.items():
        print(f"{name}: {len(ended)} runs, {sum(ended)} ended whole, {len(ended) - sum(ended)} with one clear error")
        assert any(ended)
        assert not all(ended)
