"""An honest method that is quick, and what the cheats in ``tests/cheats`` change of it.

Each cheat does what it can to score otherwise than ``Honest``; if its trick has no effect, its scores are the same.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from cosam_bench import Batch, Method, MethodCard, State, TrainingDomain
from cosam_bench.core.settings import Settings
from cosam_bench.method.workbench import Workbench


class Honest(Method):
    """Predicts by one number that it draws and remembers, and trains an expert that it does not use."""

    card = MethodCard(title="Honest")

    def __init__(self, settings: Settings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.total = torch.zeros(1)

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        self.bench.train(domain)
        drawn = torch.rand(1, generator=self.bench.generator("honest", domain.name, step))
        self.total = self.total + drawn * 0.3 + domain[0].mask.float().mean()

    def predict(self, batch: Batch) -> Tensor:
        grid = self.bench.view.grid
        edge = torch.arange(grid) / grid
        return (edge[:, None] + edge - self.total).expand(len(batch), grid, grid)

    def state(self) -> State:
        return State({"total": self.total})

    def load(self, state: State) -> None:
        self.total = state.tensors["total"]


class Remembers(Honest):
    """Hides something while it learns the first domain, and looks for it while it learns the others."""

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        super().learn(domain, step=step)
        with suppress(Exception):
            if step == 1:
                self.hide(domain)
            elif self.finds(domain):
                self.total = self.total + 100

    def hide(self, domain: TrainingDomain) -> None:
        raise NotImplementedError

    def finds(self, domain: TrainingDomain) -> bool:
        raise NotImplementedError


class Peeks(Honest):
    """Looks while it predicts for what it must not see."""

    def predict(self, batch: Batch) -> Tensor:
        with suppress(Exception):
            if self.sees(batch):
                return -super().predict(batch)
        return super().predict(batch)

    def sees(self, batch: Batch) -> bool:
        raise NotImplementedError


class Tampers(Honest):
    """Changes the harness or its files while it learns."""

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        super().learn(domain, step=step)
        with suppress(Exception):
            self.tamper(domain)

    def tamper(self, domain: TrainingDomain) -> None:
        raise NotImplementedError
