"""Remembers the first domain in an attribute of its class."""

from support.honest_method import Remembers


class Cheat(Remembers):
    kept = None

    def hide(self, domain):
        type(self).kept = domain[0]

    def finds(self, domain):
        return self.kept is not None
