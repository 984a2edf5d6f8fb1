"""Remembers the first domain in an environment variable."""

import os

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        os.environ["CHEAT"] = str(domain[0].mask.sum().item())

    def finds(self, domain):
        return "CHEAT" in os.environ
