"""K-Merge: at most K adapters; once they are full, a new one is averaged into the most similar.

Source: Shenaj et al., "K-Merge: Online Continual Merging of Adapters for On-device Large Language Models", ACL 2026
(arXiv 2510.13537), and its released code. A new expert takes a free slot. If none is left, it joins the slot c with
the greatest similarity, the mean over layers of the cosine between changes,

    sim(c) = mean_l <tau_l, M_c,l> / (||tau_l|| ||M_c,l||),
    A_c <- (1 - 1/n) A_c + A / n,   B_c <- (1 - 1/n) B_c + B / n,   n the slot's experts with this one,

so that a slot holds the mean of its experts' factors. With ``threshold``, K-Merge++: while slots are free, an expert
takes one only if its similarity to every slot is below it. An image is served by the slot of its domain, whose name
is given; images of a domain not yet learned get the base model.

    average=factors   the mean, as above.
    average=released  peft's combination "linear", which the released code calls: it takes square roots,
                      A_c <- sqrt(1 - 1/n) A_c + sqrt(1/n) A and the same for B, so that two equal adapters come out
                      at twice their change.

Deviations: as stated; parameters trained without factors are averaged in both cases, and do not count for the
similarity. Needs nothing of the current domain. The state grows to K adapters and no further, but for the domains'
names. The order matters. The rank is that of one adapter.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cosam_bench import (
    Batch,
    CosamError,
    LowRank,
    Method,
    MethodCard,
    Settings,
    State,
    TrainingDomain,
    Update,
    Workbench,
    setting,
)
from cosam_bench.merging.updates import check_same_layers


class KMergeSettings(Settings):
    """The settings of K-Merge."""

    slots: int = setting(
        5, "K, the number of adapters that are kept", source="the released code, 1 to 8", search=None, ge=1
    )
    threshold: float | None = setting(
        None,
        "similarity from which an expert joins a slot while others are free; none: it never does",
        source="the paper: none is K-Merge, and K-Merge++ has 0.02 in the released scripts",
        search=(0.0, 1.0),
        ge=-1,
        le=1,
    )
    average: Literal["factors", "released"] = setting(
        "factors",
        "`factors`, the mean of A and of B; `released`, with square roots of the weights",
        source="the paper, which speaks of a running average",
    )


class KMerge(Method[KMergeSettings]):
    """Slots of adapters, each the mean of similar experts; the domain's name chooses among them."""

    card = MethodCard(
        title="K-Merge",
        paper="arXiv 2510.13537",
        state="grows",
        budget="K adapters",
        budget_setting="slots",
        receives_domain=True,
        lora_only=True,
        deviations=(
            "a slot is the mean of its experts' factors; the released code sums them with square roots of the "
            "weights, which is average = released",
            "parameters trained without factors are averaged and do not count for the similarity",
        ),
    )

    def __init__(self, settings: KMergeSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.slots: list[Update] = []
        self.slot_of: dict[str, int] = {}  # by the domain's name

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train this domain's adapter, and give it a slot or average it into one."""
        expert = self.bench.train(domain).update
        for slot in self.slots[:1]:
            check_same_layers(slot, expert)
        chosen = choose_slot(self.slots, expert, count=self.settings.slots, threshold=self.settings.threshold)
        if chosen == len(self.slots):
            self.slots.append(expert)
        else:
            members = 1 + sum(slot == chosen for slot in self.slot_of.values())
            roots = self.settings.average == "released"
            self.slots[chosen] = average_into(self.slots[chosen], expert, share=1 / members, roots=roots)
        self.slot_of[domain.name] = chosen

    def predict(self, batch: Batch) -> Tensor:
        """Each image's mask logits by its own domain's slot."""
        if batch.domains is None:
            raise CosamError(
                "The method kmerge needs each image's domain, but the batch names none. Set batch.domains."
            )
        served = [self.slots[self.slot_of[name]] if name in self.slot_of else None for name in batch.domains]
        return self.bench.predict_each(served, batch)

    def state(self) -> State:
        """All slots, and which domain has which."""
        tensors: dict[str, Tensor] = {}
        for number, slot in enumerate(self.slots):
            tensors |= slot.tensors(f"{number}/")
        return State(tensors, {"slots": len(self.slots), "slot_of": dict(self.slot_of)})

    def load(self, state: State) -> None:
        """The slots of all domains learned so far."""
        count, chosen = state.values["slots"], state.values["slot_of"]
        assert isinstance(count, int)
        assert isinstance(chosen, dict)
        self.slots = [Update.from_tensors(state.tensors, f"{number}/") for number in range(count)]
        self.slot_of = {name: int(str(slot)) for name, slot in chosen.items()}


def choose_slot(slots: list[Update], expert: Update, *, count: int, threshold: float | None) -> int:
    """The number of the slot that the expert joins; ``len(slots)`` for a new one.

    Args:
        slots: those in use, at most ``count``.
        expert: of the same layers.
        count: K.
        threshold: similarity from which it joins a slot while others are free; None: it never does.
    """
    similarities = [similarity(slot, expert) for slot in slots]
    if len(slots) < count and (threshold is None or all(one < threshold for one in similarities)):
        return len(slots)
    return similarities.index(max(similarities))


def similarity(first: Update, second: Update) -> float:
    """The mean over layers of the cosine between their changes, without forming them; 0 for a change of zero.

    >>> one = Update({"layer": LowRank(a=torch.tensor([[1.0, 0.0]]), b=torch.tensor([[2.0]]))})
    >>> other = Update({"layer": LowRank(a=torch.tensor([[3.0, 4.0]]), b=torch.tensor([[1.0]]))})
    >>> similarity(one, other)
    0.6
    """
    cosines = []
    for layer, one in first.low_rank.items():
        other = second.low_rank[layer]
        norms = (_inner(one, one) * _inner(other, other)) ** 0.5
        cosines.append(_inner(one, other) / norms if norms > 0 else 0.0)
    return sum(cosines) / len(cosines) if cosines else 0.0


def _inner(first: LowRank, second: LowRank) -> float:
    """``<B_1 A_1, B_2 A_2>`` in float64."""
    left = first.b.double().T @ second.b.double()
    return max(float((left * (first.a.double() @ second.a.double().T)).sum()), 0.0 if first is second else -torch.inf)


def average_into(slot: Update, expert: Update, *, share: float, roots: bool) -> Update:
    """The slot with the expert's factors at this share.

    Args:
        slot: of the same layers and ranks as the expert.
        expert: the new one.
        share: the expert's weight, in (0, 1].
        roots: whether factors get the square roots of the weights.

    Raises:
        CosamError: a layer has factors of another rank.
    """
    old, new = ((1 - share) ** 0.5, share**0.5) if roots else (1 - share, share)
    low_rank = {}
    for layer, factors in expert.low_rank.items():
        kept = slot.low_rank[layer]
        if kept.rank != factors.rank:
            raise CosamError(
                f"The method kmerge averages factors, but layer {layer!r} has rank {kept.rank} in one expert and "
                f"{factors.rank} in another. Use experts of one rank, or another method."
            )
        a, b = (
            (old * one.double() + new * other.double()).to(other.dtype)
            for one, other in ((kept.a, factors.a), (kept.b, factors.b))
        )
        low_rank[layer] = LowRank(a, b)
    dense = {
        name: torch.lerp(slot.dense[name].double(), change.double(), share).to(change.dtype)
        for name, change in expert.dense.items()
    }
    return Update(low_rank, dense)
