"""RegMean: each layer's merged weight answers every domain's inputs as its expert did, by least squares.

Source: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023 (arXiv
2212.09849). With G_t the mean of x x^T over the inputs x of a layer under expert t, its off-diagonal times a,

    dW = (sum_t dW_t G_t) (sum_t G_t)^-1,

and the mean of all parameters other than an adapted layer's weight. The base cancels, so changes are merged
instead of weights. Only the two sums are kept: the result after each domain is that of the published
formula on all experts so far.

``rank`` serves the best update of that rank in the same loss: the SVD of dW S^(1/2), S = sum_t G_t, truncated and
multiplied by S^(-1/2) (derived here). It is taken from the full sums at each domain, so no loss accumulates;
``discarded`` in the state holds the share of tr(dW S dW^T) that was dropped last, for each layer.

The first domain's expert is served as it is, without solving. A ridge that pulls to zero changes also what all experts
agree on, in directions that their inputs hardly use; ``ridge_to = "mean"`` pulls to the mean of their changes instead,
whose running sum it keeps, so equal experts come back exactly.

``solver = "float32_inverse"`` inverts the sums in float32, as released codes do; the largest condition number of such
a sum is in the record, as ``condition_number``.

Deviations: a ridge, while the released code inverts without one; sums in float64; Grams over the whole training
split with the same weight for each domain, while the paper takes some examples. Needs the current domain's inputs.
The state is constant: (n, n) and (m, n) per layer, or n numbers for the first if a = 0, with ``ridge_to = "mean"``
another (m, n), and the served update. The order does not matter. The rank is full without ``rank``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, TrainingDomain, Update, setting
from cosam_bench.merging.regression import (
    condition_number,
    merge_by_regression,
    running_sums,
    scale_off_diagonal,
    truncate_by_gram,
)
from cosam_bench.merging.ridge import Ridge, RidgeTo, Solver
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import lazy_weight_changes


class RegMeanSettings(ServedScale):
    """The settings of RegMean."""

    off_diagonal: float = setting(
        0.9,
        "factor of the Gram matrices' off-diagonal; 0 keeps only their diagonal",
        source="the paper",
        ge=0,
        le=1,
    )
    rank: int | None = setting(
        None, "factors served per layer; none: the dense merge", source="derived here", search=None, ge=1
    )
    ridge: Ridge = setting(
        1e-6,
        "added to each Gram sum's diagonal, as a share of its mean",
        source="0 in the released code",
        search=(1e-9, 1.0, "log"),
        ge=0,
    )
    ridge_to: RidgeTo = setting(
        "zero",
        "what the ridge pulls to: no change, or the mean of the experts' changes",
        source="the usual ridge; the released code has none",
    )
    solver: Solver = setting(
        "float64",
        "a solution in float64, or an inverse in float32 as in released codes",
        source="this project: float32 has too few digits for these sums",
        search=None,
    )


class RegMean(MergingMethod[RegMeanSettings]):
    """Regression of the changes dW on running sums of Gram matrices."""

    card = MethodCard(
        title="RegMean",
        paper="arXiv 2212.09849",
        needs=("inputs",),
        order_dependent=False,
        deviations=(
            "running sums replace the store of all models, with the same result",
            "a ridge of 1e-6 and a float64 solve replace the plain inverse, which is solver = float32_inverse",
            "the first expert is served as it is; the released code solves for it, too",
            "ridge_to = mean, a ridge that pulls to the mean of the experts, is this project's",
            "Gram matrices of the whole training split, with the same weight for each domain",
            "the setting rank, a truncation in the same loss, is derived here",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The regression over all experts so far; the first expert itself."""
        rank = self.settings.rank
        changes = lazy_weight_changes(expert)
        grams = self.bench.input_grams(domain, expert)
        layers = list(grams)
        self.memory = add_regression_terms(
            self.memory,
            changes,
            grams,
            factors={
                layer: factors for layer, factors in expert.low_rank.items() if f"{layer}.weight" not in expert.dense
            },
            off_diagonal=self.settings.off_diagonal,
            to_mean=self.settings.ridge_to == "mean",
        )
        dtypes = {f"{layer}.weight": factors.b.dtype for layer, factors in expert.low_rank.items()}
        dtypes |= {name: change.dtype for name, change in expert.dense.items()}
        low_rank: dict[str, LowRank] = {}
        dense: dict[str, Tensor] = {}
        discarded: dict[str, float] = {}
        for name, change in changes.items() if step == 1 else self._merged_changes(step):
            layer = name.removesuffix(".weight")
            if rank is None or layer not in layers:
                dense[name] = change.to(dtypes[name])
                continue
            factors, discarded[layer] = truncate_by_gram(change.double(), self.memory[f"{layer}/gram"], rank=rank)
            low_rank[layer] = factors.to(expert.low_rank[layer].b.dtype)
        if rank is not None:
            self.memory["discarded"] = torch.tensor([discarded[layer] for layer in layers])
        return Update(low_rank, dense)

    def _merged_changes(self, step: int) -> Iterator[tuple[str, Tensor]]:
        options = self.settings
        if options.solver == "float32_inverse":
            for name, total in self.memory.items():
                if name.endswith("/gram"):
                    self.bench.meter.report("condition_number", condition_number(total, ridge=options.ridge))
        return iter_merged_changes(self.memory, step=step, ridge=options.ridge, solver=options.solver)


