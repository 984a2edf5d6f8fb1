"""Remembers the first domain in the time and in an extended attribute of its own file."""

import os
from contextlib import suppress
from pathlib import Path

from support.honest_method import Remembers


class Cheat(Remembers):
    def hide(self, domain):
        with suppress(OSError):
            os.utime(__file__, (os.getppid(), os.getppid()))  # the process that starts the workers of this run
        os.setxattr(__file__, "user.mem", str(os.getppid()).encode())

    def finds(self, domain):
        has_time = Path(__file__).stat().st_mtime == os.getppid()
        return has_time or os.getxattr(__file__, "user.mem") == str(os.getppid()).encode()
