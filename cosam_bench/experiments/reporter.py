"""Showing how far a run is: what the runner calls, whoever listens."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Whoever shows how far a run is."""

    def begin(self, total: float) -> None:
        """A run of about ``total`` units of work starts; one unit is an encoder pass over one image."""

    def say(self, text: str) -> None:
        """What is being done now."""

    def note(self, text: str) -> None:
        """Something that the user should know, and that stays to be read."""

    def advance(self, units: float) -> None:
        """So much work was done."""


class SilentReporter:
    """Shows nothing."""

    def begin(self, total: float) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def advance(self, units: float) -> None:
        """Nothing."""
