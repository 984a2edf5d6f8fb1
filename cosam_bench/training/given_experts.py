"""Experts that were trained elsewhere: one per domain, all of the same layers, so that every rule can merge them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_json
from cosam_bench.merging.updates import LowRank, Update, add, as_factors
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.sam import Sam

_DECODER = "mask_decoder."
_WEIGHT = ".weight"


@dataclass(frozen=True)
class GivenExperts:
    """One expert per domain, none of which is trained here.

    Attributes:
        layers: the names of the linear layers that they change, in the model's order.
        updates: by the domain's name; empty in the process of an isolated method, which asks its parent.
        sources: by the domain's name, the sha256 of the expert's tensors as they were read, whatever the others are.
    """

    layers: tuple[str, ...]
    updates: Mapping[str, Update] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def of(self, domain: str) -> Update:
        """The expert of a domain.

        Raises:
            CosamError: there is none.
        """
        if domain not in self.updates:
            raise CosamError(f"No expert was brought in for the domain {domain!r}.")
        return self.updates[domain]

    @cached_property
    def digests(self) -> dict[str, str]:
        """By the domain's name, the sha256 of its expert's tensors as rules get them, all of the same layers."""
        return {name: update.digest() for name, update in sorted(self.updates.items())}

    @property
    def digest(self) -> str:
        """The sha256 of all experts and their domains' names; their order does not count."""
        return sha256_json(self.digests)

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of all layers and parameters that an expert changes."""
        dense = (name for update in self.updates.values() for name in update.dense)
        return tuple(dict.fromkeys((*self.layers, *dense)))

    def doubts(self) -> list[str]:
        """What looks like a mistake in the files, a sentence each: experts without a change, and equal ones."""
        idle = [domain for domain, update in self.updates.items() if not _changes_something(update)]
        by_source: dict[str, list[str]] = {}
        for domain, source in self.sources.items():
            by_source.setdefault(source, []).append(domain)
        equal = [domains for domains in by_source.values() if len(domains) > 1]
        return [
            *(f"The expert of {domain} changes nothing: its numbers are zero. Was it trained?" for domain in idle),
            *(
                f"The experts of {', '.join(domains)} have the same tensors. Is each of them meant?"
                for domains in equal
            ),
        ]


def _changes_something(update: Update) -> bool:
    factored = any(bool(factors.a.any()) and bool(factors.b.any()) for factors in update.low_rank.values())
    return factored or any(bool(change.any()) for change in update.dense.values())


def given_experts(updates: Mapping[str, Update], *, sam: Sam) -> GivenExperts:
    """Experts as rules need them: float32, in the model's order of layers, and all of the same layers and ranks.

    A layer that one expert changes and another does not is zero in the other. Factors of fewer than the highest rank
    that an expert has in this layer are filled up with zeros. A dense change of a linear layer becomes factors,
    exactly, except in side layers and in a mask decoder that all experts change densely, as training does. What an
    expert does stays the same.

    Args:
        updates: by the domain's name; each fits the model.
        sam: the model.
    """
    sources = {domain: update.digest() for domain, update in updates.items()}
    linear = {name for name, module in sam.named_modules() if isinstance(module, nn.Linear)}
    low_rank = {name for update in updates.values() for name in update.low_rank}
    factored = {name for name in linear if name in low_rank or not name.startswith((SIDE, _DECODER))}
    updates = {domain: _factored(update, factored) for domain, update in updates.items()}
    ranks: dict[str, int] = {}
    for update in updates.values():
        for name, factors in update.low_rank.items():
            ranks[name] = max(ranks.get(name, 0), factors.rank)
    dense = {name for update in updates.values() for name in update.dense}
    layers = tuple(name for name, _ in sam.named_modules() if name in ranks)
    parameters = {name: parameter for name, parameter in sam.named_parameters() if name in dense}
    filled = {
        domain: Update(
            {name: _filled(update.low_rank.get(name), _linear(sam, name), rank=ranks[name]) for name in layers},
            {name: _float(update.dense.get(name, torch.zeros(own.shape))) for name, own in parameters.items()},
        )
        for domain, update in updates.items()
    }
    return GivenExperts(layers, filled, sources)


def _factored(update: Update, layers: Collection[str]) -> Update:
    """The update with its dense changes of these layers as factors."""
    found = {name: change for name, change in update.dense.items() if name.removesuffix(_WEIGHT) in layers}
    whole = {name.removesuffix(_WEIGHT): as_factors(change) for name, change in found.items() if name.endswith(_WEIGHT)}
    kept = {name: change for name, change in update.dense.items() if name.removesuffix(_WEIGHT) not in whole}
    return add(Update(update.low_rank, kept), Update(whole))


def _linear(sam: Sam, name: str) -> nn.Linear:
    module = sam.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _filled(factors: LowRank | None, layer: nn.Linear, *, rank: int) -> LowRank:
    """The factors with zeros up to a rank."""
    if factors is not None and factors.rank == rank:
        return LowRank(_float(factors.a), _float(factors.b))
    a, b = torch.zeros(rank, layer.in_features), torch.zeros(layer.out_features, rank)
    if factors is not None:
        a[: factors.rank], b[:, : factors.rank] = factors.a, factors.b
    return LowRank(a, b)


def _float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32)
