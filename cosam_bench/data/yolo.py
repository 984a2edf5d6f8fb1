"""YOLO's text files of segments: one polygon a line, in shares of the image's width and height."""

from __future__ import annotations

from cosam_bench.core.errors import CosamError
from cosam_bench.data.instances import Instance, read_polygon

SUFFIX = ".txt"
LINES = 10_000
BEYOND = 0.001  # of a side; exporters round
CLASS_NAMES = "classes.txt"  # labelImg puts it beside the images' files
_BOX = 5  # numbers of a line that is a box
_FEWEST = 6  # numbers of a polygon


def read_yolo(data: bytes, *, name: str, size: tuple[int, int]) -> list[Instance]:
    """The objects of a text file, each labelled with its class as written (``0``); an empty file has none.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.
        size: height and width of the upright image.

    Raises:
        CosamError: a line is not a class and three or more points in shares of the image.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise CosamError(f"{name} is not text in UTF-8. Replace it or leave it out.") from None
    if len(lines) > LINES:
        raise CosamError(f"{name} has {len(lines)} lines, but at most {LINES} are read. Split the image.")
    return [
        _instance(line.split(), where=f"line {number} of {name}", size=size)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _instance(words: list[str], *, where: str, size: tuple[int, int]) -> Instance:
    label, *numbers = words
    try:
        shares = [float(number) for number in numbers]
    except ValueError:
        shares = []
    if not label.isdecimal() or not shares:
        raise CosamError(f"{where} is not a class and the points of a polygon, such as 0 0.1 0.1 0.9 0.1 0.5 0.9.")
    if len(words) == _BOX:
        raise CosamError(f"{where} is a box, not a polygon. Export segments, or leave the domain out.")
    if len(shares) < _FEWEST or len(shares) % 2:
        raise CosamError(
            f"{where} has {len(shares)} numbers after its class, which are not three or more points x, y. Correct or "
            "remove it."
        )
    if not all(-BEYOND <= share <= 1 + BEYOND for share in shares):
        raise CosamError(
            f"{where} has coordinates outside 0 to 1. YOLO's are shares of the image's width and height; export again."
        )
    scaled = [share * size[1 - index % 2] for index, share in enumerate(shares)]
    return Instance(label, polygons=(read_polygon(scaled, where=where),))
