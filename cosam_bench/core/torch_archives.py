"""Archives in which ``torch.save`` put whole objects, read as tensors and plain values.

Such a file is a pickle, which may name any function to be called with any arguments. Here three functions are known,
which build tensors and ordered dictionaries; whatever else a file names becomes an inert stand-in that keeps the state
it is given and does nothing. No module is imported, and no code of the file or for its classes runs.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from cosam_bench.core.reading import is_pointer_file
from cosam_bench.core.tensor_files import CannotRead

Plain: TypeAlias = bool | int | float | str | None

_ARCHIVE_BYTES = 1 << 31
_PICKLE_BYTES = 1 << 22  # that of a module with forty tensors has 9 KB
_NODES = 100_000
_DEPTH = 32
_DIMENSIONS = 8
_SHARED = 4  # tensors may view the same storage, but in total they take at most this many times the file's size
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ArchiveContent(NamedTuple):
    """What an archive holds.

    Attributes:
        tensors: by the path of keys and modules, joined by dots, on the CPU.
        values: plain values, and lists of them, by their path; the attributes of modules are not among them.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Plain | list[Plain]]


def read_archive(path: Path, *, what: str = "The file", advice: str = "") -> ArchiveContent:
    """The tensors of the modules and dictionaries in an archive of ``torch.save``; nothing in it is executed.

    Args:
        path: the file.
        what: what the file is, the first words of the error.
        advice: what the user can do, the last sentence of the error.

    Raises:
        CannotRead: the file is missing or damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = _Records(archive, path.stat().st_size)
            unpickler = _InertUnpickler(io.BytesIO(records.read("data.pkl", limit_bytes=_PICKLE_BYTES)))
            root = unpickler.load()
            return _Content(records).of(root)
    except zipfile.BadZipFile:
        reason = "it is not an archive of torch.save"
        if is_pointer_file(path):
            reason = "it is a pointer of Git LFS, and no archive yet; fetch it by git lfs pull"
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        reason = str(error).split("\n", 1)[0] or type(error).__name__
    raise CannotRead(f"{what} {path} cannot be read: {reason}. {advice}".rstrip())


class _Records:
    """The records of an archive, none of which may be larger than what the file has for it."""

    def __init__(self, archive: zipfile.ZipFile, size_bytes: int) -> None:
        infos = archive.infolist()
        if size_bytes > _ARCHIVE_BYTES or sum(info.file_size for info in infos) > size_bytes:
            raise ValueError("its records are larger than an archive of torch.save has them")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("its records are compressed, as torch.save never does")
        self._archive, self._infos = archive, {info.filename: info for info in infos}
        roots = [name.removesuffix("data.pkl") for name in self._infos if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it has no data.pkl, so torch.save did not write it")
        self._root = roots[0]
        if f"{self._root}byteorder" in self._infos and self.read("byteorder", limit_bytes=16) != b"little":
            raise ValueError("its numbers are not in little-endian order")
        self.size_bytes = size_bytes

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """One record's bytes."""
        info = self._infos.get(self._root + name)
        if info is None or info.file_size > limit_bytes:
            raise ValueError(f"its record {name!r} is {'missing' if info is None else 'too large'}")
        return self._archive.read(info)


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str


class _View(NamedTuple):
    """A tensor as the pickle describes it; a tuple, so that a pickle cannot give it attributes."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Inert:
    """Stands for an object of a class that is not known: it keeps a state and does nothing."""

    __slots__ = ("state",)

    def __new__(cls, *_: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state


class _InertUnpickler(pickle._Unpickler):
    """Python's own unpickler, written in Python, whose memo takes memory only for what is in it."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = {
            ("collections", "OrderedDict"): _ordered,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        function = known.get((module_name, global_name))
        if function is None:
            return type("Inert", (_Inert,), {"__slots__": ()})
        return _Caller(function)

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor views."""
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("it refers to something else than a storage of numbers")
        return _Storage(dtype, key)


class _Caller(tuple[Any, ...]):
    """Calls one function; a tuple, so that a pickle cannot give it attributes."""

    __slots__ = ()

    def __new__(cls, function: Any) -> _Caller:
        return super().__new__(cls, (function,))

    def __call__(self, *arguments: object) -> object:
        return self[0](*arguments)


def _ordered(*arguments: object) -> OrderedDict[object, object]:
    if arguments:
        raise ValueError("it makes a dictionary in another way than torch.save")
    return OrderedDict()


def _view(storage: object, offset: object, size: object, stride: object, *_: object) -> _View:
    return _View(storage, offset, size, stride)


def _parameter(view: object, *_: object) -> object:
    if not isinstance(view, _View):
        raise ValueError("it has a parameter that is not a tensor")
    return view


class _Content:
    """Collects the tensors and plain values of an unpickled object."""

    def __init__(self, records: _Records) -> None:
        self._records = records
        self._nodes, self._bytes = 0, 0
        self._found = ArchiveContent({}, {})

    def of(self, root: object) -> ArchiveContent:
        """All that is in the object."""
        self._collect("", root, depth=0)
        return self._found

    def _collect(self, path: str, value: object, *, depth: int) -> None:
        self._nodes += 1
        if self._nodes > _NODES or depth > _DEPTH:
            raise ValueError("its objects are nested too deeply, or there are too many")
        if isinstance(value, _View):
            self._found.tensors[path] = self._tensor(value)
        elif isinstance(value, _Inert):
            for name, part in _module_parts(value):
                self._collect(_joined(path, name), part, depth=depth + 1)
        elif isinstance(value, Mapping):
            for name, part in value.items():
                self._collect(_joined(path, name), part, depth=depth + 1)
        elif isinstance(value, list | tuple) and len(value) <= _NODES and all(map(_is_plain, value)):
            self._found.values[path] = list(value)
        elif _is_plain(value):
            self._found.values[path] = value  # type: ignore[assignment]  # checked in the line above

    def _tensor(self, view: _View) -> Tensor:
        storage, offset, size, stride = view
        sides = [offset, *size, *stride]
        if not isinstance(storage, _Storage) or not all(type(side) is int and side >= 0 for side in sides):
            raise ValueError("it has a tensor without a storage, or of an impossible shape")
        data = self._records.read(f"data/{storage.key}", limit_bytes=_ARCHIVE_BYTES)
        count = len(data) // storage.dtype.itemsize
        numel, last = 1, offset
        for length, step in zip(size, stride, strict=True):
            numel, last = numel * length, last + (length - 1) * step
        if len(size) > _DIMENSIONS or numel > count or (numel and last >= count):
            raise ValueError("it has a tensor that is larger than its storage")
        self._bytes += numel * storage.dtype.itemsize
        if self._bytes > _SHARED * self._records.size_bytes:
            raise ValueError("its tensors are larger than the file")
        if not numel:
            return torch.empty(size, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(size, stride, offset).contiguous().clone()


def _module_parts(module: _Inert) -> Iterator[tuple[object, object]]:
    """The parameters, buffers and parts of what was a module; nothing for any other object."""
    state = getattr(module, "state", None)
    if not isinstance(state, Mapping):
        return
    for name in ("_parameters", "_buffers", "_modules"):
        parts = state.get(name)
        if isinstance(parts, Mapping):
            yield from parts.items()


def _joined(path: str, name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"it has a key of type {type(name).__name__}, not a name")
    return f"{path}.{name}" if path else name


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)
