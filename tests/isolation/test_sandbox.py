"""What a confined process may still do: with a GPU, name its own threads; it changes no file and no other process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cosam_bench.isolation.sandbox import HIDDEN
from cosam_bench.isolation.worker_folders import new_worker_folder, remove_worker_folder

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
REFUSED = ("Permission denied", "Read-only file system")


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
        assert found[act] in REFUSED, act
    assert found["by memory"] == "Input/output error", "a shared mapping of a file that is only read"
    assert found["in the folder"] == "again"


def test_without_a_gpu_a_worker_does_not_even_name_its_threads(tmp_path: Path) -> None:
    found = tried(tmp_path)
    for act in ("own", "later", "opened again", "by memory", "first", "parent"):
        assert found[act] in REFUSED, act
    assert found["in the folder"] == "again"


# Confines itself without Landlock, then tries to see what is hidden: by itself, and in namespaces of its own.
UNCOVER = """
import ctypes, json, os, sys
from pathlib import Path

from cosam_bench.isolation import sandbox

sandbox._restrict_writing = lambda *given: False
folder, hidden = map(Path, sys.argv[1:])
given_up = sandbox.confine(folder, hidden=[hidden], devices=[])
library = ctypes.CDLL(None, use_errno=True)
status = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines())


def uncovered():
    library.umount2(os.fsencode(hidden), 2)
    return [path.name for path in hidden.iterdir()]


found = {
    "given_up": given_up,
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "new privileges": status["NoNewPrivs"],
    "seen": uncovered(),
}
library.unshare(0x10000000 | 0x20000)
print(json.dumps(found | {"seen in another namespace": uncovered()}))
"""


def test_without_landlock_a_worker_cannot_unmount_what_hides_a_folder(tmp_path: Path) -> None:
    found = output(UNCOVER, *made(tmp_path, "worker", "hidden"))
    assert found["capabilities"] == [0, 0, 0, 0, 0] or HIDDEN not in found["given_up"]
    assert found["new privileges"] == "1"
    if HIDDEN not in found["given_up"]:
        pytest.skip("this system cannot hide folders")
    assert (found["seen"], found["seen in another namespace"]) == ([], [])


CHANGE = """
import json, os, sys
from pathlib import Path

from cosam_bench.isolation.sandbox import confine

folder, outside = Path(sys.argv[1]), Path(sys.argv[2], "file")
given_up = confine(folder, hidden=[], devices=[Path("/dev/null")] if len(sys.argv) > 3 else [])


def tried(act, file):
    try:
        act(file)
    except OSError as error:
        return error.strerror


acts = {
    "attribute": lambda file: os.setxattr(file, "user.mem", b"seen"),
    "times": lambda file: os.utime(file, (1, 1)),
    "mode": lambda file: os.chmod(file, 0o640),
    "owner": lambda file: os.chown(file, os.getuid(), os.getgid()),
}
found = {name: [tried(act, folder / "file"), tried(act, outside)] for name, act in acts.items()}
Path("/dev/shm/own").touch()
Path("/dev/null").write_text("nothing")
print(json.dumps({"given_up": given_up, "acts": found}))
"""


@pytest.mark.parametrize("has_devices", [False, True])
def test_a_worker_changes_no_attributes_times_modes_or_owners_of_files_outside_its_folder(
    has_devices: bool, tmp_path: Path
) -> None:
    places = made(tmp_path, "worker", "outside")
    found = output(CHANGE, *places, *([tmp_path] if has_devices else []))
    if "attributes of files" not in found["given_up"]:
        pytest.skip("this system cannot mount folders read-only for one process")
    assert set(found["acts"]) == {"attribute", "times", "mode", "owner"}
    for act, (own, other) in found["acts"].items():
        assert other == "Read-only file system", act
        assert own in (None, "Operation not supported"), act  # some file systems have no attributes


SIBLINGS = """
import json, sys
from pathlib import Path

from cosam_bench.isolation.sandbox import confine

folder, other = map(Path, sys.argv[1:])
given_up = confine(folder, hidden=[folder.parent], devices=[])
(folder / "new").write_text("new")
found = {path.name: path.read_text() for path in Path().iterdir()}
print(json.dumps({"given_up": given_up, "own": found, "others": [path.name for path in folder.parent.iterdir()]}))
"""


def test_of_folders_beside_each_other_a_worker_sees_its_own(tmp_path: Path) -> None:
    found = output(SIBLINGS, *made(tmp_path / "workers", "own", "other"))
    assert found["own"] == {"file": "as it was", "new": "new"}
    assert found["others"] == (["own"] if HIDDEN in found["given_up"] else ["other", "own"])
    assert (tmp_path / "workers/own/new").read_text() == "new"


def test_workers_have_folders_in_a_shared_one_that_goes_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one, other = new_worker_folder(), new_worker_folder()
    assert one.parent == other.parent != tmp_path
    assert one.parent.stat().st_mode & 0o777 == 0o700
    remove_worker_folder(one)
    assert list(tmp_path.iterdir()) == [other.parent]
    remove_worker_folder(other)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "elsewhere").mkdir()
    one.parent.symlink_to(tmp_path / "elsewhere")  # as another user could
    apart = new_worker_folder()
    assert apart.parent.parent == tmp_path
    assert apart.parent != one.parent
    remove_worker_folder(apart)
    assert {path.name for path in tmp_path.iterdir()} == {one.parent.name, "elsewhere"}


ALLOWANCE = """
import json, os, resource

from cosam_bench.isolation.sandbox import Allowance

before = Allowance.now()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
os.sched_setaffinity(0, {min(before.processors)})
os.setpriority(os.PRIO_PROCESS, 0, 19)
changed = Allowance.now() != before
before.restore()
now = Allowance.now()
print(json.dumps({
    "changed": changed,
    "limits": now.limits == before.limits,
    "processors": now.processors == before.processors,
    "niceness": now.niceness == before.niceness or os.getuid() != 0,
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_limits_processors_and_niceness_are_restored() -> None:
    assert output(ALLOWANCE) == {"changed": True, "limits": True, "processors": True, "niceness": True}


def made(folder: Path, *names: str) -> list[Path]:
    """Folders with a file in each."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("as it was")
    return [folder / name for name in names]


def output(script: str, *given: Path) -> dict[str, Any]:
    """What a script prints as JSON."""
    command = [sys.executable, "-c", script, *map(str, given)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
