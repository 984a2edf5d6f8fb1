"""TRM's search: its gradient against autograd's double backward, its ends, its ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from cosam_bench.data.samples import Split
from cosam_bench.merging.consistency import bernoulli_divergence, pixel_weights
from cosam_bench.merging.trajectory import (
    LEAST_FALL,
    Losses,
    Normalisation,
    ObjectiveWeights,
    Trajectory,
    has_converged,
    objective_and_gradient,
    search,
)
from cosam_bench.merging.updates import weight_changes
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.trm import TRM, TRMSettings, _coefficient_rows
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit_settings import FitSettings

ROWS = (0, 0, 1, 1)


class Toy:
    """Two LoRA layers on a small network in float64, and a subspace of four points."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.inputs, self.target, self.other = drawn(7, 5), (drawn(7, 3) > 0).double(), (drawn(7, 3) > 0).double()
        self.pixels = drawn(7, 3).square()
        self.first, self.second = drawn(4, 5), drawn(3, 4)
        shapes = ((2, 5), (4, 2), (2, 4), (3, 2))
        points = [[0.4 * drawn(*shape) for shape in shapes] for _ in range(4)]
        history = [torch.zeros(2, 5).double(), points[0][1], torch.zeros(2, 4).double(), points[0][3]]
        self.trajectory = Trajectory.from_points(points, rows=ROWS, history=history)
        self.before = self.logits(points[0]).detach()
        self.end = points[-1]

    def logits(self, point: Sequence[Tensor]) -> Tensor:
        a1, b1, a2, b2 = point
        hidden = torch.tanh(self.inputs @ (self.first + b1 @ a1).T)
        return hidden @ (self.second + b2 @ a2).T

    def values(self, point: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.logits(point)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.target)
        probe = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.other)
        return loss, bernoulli_divergence(self.before, logits, weights=self.pixels), probe

    def evaluate(self, point: Sequence[Tensor]) -> Losses:
        parameters = [tensor.detach().clone().requires_grad_() for tensor in point]
        return Losses(parameters, *self.values(parameters))

    def by_double_backward(
        self, coefficients: Tensor, weights: ObjectiveWeights, reference: float
    ) -> tuple[float, Tensor]:
        coefficients = coefficients.clone().requires_grad_()
        point = self.trajectory.point_at(coefficients)
        loss, consistency, probe = self.values(point)
        slopes = torch.autograd.grad(probe, point, create_graph=True)
        norm = torch.sqrt(sum(slope.square().sum() for slope in slopes))
        lack = torch.clamp(1 - norm / (weights.floor * reference), min=0) ** 2
        anchor = (self.trajectory.segment_shares * coefficients**2).sum(1).mean()
        value = (
            weights.alignment * loss
            + weights.consistency * consistency
            + weights.responsiveness * lack
            + weights.anchor * anchor
        )
        return value.item(), torch.autograd.grad(value, coefficients)[0]


@pytest.mark.parametrize(("reference", "allowed"), [(1e-6, 1e-12), (50.0, 1e-5)], ids=["floor idle", "floor active"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_is_that_of_double_backward(seed: int, reference: float, allowed: float) -> None:
    toy = Toy(seed)
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    weights = ObjectiveWeights(alignment=0.7, consistency=1.3, responsiveness=2.0, anchor=0.2)
    value, gradient = objective_and_gradient(
        toy.evaluate, toy.trajectory, coefficients, weights=weights, reference_norm=reference
    )
    expected, exact = toy.by_double_backward(coefficients, weights, reference)
    assert value == pytest.approx(expected, rel=1e-12)
    assert (gradient - exact).norm() <= allowed * exact.norm()
    without = objective_and_gradient(
        toy.evaluate, toy.trajectory, coefficients, weights=replace(weights, responsiveness=0), reference_norm=reference
    )
    assert (value != without[0]) == (reference > 1)  # the floor has its say only where it is active


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_objectives_normalised_by_their_range_change_by_one_between_the_ends(seed: int) -> None:
    toy = Toy(seed)
    points = [toy.trajectory.start, toy.end]
    if toy.values(points[0])[0] < toy.values(points[1])[0]:
        points.reverse()  # L_TA has to fall
    path = Trajectory.from_points(points, rows=ROWS)
    toy.before = toy.logits(points[0]).detach()
    (old, _, _), (new, divergence, _) = toy.values(points[0]), toy.values(points[1])
    weights = ObjectiveWeights(alignment=3.0, consistency=0.5, responsiveness=0, anchor=0).normalised(
        "range", alignment=(old.item(), new.item()), consistency=divergence.item()
    )
    first, last = (
        objective_and_gradient(toy.evaluate, path, torch.full((2, 1), end).double(), weights=weights, reference_norm=1)
        for end in (0.0, 1.0)
    )
    assert last[0] - first[0] == pytest.approx(-3.0 + 0.5)


@pytest.mark.parametrize(
    ("by", "before", "after", "scale"),
    [
        ("old", 2.0, 0.5, 2.0),
        ("range", 2.0, 0.5, 1.5),
        ("range", 2.0, 1.99, LEAST_FALL * 2.0),
        ("range", 2.0, 3.0, LEAST_FALL * 2.0),
        ("none", 2.0, 0.5, 1.0),
    ],
)
def test_what_divides_alignment(by: Normalisation, before: float, after: float, scale: float) -> None:
    weights = ObjectiveWeights(alignment=3.0, consistency=0.5)
    found = weights.normalised(by, alignment=(before, after), consistency=0.25)
    assert found.alignment == pytest.approx(3.0 / scale)
    assert found.consistency == (0.5 if by == "none" else 2.0)


def test_objectives_that_are_zero_throughout_keep_their_weights() -> None:
    for by in get_args(Normalisation):
        assert ObjectiveWeights().normalised(by, alignment=(0.0, 0.0), consistency=0.0) == ObjectiveWeights()


def test_the_search_is_adam_on_the_objective_by_double_backward() -> None:
    toys = [Toy(seed) for seed in (4, 5)]
    path = toys[0].trajectory
    for toy in toys:
        toy.trajectory = path
    weights, reference = ObjectiveWeights(responsiveness=2.0), 50.0
    found = search(
        [toy.evaluate for toy in toys],
        path,
        weights=weights,
        reference_norm=reference,
        steps=7,
        learning_rate=0.02,
        tolerance=-1e9,
    )
    expected = path.initial_coefficients()
    adam = torch.optim.Adam([expected], lr=0.02)
    values = []
    for step in range(7):
        value, expected.grad = toys[step % 2].by_double_backward(expected.detach(), weights, reference)
        values.append(value)
        adam.step()
    assert found.values == pytest.approx(values, rel=1e-6)
    torch.testing.assert_close(found.coefficients, expected, rtol=1e-4, atol=1e-6)


def test_the_search_stops_after_the_first_pass_that_gains_too_little() -> None:
    toy = Toy(6)
    run = partial(search, [toy.evaluate] * 3, toy.trajectory, weights=ObjectiveWeights(), reference_norm=1.0)
    whole = run(steps=60, learning_rate=0.02, tolerance=-1e9).values
    means = [sum(whole[first : first + 3]) / 3 for first in range(0, 60, 3)]
    small = next(number for number in range(1, 20) if means[number - 1] - means[number] < 0.01)
    assert run(steps=60, learning_rate=0.02, tolerance=0.01).values == whole[: 3 * (small + 1)]
    assert 1 < small < 19


def test_convergence_compares_whole_passes() -> None:
    values = [4.0, 2.0, 3.0, 2.0, 1.0]
    assert [has_converged(values[:count], batches=2, tolerance=0.6) for count in range(6)] == [
        False,
        False,
        False,
        False,
        True,
        False,
    ]


def test_nought_is_the_start_and_one_is_the_end() -> None:
    toy = Toy(3)
    ends = torch.zeros(2, 4, dtype=torch.float64)
    assert all(map(torch.equal, toy.trajectory.point_at(ends), toy.trajectory.start))
    ends[:, :3] = 1
    for found, wanted in zip(toy.trajectory.point_at(ends), toy.end, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_the_history_scales_the_old_change() -> None:
    toy = Toy(3)
    only = torch.zeros(2, 4, dtype=torch.float64)
    only[:, 3] = 0.2
    _, b1, _, b2 = toy.trajectory.point_at(only)
    torch.testing.assert_close(b1, 1.2 * toy.trajectory.start[1])
    torch.testing.assert_close(b2, 1.2 * toy.trajectory.start[3])


def test_coefficients_begin_in_the_middle_and_stay_within_their_bounds() -> None:
    trajectory = Toy(3).trajectory
    first = trajectory.initial_coefficients()
    assert first.tolist() == [[0.5, 0.5, 0.5, 0.0]] * 2
    first += torch.tensor([[9.0], [-9.0]])
    trajectory.clamp_(first)
    assert first.tolist() == [[1.2, 1.2, 1.2, 0.2], [-0.2, -0.2, -0.2, -0.2]]


def test_one_straight_segment_has_the_whole_share_and_no_move_has_none() -> None:
    still, moved = torch.zeros(2, 2), torch.ones(2, 2)
    straight = Trajectory.from_points([[still, still], [moved, still]], rows=(0, 1))
    assert straight.segment_shares.tolist() == [[1.0], [0.0]]


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=9), st.integers(0, 99))
def test_the_divergence_is_the_kl_divergence_of_pixels(before: list[float], seed: int) -> None:
    old = torch.tensor(before, dtype=torch.float64)
    new = 10 * torch.randn(len(before), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    exact = kl_divergence(Bernoulli(logits=old), Bernoulli(logits=new)).mean()
    torch.testing.assert_close(bernoulli_divergence(old, new), exact, rtol=1e-9, atol=1e-9)


def test_weights_of_pixels_by_hand() -> None:
    old, new = torch.tensor([[[0.1, 0.9], [0.2, 0.2]]]).logit(), torch.tensor([[[0.3, 0.5], [0.2, 0.6]]]).logit()
    larger = torch.tensor([[[0.3, 0.9], [0.2, 0.6]]])  # mean 0.5 of it and of the rest
    foreground = pixel_weights(old, new, kind="foreground")
    torch.testing.assert_close(foreground, (larger / 0.5 + (1 - larger) / 0.5) / 2)
    apart = pixel_weights(old, new, kind="disagreement")
    torch.testing.assert_close(apart, torch.tensor([[[0.2, 0.4], [0.0, 0.4]]]) / 0.25)
    assert pixel_weights(old, new, kind="all").tolist() == [[[1, 1], [1, 1]]]


def test_half_of_the_weight_is_on_a_small_object() -> None:
    logits = torch.full((1, 10, 10), -50.0)
    logits[0, 3, 4] = 50.0
    weights = pixel_weights(logits, logits, kind="foreground")
    assert weights[0, 3, 4] == pytest.approx(50)
    assert weights.sum() == pytest.approx(100)


@pytest.mark.parametrize("level", [-200.0, 200.0])
@pytest.mark.parametrize("kind", ["foreground", "disagreement"])
def test_weights_are_finite_if_nothing_is_foreground_or_nothing_differs(level: float, kind: Any) -> None:
    logits = torch.full((2, 3, 3), level)
    torch.testing.assert_close(pixel_weights(logits, logits, kind=kind), torch.ones(2, 3, 3))


def test_a_weighted_divergence_is_the_weighted_mean_of_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new, weights = (torch.rand(2, 3, 4, generator=generator).double() for _ in range(3))
    each = kl_divergence(Bernoulli(logits=old), Bernoulli(logits=new))
    torch.testing.assert_close(bernoulli_divergence(old, new, weights=weights), (weights * each).mean())


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(fit=FitSettings(epochs=2, batch_size=3, flip=False))


@pytest.fixture
def domain(squares: Split) -> TrainingDomain:
    return trial_domain(squares)


def learned(bench: Workbench, domain: TrainingDomain, *, domains: int = 2, **settings: Any) -> TRM:
    method = TRM(TRMSettings(**{"passes": 1, "batch": 2} | settings), bench)
    for step in range(1, domains + 1):
        method.learn(domain, step=step)
    return method


def test_the_first_domain_is_only_trained(bench: Workbench, domain: TrainingDomain) -> None:
    method = learned(bench, domain, domains=1)
    assert method.served is not None
    assert method.served.digest() == bench.train(domain).update.digest()
    assert method.state().values["values"] == {}


def test_without_a_step_the_merge_lies_halfway_along_a_fresh_adapter(bench: Workbench, domain: TrainingDomain) -> None:
    before = weight_changes(bench.train(domain).update)
    method = learned(bench, domain, passes=0)
    assert method.served is not None
    assert not method.served.low_rank
    start, end = method.snapshots.points
    scale = bench.adapter.alpha / bench.adapter.rank
    for place, layer in enumerate(bench.layers):
        (a0, b0), (a1, b1) = start[2 * place : 2 * place + 2], end[2 * place : 2 * place + 2]
        assert not b0.any()
        name = f"{layer}.weight"
        expected = before[name] + scale * (b1 / 2) @ ((a0 + a1) / 2)
        torch.testing.assert_close(method.served.dense[name], expected.detach(), rtol=1e-4, atol=1e-6)


def test_the_fresh_adapter_learns_above_what_is_served(bench: Workbench, domain: TrainingDomain) -> None:
    """The whole way along it is the training that CoMA has: a fresh adapter above the served update."""
    before = bench.train(domain).update
    after = weight_changes(bench.train(domain, start=before, from_scratch=True).update)
    method = learned(bench, domain, passes=0)
    end = method.snapshots.points[-1]
    with attach(bench.sam, bench.adapter, generator=torch.Generator(), start=before, continue_start=False) as adapter:
        for parameter, tensor in zip(adapter.parameters(), end, strict=True):
            parameter.data.copy_(tensor)
        found = weight_changes(adapter.update())
    for name, change in after.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-6)


def test_the_objectives_weights_have_the_methods_defaults(bench: Workbench) -> None:
    assert TRM(TRMSettings(), bench).weights == ObjectiveWeights()


def test_the_search_can_compare_two_passes_whatever_the_number_of_images(
    bench: Workbench, domain: TrainingDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one image per batch and a tolerance that anything meets, it stops after the second pass of five."""
    found: list[int] = []

    def counted(*args: Any, **keys: Any) -> Any:
        result = search(*args, **keys)
        found.append(len(result.values))
        return result

    monkeypatch.setattr("cosam_bench.methods.trm.search", counted)
    learned(bench, domain, batch=1, passes=5, tolerance=1e9)
    assert found == [2 * len(domain)]


def test_history_without_a_history_is_refused() -> None:
    with pytest.raises(ValueError, match="it needs fresh = false"):
        TRMSettings(history=True)


def test_without_a_step_the_merge_lies_halfway_along_the_training(bench: Workbench, domain: TrainingDomain) -> None:
    before = bench.train(domain).update
    after = bench.train(domain, start=before).update
    served = learned(bench, domain, passes=0, fresh=False).served
    assert served is not None
    for layer, factors in served.low_rank.items():
        for part in ("a", "b"):
            ends = getattr(before.low_rank[layer], part) + getattr(after.low_rank[layer], part)
            torch.testing.assert_close(getattr(factors, part), ends / 2, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def trained(bench: Workbench, squares: Split) -> TRM:
    """After the second domain, with the adapter that was served before it and four snapshots."""
    domain, method = trial_domain(squares), TRM(TRMSettings(snapshots=4, passes=0, fresh=False), bench)
    method.learn(domain, step=1)
    first = method.served
    method.learn(domain, step=2)
    method.served = first
    return method


def merged(trained: TRM, domain: TrainingDomain, **settings: Any) -> str:
    """The digest of the merge of one training by some settings; a row per layer, so that all objectives show."""
    usual = {"passes": 1, "batch": 2, "fresh": False, "per_layer": True, "consistency": 1.0}
    method = TRM(TRMSettings(**usual | settings), trained.bench)
    method.served, points = trained.served, trained.snapshots.points
    method.snapshots.points = points[:: 4 // method.settings.snapshots]
    assert method.served is not None
    return method.merge(method.served, domain, step=2).digest()


@pytest.mark.parametrize(
    ("usual", "change"),
    [
        ({}, {"alignment": 0.0}),
        ({}, {"consistency": 0.0}),
        ({"floor": 2.0}, {"floor": 2.0, "responsiveness": 1.0}),
        ({"floor": 2.0, "responsiveness": 1.0}, {"floor": 4.0, "responsiveness": 1.0}),
        ({}, {"anchor": 0.0}),
        ({}, {"normalised": "range"}),
        ({}, {"normalised": "none"}),
        ({}, {"pixels": "all"}),
        ({}, {"pixels": "disagreement"}),
        ({}, {"prompts": "both"}),
        ({}, {"prompts": "other"}),
        ({}, {"snapshots": 2}),
        ({}, {"history": True}),
        ({}, {"per_layer": False}),
        ({}, {"images": 1}),
        ({}, {"batch": 6}),
        ({}, {"learning_rate": 0.2}),
        ({}, {"passes": 2}),
        ({"passes": 3}, {"passes": 3, "tolerance": 1e9}),
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_each_setting_changes_the_merge(
    trained: TRM, domain: TrainingDomain, usual: dict[str, Any], change: dict[str, Any]
) -> None:
    assert merged(trained, domain, **usual) != merged(trained, domain, **change)


def test_a_merge_is_the_same_with_cached_features(
    trained: TRM, domain: TrainingDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = trained.bench
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=1 << 30), sam=bench.sam, depth=0)
    passes = []

    def counted(*args: Any, **keys: Any) -> Any:
        passes.append(1)
        return Sam.suffix(bench.sam, *args, **keys)

    monkeypatch.setattr(bench.sam, "suffix", counted)
    cached = TRM(TRMSettings(passes=1, batch=1, fresh=False), replace(bench, prefixes=cache))
    plain = TRM(TRMSettings(passes=1, batch=1, fresh=False), bench)
    for method in (plain, cached):
        method.served, method.snapshots.points = trained.served, trained.snapshots.points[::4]
    assert trained.served is not None
    whole, found = (method.merge(trained.served, domain, step=2).tensors() for method in (plain, cached))
    for name, tensor in whole.items():  # a layout in memory of its own changes the last bits
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    assert len(passes) == 3 * len(domain)  # both ends of all images, then a pass


def test_a_trained_decoder_takes_part_though_its_iou_head_has_no_gradient(
    bench: Workbench, domain: TrainingDomain
) -> None:
    with_decoder = replace(bench, adapter=AdapterSettings(rank=2, alpha=2.0, decoder=True))
    served = learned(with_decoder, domain).served
    assert served is not None
    assert any("iou_prediction_head" in name for name in served.dense)
    assert all(torch.isfinite(change).all() for change in served.dense.values())


def test_more_snapshots_than_steps_are_as_many_as_steps(bench: Workbench, domain: TrainingDomain) -> None:
    steps = 2 * -(-len(domain) // 3)
    method = learned(bench, domain, snapshots=100)
    assert len(method.snapshots.points) == 1 + steps


def test_each_layer_has_coefficients_of_its_own_whatever_the_adapter() -> None:
    sam, settings = build_sam("tiny", checkpoint="random"), AdapterSettings(kind="regcl_lora", rank=2, blocks=(4, 5))
    add_side_layers(sam, settings, generator=torch.Generator())
    with attach(sam, settings, generator=torch.Generator()) as adapter:
        weights = [f"side.{part}.{number}.weight" for number in (4, 5) for part in ("down", "up")]
        rows = dict(zip(adapter.dense, _coefficient_rows(adapter, per_layer=True), strict=True))
        assert [rows.pop(name) for name in weights] == [0, 1, 2, 3]
        assert set(rows.values()) == {4}  # the biases
        assert set(_coefficient_rows(adapter, per_layer=False)) == {0}
