"""Folders of images that tell their number, with masks; and the stream that is guessed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.guessing.stream_guess import StreamGuess, guess_stream, stream_text, write_stream
from cosam_bench.data.opening import open_domain
from cosam_bench.data.samples import Domain
from cosam_bench.data.streams import Stream, load_stream

COUNT, SIZE = 10, (24, 32)


def box(index: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the object of an image; the last two are not part of it."""
    return 2 + index, 3, 12 + index, 9 + index


def truth(index: int) -> np.ndarray:
    left, top, right, bottom = box(index)
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def save_image(path: Path, index: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), 20 * index, np.uint8)
    pixels[truth(index)] = (255 - index, 40, 90)
    Image.fromarray(pixels).save(path, **options)


def save_mask(path: Path, index: int, *, levels: tuple[int, int] = (0, 255)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(levels, np.uint8)[truth(index).astype(int)]).save(path)


def pairs(root: Path, image: str, mask: str, *, first: int = 0, count: int = COUNT) -> None:
    """Images and masks by patterns with ``{}`` for the number."""
    for index in range(first, first + count):
        save_image(root / image.replace("{}", f"{index:02}"), index)
        save_mask(root / mask.replace("{}", f"{index:02}"), index)


def guessed(root: Path) -> tuple[StreamGuess, Stream]:
    guess = guess_stream(root)
    write_stream(guess, root / "mine.toml")
    return guess, load_stream(str(root / "mine.toml"))


def said_of(root: Path) -> str:
    """The file on one line, without the breaks of comments."""
    return " ".join((root / "mine.toml").read_text().replace("\n# ", " ").split())


def opened(root: Path, *, has_choices: bool = False) -> Domain:
    """The only domain of a folder, opened as it was guessed; every mask is the true one."""
    guess, stream = guessed(root)
    (name,) = guess.domains
    assert bool(guess.domains[name].choices) == has_choices, stream_text(guess, folder=root)
    domain = open_domain(stream.card(name))
    assert check_domain(stream.card(name)).fault_count == 0
    for sample in [*domain.train, *domain.test]:
        assert (sample.mask.numpy() == truth(index_of(sample.image.numpy()))).all(), sample.key
    return domain


def index_of(pixels: np.ndarray) -> int:
    """The number of an image, from the background of its last row, whatever JPEG has made of it."""
    return round(float(pixels[:, -1].mean()) / 20)
