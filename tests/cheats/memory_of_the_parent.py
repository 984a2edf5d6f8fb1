"""Writes into the memory of the processes above it."""

import os
import re
from pathlib import Path

from support.honest_method import Tampers


class Cheat(Tampers):
    def tamper(self, domain):
        above = os.getppid()
        maps = Path(f"/proc/{above}/maps").read_text()
        first = int(re.search(r"^([0-9a-f]+)-[0-9a-f]+ rw", maps, re.MULTILINE)[1], 16)
        with Path(f"/proc/{above}/mem").open("r+b", buffering=0) as memory:
            memory.seek(first)
            memory.write(b"\0" * 4096)
