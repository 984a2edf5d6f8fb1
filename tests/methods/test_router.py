"""The router: densities of features, thresholds, and frozen SAM for what no domain claims."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import validate
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.method.interface import State
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.router import Router, RouterSettings, fit_density, grid_features
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.inputs import Batch, collate
from cosam_bench.training.fit_settings import FitSettings

IMAGES = 8


def _split(name: str, *, level: int, seed: int, stripes: int = 0) -> Split:
    """Grey noise around a level, in stripes if wanted, with a square to be found."""
    draws = torch.Generator().manual_seed(seed)
    images, masks = [], []
    for _ in range(IMAGES):
        mask = torch.zeros(48, 48, dtype=torch.bool)
        top, left = torch.randint(2, 24, (2,), generator=draws).tolist()
        mask[top : top + 16, left : left + 16] = True
        noise = torch.randint(-12, 13, (3, 48, 48), generator=draws)
        noise += stripes * (torch.arange(48) // 6 % 2)
        images.append((level + noise + 40 * mask).clamp(0, 255).to(torch.uint8))
        masks.append(mask)
    entries = tuple(Entry(f"{index}", f"{name} {index}", f"{index}") for index in range(IMAGES))
    return Split(name, part="train", manifest=Manifest(entries), source=Pixels(tuple(images), tuple(masks)))


SPLITS = {
    "dark": _split("dark", level=40, seed=1),
    "bright": _split("bright", level=200, seed=2),
    "strange": _split("strange", level=40, seed=3, stripes=160),
    "dark too": _split("dark too", level=40, seed=4),
}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(
        build_sam("tiny"),
        adapter=AdapterSettings(rank=2, alpha=4.0, blocks=(3,)),
        fit=FitSettings(epochs=1, batch_size=4, learning_rate=1e-2, schedule="constant"),
        batch_size=3,
    )


@pytest.fixture(scope="module")
def taught(bench: Workbench) -> Router:
    method = Router(RouterSettings(), bench)
    for step, name in enumerate(("dark", "bright"), start=1):
        method.learn(trial_domain(SPLITS[name]), step=step)
    return method


def _batch(bench: Workbench, *places: tuple[str, int]) -> Batch:
    prompts = [draw_prompts(SPLITS[name], points=3, seed=0).take([row]) for name, row in places]
    joined = type(prompts[0])(
        *(torch.cat([getattr(one, field) for one in prompts]) for field in ("boxes", "points", "masks")), digest=""
    )
    return collate([SPLITS[name][row] for name, row in places], joined, kinds=["box"] * len(places), view=bench.view)[0]


def _slow_scores(features: Tensor, rows: Tensor, *, shrinkage: float) -> list[float]:
    """Of each of ``features`` by the density of ``rows``, with torch's own normal distribution."""
    variance = ((rows - rows.mean(0)) ** 2).mean(0)
    variance = (1 - shrinkage) * variance + shrinkage * variance.mean()
    normal = torch.distributions.Normal(rows.mean(0), variance.sqrt())
    constant = math.log(2 * math.pi) / 2
    return [float(-normal.log_prob(one).mean() - constant) for one in features]


@given(st.integers(3, 9), st.integers(1, 5), st.floats(0.01, 1), st.floats(0, 0.9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_density_and_its_threshold_are_those_of_a_loop(
    count: int, width: int, shrinkage: float, rejected: float, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=draws, dtype=torch.float64) * 3 + 5
    found = fit_density(features, rejected=rejected, shrinkage=shrinkage)
    new = torch.randn(4, width, generator=draws, dtype=torch.float64)
    assert found.scores(new).tolist() == pytest.approx(_slow_scores(new, features, shrinkage=shrinkage), rel=1e-9)
    alone = sorted(
        _slow_scores(features[[row]], torch.cat([features[:row], features[row + 1 :]]), shrinkage=shrinkage)[0]
        for row in range(count)
    )
    place = math.ceil((1 - rejected) * (count - 1) - 1e-9)
    assert found.threshold.item() == pytest.approx(alone[place], rel=1e-7)


def test_a_single_image_claims_every_image_and_equal_images_only_themselves() -> None:
    one = fit_density(torch.ones(1, 2, dtype=torch.float64), rejected=0.05, shrinkage=0.1)
    assert one.threshold == torch.inf
    assert torch.isfinite(one.scores(torch.zeros(1, 2, dtype=torch.float64))).all()
    same = fit_density(torch.ones(3, 2, dtype=torch.float64), rejected=0.0, shrinkage=0.1)
    scores = same.scores(torch.tensor([[1.0, 1.0], [1.0, 1.1]], dtype=torch.float64))
    assert (scores <= same.threshold).tolist() == [True, False]


def test_features_are_each_channels_mean_and_deviation() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    assert grid_features(maps).tolist() == [[4.0, 2.0, pytest.approx(math.sqrt(5)), 0.0]]


def test_an_image_is_served_by_its_own_domain_or_by_frozen_sam(bench: Workbench, taught: Router) -> None:
    batch = _batch(bench, ("bright", 0), ("strange", 0), ("dark too", 1), ("strange", 5), ("dark", 2))
    assert taught.route(batch) == [1, None, 0, None, 0]
    served = [taught.experts[1], None, taught.experts[0], None, taught.experts[0]]
    found = taught.predict(batch)
    for row, update in enumerate(served):
        expected = bench.predict(update, batch.select([row]))[0]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], bench.predict(None, batch.select([1]))[0], rtol=0, atol=1e-4)


def test_images_nobody_trained_on_are_routed_and_others_are_not(bench: Workbench, taught: Router) -> None:
    own = _batch(bench, *(("dark too", row) for row in range(IMAGES)))
    strange = _batch(bench, *(("strange", row) for row in range(IMAGES)))
    assert taught.route(own).count(0) >= IMAGES - 2
    assert taught.route(strange) == [None] * IMAGES


def test_without_fallback_the_nearest_domain_serves_all(bench: Workbench, taught: Router, tmp_path: Path) -> None:
    taught.state().save(tmp_path / "state")
    always = Router(RouterSettings(fallback=False), bench)
    always.load(State.read(tmp_path / "state"))
    batch = _batch(bench, ("strange", 0), ("bright", 3), ("dark", 2))
    numbers = always.route(batch)
    assert None not in numbers
    assert numbers[1:] == [1, 0]
    features = always._features(batch)
    for row, number in enumerate(numbers):
        scores = [density.scores(features)[row].item() for density in always.densities]
        assert number == scores.index(min(scores))


def test_routing_takes_a_second_pass_and_no_image_is_kept(bench: Workbench, taught: Router) -> None:
    batch = _batch(bench, ("dark", 0), ("strange", 1))
    before = bench.sam.encoder_passes
    taught.predict(batch)
    assert bench.sam.encoder_passes - before == 2 * len(batch)
    kept = [tensor for name, tensor in taught.state().tensors.items() if not name.startswith("expert/")]
    assert sum(tensor.numel() for tensor in kept) == 2 * (2 * 2 * bench.sam.mask_decoder.transformer_dim + 1)


def test_before_any_domain_frozen_sam_answers(bench: Workbench) -> None:
    batch = _batch(bench, ("dark", 0))
    method = Router(RouterSettings(), bench)
    assert method.route(batch) == [None]
    assert torch.equal(method.predict(batch), bench.predict(None, batch))


def test_a_threshold_that_rejects_all_is_refused() -> None:
    with pytest.raises(CosamError, match=r"'rejected' is 1"):
        validate(RouterSettings, {"rejected": 1.0}, source="test")
