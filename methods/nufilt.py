"""NUFILT: the null-space filter, then a small adapter per layer that gives back what the filter took.

Source: Qiu et al., "Null-Space Filtering for Data-Free Continual Model Merging: Preserving Stability, Promoting
Plasticity", ICLR 2026 (arXiv 2509.21413); formulas and constants as in its released code. For each layer, with V the
leading right singular vectors of the merged change M, P = I - V V^T, and U those of the expert's tau,

    M <- M + tau (P + C D),   D (k, n) drawn from N(0, 0.02^2), C (n, k) zero,

C and D trained by Adam, without data, on

    ||tau U - (M + tau P + tau C D) U||^2 + ||M V - (M + tau P + tau C D) V||^2,

so that the expert's own inputs, of which U is a surrogate, are answered as it answers them, and those of earlier
domains as before. The first expert is taken unchanged. The filter alone is the method ``nullfilter``.

tau = B A leaves B as it is: A <- A (P + C D), a rank of r, whatever k. The losses are computed from the factors,
exactly, up to a constant that Adam does not see (derived).

Deviations: V and U have only singular vectors above rounding, of which a low-rank change has few; the released
code takes 128 and 8, of changes of full rank. Its filter of the first expert removes directions of a change that is
zero, which are arbitrary; here there is nothing to filter. Parameters trained as dense changes keep the base's values.
Needs no data. The order matters. The rank and the state grow by r per domain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, TrainingDomain, Update, setting
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.spectral import numerical_rank, rank_tolerance, thin_svd
from cosam_bench.merging.updates import add, check_same_layers

_DEVIATION = 0.02  # of the first D's entries, as released


class NufiltSettings(ServedScale):
    """The settings of NUFILT."""

    null_rank: int = setting(
        128,
        "leading right singular vectors of the merged change that are filtered",
        source="the released code",
        search=(1, 256, "log"),
        ge=1,
    )
    task_rank: int = setting(
        8,
        "leading right singular vectors of the expert that stand for its inputs",
        source="the released code",
        search=(1, 64, "log"),
        ge=1,
    )
    adapter_rank: int = setting(
        64, "k, the rank of the adapter that is trained", source="the released code", search=(1, 128, "log"), ge=1
    )
    steps: int = setting(50, "steps of Adam", source="the released code", search=None, ge=1)
    learning_rate: float = setting(1e-3, "Adam's", source="the released code", search=(1e-5, 0.1, "log"), gt=0)


class Nufilt(MergingMethod[NufiltSettings]):
    """The sum of the experts' changes, each filtered and then adapted against surrogates of both tasks."""

    card = MethodCard(
        title="NUFILT",
        paper="arXiv 2509.21413",
        state="grows",
        deviations=(
            "singular vectors up to rounding are left out, so low-rank changes have fewer than the released numbers",
            "the first expert is taken unchanged; the released code filters arbitrary directions from it",
            "the losses are computed from thin factors, exactly (derived)",
            "parameters trained as dense changes keep the base's values",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The served change with the new one's adapted factors stacked onto its own."""
        change = Update(expert.low_rank)
        if self.served is None:
            return change
        check_same_layers(self.served, change)
        adapted = {}
        for layer, factors in expert.low_rank.items():
            inputs = factors.a.shape[1]
            draws = self.bench.generator("nufilt", step, layer)
            first = _DEVIATION * torch.randn(self.settings.adapter_rank, inputs, generator=draws, dtype=torch.float64)
            loss = SurrogateLoss.of(
                factors,
                self.served.low_rank[layer],
                null_rank=self.settings.null_rank,
                task_rank=self.settings.task_rank,
            )
            adapted[layer] = loss.adapted(
                factors, first=first, steps=self.settings.steps, learning_rate=self.settings.learning_rate
            )
        return add(self.served, Update(adapted))


class SurrogateLoss:
    """The two losses of one layer in the coordinates of the expert's own column space.

    Attributes:
        core: float64, ``(r, n)``, the expert's change tau in these coordinates.
        wanted: float64, ``(r, u)``, what C D has to add on U: ``tau U - (M + tau P) U``.
        task: float64, ``(n, u)``, U.
        null: float64, ``(n, v)``, V.
    """

    def __init__(self, core: Tensor, wanted: Tensor, task: Tensor, null: Tensor) -> None:
        self.core = core
        self.wanted = wanted
        self.task = task
        self.null = null

    @classmethod
    def of(cls, change: LowRank, merged: LowRank, *, null_rank: int, task_rank: int) -> SurrogateLoss:
        """The losses of adding ``change`` to ``merged``, both ``(m, n)``."""
        null, task = leading_inputs(merged, count=null_rank), leading_inputs(change, count=task_rank)
        columns, triangle = torch.linalg.qr(change.b.double())
        core = triangle @ change.a.double()
        answered = (columns.T @ merged.b.double()) @ (merged.a.double() @ task)
        # tau U - tau P U = tau V V^T U; what of M U is outside tau's columns does not depend on C and D.
        wanted = core @ null @ (null.T @ task) - answered
        return cls(core, wanted, task, null)

    def __call__(self, c: Tensor, d: Tensor) -> Tensor:
        """Both losses together, up to a constant.

        Args:
            c: float64, ``(n, k)``.
            d: float64, ``(k, n)``.
        """
        reached = self.core @ c
        own = self.wanted - reached @ (d @ self.task)
        earlier = reached @ (d @ self.null)  # P V is zero, so only C D changes what earlier inputs get
        return own.square().sum() + earlier.square().sum()

    def adapted(self, change: LowRank, *, first: Tensor, steps: int, learning_rate: float) -> LowRank:
        """``tau (P + C D)`` after some steps of Adam.

        Args:
            change: the expert's; the result has its ``b`` and its dtype.
            first: float64, ``(k, n)``, the first D; C starts at zero.
            steps: of Adam.
            learning_rate: of Adam.
        """
        c = torch.zeros(first.shape[1], first.shape[0], dtype=torch.float64, requires_grad=True)
        d = first.clone().requires_grad_()
        optimiser = torch.optim.Adam([c, d], lr=learning_rate)
        with torch.enable_grad():
            for _ in range(steps):
                optimiser.zero_grad()
                self(c, d).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        a = change.a.double()
        adapted = a - (a @ self.null) @ self.null.T + (a @ c.detach()) @ d.detach()
        return LowRank(adapted.to(change.a.dtype), change.b)


def leading_inputs(change: LowRank, *, count: int) -> Tensor:
    """The leading right singular vectors above rounding, at most ``count``: float64, ``(n, k)``."""
    spectrum = thin_svd(change)
    return spectrum.v[:, : min(count, numerical_rank(spectrum.s, tolerance=rank_tolerance(change.b.dtype)))]
