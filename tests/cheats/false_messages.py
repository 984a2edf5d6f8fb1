"""Writes to the connection to the harness: a pickle, then the row of another method."""

import os
import pickle
import stat

from support.honest_method import Peeks


class _Runs:
    def __reduce__(self):
        return os.system, ("echo pickled >&2",)


class Cheat(Peeks):
    def sees(self, batch):
        for file in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(file).st_mode):
                    os.write(file, pickle.dumps(_Runs()))
            except OSError:
                continue
        return False
