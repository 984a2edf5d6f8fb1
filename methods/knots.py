"""KnOTS (not continual): experts are expressed in common singular directions before TIES or a sum.

Source: Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025 (arXiv 2410.19735), and its released
code. For each layer the experts' changes are placed side by side,

    [tau_1 ... tau_T] = U S [V_1 ... V_T],   M = scale * U * rule(S V_1, ..., S V_T),

with the singular values above 1e-5, and the rule over all layers together: TIES (KnOTS-TIES), or plain task
arithmetic (KnOTS-TV), whose result the change of basis does not alter. U comes from the factors: QR of
[B_1 ... B_T], then the decomposition of its triangular part times each A; no change is formed.

Not continual: every step decomposes all experts again, and U depends on all of them.

Deviations: the scaling alpha/r is part of the change (the released code trains with alpha = r and ignores it);
float64, while the released code rounds the decomposition to float32; decoder parameters, if trained, join the rule
unaligned (the released code leaves them out). Needs nothing of the current domain. The state keeps every expert's
factors and grows. The order does not matter, up to rounding. The output is of rank up to T r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.sign_election import elect_between, trim
from cosam_bench.merging.updates import check_same_layers, lazy_weight_changes

SMALLEST_SINGULAR_VALUE = 1e-5  # the released code keeps what is larger
_DENSE = "/dense"  # distinguishes it from the coordinates of a layer whose weight has a dense change, too


class KnotsSettings(Settings):
    """The settings of KnOTS."""

    rule: Literal["ties", "task_arithmetic"] = setting("ties", "how the aligned experts are merged", source="the paper")
    density: float = setting(
        0.2,
        "with rule=ties: share of an expert's coordinates that are kept",
        source="released settings, 20 to 30 %",
        search=(0.05, 1.0),
        gt=0,
        le=1,
    )
    merge: Literal["sum", "mean"] = setting(
        "mean", "how coordinates that agree are combined, or all of them without ties", source="the released settings"
    )
    scale: float = setting(
        0.6, "factor of the merged change", source="the released ViT-B/32 settings", search=(0.1, 4.0, "log"), gt=0
    )


class Knots(MergingMethod[KnotsSettings]):
    """TIES in the singular directions of all experts, which are kept."""

    card = MethodCard(
        title="KnOTS (not continual)",
        paper="arXiv 2410.19735",
        state="grows",
        order_dependent=False,
        not_continual=True,
        deviations=(
            "keeps every expert's factors and merges all of them again after each domain",
            "alpha / rank is part of the change; the released code ignores it",
            "float64 decomposition of the factors; the released code rounds to float32",
            "decoder parameters, if trained, join TIES unaligned; the released code leaves them out",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merge of all experts so far, recomputed."""
        self.memory |= expert.tensors(f"{step}/")
        experts = [Update.from_tensors(self.memory, f"{number}/") for number in range(1, step + 1)]
        return merge_aligned(experts, **self.settings.model_dump())


def align(experts: Sequence[LowRank]) -> tuple[Tensor, list[LowRank]]:
    """One layer's changes in common directions.

    Args:
        experts: T changes of one layer, ``(m, n)`` each, of any ranks.

    Returns:
        U ``(m, k)`` with orthonormal columns, and T matrices ``S V_i (k, n)`` as float64 factors, with k the number
        of singular values above 1e-5; ``U @ (S V_i)`` is expert i without the contribution of smaller ones.
    """
    left, core = torch.linalg.qr(torch.cat([expert.b.double() for expert in experts], dim=1))
    parts = core.split([expert.rank for expert in experts], dim=1)
    # Each A_i = L_i Q_i^T with orthonormal Q_i, which change neither U nor S.
    lower = [torch.linalg.qr(expert.a.double().T).R.T for expert in experts]
    inner = torch.cat([part @ factor for part, factor in zip(parts, lower, strict=True)], dim=1)
    u, s, _ = torch.linalg.svd(inner, full_matrices=False)
    u = u[:, : int((s > SMALLEST_SINGULAR_VALUE).sum())]
    aligned = [LowRank(a=expert.a.double(), b=u.T @ part) for part, expert in zip(parts, experts, strict=True)]
    return left @ u, aligned


def merge_aligned(
    experts: Sequence[Update],
    *,
    rule: Literal["ties", "task_arithmetic"],
    density: float,
    merge: Literal["sum", "mean"],
    scale: float,
) -> Update:
    """The merge of all experts in their common directions.

    Args:
        experts: T at least 1, of the same layers.
        rule: applied to all layers' coordinates together.
        density: with ``ties``, the share of each expert's coordinates that trimming keeps.
        merge: how coordinates are combined: those that agree with ``ties``, all with ``task_arithmetic``.
        scale: factor of the result.

    Raises:
        CosamError: the experts do not change the same layers.
    """
    for expert in experts[1:]:
        check_same_layers(experts[0], expert)
    bases: dict[str, Tensor] = {}
    vectors: list[dict[str, LowRank]] = [{} for _ in experts]
    for layer, first in experts[0].low_rank.items():
        basis, parts = align([expert.low_rank[layer] for expert in experts])
        bases[layer] = (scale * basis).to(first.b.dtype)
        for vector, part in zip(vectors, parts, strict=True):
            vector[layer] = part
    # The coordinates are formed one layer at a time, whenever they are read.
    coordinates = [
        lazy_weight_changes(Update(vector, {f"{name}{_DENSE}": change for name, change in expert.dense.items()}))
        for vector, expert in zip(vectors, experts, strict=True)
    ]
    merged = _by_ties(coordinates, density, merge) if rule == "ties" else _by_sum(coordinates, merge)
    low_rank = {layer: LowRank(a=merged[f"{layer}.weight"].to(basis.dtype), b=basis) for layer, basis in bases.items()}
    return Update(low_rank, {name: scale * merged[f"{name}{_DENSE}"] for name in experts[0].dense})


def _by_ties(
    vectors: Sequence[Mapping[str, Tensor]], density: float, merge: Literal["sum", "mean"]
) -> Mapping[str, Tensor]:
    return elect_between([trim(vector, density=density) for vector in vectors], merge=merge)


def _by_sum(vectors: Sequence[Mapping[str, Tensor]], merge: Literal["sum", "mean"]) -> Mapping[str, Tensor]:
    total = None
    for step, vector in enumerate(vectors, start=1):
        total = add_task_vector(total, vector, scale="1/t" if merge == "mean" else 1.0, step=step)
    assert total is not None
    return total
