"""Replaces the drawing of prompts, and what hands out test images."""

from support.honest_method import Tampers

from cosam_bench.data.prompts import Prompts
from cosam_bench.evaluation.loader import Loader


class Cheat(Tampers):
    def tamper(self, domain):
        Prompts.take = lambda self, rows: self
        Loader.load = lambda self, split, *, view, depth: iter(())
