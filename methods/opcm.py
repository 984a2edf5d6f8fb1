"""OPCM: each new change loses its part along the merged update's leading directions, then both are rescaled.

Source: "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model
Merging" (orthogonal projection-based continual merging), NeurIPS 2025, arXiv 2501.09522; its released code
and FusionBench's. With tau_t the expert's change, M_t the merged one and N_t the norm of tau_t over all weights,

    M_t = (lambda_{t-1} M_{t-1} + P(tau_t)) / lambda_t,
    lambda_t = ||lambda_{t-1} M_{t-1} + P(tau_t)|| / mean_{i<=t} N_i,   M_1 = tau_1, lambda_1 = 1,

so that ||M_t|| is the mean norm of the experts' changes. P works on each linear layer: with the singular
vectors U, V of M_{t-1}, C = U^T tau V, and k the number of leading singular values whose cumulative sum stays
within a share alpha of their total, it removes the block C[:k, :k] from tau. Only that block: the blocks that
mix leading and other directions stay, so P is not a one-sided projection. Two readings are offered.

    release  the block alone, as in the released code, whose line that should also zero the diagonal of C
             writes into a copy. The published numbers most likely come from here.
    supp     the block, and the diagonal of C over the rank of M. The default: what that line was meant to do,
             and FusionBench's does, restricted to the singular vectors that M has (derived).

FusionBench's own reading, the whole diagonal (`head`), is not offered. For a low-rank M it also removes the
diagonal over the null space, whose basis is whatever the linear algebra library returns: two correct
decompositions give different models, each of full rank. On changes of full rank it equals `supp`.

Everything works on thin factors (a derived form, exact): QR brings both changes into joint coordinates of at
most t r dimensions, and only that core is decomposed. Other trained parameters are added as they are. A parameter
of a module that has submodules, such as a position embedding, keeps the first domain's value and is only divided
by each lambda_t, as in the released code.

The rule needs no data. The order matters. The rank and the state grow by r per domain, up to the layer's own rank.
The setting ``rank`` keeps both constant: the sum is truncated before it is rescaled, so that lambda_t M_t is the
kept part, and the lost share of energy is recorded in the state's values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

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
from cosam_bench.merging.spectral import Spectrum, UpdateNorm, joint_core, numerical_rank, rank_tolerance, update_norm
from cosam_bench.merging.updates import check_same_layers

Variant = Literal["release", "supp"]
_CANCELLED = 1e-12  # a sum below this share of its terms is only float64 rounding


class OPCMSettings(ServedScale):
    """The settings of OPCM."""

    alpha: float = setting(
        0.5, "share of the singular values' sum that is kept free of new changes", source="the paper", ge=0, lt=1
    )
    variant: Variant = setting(
        "supp",
        "what is removed from a change: `release`, the leading block; `supp`, also the diagonal over the rank of "
        "the merged update",
        source="the released code's intent, as far as it is well defined on low-rank changes",
    )
    rank: int | None = setting(
        None,
        "factors of the sum kept per layer, which makes the state constant; none: all",
        source="the paper, which keeps all",
        search=None,
        ge=1,
    )


class OPCM(MergingMethod[OPCMSettings]):
    """Orthogonal projection of each new change against the merged update, at the experts' mean norm."""

    card = MethodCard(
        title="OPCM",
        paper="arXiv 2501.09522",
        state="grows",
        deviations=(
            "the diagonal is removed over the merged update's rank only (variant supp, derived); the released code "
            "keeps it (variant release), FusionBench also removes it over the null space, which is arbitrary",
            "thin factors replace dense matrices and full decompositions, exactly (derived)",
            "only layers with low-rank changes are projected; parameters trained as dense changes are added",
            "alpha must be below 1; the paper's ablation ends at 1, for which rounding decides",
            "if nothing is left to rescale, the update stays, instead of dividing zero by zero",
            "with the setting rank, which the paper does not have, the sum is truncated before it is rescaled, and "
            "the state is constant",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merged update, at the mean norm of the experts so far."""
        if self.served is not None:
            check_same_layers(self.served, expert)
        before = OPCMState(
            self.served or Update(),
            scale=float(self.memory.get("scale", 1.0)),
            norm_sum=float(self.memory.get("norm_sum", 0.0)),
            count=step - 1,
        )
        after = merge_orthogonally(
            before,
            expert,
            alpha=self.settings.alpha,
            variant=self.settings.variant,
            rank=self.settings.rank,
            rescaled_only=parameters_beside_modules(self.bench.sam),
            dtype=torch.float32,
        )
        self.memory["scale"] = torch.tensor(after.scale, dtype=torch.float64)
        self.memory["norm_sum"] = torch.tensor(after.norm_sum, dtype=torch.float64)
        if self.settings.rank is not None:
            self.values["discarded_energy"] = after.discarded
        return after.change


def split_rank(singular_values: Tensor, *, alpha: float) -> int:
    """The number of leading singular values whose cumulative sum stays within ``alpha`` of the total.

    0 if all are zero, and for a change of rank 1.

    >>> split_rank(torch.tensor([5.0, 3.0, 2.0]), alpha=0.5), split_rank(torch.tensor([5.0, 3.0, 2.0]), alpha=0.9)
    (1, 2)
    """
    exceeding = (singular_values.cumsum(0) > alpha * singular_values.sum()).nonzero()
    return int(exceeding[0]) if len(exceeding) else 0


def project(change: Tensor, merged: Tensor, *, alpha: float, variant: Variant, tolerance: float) -> tuple[Tensor, int]:
    """The change without its part along the merged one's leading singular vectors, and the split rank.

    Args:
        change: float64, ``(m, n)``, tau.
        merged: float64, ``(m, n)``, M.
        alpha: share of the singular values' sum, in [0, 1).
        variant: what is removed, see the module's docstring.
        tolerance: singular values of M up to this share of the largest count as zero.
    """
    u, s, vh = torch.linalg.svd(merged, full_matrices=False)
    split = split_rank(s, alpha=alpha)
    coordinates = u.T @ change @ vh.T
    removed = torch.zeros_like(coordinates)
    removed[:split, :split] = coordinates[:split, :split]
    if variant == "supp":
        support = numerical_rank(s, tolerance=tolerance)
        removed.diagonal()[:support] = coordinates.diagonal()[:support]
    return change - u @ removed @ vh, split


@dataclass(frozen=True)
class OPCMState:
    """What OPCM carries from one domain to the next, and two facts of the last step.

    Attributes:
        change: M_t.
        scale: lambda_t; lambda_t M_t is the sum before it was rescaled.
        norm_sum: sum of the norms of all experts' changes so far.
        count: number of those experts.
        split_ranks: split rank of each low-rank layer.
        discarded: share of the sum's energy in low-rank layers that was truncated.
    """

    change: Update = field(default_factory=Update)
    scale: float = 1.0
    norm_sum: float = 0.0
    count: int = 0
    split_ranks: Mapping[str, int] = field(default_factory=dict)
    discarded: float = 0.0


def merge_orthogonally(
    merged: OPCMState,
    expert: Update,
    *,
    alpha: float,
    variant: Variant,
    rank: int | None = None,
    rescaled_only: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
) -> OPCMState:
    """One step: project the expert's change, add it to the sum, rescale to the mean norm of the experts.

    If all experts so far are zero, or the sum cancels out up to rounding, there is nothing to rescale: the
    merged change stays and the scale is 1.

    Args:
        merged: the state after the previous domain; ``OPCMState()`` before the first.
        expert: the new domain's change; changes of full rank are given by as many factors.
        alpha: share of the singular values' sum, in [0, 1).
        variant: what is removed.
        rank: maximum number of factors kept per layer; None: all.
        rescaled_only: dense changes that keep the first domain's value and are only divided by each lambda_t.
        dtype: the result's; all work is in float64.

    Returns:
        The next state.

    Raises:
        CosamError: alpha is out of range, a layer's shapes differ, or a factor is not finite.
    """
    if not 0 <= alpha < 1:  # at 1, rounding decides whether the cumulative sum exceeds the total
        raise CosamError(f"OPCM got alpha {alpha}. Set an alpha of at least 0 and below 1.")
    olds, news = merged.change.low_rank, expert.low_rank

    def summed(name: str) -> tuple[Spectrum, int]:
        return _layer_sum(olds.get(name), news.get(name), scale=merged.scale, alpha=alpha, variant=variant)

    def kept(spectrum: Spectrum) -> LowRank:
        return (spectrum if rank is None else spectrum.first(rank)).factors(torch.float64)

    def rescaled(factor: float) -> Update:
        low_rank = {name: kept(summed(name)[0]).scaled(factor).to(dtype) for name in layers}
        return Update(low_rank, {name: (change * factor).to(dtype) for name, change in dense.items()})

    # Each layer's sum is computed twice, for the norm and for the result: all sums in float64 would double the state.
    layers = dict.fromkeys([*olds, *news])
    dense = _sum_of_dense(merged, expert.dense, rescaled_only)
    spectra: dict[str, Tensor] = {}
    splits: dict[str, int] = {}
    total_norm = UpdateNorm(dense)
    for name in layers:
        spectrum, splits[name] = summed(name)
        spectra[name] = spectrum.s
        total_norm.add(name, kept(spectrum))
        del spectrum  # before the next one is computed
    count, norm_sum = merged.count + 1, merged.norm_sum + update_norm(expert)
    mean_norm, norm = norm_sum / count, total_norm.value()
    if norm <= _CANCELLED * mean_norm:
        stays = merged.change if merged.count else rescaled(0.0)  # zero, but of the right layers
        return OPCMState(stays, 1.0, norm_sum, count, splits)
    energy, lost = (sum(float(s[first:].square().sum()) for s in spectra.values()) for first in (0, rank or 0))
    discarded = lost / energy if rank is not None and energy > 0 else 0.0
    return OPCMState(rescaled(mean_norm / norm), norm / mean_norm, norm_sum, count, splits, discarded)


def _layer_sum(
    old: LowRank | None, new: LowRank | None, *, scale: float, alpha: float, variant: Variant
) -> tuple[Spectrum, int]:
    """One layer's ``lambda M + P(tau)`` before it is rescaled, and the split rank."""
    either = new or old
    assert either is not None
    nothing = LowRank(a=either.a[:0], b=either.b[:, :0])
    core = joint_core(old or nothing, new or nothing)
    tolerance = rank_tolerance(either.b.dtype)
    cleaned, split = project(core.second, core.first, alpha=alpha, variant=variant, tolerance=tolerance)
    spectrum = core.spectrum(scale * core.first + cleaned)
    # Compared with the terms and not their sum, which may cancel out up to rounding.
    largest = scale * core.first.norm() + core.second.norm()
    return spectrum.first(int((spectrum.s > tolerance * largest).sum())), split


def _sum_of_dense(merged: OPCMState, new: Mapping[str, Tensor], rescaled_only: Collection[str]) -> dict[str, Tensor]:
    total = {
        name: change.double() * (1.0 if name in rescaled_only else merged.scale)
        for name, change in merged.change.dense.items()
    }
    for name, change in new.items():
        if name not in total:
            total[name] = change.double()
        elif name not in rescaled_only:
            total[name] = total[name] + change.double()
    return total


def parameters_beside_modules(model: nn.Module) -> frozenset[str]:
    """The names of parameters whose module has submodules, such as position embeddings."""
    return frozenset(
        f"{name}.{parameter}" if name else parameter
        for name, module in model.named_modules()
        if any(True for _ in module.children())
        for parameter, _ in module.named_parameters(recurse=False)
    )
