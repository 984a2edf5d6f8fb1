"""Looks through the callers' frames for the name of the domain that is scored."""

import sys

from support.honest_method import Peeks


class Cheat(Peeks):
    def sees(self, batch):
        frame = sys._getframe()
        while frame is not None:
            found = frame.f_locals.get("split") or frame.f_locals.get("domain")
            if hasattr(found, "domain") or hasattr(found, "test"):
                return True
            frame = frame.f_back
        return False