def add_regression_terms(
    memory: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
    grams: dict[str, Tensor],
    *,
    off_diagonal: float,
    factors: Mapping[str, LowRank] | None = None,
    to_mean: bool = False,
) -> dict[str, Tensor]:
    """The running sums with one more expert added.

    Args:
        memory: the sums for the previous expert; empty before the first.
        changes: dW by parameter name; ``(m, n)`` for a layer's weight.
        grams: by layer name, G ``(n, n)``; emptied, so that each can be freed after its use. A parameter
            ``<layer>.weight`` is regressed, all others are averaged.
        off_diagonal: factor of G's off-diagonal; 0 keeps the diagonal alone.
        factors: the changes of low-rank layers; the products are the same up to the rounding of the dense change.
        to_mean: also sum dW of each regressed layer, for a ridge that pulls to their mean.

    Returns:
        float64: ``<layer>/gram`` and ``<layer>/product``, ``<name>/sum`` of each other parameter, with ``to_mean`` also
        ``<layer>/total``.
    """
    factors = factors or {}

    def terms() -> Iterator[tuple[str, Tensor]]:
        for name in changes:
            layer = name.removesuffix(".weight")
            if layer == name or layer not in grams:
                yield f"{name}/sum", changes[name].to(torch.float64, copy=True)
                continue
            gram = scale_off_diagonal(grams.pop(layer).double(), off_diagonal)
            if gram.ndim == 1:
                product = changes[name].double() * gram
            elif layer in factors:  # G is as wide as the layer, and the factors are thin
                product = factors[layer].b.double() @ (factors[layer].a.double() @ gram)
            else:
                product = changes[name].double() @ gram
            yield f"{layer}/product", product
            del product
            if to_mean:
                yield f"{layer}/total", changes[name].to(torch.float64, copy=True)
            yield f"{layer}/gram", gram

    return running_sums(memory, terms())


def iter_merged_changes(
    sums: Mapping[str, Tensor], *, step: int, ridge: float, solver: Solver = "float64"
) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and merged change, float64, from the sums over ``step`` experts.

    The ridge pulls to the experts' mean if the sums have their total.

    Raises:
        CosamError: a Gram sum has no inverse and the ridge is 0.
    """
    for name, total in sums.items():
        if name.endswith("/gram"):
            layer = name.removesuffix("/gram")
            changes = sums.get(f"{layer}/total")
            merged = merge_by_regression(
                total,
                sums[f"{layer}/product"],
                ridge=ridge,
                towards=None if changes is None else changes / step,
                solver=solver,
                layer=layer,
            )
            yield f"{layer}.weight", merged
        elif name.endswith("/sum"):
            yield name.removesuffix("/sum"), total / step
