"""What learning a domain costs, as it is added up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Meter:
    """What one domain's learning cost so far.

    Attributes:
        training_seconds: adapter training, counted in full also where an expert was reused.
        elapsed_training_seconds: the part of it that was not taken over with a reused expert.
        trainable_parameters: of the adapter that was trained last.
    """

    training_seconds: float = 0.0
    elapsed_training_seconds: float = 0.0
    trainable_parameters: int = 0
