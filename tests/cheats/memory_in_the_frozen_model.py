"""Remembers the first domain in an attribute of the frozen model, which the harness passes on."""

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        self.bench.sam.seen = domain[0].image

    def finds(self, domain):
        return hasattr(self.bench.sam, "seen")
