"""The source of a merging method that predicts by code of its own."""

SHIFTED = """
from cosam_bench import MergingMethod, MethodCard

class Shifted(MergingMethod):
    card = MethodCard(title="Shifted")

    def merge(self, expert, domain, *, step):
        return expert

    def predict(self, batch):
        return super().predict(batch) - 3.0
"""
