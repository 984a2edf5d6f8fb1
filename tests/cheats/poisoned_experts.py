"""Overwrites the experts that all methods share, by the folder it is told and by the function that writes them."""

import torch
from support.honest_method import Tampers

from cosam_bench.core.tensor_files import write_tensors
from cosam_bench.method import workbench


class Cheat(Tampers):
    def tamper(self, domain):
        workbench.write_expert = lambda path, fitted: write_tensors(path, {"a": torch.zeros(1)})
        for path in self.bench.experts.iterdir():
            path.write_bytes(b"")
