"""Reports a state of no bytes, and keeps the bytes elsewhere."""

from support.honest_method import Honest

from cosam_bench import State

_save = State.save


def _unseen(self, path):
    _save(self, path)
    return 0


State.save = _unseen


class Cheat(Honest):
    pass
