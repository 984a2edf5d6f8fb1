"""Remembers the first domain in an attribute of the harness's own class of domains."""

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        type(domain).seen = domain[0]

    def finds(self, domain):
        return hasattr(type(domain), "seen")
