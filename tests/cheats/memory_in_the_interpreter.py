"""Remembers the first domain in the interpreter's own modules."""

import builtins
import sys

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        builtins.seen = sys.modules["seen"] = domain[0]

    def finds(self, domain):
        return hasattr(builtins, "seen") or "seen" in sys.modules
