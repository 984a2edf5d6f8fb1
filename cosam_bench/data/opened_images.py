"""Images that have been decoded once: a damaged one is found before anything is trained, and only looked for once."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

import PIL

from cosam_bench.core.reading import read_text
from cosam_bench.data.decoding import check_image
from cosam_bench.data.locations import data_folder

_VERSION = 1  # of what is checked; raised if decoding refuses more than before
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<level>[0-9]{1,5})\n")
_BYTES = 1 << 26  # of the file: about a million images; then it begins again


class OpenedImages:
    """Decodes images, and remembers by the sha256 of their bytes which could be.

    Args:
        path: the file that remembers; None remembers nothing. It is only a cache: if it cannot be read or written, all
            images are decoded again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, int] = {}
        self._new: list[str] = []
        self._lock = Lock()
        if path is not None:
            with suppress(OSError, ValueError):
                found = map(_LINE.fullmatch, read_text(path, limit_bytes=_BYTES).splitlines(keepends=True))
                self._known = {line["sha256"]: int(line["level"]) for line in found if line}

    @classmethod
    def of_this_machine(cls) -> Self:
        """The images that any run on this machine has decoded, by the same version of Pillow."""
        return cls(data_folder() / f"opened-images-{_VERSION}-pillow-{PIL.__version__}.txt")

    def check(self, data: bytes, *, sha256: str, name: str) -> int:
        """The largest level of an image of 16 bits, 0 for others; several threads may ask.

        Args:
            data: the file's bytes.
            sha256: of them.
            name: the file's name, for errors.

        Raises:
            CosamError: the image is damaged or of a kind that is not read.
        """
        if sha256 not in self._known:
            deepest = check_image(data, name=name)
            with self._lock:
                self._known[sha256] = deepest
                self._new.append(f"{sha256} {deepest}\n")
        return self._known[sha256]

    def save(self) -> None:
        """Remember what was decoded since the last call."""
        if self._path is None or not self._new:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_full = self._path.exists() and self._path.stat().st_size > _BYTES // 2
            with self._path.open("wb" if is_full else "ab", buffering=0) as file:
                file.write(f"\n{''.join(self._new)}".encode("ascii"))  # at once, after what may be half a line
        self._new.clear()
