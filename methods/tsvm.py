"""TSV-Merge (not continual): the experts' singular vectors are made orthogonal to one another, then summed.

Source: Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025 (arXiv
2412.00081); formulas as in its released code and FusionBench's. For each layer of T experts tau_i = U_i S_i V_i^T,
cut off after the first k = floor(min(m, n) / T) singular values,

    U = [U_1 ... U_T],   V = [V_1 ... V_T],   S = diag(S_1, ..., S_T),
    M = scale * orth(U) S orth(V)^T,   orth(X) = P Q^T   for   X = P D Q^T,

where orth(X) is the matrix with orthonormal columns that is nearest to X. Other parameters get the mean of the experts.

Here an expert has no more than r singular values above zero, and with r <= k nothing is cut off. Directions without
a singular value above rounding are left out: in the released code they take part in orth, though nothing but the
linear algebra library determines them. orth also leaves out the directions that X does not have, if the experts share
some, so that T equal experts come back as they are (derived). On changes of full rank that share no direction, both
are the released rule.

Not continual: orth needs the singular vectors of all experts, and k depends on T.

Deviations: as stated; float64 throughout. Needs nothing of the current domain. The state keeps every expert's factors
and grows. The order does not matter, up to rounding. The output is of rank up to T r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.spectral import numerical_rank, rank_tolerance, thin_svd
from cosam_bench.merging.updates import check_same_layers


class TSVMSettings(Settings):
    """The settings of TSV-Merge."""

    scale: float = setting(1.0, "factor of the merged change", source="the paper", search=(0.25, 4.0, "log"), gt=0)


class TSVM(MergingMethod[TSVMSettings]):
    """The sum of all experts along orthogonalised singular vectors; the experts are kept."""

    card = MethodCard(
        title="TSV-Merge (not continual)",
        paper="arXiv 2412.00081",
        state="grows",
        order_dependent=False,
        not_continual=True,
        deviations=(
            "keeps every expert's factors and merges all of them again after each domain",
            "directions without a singular value above rounding take no part; in the released code they do, and "
            "are arbitrary for changes of low rank",
            "only layers with low-rank changes are decomposed; parameters trained as dense changes are averaged",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merge of all experts so far, recomputed."""
        self.memory |= expert.tensors(f"{step}/")
        experts = [Update.from_tensors(self.memory, f"{number}/") for number in range(1, step + 1)]
        return merge_singular_vectors(experts, scale=self.settings.scale)


def merge_singular_vectors(experts: Sequence[Update], *, scale: float) -> Update:
    """The merge of all experts, layer by layer.

    Args:
        experts: T at least 1, of the same layers.
        scale: factor of the result.

    Raises:
        CosamError: the experts do not change the same layers, or a factor is not finite.
    """
    for expert in experts[1:]:
        check_same_layers(experts[0], expert)
    low_rank = {
        layer: sum_along_orthogonal_vectors([expert.low_rank[layer] for expert in experts]).scaled(scale)
        for layer in experts[0].low_rank
    }
    return Update(low_rank, {name: scale * change for name, change in _mean_of_dense(experts).items()})


def _mean_of_dense(experts: Sequence[Update]) -> Mapping[str, Tensor]:
    return {
        name: torch.stack([expert.dense[name].double() for expert in experts]).mean(0).to(change.dtype)
        for name, change in experts[0].dense.items()
    }


def sum_along_orthogonal_vectors(changes: Sequence[LowRank]) -> LowRank:
    """One layer's ``orth(U) S orth(V)^T``.

    Args:
        changes: T changes ``(m, n)`` of any ranks; the result has the first one's dtype.

    >>> import torch
    >>> change = LowRank(a=torch.tensor([[1.0, 0.0]]), b=torch.tensor([[3.0], [0.0]]))
    >>> sum_along_orthogonal_vectors([change, change]).dense().round(decimals=4).tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    dtype = changes[0].b.dtype
    tolerance = rank_tolerance(dtype)
    most = min(changes[0].b.shape[0], changes[0].a.shape[1]) // len(changes)
    kept = []
    for change in changes:
        spectrum = thin_svd(change)
        kept.append(spectrum.first(min(most, numerical_rank(spectrum.s, tolerance=tolerance))))
    left = nearest_orthonormal(torch.cat([part.u for part in kept], dim=1), tolerance=tolerance)
    right = nearest_orthonormal(torch.cat([part.v for part in kept], dim=1), tolerance=tolerance)
    values = torch.cat([part.s for part in kept])
    return LowRank(a=right.T.contiguous().to(dtype), b=(left * values).to(dtype))


def nearest_orthonormal(matrix: Tensor, *, tolerance: float) -> Tensor:
    """The orthogonal factor of the polar decomposition, ``P Q^T`` for ``P D Q^T``.

    Args:
        matrix: float64, ``(m, k)``.
        tolerance: entries of D up to this share of the largest count as zero, and their directions are left out.
    """
    p, d, qh = torch.linalg.svd(matrix, full_matrices=False)
    rank = numerical_rank(d, tolerance=tolerance)
    nearest: Tensor = p[:, :rank] @ qh[:rank]
    return nearest
