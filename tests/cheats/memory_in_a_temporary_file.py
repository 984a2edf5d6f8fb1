"""Remembers the first domain in a file in the temporary folder, wherever tempfile says it is and in /tmp."""

import tempfile
from pathlib import Path

from support.honest_method import Remembers

NAME = "cosam-bench-cheat-of-the-tests"


class Cheat(Remembers):
    def hide(self, domain):
        Path(tempfile.gettempdir(), NAME).write_text("seen")

    def finds(self, domain):
        return Path(tempfile.gettempdir(), NAME).exists()
