"""The running costs of learning a domain."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field

MOST_FIGURES = 16
MOST_FIGURE_NAME = 64  # characters


@dataclass
class Meter:
    """What learning one domain has cost so far.

    Attributes:
        training_seconds: adapter training; a reused expert counts in full.
        elapsed_training_seconds: the part of it that was spent now, not saved by a reused expert.
        trainable_parameters: of the adapter that was trained last.
        reported: figures of the method's own by name, such as a condition number.
    """

    training_seconds: float = 0.0
    elapsed_training_seconds: float = 0.0
    trainable_parameters: int = 0
    reported: dict[str, float] = field(default_factory=dict)

    def report(self, name: str, value: float) -> None:
        """Add a figure of the method's own to the record of this step; the largest value of a name counts.

        Args:
            name: at most ``MOST_FIGURE_NAME`` printable characters; of one step, at most ``MOST_FIGURES`` names.
            value: a number; what is not finite is left out of the record.

        Raises:
            ValueError: the name is another, or one too many; or the value is not a number.
        """
        if not isinstance(name, str):
            raise ValueError(f"a figure's name is text, not {type(name).__name__}")
        if len(name) > MOST_FIGURE_NAME:
            raise ValueError(f"a figure's name has at most {MOST_FIGURE_NAME} characters; {name[:20]!r}... is longer")
        if not name.isprintable():
            raise ValueError(f"a figure's name is printable text without line breaks, not {name!r}")
        if name not in self.reported and len(self.reported) == MOST_FIGURES:
            raise ValueError(f"a step reports at most {MOST_FIGURES} figures; {name!r} is one more. Report a maximum")
        self.reported[name] = max(_number(name, value), self.reported.get(name, -math.inf))


def _number(name: str, value: object) -> float:
    """The value of a figure: of any type that is a number, such as NumPy's or a tensor of one element."""
    if not isinstance(value, str | bytes):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            return float(value)  # type: ignore[arg-type]  # which of them it takes is what this finds out
    raise ValueError(f"the figure {name!r} needs a number that a float can hold, not this {type(value).__name__}")
