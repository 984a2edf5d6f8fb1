"""Overwrites the row of frozen SAM that all methods share, by the paths of the processes above it."""

import json
import os
from pathlib import Path

from support.honest_method import Tampers


class Cheat(Tampers):
    def tamper(self, domain):
        places = [Path.cwd(), *Path.cwd().parents]
        for process in (os.getpid(), os.getppid(), 1):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            places += [*map(Path, map(os.fsdecode, words)), Path(f"/proc/{process}/cwd").readlink()]
        for place in places:
            for path in place.glob("results/_shared/rows/*.json"):
                path.write_text(json.dumps({"step": 0, "scores": {}}))
