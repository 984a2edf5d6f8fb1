"""The one place that makes a sha256: of bytes, text, JSON values, files and tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_BYTES = 2**20


def sha256_bytes(*parts: bytes | memoryview) -> str:
    """The sha256 of the parts, one after the other."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def sha256_text(text: str) -> str:
    """The sha256 of a text in UTF-8."""
    return sha256_bytes(text.encode())


def sha256_json(value: object) -> str:
    """The sha256 of a value as JSON, its keys sorted.

    >>> sha256_json({"a": 1, "b": [2.0]}) == sha256_json({"b": (2.0,), "a": 1})
    True
    """
    return sha256_text(json.dumps(value, sort_keys=True))


def sha256_file(path: Path, *, on_block: Callable[[int], None] = lambda size_bytes: None) -> str:
    """The sha256 of a file.

    Args:
        path: the file.
        on_block: called with the size of each block that was read.

    Raises:
        CosamError: the file cannot be read.
    """
    state = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                state.update(block)
                on_block(len(block))
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror or error}.") from None
    return state.hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of the sorted names with each tensor's dtype, shape and bytes; the device does not count."""
    import torch

    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
