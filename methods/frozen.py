"""SAM as it is: learns nothing, forgets nothing, costs nothing. The floor of plasticity."""

from __future__ import annotations

from torch import Tensor

from cosam_bench.batches import Batch
from cosam_bench.card import MethodCard
from cosam_bench.method import Method, State
from cosam_bench.training_domain import TrainingDomain


class Frozen(Method):
    """The base model in every row."""

    card = MethodCard(title="Frozen SAM", state="none", order_dependent=False)

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Learn nothing."""

    def predict(self, batch: Batch) -> Tensor:
        """The base model's mask logits."""
        return self.bench.predict(None, batch)

    def state(self) -> State:
        """Nothing."""
        return State()

    def load(self, state: State) -> None:
        """Nothing to become."""
