"""What a method's code does that no method should, as far as Python's audit events and a comparison of names show.

This finds what is done in the open, for the contract check. It proves nothing about code that hides.
"""

from __future__ import annotations

import builtins
import ctypes
import inspect
import math
import os
import re
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy
import torch

from cosam_bench.method.places import Place

_HARNESS = str(Path(__file__).resolve().parents[1]) + os.sep
_RULES = tuple(str(path) + os.sep for path in (Path(_HARNESS, "methods"), Path(_HARNESS, "methods").resolve()))
_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_LOOKS = {
    "sys._getframe": "looks at the frames of its callers",
    "sys._current_frames": "looks at the frames of other threads",
    "gc.get_objects": "looks through all objects of the process",
    "gc.get_referrers": "looks through the objects of the process",
    "gc.get_referents": "looks through the objects of the process",
}
_ACTS = {
    "os.putenv": "changes the environment variable {0!r}",
    "os.unsetenv": "changes the environment variable {0!r}",
    "socket.connect": "connects to {1!r}",
    "socket.bind": "listens at {1!r}",
    "subprocess.Popen": "starts the program {0!r}",
    "os.system": "starts the command {0!r}",
    "os.posix_spawn": "starts the program {0!r}",
    "os.exec": "starts the program {0!r}",
    "os.fork": "starts a process",
    "os.setxattr": "sets an attribute of {0!r}",
    "os.removexattr": "removes an attribute of {0!r}",
    "os.utime": "changes the times of {0!r}",
    "os.chmod": "changes the mode of {0!r}",
    "os.chown": "changes the owner of {0!r}",  # os.lchown raises this, too
    "resource.prlimit": "reads or changes limits of the process {0!r}",
    "mmap.__new__": "maps memory that processes can share",
}
_INSPECTING = (inspect.__file__,)
_OPENS_LIBRARY = "calls the library {0!r} directly"
_OPENING_FOR_OTHERS = (  # open a library for their caller; "<": text that its caller runs
    "<",
    str(Path(ctypes.__file__).parent) + os.sep,
    str(Path(torch.__file__).with_name("_ops.py")),
    str(Path(torch.__file__).with_name("_classes.py")),
    str(Path(numpy.__file__).with_name("ctypeslib")),
)
_ABOVE = tuple(f"cosam_bench.{room}" for room in ("isolation", "results", "experiments", "api", "cli"))
_MATHEMATICS = (math, numpy, numpy.linalg, torch, torch.linalg, torch.nn, torch.nn.functional, torch.nn.init)
_WATCHED = (builtins, time, *_MATHEMATICS)
_REPLACED_BY_TORCH = ("torch.manual_seed",)  # when torch._dynamo is imported, as torchvision does
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Audit:
    """Watches this process from now on, before the method is imported; it cannot be turned off again."""

    def __init__(self) -> None:
        self._found: dict[str, Place] = {}
        self._own: tuple[str, ...] = ()
        self._before = _names()
        sys.addaudithook(self._hear)

    def watch(self, file: str | None) -> None:
        """Count code as the method's though it is installed like a library: its file, or its package's folder."""
        if file is not None:
            path = Path(file).resolve()
            self._own = (str(path.parent) + os.sep,) if (path.parent / "__init__.py").exists() else (str(path),)

    def findings(self) -> list[str]:
        """What was seen, one clause each, with the line if it is known."""
        found = [f"{text} ({place})" for text, place in self._found.items()]
        return found + _changed(self._before, _names())

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _LOOKS:
            self._note(_LOOKS[event], self._direct(_caller(), through=_INSPECTING))
        elif event == "ctypes.dlopen":  # torch opens libraries of a GPU itself, in calls such as torch.random.fork_rng
            self._note(_OPENS_LIBRARY.format(*arguments), self._direct(_caller(), through=_OPENING_FOR_OTHERS))
        elif event in _ACTS:
            shown = [os.fsdecode(one) if isinstance(one, bytes) else one for one in arguments]
            self._note(_ACTS[event].format(*shown, "", ""), self._nearest(_caller()))
        elif event == "open" and (text := _opening(*arguments)):
            self._note(text, self._nearest(_caller()))
        elif event == "import" and str(arguments[0]).startswith(_ABOVE):
            self._note(f"imports {arguments[0]}, which runs and scores methods", self._nearest(_caller()))

    def _note(self, text: str, place: Place | None) -> None:
        if place is not None:
            self._found.setdefault(text, place)

    def _direct(self, frame: FrameType | None, *, through: tuple[str, ...]) -> Place | None:
        """The line, if the method's own code called this, perhaps by files whose paths begin as in ``through``."""
        while frame is not None and frame.f_code.co_filename.startswith(through):
            frame = frame.f_back
        return _place(frame) if frame is not None and self._is_own(frame.f_code.co_filename) else None

    def _nearest(self, frame: FrameType | None) -> Place | None:
        """The line of the method's code that led here, unless it did so through the harness."""
        while frame is not None:
            file = frame.f_code.co_filename
            if self._is_own(file):
                return _place(frame)
            if file.startswith(_HARNESS):
                return None
            frame = frame.f_back
        return None

    def _is_own(self, file: str) -> bool:
        if self._own and file.startswith(self._own):
            return True
        return not file.startswith(("<", *_LIBRARIES)) and (not file.startswith(_HARNESS) or file.startswith(_RULES))


