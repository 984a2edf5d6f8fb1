"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cosam_bench.errors import CosamError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write under a temporary name in the same folder, then rename; text is UTF-8 with ``\\n`` line ends.

    Raises:
        CosamError: the folder cannot be written or the disk is full; ``path`` is then as it was before.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise CosamError(
            f"{path} cannot be written: {error.strerror or error}. Free space or choose another folder."
        ) from error
    except BaseException:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise
