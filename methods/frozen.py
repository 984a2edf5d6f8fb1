"""SAM as it is: learns nothing, forgets nothing, costs nothing. The floor of plasticity.

    M_t = 0

with M_t the served change of the weights.
"""

from __future__ import annotations

from torch import Tensor

from cosam_bench import Batch, Method, MethodCard, State, TrainingDomain


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
        """Nothing to load."""
