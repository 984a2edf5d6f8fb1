"""Remembers the first domain in a file in the user's home and in the working directory."""

from pathlib import Path

from support.honest_method import Remembers

NAME = ".cosam-bench-cheat-of-the-tests"


class Cheat(Remembers):
    def hide(self, domain):
        (Path.home() / NAME).write_text("seen")
        Path(NAME).write_text("seen")

    def finds(self, domain):
        return (Path.home() / NAME).exists() or Path(NAME).exists()
