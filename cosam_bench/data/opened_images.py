"""Images that have been decoded once: a damaged one is found before anything is trained, and only looked for once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Self

import PIL

from cosam_bench.core.reading import read_text
from cosam_bench.data.decoding import check_image
from cosam_bench.data.locations import data_folder

_VERSION = 1  # of what is checked; raised if decoding refuses more than before
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
        with suppress(OSError, ValueError):
            lines = read_text(path, limit_bytes=_BYTES).splitlines() if path else []
            self._known = {line[:64]: int(line[65:]) for line in lines if len(line) > 65}

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
            with self._path.open("w" if is_full else "a", encoding="ascii") as file:
                file.write("".join(self._new))
        self._new.clear()
