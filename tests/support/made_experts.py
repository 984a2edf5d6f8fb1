"""Random experts, and a workbench on which merging methods learn them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.seeds import torch_generator
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.methods.task_arithmetic import OsrmFactors
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings

SHAPES = {"wide": (6, 9), "tall": (8, 5)}  # outputs and inputs of each layer


RANK = 2


Variant = tuple[type[MergingMethod], dict[str, Any]]


def draw_experts(count: int, seed: int, *, dtype: torch.dtype = torch.float64) -> list[Update]:
    """Experts of two layers with thin factors and one parameter with a dense change."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        Update({name: LowRank(draw(RANK, n), draw(m, RANK)) for name, (m, n) in SHAPES.items()}, {"bias": draw(4)})
        for _ in range(count)
    ]


class Bench:
    """A workbench that knows its experts beforehand; the name of a domain is the number of its expert."""

    view = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, experts: Sequence[Update]) -> None:
        self.experts = experts
        self.starts: list[Update | None] = []
        self.hooks: list[OsrmFactors | None] = []
        self.adapter = AdapterSettings()

    def train(
        self,
        domain: Any,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: OsrmFactors | None = None,
    ) -> Any:
        assert not from_scratch
        self.starts.append(start)
        self.hooks.append(hooks)
        return SimpleNamespace(update=self.experts[int(domain.name)])

    def generator(self, *names: str | int) -> torch.Generator:
        return torch_generator(0, *names)

    def input_grams(self, domain: Any, update: Update | None) -> dict[str, Tensor]:
        """Inputs of domain i lie along axis i alone."""
        assert update is None, "the frozen base is asked for"
        grams = {name: torch.zeros(n, n, dtype=torch.float64) for name, (_, n) in SHAPES.items()}
        for gram in grams.values():
            gram[int(domain.name), int(domain.name)] = 1.0
        return grams


def learn(
    variant: Variant, experts: Sequence[Update], *, order: Sequence[int] | None = None, bench: Bench | None = None
) -> list[State]:
    """The state after each expert, every step by an object that was built from the state before."""
    kind, options = variant
    bench = bench or Bench(experts)
    states: list[State] = []
    for step, number in enumerate(order if order is not None else range(len(experts)), start=1):
        method = kind(kind.Settings(**options), bench)  # type: ignore[arg-type]
        if states:
            method.load(states[-1])
        method.learn(SimpleNamespace(name=str(number)), step=step)  # type: ignore[arg-type]
        states.append(method.state())
    return states


def served(variant: Variant, experts: Sequence[Update], *, order: Sequence[int] | None = None) -> dict[str, Tensor]:
    return weight_changes(Update.from_tensors(learn(variant, experts, order=order)[-1].tensors, "served/"))


def same(ours: dict[str, Tensor], others: dict[str, Tensor], *, tolerance: float = 1e-12) -> None:
    assert ours.keys() == others.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], others[name], rtol=tolerance, atol=tolerance)
