"""Modules of a rule that were edited while this process ran, as in a notebook: they are imported again.

Otherwise the next run would compute with the old code, which Python keeps, and be recorded under the new one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_file

_hashed: dict[str, tuple[Path, str]] = {}  # by the module's name, its file and what that held


def remember_modules(files: Mapping[str, Path]) -> None:
    """Note what the files of these modules hold now."""
    _hashed.update({name: (path, sha256_file(path)) for name, path in files.items()})


def unload_edited_modules() -> None:
    """If any file was edited since it was remembered, unload all remembered modules.

    Python takes compiled code for that of a file of the same size and second, so an edited file's is removed.
    """
    edited = [path for path, digest in _hashed.values() if _is_edited(path, digest)]
    if edited:
        for path in edited:
            with suppress(OSError, NotImplementedError):  # the folder cannot be written, or nothing is ever compiled
                Path(cache_from_source(str(path))).unlink(missing_ok=True)
        for name in _hashed:
            sys.modules.pop(name, None)
        _hashed.clear()


def _is_edited(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path) != digest
    except CosamError:  # the file is gone
        return True
