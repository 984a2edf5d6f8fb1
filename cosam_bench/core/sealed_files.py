"""Files of tensors that prove what they are: each holds its own name and a checksum of its content.

A file that was damaged, edited, or copied over another one's name is told from one that is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cosam_bench.core.hashing import digest_tensors, sha256_json
from cosam_bench.core.tensor_files import CannotRead, read_tensors, write_tensors


class SealedFile(NamedTuple):
    """The content of a file whose seal is unbroken.

    Attributes:
        tensors: by name, on the CPU, mapped from the file.
        facts: what was written beside them.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write_sealed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> int:
    """Write tensors and facts with the seal, and return the file's size in bytes.

    Args:
        path: the file; its name without the ending is its identity, which should determine the content.
        tensors: by name.
        facts: values that JSON can represent exactly.

    Raises:
        CannotWrite: the folder cannot be written or the disk is full.
    """
    content = {"facts": dict(facts), "seal": _seal(path.stem, tensors, facts)}
    return write_tensors(path, tensors, {"content": json.dumps(content)})


def read_sealed(path: Path) -> SealedFile:
    """The content of a file that ``write_sealed`` wrote under this name.

    Raises:
        CannotRead: the file is missing or damaged, was changed, or belongs to another name.
    """
    tensors, metadata = read_tensors(path)
    try:
        content = json.loads(metadata["content"])
        facts, seal = content["facts"], content["seal"]
        is_whole = seal == _seal(path.stem, tensors, facts)
    except (KeyError, TypeError, ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CannotRead(f"The file {path} was changed, or has the content of another one.")
    return SealedFile(tensors, facts)


def _seal(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> str:
    return sha256_json([name, digest_tensors(tensors), dict(facts)])
