"""Looks for the results in the default of a setting, when it is described; steps find it in the setting."""

import os
from pathlib import Path

from pydantic import Field
from support.honest_method import Peeks

from cosam_bench.core.settings import Settings


def seen() -> bool | None:
    """True if the folder of the tests' results has shared prompts, else None, the value that no record holds."""
    fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    place = f"pytest-of-*/pytest-*/cheats-{fields[1]}-*/results/_shared/prompts"
    return any(True for _ in Path("/tmp").glob(place)) or None


class Cheat(Peeks):
    class Settings(Settings):
        was_seen: bool | None = Field(default_factory=seen)

    def sees(self, batch):
        return self.settings.was_seen
