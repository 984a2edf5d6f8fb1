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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HIDDEN = "results and data"
"""What a process has given up once it can no longer see any of the folders that are hidden from it."""

_PR_SET_PDEATHSIG = 1  # the constants are those of Linux's prctl.h, capability.h, sched.h, mount.h and landlock.h
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2
_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID_NODEV = 0x2 | 0x4
_MS_BIND = 0x1000
_MNT_DETACH = 2
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MOUNT_SETATTR = 442
_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
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


@dataclass(frozen=True)
class Allowance:
    """What this process may use of the machine, which its children inherit and other processes of the user can change.

    Attributes:
        limits: by the resource's number, the soft and the hard limit.
        processors: those that it may run on; empty if the system does not say.
        niceness: -20 to 19; higher ones wait for lower ones.
    """

    limits: Mapping[int, tuple[int, int]]
    processors: frozenset[int]
    niceness: int

    @classmethod
    def now(cls) -> Self:
        """That of this process."""
        numbers = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
        limits = {}
        for number in sorted(numbers):
            with suppress(OSError, ValueError):  # a resource that this kernel does not know
                limits[number] = resource.getrlimit(number)
        return cls(limits, _processors(), os.getpriority(os.PRIO_PROCESS, 0))

    def restore(self) -> None:
        """Have it again, as far as the system allows: a hard limit and a niceness return only by a right of root's."""
        for number, limits in self.limits.items():
            with suppress(OSError, ValueError):
                if (now := resource.getrlimit(number)) != limits:
                    soft, hard = limits
                    resource.setrlimit(number, (_least(soft, now[1]), now[1]))
                    resource.setrlimit(number, (soft, hard))
        with suppress(OSError):
            if _processors() != self.processors:
                os.sched_setaffinity(0, self.processors)
        with suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, 0) != self.niceness:
                os.setpriority(os.PRIO_PROCESS, 0, self.niceness)


def _processors() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def _least(one: int, other: int) -> int:
    """The lower of two limits, of which each may be no limit."""
    known = [limit for limit in (one, other) if limit != resource.RLIM_INFINITY]
    return min(known, default=resource.RLIM_INFINITY)


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
        hidden: folders that are empty from now on, but for this process's own.
        devices: files that stay writable, those of a GPU; if there are any, so do the files in ``/proc`` of this
            process's own threads, to which CUDA writes their names.
    """
    if sys.platform != "linux":
        return []
    library = ctypes.CDLL(None, use_errno=True)
    given_up = []
    if _unshare(library):
        given_up += ["network", "shared memory"]
        covered = [_cover(library, place, but=folder) for place in (Path("/dev/shm"), *hidden)]
        if all(covered):
            given_up.append(HIDDEN)
        if _make_read_only(library, but=[folder, Path("/dev/shm"), *([_OWN_THREADS] if devices else [])]):
            given_up.append("attributes of files")
        os.chdir(folder)
    if _restrict_writing(library, [folder, Path("/dev/shm")] if given_up else [folder], devices):
        given_up.append("writing")
    # Root reads the files of others by a capability. A run without namespaces may need one, and hides nothing anyway.
    parent = os.getppid()
    _drop_capabilities(library, kept=0 if "network" in given_up else _CAP_DAC_READ_SEARCH)
    end_with_parent()  # which Linux forgets with the capabilities
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
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


def _cover(library: ctypes.CDLL, place: Path, *, but: Path) -> bool:
    """Mount an empty folder over another, for this process alone; ``but``, if it is below, stays where it is."""
    if not place.is_dir():
        return True
    if not but.is_relative_to(place):
        return _mount_empty(library, place)
    own = os.open(but, os.O_PATH | os.O_CLOEXEC)
    try:
        if not _mount_empty(library, place):
            return False
        but.mkdir(parents=True)
        if not library.mount(b"/proc/self/fd/%d" % own, os.fsencode(but), None, _MS_BIND, None):
            return True
        library.umount2(os.fsencode(place), _MNT_DETACH)
        return False
    finally:
        os.close(own)


def _mount_empty(library: ctypes.CDLL, place: Path) -> bool:
    return not library.mount(b"none", os.fsencode(place), b"tmpfs", _MS_NOSUID_NODEV, None)


def _make_read_only(library: ctypes.CDLL, *, but: Sequence[Path]) -> bool:
    """Mount all but some folders read-only, for this process alone; since Linux 5.12.

    Landlock does not cover the times, modes, owners and extended attributes of files, which a later worker could read.
    """
    places = [os.fsencode(place) for place in but if place.is_dir()]
    own = [not library.mount(place, place, None, _MS_BIND, None) for place in places]
    if not all(own) or not all(_set_read_only(library, place, False) for place in places):
        return False
    return _set_read_only(library, b"/", True) and all(_set_read_only(library, place, False) for place in places)


def _set_read_only(library: ctypes.CDLL, place: bytes, is_read_only: bool) -> bool:
    """Whether files can be changed in a mounted folder, and in those mounted below it."""
    added, removed = (_MOUNT_ATTR_RDONLY, 0) if is_read_only else (0, _MOUNT_ATTR_RDONLY)
    attributes = struct.pack("=QQQQ", added, removed, 0, 0)
    return not library.syscall(_MOUNT_SETATTR, _AT_FDCWD, place, _AT_RECURSIVE, attributes, len(attributes))


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


def _drop_capabilities(library: ctypes.CDLL, *, kept: int) -> None:
    """Give up the capabilities, which could unmount what hides a folder; no program that is started has any either."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        _prctl(_PR_CAPBSET_DROP, number)
    with suppress(AttributeError):  # a C library without the two calls
        header, held = struct.pack("=Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
        if not library.capget(header, held):
            permitted = struct.unpack("=6I", held.raw)[1] & kept
            library.capset(header, struct.pack("=6I", permitted, permitted, 0, 0, 0, 0))


def _allow(library: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    with suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            library.syscall(_LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)
