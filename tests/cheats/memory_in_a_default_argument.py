"""Remembers the first domain in a default argument of a function."""

from support.honest_method import Remembers


def _kept(value=None, _memory=[]):  # noqa: B006 (the trick)
    _memory.append(value)
    return len(_memory) > 2


class Cheat(Remembers):
    def hide(self, domain):
        _kept(domain[0])
        _kept(domain[0])

    def finds(self, domain):
        return _kept()
