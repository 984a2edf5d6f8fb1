"""A worker's own folder, the rights it gives up, and the end of all that it has started.

What needs Linux is used where it is there: namespaces and Landlock take away writing outside of the worker's folder,
the parent's results and data, the network, other processes and shared memory. Elsewhere a worker only loses its
environment and its working directory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # the constants are those of Linux's prctl.h, sched.h, mount.h and landlock.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID_NODEV = 0x2 | 0x4
_MS_REC_PRIVATE = 0x4000 | 0x40000
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_RULE_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove and make
_REFER = 1 << 13  # since ABI 2; truncate since 3, network since 4, scopes since 6
_SCOPES = 1 | 2  # abstract sockets and signals
_NULL_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
# CUDA's driver, from 570 on, names its threads in /proc/self/task/<tid>/comm, and cuInit fails (304) if it cannot. A
# rule is for one file or for all below a folder, and those threads have not begun, so it is for this process's threads.
# What else can be written there is this process's own, too, and ends with it: its memory (mem), accounting and score
# for the out-of-memory killer. mem gives no right over a file: the kernel copies the pages of private mappings and
# refuses those of read-only shared ones. Links (fd, root, cwd) are checked where they lead, and net is this process's
# namespace. Other processes have folders of their own, which the rule does not reach.
_OWN_THREADS = Path("/proc/self/task")


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Get a signal when the parent ends, where the system can do that."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends, where the system can do that."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def kill_descendants() -> None:
    """Kill all children of this process, and theirs as they become its own; reap them."""
    while children := list(_children()):
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> Iterator[int]:
    own = str(os.getpid())
    with suppress(OSError):
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError):
                    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
                    if fields[1].decode() == own:
                        yield int(process.name)


def settle(folder: Path) -> None:
    """Make a folder home, place of temporary files and working directory; forget where the harness keeps its own."""
    for name in [name for name in os.environ if name.startswith(("COSAM_BENCH_", "XDG_")) or name == "OLDPWD"]:
        del os.environ[name]
    os.environ |= dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "PWD"), str(folder))
    os.chdir(folder)
    import tempfile

    tempfile.tempdir = None
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def confine(folder: Path, *, hidden: Sequence[Path], devices: Sequence[Path]) -> list[str]:
    """Give up rights for good, as far as this system lets a process do so; what was given up, in words.

    Args:
        folder: where writing stays possible.
        hidden: folders that are empty from now on.
        devices: files that stay writable, those of a GPU; if there are any, so do the files in ``/proc`` of this
            process's own threads, to which CUDA writes their names.
    """
    if sys.platform != "linux":
        return []
    library = ctypes.CDLL(None, use_errno=True)
    given_up = []
    if _unshare(library):
        given_up += ["network", "shared memory"]
        covered = [_cover(library, place) for place in (Path("/dev/shm"), *hidden)]
        if all(covered):
            given_up.append("results and data")
        os.chdir(folder)
    if _restrict_writing(library, [folder, Path("/dev/shm")] if given_up else [folder], devices):
        given_up.append("writing")
    return given_up


def _unshare(library: ctypes.CDLL) -> bool:
    """Leave the namespaces of mounts, network, and System V's shared memory."""
    user, group = os.getuid(), os.getgid()
    if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    return not library.mount(None, b"/", None, _MS_REC_PRIVATE, None)


def _cover(library: ctypes.CDLL, place: Path) -> bool:
    """Mount an empty folder over another, for this process alone."""
    if not place.is_dir():
        return True
    return not library.mount(b"none", os.fsencode(place), b"tmpfs", _MS_NOSUID_NODEV, None)


def _restrict_writing(library: ctypes.CDLL, folders: Sequence[Path], devices: Sequence[Path]) -> bool:
    """Forbid by Landlock what would change a file outside the folders, other processes' memory and signals."""
    version = library.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    facts = struct.pack("=QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    if version < 4:
        facts = facts[:8]
    elif version < 6:
        facts = facts[:16]
    rules = library.syscall(_LANDLOCK_CREATE_RULESET, facts, len(facts), 0)
    if rules < 0:
        return False
    try:
        for folder in folders:
            _allow(library, rules, folder, handled)
        for place in (*map(Path, _NULL_DEVICES), *devices, *([_OWN_THREADS] if devices else [])):
            _allow(library, rules, place, handled & (_WRITE_FILE | _TRUNCATE))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        return not library.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(library: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    with suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            library.syscall(_LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)
