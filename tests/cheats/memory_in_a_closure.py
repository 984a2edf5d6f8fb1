"""Remembers the first domain in a variable that only two functions can reach."""

from support.honest_method import Remembers


def _box():
    kept = None

    def put(value):
        nonlocal kept
        kept = value

    return put, lambda: kept


PUT, GET = _box()


class Cheat(Remembers):
    def hide(self, domain):
        PUT(domain[0])

    def finds(self, domain):
        return GET() is not None
