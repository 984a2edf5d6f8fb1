"""DOP: the served and the new weights are joined so that each keeps its leading directions on both sides.

Source: "Continual Model Merging without Data: Dual Projections for Balancing Stability and Plasticity" (dual
orthogonal projection), NeurIPS 2025, in FusionBench's version. For a linear layer, W_1 is the merged change and W_2
the expert's. With the leading singular triplets U_i, S_i, V_i of W_i, A_i = U_i S_i^2 U_i^T and
B_i = V_i S_i^2 V_i^T,

    L_i(W) = tr((W - W_i)^T A_i (W - W_i)) + tr((W - W_i) B_i (W - W_i)^T)

and c_1 L_1 + c_2 L_2 is minimised from the mean of both changes, c_1 + c_2 = 1. The first expert is taken
unchanged. All other trained parameters become the mean of merged and new.

    adam    as published: 200 steps on the weight's own entries. In each, c_1 moves by a thousandth of the way to
            the value that makes the combination of the gradients, each divided by its loss, shortest (MGDA).
    closed  the minimum itself at c_1 = alpha, without steps and without MGDA (derived): the solution of
            (c_1 A_1 + c_2 A_2) W + W (c_1 B_1 + c_2 B_2) = sum_i c_i (A_i W_i + W_i B_i), a Sylvester
            equation, in the eigenvectors of both sides. Entries without curvature stay at the mean. It is
            solved in the joint core of both changes' column and row spaces, outside of which nothing moves.

Adam has no such core: it treats each entry separately, so its path depends on the coordinates. In the joint cores
of the mini protocol's experts of rank 8, the same 200 steps move a fifth to a quarter as far from the mean as on
the weights themselves. As in the released code they work in the weights' own dtype. For a weight of 768 x 768 they
take about five seconds on one core if the merged change is of full rank, as they leave it, and half of that at rank
70; `closed` takes 0.04.

The leading triplets are those before the cumulative share of the singular values reaches ``svd_epsilon``. The
one that reaches it is left out, so that the published 0.99999 keeps r - 1 of a LoRA's r directions, and none
of a single one. The default 1 keeps all that are more than rounding.

The rule needs no data. The order matters. The state is the served change of each weight, dense and constant;
it is of full rank with `adam`, and of rank t r at most with `closed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import (
    CosamError,
    LowRank,
    MergingMethod,
    MethodCard,
    TrainingDomain,
    Update,
    setting,
)
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.spectral import Spectrum, compress, find_factors, joint_core, numerical_rank
from cosam_bench.merging.updates import as_factors, check_same_layers, lazy_weight_changes

Space = Literal["u", "v", "uv"]
# A singular value up to this share of the largest is rounding: float32 leaves 1e-7 or so in a stored change, and
# the closed solution divides by squares of singular values.
_ROUNDING = 1e-5


class DOPSettings(ServedScale):
    """The settings of DOP."""

    solver: Literal["adam", "closed"] = setting(
        "adam",
        "`adam`, the published steps; `closed`, their minimum at a fixed alpha (derived)",
        source="the paper",
        search=None,
    )
    alpha: float = setting(
        0.8, "weight of the merged change against the new one; adam starts from it", source="FusionBench", ge=0, le=1
    )
    svd_epsilon: float = setting(
        1.0,
        "cumulative share of the singular values at which the leading directions end",
        source="FusionBench's 0.99999 leaves out one direction, too many at a low rank",
        search=(0.5, 1.0),
        gt=0,
        le=1,
    )
    space: Space = setting("uv", "which sides are projected: left, right or both", source="FusionBench")
    mgda: bool = setting(True, "adam moves alpha to the shortest combination of the gradients", source="the paper")
    ema: float = setting(0.999, "share of alpha kept in each such move; 0: none", source="FusionBench", ge=0, le=1)
    steps: int = setting(200, "steps of adam", source="FusionBench", search=None, ge=1)
    learning_rate: float = setting(
        1e-4, "learning rate of adam", source="FusionBench", search=(1e-5, 1e-2, "log"), gt=0
    )


class DOP(MergingMethod[DOPSettings]):
    """Dual projections of the served and the new change, balanced by the two losses' gradients."""

    card = MethodCard(
        title="DOP",
        paper="NeurIPS 2025, openreview zD5cUX67b9",
        deviations=(
            "svd_epsilon is 1 up to rounding instead of 0.99999, which leaves out one of a LoRA's few directions",
            "only layers with low-rank changes are projected; parameters trained as dense changes are averaged",
            "a loss of zero leaves alpha unchanged; the released code divides by it",
            "solver=closed takes the minimum at a fixed alpha instead of 200 steps with MGDA (derived)",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The joined change of each weight, dense."""
        news = lazy_weight_changes(expert)
        if self.served is None:
            return Update(dense=dict(news))
        check_same_layers(self.served, Update(dense=news))
        layers = {f"{layer}.weight": factors for layer, factors in expert.low_rank.items()}
        joined = {}
        for name, new in news.items():
            old = self.served.dense[name]
            if name in layers:
                change = self._join(old, as_factors(new) if name in expert.dense else layers[name])
            else:
                change = (old.double() + new.double()) / 2
            joined[name] = change.to(new.dtype)
        return Update(dense=joined)

    def _join(self, old: Tensor, new: LowRank) -> Tensor:
        choice = self.settings
        if choice.solver == "closed":
            thin = compress(find_factors(old, tolerance=_ROUNDING), tolerance=_ROUNDING)
            joined = join_factors(thin, new, alpha=choice.alpha, svd_epsilon=choice.svd_epsilon, space=choice.space)
            return joined.dense()
        sides = [
            ProjectionLoss.of(change, svd_epsilon=choice.svd_epsilon, space=choice.space)
            for change in (old, new.dense())
        ]
        return join_by_adam(
            sides[0],
            sides[1],
            alpha=choice.alpha,
            mgda=choice.mgda,
            ema=choice.ema,
            steps=choice.steps,
            learning_rate=choice.learning_rate,
        )


@dataclass(frozen=True)
class ProjectionLoss:
    """One model's loss L_i: the distance of a weight from the model's own along its leading directions.

    Attributes:
        weight: ``(m, n)``, W_i; the other tensors and the solver use its dtype.
        left: ``(m, k)``, U S, so that A_i = left left^T; no columns if that side is not projected.
        right: ``(n, k)``, V S, so that B_i = right right^T; likewise.
    """

    weight: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, weight: Tensor, *, svd_epsilon: float, space: Space) -> ProjectionLoss:
        """The loss of a change.

        Args:
            weight: ``(m, n)``.
            svd_epsilon: cumulative share of the singular values at which the leading ones end, in (0, 1].
            space: which sides are projected: left, right or both.

        Raises:
            CosamError: the change is not finite.
        """
        if not torch.isfinite(weight).all():
            raise CosamError("A layer's change is not finite: did an expert's training diverge?")
        u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        leading = Spectrum(u, s, vh.T).first(leading_rank(s, svd_epsilon=svd_epsilon))
        left = leading.u * leading.s if "u" in space else leading.u[:, :0]
        right = leading.v * leading.s if "v" in space else leading.v[:, :0]
        return cls(weight, left.to(weight.dtype), right.to(weight.dtype))

    def loss_and_gradient(self, weight: Tensor) -> tuple[float, Tensor]:
        """L_i and its gradient at ``weight``."""
        offset = weight - self.weight
        pushed = _squared_times(self.left, self._left_square, offset)
        pushed += _squared_times(self.right, self._right_square, offset.T).T
        return float((offset * pushed).sum()), pushed.mul_(2)

    @cached_property
    def _left_square(self) -> Tensor | None:
        return _square(self.left)

    @cached_property
    def _right_square(self) -> Tensor | None:
        return _square(self.right)


def _square(half: Tensor) -> Tensor | None:
    """``half half^T`` if multiplying by it costs no more than by ``half^T`` and then ``half``, else None."""
    return half @ half.T if 2 * half.shape[1] >= len(half) else None


def _squared_times(half: Tensor, square: Tensor | None, matrix: Tensor) -> Tensor:
    return half @ (half.T @ matrix) if square is None else square @ matrix


def leading_rank(singular_values: Tensor, *, svd_epsilon: float) -> int:
    """How many singular values come before their cumulative share reaches ``svd_epsilon``.

    >>> [leading_rank(torch.tensor([6.0, 3.0, 1.0, 0.0]), svd_epsilon=share) for share in (0.5, 0.9, 0.95, 1.0)]
    [0, 1, 2, 3]
    """
    if svd_epsilon == 1:  # rounding would decide whether the sum of all reaches it
        return numerical_rank(singular_values, tolerance=_ROUNDING)
    reached = (singular_values.cumsum(0) / singular_values.sum() >= svd_epsilon).nonzero()
    return int(reached[0]) if len(reached) else 0  # all are zero


def join_by_adam(
    old: ProjectionLoss,
    new: ProjectionLoss,
    *,
    alpha: float,
    mgda: bool,
    ema: float,
    steps: int,
    learning_rate: float,
) -> Tensor:
    """The mean of both weights after some steps of Adam on the weighted sum of their losses.

    Args:
        old: loss of the merged change.
        new: loss of the expert's.
        alpha: initial weight of ``old``, in [0, 1].
        mgda: whether the weight moves to the shortest combination of the gradients.
        ema: share of the weight kept in each such move, in [0, 1]; 0 takes each step's own.
        steps: of Adam, with its usual 0.9, 0.999 and 1e-8.
        learning_rate: of Adam.

    Returns:
        ``(m, n)``.
    """
    joined = (old.weight + new.weight) / 2
    optimiser = torch.optim.Adam([joined], lr=learning_rate)
    for _ in range(steps):
        (old_loss, old_gradient), (new_loss, new_gradient) = (side.loss_and_gradient(joined) for side in (old, new))
        # A gradient cannot be divided by a loss of zero; the weight then stays.
        if mgda and old_loss > 0 and new_loss > 0:
            shortest = shortest_combination(old_gradient / old_loss, new_gradient / new_loss)
            alpha = ema * alpha + (1 - ema) * shortest
        joined.grad = alpha * old_gradient + (1 - alpha) * new_gradient
        optimiser.step()
    return joined


def shortest_combination(first: Tensor, second: Tensor) -> float:
    """The weight c of ``first`` that makes ``c first + (1 - c) second`` shortest; 0.001 and 0.999 at the ends."""
    first_first, first_second, second_second = (
        float((one * other).sum()) for one, other in ((first, first), (first, second), (second, second))
    )
    if first_second >= first_first:
        return 0.999
    if first_second >= second_second:
        return 0.001
    return (second_second - first_second) / (first_first + second_second - 2 * first_second)


def join_closed(old: ProjectionLoss, new: ProjectionLoss, *, alpha: float) -> Tensor:
    """The minimum of ``alpha L_old + (1 - alpha) L_new`` that is nearest to the mean of both weights.

    Args:
        old: loss of the merged change; float64, since squares of singular values are divisors.
        new: loss of the expert's.
        alpha: weight of ``old``, in [0, 1].

    Returns:
        ``(m, n)``.
    """
    mean = (old.weight + new.weight) / 2
    sides = ((alpha, old), (1 - alpha, new))
    pull = sum((weight * _pull(side, mean) for weight, side in sides), torch.zeros_like(mean))
    left, left_curvature = _eigenvectors(torch.cat([weight**0.5 * side.left for weight, side in sides], dim=1))
    right, right_curvature = _eigenvectors(torch.cat([weight**0.5 * side.right for weight, side in sides], dim=1))
    curvature = left_curvature[:, None] + right_curvature
    is_curved = curvature > _ROUNDING**2 * curvature.max()
    steps = torch.where(is_curved, (left.T @ pull @ right) / curvature.where(is_curved, 1.0), 0.0)
    return mean + left @ steps @ right.T


def _pull(side: ProjectionLoss, weight: Tensor) -> Tensor:
    _, gradient = side.loss_and_gradient(weight)
    return -gradient / 2


def _eigenvectors(half: Tensor) -> tuple[Tensor, Tensor]:
    """All eigenvectors and eigenvalues of ``half half^T``; from ``half``, so that small ones stay accurate."""
    vectors, values, _ = torch.linalg.svd(half, full_matrices=True)
    eigenvalues = torch.zeros(len(half), dtype=half.dtype, device=half.device)
    eigenvalues[: len(values)] = values.square()
    return vectors, eigenvalues


def join_factors(old: LowRank, new: LowRank, *, alpha: float, svd_epsilon: float, space: Space) -> LowRank:
    """``join_closed`` of two thin changes, in their joint core; float64 factors."""
    core = joint_core(old, new)
    sides = [ProjectionLoss.of(part, svd_epsilon=svd_epsilon, space=space) for part in (core.first, core.second)]
    joined = join_closed(sides[0], sides[1], alpha=alpha)
    return core.spectrum(joined).factors(torch.float64)
