"""The running costs of learning a domain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Meter:
    """What learning one domain has cost so far.

    Attributes:
        training_seconds: adapter training; a reused expert counts in full.
        elapsed_training_seconds: the part of it that was spent now, not saved by a reused expert.
        trainable_parameters: of the adapter that was trained last.
    """

    training_seconds: float = 0.0
    elapsed_training_seconds: float = 0.0
    trainable_parameters: int = 0
