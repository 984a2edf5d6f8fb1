"""Router: one adapter per domain, chosen by a density of the frozen encoder's features, or none of them.

Source: after CA-SAM (Wang et al., "Continual Alignment for SAM", arXiv 2511.17201), which keeps a small module and a
density of the frozen encoder's features per task, chooses the task of the highest density, and falls back to frozen SAM
below a threshold from the training features; SAMCL (arXiv 2412.05012) chooses among modules by a classifier of such
features, without a fallback. After each domain

1. an adapter is trained from the base model on this domain alone, and kept;
2. f(x), the mean and the standard deviation over the grid of each channel of the base encoder's embedding, is computed
   for all of its training images without augmentation, and its mean m_j and variance v_j per number are kept;
3. the threshold t_j is the (1 - rejected)-quantile of the training images' own scores, each by the mean and variance of
   all the others, so that an image does not vouch for itself.

The score is the mean over f's numbers of a normal distribution's negative log-density, without its constant:

    s_j(x) = mean_c 1/2 ((f_c(x) - m_jc)^2 / v_jc + log v_jc),   v_j = (1 - shrinkage) var_j + shrinkage mean(var_j),
    M for x = tau_j with j = argmin_j s_j(x) if s_j(x) <= t_j, else 0: frozen SAM.

Without ``fallback`` the nearest domain's adapter always serves. An image takes two encoder passes, one of them by the
base model.

Deviations: a normal distribution with a variance per number in place of CA-SAM's variational autoencoder, so that
nothing but the adapters is trained; the protocol's adapter in place of an alignment layer; the quantile, because only
excerpts of CA-SAM's text were at hand, without its threshold.

Needs the current domain's inputs. The state grows by an adapter and three small tensors per domain, and no image is
kept. The order does not matter. The rank is that of one adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench import Batch, Method, MethodCard, Settings, State, TrainingDomain, Update, Workbench, setting
from cosam_bench.sam.inputs import chunks

_LEAST_VARIANCE = 1e-8  # of a number that is the same in all images, as in a domain of one


class RouterSettings(Settings):
    """The settings of the router."""

    fallback: bool = setting(
        True, "frozen SAM serves what no domain claims; off, an adapter serves every image", source="CA-SAM"
    )
    rejected: float = setting(
        0.05,
        "share of a domain's own training images that may be above its threshold",
        source="this project; not tuned",
        search=(0.0, 0.5),
        ge=0,
        lt=1,
    )
    shrinkage: float = setting(
        0.1,
        "of each variance towards their mean, for domains of few images",
        source="this project; not tuned",
        ge=0,
        le=1,
    )


class Router(Method[RouterSettings]):
    """One adapter per domain; the nearest domain's serves an image, unless the image is near none."""

    card = MethodCard(
        title="Router",
        paper="after CA-SAM, arXiv 2511.17201",
        needs=("inputs",),
        state="grows",
        order_dependent=False,
        deviations=(
            "a normal distribution with a variance per feature instead of CA-SAM's variational autoencoder",
            "the adapter is the protocol's, not an alignment layer between encoder and decoder",
            "the threshold is a quantile of the training images' scores, each by the others' mean and variance",
        ),
    )

    def __init__(self, settings: RouterSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.experts: list[Update] = []
        self.densities: list[Density] = []

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train and keep this domain's adapter, and keep the density of its images' features."""
        self.experts.append(self.bench.train(domain).update)
        parts = []
        for rows in chunks(range(len(domain)), size=self.bench.batch_size):
            batch, _ = self.bench.labelled(domain, rows)
            parts.append(self._features(batch))
            self.bench.advance(len(rows))
        options = self.settings
        density = fit_density(torch.cat(parts), rejected=options.rejected, shrinkage=options.shrinkage)
        self.densities.append(density)

    def _features(self, batch: Batch) -> Tensor:
        """float64 ``(B, 2 C)`` on the CPU."""
        with torch.no_grad(), self.bench.view.autocast():
            maps = self.bench.encode(batch).maps
        return grid_features(maps)

    def route(self, batch: Batch) -> list[int | None]:
        """The adapter's number for each image, from 0 in the order of learning; None for none of them."""
        if not self.densities:
            return [None] * len(batch)
        features = self._features(batch)
        scores = torch.stack([density.scores(features) for density in self.densities], dim=1)
        lowest, numbers = scores.min(dim=1)
        if not self.settings.fallback:
            return list(numbers.tolist())
        thresholds = torch.stack([density.threshold for density in self.densities])[numbers]
        near = (lowest <= thresholds).tolist()
        return [number if is_near else None for number, is_near in zip(numbers.tolist(), near, strict=True)]

    def predict(self, batch: Batch) -> Tensor:
        """Each image's mask logits by the adapter it is routed to, or by frozen SAM."""
        served = [None if number is None else self.experts[number] for number in self.route(batch)]
        return self.bench.predict_each(served, batch)

    def state(self) -> State:
        """All adapters, and each domain's density."""
        tensors: dict[str, Tensor] = {}
        for number, (expert, density) in enumerate(zip(self.experts, self.densities, strict=True)):
            tensors |= expert.tensors(f"expert/{number}/")
            tensors |= {f"density/{number}/{name}": tensor for name, tensor in density.tensors().items()}
        return State(tensors, {"domains": len(self.experts)})

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        count = state.values["domains"]
        assert isinstance(count, int)
        self.experts = [Update.from_tensors(state.tensors, f"expert/{number}/") for number in range(count)]
        self.densities = [
            Density(*(state.tensors[f"density/{number}/{name}"] for name in ("mean", "variance", "threshold")))
            for number in range(count)
        ]


@dataclass(frozen=True)
class Density:
    """A normal distribution of a domain's features, float64 on the CPU.

    Attributes:
        mean: ``(n,)``.
        variance: ``(n,)``, above 0.
        threshold: a scalar: what scores above it is none of the domain's images.
    """

    mean: Tensor
    variance: Tensor
    threshold: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """s of each row of ``(B, n)``, float64 ``(B,)``; the lower, the nearer."""
        return _scores(features, self.mean, self.variance)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a state."""
        return {"mean": self.mean, "variance": self.variance, "threshold": self.threshold}


def _scores(features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return ((features - mean).square() / variance + variance.log()).mean(dim=-1) / 2


def fit_density(features: Tensor, *, rejected: float, shrinkage: float) -> Density:
    """The density of a domain's features.

    Args:
        features: float64, ``(images, n)``.
        rejected: share of these images whose score, by the others, may be above the threshold; of a single image the
            threshold is infinite.
        shrinkage: of each variance towards their mean, in [0, 1].
    """
    count = len(features)
    mean, variance = features.mean(dim=0), features.var(dim=0, correction=0)
    threshold = torch.tensor(torch.inf, dtype=features.dtype)
    if count > 1:
        # Without an image, the mean moves by (mean - x) / (count - 1), and the sum of squares loses its share.
        away = (mean - features) / (count - 1)
        others = (count * variance - count * (count - 1) * away.square()).clamp_min(0) / (count - 1)
        alone = _scores(features, mean + away, _shrunk(others, shrinkage))
        threshold = alone.quantile(1 - rejected, interpolation="higher")
    return Density(mean, _shrunk(variance, shrinkage), threshold)


def _shrunk(variance: Tensor, shrinkage: float) -> Tensor:
    """Variances ``(..., n)`` nearer to the mean of their row."""
    return torch.lerp(variance, variance.mean(dim=-1, keepdim=True), shrinkage).clamp_min(_LEAST_VARIANCE)


def grid_features(maps: Tensor) -> Tensor:
    """The mean and standard deviation over the grid of each channel of ``(B, C, h, w)``: float64 ``(B, 2 C)``, CPU."""
    deviation, mean = torch.std_mean(maps.double().flatten(2).cpu(), dim=2, correction=0)
    return torch.cat([mean, deviation], dim=1)
