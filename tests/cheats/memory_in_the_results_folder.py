"""Remembers the first domain in the folder of experts, which all steps share."""

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        (self.bench.experts._folder / "seen").write_text("seen")

    def finds(self, domain):
        return (self.bench.experts._folder / "seen").exists()
