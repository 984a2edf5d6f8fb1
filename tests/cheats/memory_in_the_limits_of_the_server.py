"""Remembers the first domain in a limit of the process that starts the workers, which they inherit."""

import os
import resource

from support.honest_method import Remembers

LIMIT, SOFT = resource.RLIMIT_MSGQUEUE, 4242


class Cheat(Remembers):
    def hide(self, domain):
        _, hard = resource.prlimit(os.getppid(), LIMIT)
        resource.prlimit(os.getppid(), LIMIT, (SOFT, hard))

    def finds(self, domain):
        return resource.getrlimit(LIMIT)[0] == SOFT
