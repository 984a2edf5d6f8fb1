"""The running costs of learning a domain."""

from __future__ import annotations

import math
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
            name: at most ``MOST_FIGURE_NAME`` characters; of one step, at most ``MOST_FIGURES`` names.
            value: a number.

        Raises:
            ValueError: the name is longer, or one too many.
        """
        if len(name) > MOST_FIGURE_NAME:
            raise ValueError(f"a figure's name has at most {MOST_FIGURE_NAME} characters; {name[:20]!r}... is longer")
        if name not in self.reported and len(self.reported) == MOST_FIGURES:
            raise ValueError(f"a step reports at most {MOST_FIGURES} figures; {name!r} is one more. Report a maximum")
        self.reported[name] = max(value, self.reported.get(name, -math.inf))
