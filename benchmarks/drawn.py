"""A method for measuring alone: it serves random adapters, so that a matrix costs its scoring and nothing else."""

from __future__ import annotations

from benchmarks import subjects
from cosam_bench.merging.updates import Update
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.training_domain import TrainingDomain


class Drawn(MergingMethod):
    """Another random adapter after each domain."""

    card = MethodCard(title="Random adapters, to measure scoring", deviations=())

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Draw the next one, without training."""
        self.served = subjects.updates(self.bench.sam, step, settings=self.bench.adapter)[-1]

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The expert: nothing is merged here."""
        return expert
