"""Remembers the first domain in a global of its module."""

from support.honest_method import Remembers

SEEN: list[object] = []


class Cheat(Remembers):
    def hide(self, domain):
        SEEN.append(domain[0])

    def finds(self, domain):
        return bool(SEEN)
