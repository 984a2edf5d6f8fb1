"""Files of tensors: the one place that reads and writes safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, replacing
from cosam_bench.core.reading import is_pointer_file

WRITE_FAULT: type[Exception] = SafetensorError
"""What is raised by other libraries that write such files, if the disk is full."""


class CannotRead(CosamError):
    """A file of tensors is missing or damaged."""


class TensorFile(NamedTuple):
    """The content of a file.

    Attributes:
        tensors: by name, on the CPU, mapped from the file: they take memory once they are looked at.
        metadata: text by key.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path, *, what: str = "The file", advice: str = "") -> TensorFile:
    """The content of a safetensors file; nothing in it is executed.

    Args:
        path: the file. If it is removed while it is read, its tensors stay as they are.
        what: what the file is, the first words of the error.
        advice: what the user can do, the last sentence of the error.

    Raises:
        CannotRead: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            return TensorFile(tensors, file.metadata() or {})
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_pointer_file(path):
            raise CannotRead(
                f"{what} {path} is a pointer of Git LFS, and no tensors yet. Fetch it: git lfs pull."
            ) from None
        # RuntimeError: torch opens the file a second time, and another process may have removed it in between.
        raise CannotRead(f"{what} {path} cannot be read: {error}. {advice}".rstrip()) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> int:
    """Write tensors of any device and layout as one safetensors file, and return the file's size in bytes.

    Args:
        path: the file; it is replaced as a whole, or not at all.
        tensors: by name; they may share memory.
        metadata: one key at most, if the file's bytes should repeat: safetensors writes several in random order.

    Raises:
        CannotWrite: the folder cannot be written or the disk is full.
    """
    with replacing(path) as temporary:
        try:
            save_file(_separate(tensors), temporary, metadata)
        except SafetensorError as error:
            raise CannotWrite(f"{path} cannot be written: {error}. Free space or choose another folder.") from error
        return temporary.stat().st_size


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the format requires: on the CPU, contiguous, each with memory of its own.

    Only those that are not so already are copied, because a state may be as large as the memory allows.
    """
    ready: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        placed = tensor.detach().cpu()
        storage = placed.untyped_storage()
        is_alone = placed.nbytes == storage.nbytes() and storage.data_ptr() not in taken
        ready[name] = (
            placed if is_alone and placed.is_contiguous() else placed.clone(memory_format=torch.contiguous_format)
        )
        taken.add(ready[name].untyped_storage().data_ptr())
    return ready
