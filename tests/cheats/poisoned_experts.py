"""Overwrites the experts that all methods share, by the folder it is told and by the function that writes them."""

from support.honest_method import Tampers

from cosam_bench.training.expert_store import ExpertStore


class Cheat(Tampers):
    def tamper(self, domain):
        ExpertStore.read_or_train = lambda self, name, train: (train(), False)
        for path in self.bench.experts._folder.iterdir():
            path.write_bytes(b"")
