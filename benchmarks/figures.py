"""What was measured: figures, their file in full precision, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cosam_bench.core.environment import hardware
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically

_COLUMNS = ("group", "stage", "plain", "ours", "unit", "note", "limit", "ratio", "share", "machine")
_NUMBERS = ("plain", "ours", "limit", "ratio", "share")


@dataclass(frozen=True)
class Figure:
    """One line of a table; a number that was not measured is None.

    Attributes:
        stage: what is compared.
        plain: the plain way's number.
        ours: this package's.
        unit: ``s`` of processor time (wall time on a GPU), ``MiB``, or what the number is.
        note: what else was found, such as how far the results are apart.
        limit: the least seconds that this machine could take by the cost model.
        group: the stage of ``python -m benchmarks`` that measured it.
        machine: where it was measured.
    """

    stage: str
    plain: float | None
    ours: float
    unit: str
    note: str = ""
    limit: float | None = None
    group: str = ""
    machine: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times less than the plain way ours takes."""
        return None if self.plain is None else self.plain / self.ours

    @property
    def share(self) -> float | None:
        """How near ours comes to the machine's limit, which is 1."""
        return None if self.limit is None else self.limit / self.ours


def machine_name(device: torch.device) -> str:
    """The device, torch's version and, on a CPU, its threads."""
    facts = hardware(device)
    cpu = f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores"
    return f"{facts.get('gpu', cpu)}, torch {torch.__version__.partition('+')[0]}"


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Replace the file."""
    lines = [asdict(figure) | {"ratio": figure.ratio, "share": figure.share} for figure in figures]
    write_atomically(path, pd.DataFrame(lines, columns=list(_COLUMNS)).to_csv(index=False))


def read_figures(path: Path) -> list[Figure]:
    """The figures that ``write_figures`` wrote, bit for bit.

    Raises:
        CosamError: the file is missing, or it is another kind of file.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # numbers are read by Python, which is exact
        if tuple(frame) != _COLUMNS:
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        numbers = {name: [float(text) if text else None for text in frame.pop(name)] for name in _NUMBERS}
    except (OSError, ValueError) as error:
        raise CosamError(
            f"{path} cannot be read as a file of figures: {type(error).__name__}: {error}. "
            "Write one by `python -m benchmarks --csv FILE`."
        ) from None
    kept = frame.assign(**{name: pd.Series(numbers[name], dtype=object) for name in ("plain", "ours", "limit")})
    lines: list[dict[str, Any]] = kept.to_dict("records")  # type: ignore[assignment]  # its names are strings
    return [Figure(**line) for line in lines]


def replaced(known: Sequence[Figure], new: Sequence[Figure], *, order: Sequence[str]) -> list[Figure]:
    """The known figures with those of the newly measured groups in place of their old ones, groups in ``order``."""
    fresh = {figure.group for figure in new}
    kept = [figure for figure in known if figure.group not in fresh]
    place = {name: number for number, name in enumerate(order)}
    return sorted([*kept, *new], key=lambda figure: place.get(figure.group, len(place)))


def table(figures: Sequence[Figure]) -> list[list[str]]:
    """The heads, then one line per figure; columns that no figure fills are left out."""
    heads = ["stage", "plain", "ours", "", "times less", "of the limit", "note"]
    lines = [
        [
            figure.stage,
            amount(figure.plain),
            amount(figure.ours),
            figure.unit,
            amount(figure.ratio, digits=2),
            "" if figure.share is None else f"{figure.share:.0%}",
            figure.note,
        ]
        for figure in figures
    ]
    used = [place for place, head in enumerate(heads) if head == "" or any(line[place] for line in lines)]
    if heads.index("plain") not in used:
        heads[heads.index("ours")] = "measured"
    return [[line[place] for place in used] for line in [heads, *lines]]


def amount(number: float | None, *, digits: int = 3) -> str:
    """A number to so many digits, with thousands separated; empty for None.

    >>> amount(2398.6), amount(0.01234), amount(19.71), amount(None)
    ('2,399', '0.0123', '19.7', '')
    """
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 10 ** (digits - 1) else f"{number:.{digits}g}"
