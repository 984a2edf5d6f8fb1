"""What a confined process may still write: with a GPU the names of its own threads, and nothing of other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Confines itself, then tries each kind of write. A path in "outside" is of a file that exists and is not its own.
SCRIPT = """
import ctypes, json, mmap, os, sys, threading
from pathlib import Path

from cosam_bench.isolation.sandbox import confine

folder, outside, devices = Path(sys.argv[1]), Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]]
with outside.open("rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
maps = Path("/proc/self/maps").read_text().splitlines()
[place] = [int(line.partition("-")[0], 16) for line in maps if line.endswith(str(outside))]
parent = os.getppid()
given_up = confine(folder, hidden=[], devices=devices)


def write(path, data=b"named", at=0):
    try:
        with open(path, "r+b", buffering=0) as file:
            file.seek(at)
            return file.write(data)
    except OSError as error:
        return error.strerror


def write_again(path):
    try:
        path.write_text("again")
        return path.read_text().strip()
    except OSError as error:
        return error.strerror


own = Path(f"/proc/self/task/{os.getpid()}")
begun, done = threading.Event(), threading.Event()
later = threading.Thread(target=lambda: (begun.set(), done.wait()))
later.start()
begun.wait()
print(json.dumps({
    "given_up": given_up,
    "own": write(own / "comm"),
    "name": (own / "comm").read_text().strip(),
    "later": write(f"/proc/self/task/{later.native_id}/comm"),
    "opened again": write_again(own / "comm"),
    "of the process": write("/proc/self/oom_score_adj", b"1"),
    "first": write("/proc/1/comm"),
    "parent": write(f"/proc/{parent}/task/{parent}/comm"),
    "parent's memory": write(f"/proc/{parent}/task/{parent}/mem", b""),
    "by root": write(f"{own}/root{outside}"),
    "by descriptor": write(f"{own}/fd/{os.open(outside, os.O_RDONLY)}"),
    "by memory": write(own / "mem", b"changed", at=place),
    "in the folder": write_again(folder / "new"),
}))
done.set()
"""
REFUSED = "Permission denied"


def tried(tmp_path: Path, *devices: Path) -> dict[str, object]:
    """What each write gave: the bytes written, a name, or the system's error."""
    folder, outside = tmp_path / "worker", tmp_path / "outside"
    folder.mkdir()
    outside.write_bytes(b"as it was")
    command = [sys.executable, "-c", SCRIPT, str(folder), str(outside), *map(str, devices)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert outside.read_bytes() == b"as it was"
    found: dict[str, object] = json.loads(ended.stdout)
    if "writing" not in found["given_up"]:  # type: ignore[operator]  # a list of words
        pytest.skip("this system has no Landlock")
    return found


def test_with_a_gpu_a_worker_names_its_threads_and_writes_to_no_other_process(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    found = tried(tmp_path, device)
    assert (found["own"], found["name"], found["later"], found["opened again"]) == (5, "named", 5, "again")
    for act in ("of the process", "first", "parent", "parent's memory", "by root", "by descriptor"):
        assert found[act] == REFUSED, act
    assert found["by memory"] == "Input/output error", "a shared mapping of a file that is only read"
    assert found["in the folder"] == "again"


def test_without_a_gpu_a_worker_does_not_even_name_its_threads(tmp_path: Path) -> None:
    found = tried(tmp_path)
    for act in ("own", "later", "opened again", "by memory", "first", "parent"):
        assert found[act] == REFUSED, act
    assert found["in the folder"] == "again"
