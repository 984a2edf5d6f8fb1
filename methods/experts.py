"""One adapter per domain, chosen by the domain's true name: the bound of a perfect router.

    M for an image of domain j = tau_j, the dW of the adapter trained on domain j from the base model

with M the served change of the weights.
"""

from __future__ import annotations

from torch import Tensor

from cosam_bench import Batch, CosamError, Method, MethodCard, Settings, State, TrainingDomain, Update, Workbench


class Experts(Method):
    """Adapters trained separately from the base model; images of a domain not yet learned get the base model."""

    card = MethodCard(
        title="Experts",
        paper="the individual models of RegCL (arXiv 2507.12297)",
        state="grows",
        order_dependent=False,
        upper_bound=True,
        receives_domain=True,
    )

    def __init__(self, settings: Settings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.experts: dict[str, Update] = {}

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train this domain's adapter and keep it."""
        self.experts[domain.name] = self.bench.train(domain).update

    def predict(self, batch: Batch) -> Tensor:
        """Each image's mask logits by its own domain's adapter."""
        if batch.domains is None:
            raise CosamError(
                "The method experts needs each image's domain, but the batch names none. Set batch.domains."
            )
        return self.bench.predict_each([self.experts.get(name) for name in batch.domains], batch)

    def state(self) -> State:
        """All adapters."""
        tensors: dict[str, Tensor] = {}
        for name, update in self.experts.items():
            tensors |= update.tensors(f"{name}/")
        return State(tensors)

    def load(self, state: State) -> None:
        """The adapters of all domains learned so far."""
        names = dict.fromkeys(key.partition("/")[0] for key in state.tensors)
        self.experts = {name: Update.from_tensors(state.tensors, f"{name}/") for name in names}