def _caller() -> FrameType | None:
    """The frame that raised the event, without asking ``sys`` for it, which would raise another."""
    try:
        raise LookupError
    except LookupError as error:
        own = error.__traceback__
        return own.tb_frame.f_back.f_back if own is not None and own.tb_frame.f_back is not None else None


def _place(frame: FrameType) -> Place:
    return Place(frame.f_code.co_filename, frame.f_lineno)


def _opening(path: object, mode: object, flags: object) -> str:
    """What is wrong with opening a file; empty if nothing is."""
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    name = os.fsdecode(path)
    process = re.match(r"/proc/(\d+)", name)
    if process and int(process[1]) != os.getpid():
        return f"opens {name!r}, which is about another process"
    return f"opens {name!r} for writing" if _is_writing(mode, flags) and name != os.devnull else ""


def _is_writing(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITING)


def _names() -> dict[str, object]:
    """What each name of the harness, of its classes, and of some other modules and classes stands for.

    The objects themselves, not their ``id``: that of one that is gone may become another's.
    """
    harness = [module for name, module in sys.modules.items() if _is_harness(name)]
    found: dict[str, object] = {}
    for base in reversed(torch.Tensor.__mro__):  # most of its functions are its bases'
        found |= {f"torch.Tensor.{name}": value for name, value in _attributes(base)}
    for module in [*harness, *_WATCHED]:
        for key, value in list(vars(module).items()):
            if not key.startswith("__") and not isinstance(value, ModuleType):
                found[f"{module.__name__}.{key}"] = value
            if isinstance(value, type) and _is_watched(module, value, harness):
                found |= {f"{module.__name__}.{key}.{name}": one for name, one in _attributes(value)}
    return {name: value for name, value in found.items() if name not in _REPLACED_BY_TORCH}


def _is_harness(name: str) -> bool:
    return name.startswith("cosam_bench.") and not name.startswith(("cosam_bench.methods", "cosam_bench.isolation"))


def _is_watched(module: ModuleType, found: type, harness: Sequence[ModuleType]) -> bool:
    if module is torch.nn:
        return found.__module__.startswith("torch.nn.")
    return found.__module__ == module.__name__ and module in harness


def _attributes(found: type) -> Iterator[tuple[str, object]]:
    """The attributes of a class, but for those that Python, pydantic and ``torch.compile`` set when they need them."""
    for name, value in list(vars(found).items()):
        is_operator = callable(value) and not name.startswith("___") and name not in ("__init__", "__setstate__")
        if not name.startswith(("__", "_abc_")) or is_operator:
            yield name, value


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """What stands for something else, and what was added to classes and to Python's own names."""
    found = [f"replaces {name}" for name in before if name in after and after[name] is not before[name]]
    for name in after.keys() - before.keys():
        holder = name.rpartition(".")[0]
        if holder == "builtins" or isinstance(before.get(holder), type):
            found.append(f"adds {name}")
    return sorted(found)
