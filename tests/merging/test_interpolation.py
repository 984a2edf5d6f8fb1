"""CoMA, CoFiMA, P&M and BECAME: how far to go towards a new model, and what steers their trainings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.merging.interpolation import add_changes, difference, inner_product, interpolate, interpolate_by_fisher
from cosam_bench.merging.updates import LowRank, Update, add, weight_changes
from cosam_bench.method.interface import MergingMethod
from cosam_bench.methods import became
from cosam_bench.methods.became import Became, GradientProjection, best_coefficient, leading_span
from cosam_bench.methods.cofima import CoFiMA
from cosam_bench.methods.coma import CoMA
from cosam_bench.methods.perturb_merge import Perturbation, PerturbMerge, closed_form_coefficient
from cosam_bench.sam.adapters.attachment import Adapter

SHAPES = {"layer.weight": (4, 3), "bias": (5,)}
Tensors = dict[str, Tensor]


def random(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def positive(seed: int) -> Tensors:
    return {name: values.exp() for name, values in random(10_000 + seed).items()}


def zeros() -> Tensors:
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def minus(one: Tensors, other: Tensors) -> Tensors:
    return {name: one[name] - other[name] for name in one}


def assert_near(one: Tensors, other: Tensors, tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


def loss(point: Tensors, stream: list[tuple[Tensors, Tensors]]) -> float:
    """The sum of quadratics around each trained W_i with curvature F_i."""
    return sum(inner_product(minus(point, weights), minus(point, weights), metric=fisher) for weights, fisher in stream)


# ------------------------------------------------------------------------------------------------ coefficients
@given(st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_running_sums_of_pm_find_the_best_point_on_each_line(count: int, seed: int) -> None:
    served, memory, stream = zeros(), {}, []
    for domain in range(count):
        weights, fisher = random(seed + 31 * domain), positive(seed + 31 * domain)
        stream.append((weights, fisher))
        step = minus(weights, served)
        memory, coefficient = closed_form_coefficient(memory, step, fisher)
        # The published form, on all models and Fishers at once.
        above = -sum(inner_product(minus(served, w), step, metric=f) for w, f in stream)
        below = sum(inner_product(step, step, metric=f) for _, f in stream)
        assert coefficient == pytest.approx(min(max(above / below, 0.0), 1.0), abs=1e-9)
        losses = [loss(interpolate(served, step, weight=coefficient + shift), stream) for shift in (-1e-3, 0, 1e-3)]
        if 1e-3 < coefficient < 1 - 1e-3:
            assert losses[1] == min(losses)
        served = interpolate(served, step, weight=coefficient)


def test_pm_takes_the_first_domain_whole_and_equal_domains_change_nothing() -> None:
    weights, fisher = random(0), positive(0)
    memory, coefficient = closed_form_coefficient({}, weights, fisher)
    assert coefficient == pytest.approx(1.0)
    _, coefficient = closed_form_coefficient(memory, zeros(), fisher)  # trained from W, same domain: nothing to do
    assert coefficient == 1.0  # any will do, d is zero


def test_pm_cuts_its_coefficient() -> None:
    # The third domain's line passes the optimum of the first two far off, in the other direction.
    one = {"w": torch.ones(1, dtype=torch.float64)}
    memory, _ = closed_form_coefficient({}, one, one)
    memory["residual/w"] = torch.tensor([-100.0], dtype=torch.float64)
    assert closed_form_coefficient(memory, one, one)[1] == 0.0
    memory["residual/w"] = torch.tensor([100.0], dtype=torch.float64)
    assert closed_form_coefficient(memory, one, one)[1] == 1.0


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_becames_coefficient_is_the_best_point_between_prior_and_new_domain(seed: int) -> None:
    cautious, free, past, current = random(seed), random(seed + 1), positive(seed), positive(seed + 1)
    step = minus(free, cautious)
    coefficient = best_coefficient(step, past=past, current=current)
    at = [
        loss(interpolate(cautious, step, weight=share), [(cautious, past), (free, current)])
        for share in (coefficient - 1e-3, coefficient, coefficient + 1e-3)
    ]
    assert 0 < coefficient < 1
    assert at[1] == min(at)
    # It is P&M's where the past is at rest at the served point.
    memory = {f"fisher/{name}": values for name, values in past.items()}
    memory |= {f"residual/{name}": values for name, values in zeros().items()}
    assert closed_form_coefficient(memory, step, current)[1] == pytest.approx(coefficient)


def test_without_information_the_new_model_is_taken() -> None:
    step = random(0)
    assert best_coefficient(step, past={}, current=positive(0)) == 1.0
    assert best_coefficient(step, past=zeros(), current=zeros()) == 1.0
    assert closed_form_coefficient({}, step, zeros())[1] == 1.0
    assert best_coefficient(step, past=positive(1), current=zeros()) == 0.0


# ----------------------------------------------------------------------------------------------- interpolation
@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_interpolation_is_the_weighted_mean(seed: int, weight: float) -> None:
    old, new = random(seed), random(seed + 1)
    expected = {name: (1 - weight) * old[name] + weight * new[name] for name in old}
    assert_near(interpolate(old, minus(new, old), weight=weight), expected)
    equal = positive(seed)  # equal Fishers cancel
    assert_near(interpolate_by_fisher(old, minus(new, old), past=equal, current=equal, weight=weight), expected)


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_fisher_interpolation_is_the_published_quotient(seed: int, weight: float) -> None:
    old, new, past, current = random(seed), random(seed + 1), positive(seed), positive(seed + 1)
    expected = {
        name: ((1 - weight) * past[name] * old[name] + weight * current[name] * new[name])
        / ((1 - weight) * past[name] + weight * current[name])
        for name in old
    }
    result = interpolate_by_fisher(old, minus(new, old), past=past, current=current, weight=weight)
    assert_near(result, expected)


def test_fisher_interpolation_without_information_is_the_plain_one() -> None:
    old, new = random(0), random(1)
    result = interpolate_by_fisher(old, minus(new, old), past=zeros(), current=zeros(), weight=0.4)
    assert_near(result, interpolate(old, minus(new, old), weight=0.4))


def test_the_difference_from_what_lies_beneath_is_the_fresh_adapter_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    fresh = LowRank(torch.randn(2, 3, generator=generator), 1e-4 * torch.randn(4, 2, generator=generator))
    served = {name: 100 * values.float() for name, values in random(0).items()}
    expert = add(Update(dense=served), Update({"layer": fresh}, {"bias": torch.full((5,), 0.5)}))
    moved = difference(expert, served)
    assert torch.equal(moved["layer.weight"], fresh.dense())  # bit for bit, though it is tiny beside what is served
    torch.testing.assert_close(moved["bias"], torch.full((5,), 0.5), rtol=0, atol=1e-5)
    away = difference(Update(), served)
    assert all(torch.equal(away[name], -values) for name, values in served.items())


def test_sums_take_a_missing_name_as_zero() -> None:
    assert_near(add_changes({}, random(0)), random(0))
    assert_near(add_changes(random(0), random(0)), {name: 2 * values for name, values in random(0).items()})


# ------------------------------------------------------------------------------------------------------- hooks
def adapter(seed: int = 0) -> Adapter:
    """A layer of rank 2 with a scale of 2, and a dense parameter that began elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2, 6), (4, 2)))
    bias, first = nn.Parameter(torch.randn(4, generator=generator)), torch.randn(4, generator=generator)
    return Adapter({"layer": (a, b, 2.0)}, {"bias": (bias, first, None)}, Update())


def objective(a: Tensor, b: Tensor, bias: Tensor, first: Tensor, factor: float) -> Tensor:
    """A loss at the change times ``factor``."""
    rows = torch.linspace(-1, 1, 12).reshape(2, 6)
    return ((rows @ (factor * 2.0 * b @ a).T + first + factor * (bias - first)).sin() ** 2).sum()


def test_a_perturbed_step_has_the_gradient_of_the_loss_at_the_scaled_change() -> None:
    subject, factors = adapter(), []
    hooks = Perturbation(0.5, torch.Generator().manual_seed(0))
    (a, b, _), (bias, first, _) = subject.factors["layer"], subject.dense["bias"]
    kept = [parameter.detach().clone() for parameter in (a, b, bias)]
    for step in range(30):
        hooks.before_step(subject, step=step, steps=30)
        ratios = b.detach() / kept[1]
        torch.testing.assert_close(ratios, ratios[0, 0].expand_as(ratios))
        factors.append(round(ratios[0, 0].item(), 3))
        # What the model computes at the scaled parameters is the loss at the scaled change.
        value = objective(a, b, bias, first, 1.0)
        for parameter in (a, b, bias):
            parameter.grad = None
        value.backward()
        hooks.after_backward(subject)
        leaves = [values.clone().requires_grad_() for values in kept]
        expected = objective(*leaves, first, factors[-1])
        torch.testing.assert_close(value, expected)
        for parameter, gradient in zip((a, b, bias), torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        assert all(torch.equal(now, before) for now, before in zip((a, b, bias), kept, strict=True))
        hooks.after_step(subject, step=step, steps=30)
    assert {0.5, 1.0, 1.5} == set(factors)
    assert min(factors.count(factor) for factor in (0.5, 1.0, 1.5)) > 4


def test_no_perturbation_leaves_gradients_and_parameters_alone() -> None:
    subject = adapter()
    hooks = Perturbation(0.0, torch.Generator().manual_seed(0))
    before = subject.update().digest()
    hooks.before_step(subject, step=0, steps=1)
    _, b, _ = subject.factors["layer"]
    b.grad = torch.ones_like(b)
    hooks.after_backward(subject)
    assert torch.equal(b.grad, torch.ones_like(b))
    assert subject.update().digest() == before


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_projected_training_answers_past_inputs_as_before(seed: int, used: int) -> None:
    subject = adapter(seed)
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(30, used, generator=generator) @ torch.randn(used, 6, generator=generator)
    span = leading_span(past.T.double() @ past.double(), threshold=1 - 1e-9)
    hooks = GradientProjection({"layer": span})
    hooks.attached(subject)
    a, b, _ = subject.factors["layer"]
    assert not subject.dense["bias"][0].requires_grad
    optimiser = torch.optim.Adam([a, b], lr=0.1)
    for step in range(5):
        optimiser.zero_grad()
        (torch.randn(8, 6, generator=generator) @ (b @ a).T - 1).square().sum().backward()
        hooks.after_backward(subject)
        assert (a.grad @ span.float()).abs().max() < 1e-4 * max(a.grad.abs().max(), 1)
        optimiser.step()
        hooks.after_step(subject, step=step, steps=5)
    change = subject.update().low_rank["layer"].dense()
    assert (past @ change.T).abs().max() < 1e-4 * past.abs().max() * max(change.abs().max(), 1)
    assert change.abs().max() > 1e-3  # five directions of six at most are taken


def test_the_span_is_as_small_as_the_threshold_allows() -> None:
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    gram = turn @ torch.diag(torch.tensor([1.0, 60.0, 9.0, 30.0], dtype=torch.float64)) @ turn.T
    assert [leading_span(gram, threshold=share).shape[1] for share in (0.0, 0.5, 0.89, 0.91, 0.98, 0.995, 1.0)] == [
        *(0, 1, 2, 3, 3, 4, 4)
    ]
    span = leading_span(gram, threshold=0.7)
    torch.testing.assert_close(span @ span.T, turn[:, [1, 3]] @ turn[:, [1, 3]].T)
    assert leading_span(torch.zeros(4, 4).double(), threshold=0.9).shape == (4, 0)


# ----------------------------------------------------------------------------------------------------- methods
class Domain(SimpleNamespace):
    """A number that stands for a domain's data."""


class Bench:
    """Trains by adding a fixed change to where it starts, and notes each training."""

    layers = ("layer",)
    view = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self) -> None:
        self.trained: list[tuple[bool, bool, str]] = []

    def generator(self, *names: object) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def train(self, domain, *, start=None, from_scratch=False, hooks=None):  # type: ignore[no-untyped-def]
        self.trained.append((start is not None, from_scratch, type(hooks).__name__))
        generator = torch.Generator().manual_seed(domain.number)
        fresh = LowRank(torch.randn(2, 3, generator=generator), torch.randn(4, 2, generator=generator))
        change = Update({"layer": fresh}, {"bias": torch.randn(5, generator=generator)})
        return SimpleNamespace(update=add(start or Update(), change))

    def squared_gradients(self, domain, update, *, labels, images):  # type: ignore[no-untyped-def]
        assert labels == "true"
        generator = torch.Generator().manual_seed(100 + domain.number)
        return {name: 1e-4 * torch.rand(c.shape, generator=generator) for name, c in weight_changes(update).items()}

    def input_grams(self, domain, update):  # type: ignore[no-untyped-def]
        rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(domain.number)).double()
        return {"layer": rows.T @ rows / 20}


METHODS = [(CoMA, {}), (CoFiMA, {}), (PerturbMerge, {}), (Became, {}), (Became, {"projected": False})]


def learn(method: type[MergingMethod], options: dict, order: list[int], bench: Bench | None = None) -> MergingMethod:
    learner = method(method.Settings(**options), bench or Bench())
    for step, number in enumerate(order, start=1):
        learner.learn(Domain(number=number, digest=str(number)), step=step)
    return learner


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_first_domain_is_taken_whole(method: type[MergingMethod], options: dict) -> None:
    served = learn(method, options, [3]).served
    expected = weight_changes(Bench().train(Domain(number=3)).update)
    assert served is not None
    assert_near(dict(served.dense), expected, tolerance=1e-6)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_order_matters(method: type[MergingMethod], options: dict) -> None:
    one, other = learn(method, options, [0, 1, 2]).served, learn(method, options, [2, 1, 0]).served
    assert one is not None
    assert other is not None
    assert (one.dense["layer.weight"] - other.dense["layer.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_state_does_not_grow_and_holds_all_the_rule_needs(
    method: type[MergingMethod], options: dict, tmp_path: Path
) -> None:
    expected = learn(method, options, [0, 1, 2, 3]).served
    learner, sizes = method(method.Settings(**options), Bench()), []
    for step in range(1, 5):
        learner.learn(Domain(number=step - 1, digest=str(step - 1)), step=step)
        state = learner.state()
        sizes.append(state.save(tmp_path / "state.safetensors"))
        learner = method(method.Settings(**options), Bench())
        learner.load(state)
    assert len(set(sizes)) == 1
    assert learner.served is not None
    assert expected is not None
    assert learner.served.digest() == expected.digest()


def test_coma_goes_the_share_of_the_way_that_it_is_told() -> None:
    first, second = (weight_changes(Bench().train(Domain(number=number)).update) for number in (0, 1))
    served = learn(CoMA, {"weight": 0.25}, [0, 1]).served
    assert served is not None
    assert_near(dict(served.dense), {n: first[n] + 0.25 * second[n] for n in first}, tolerance=1e-6)


def test_cofimas_clipped_fishers_are_cofima_without_information() -> None:
    # All entries of F lie above a tiny maximum, so all weigh the same.
    clipped, plain = (learn(CoFiMA, {"maximum": 1e-12}, [0, 1, 2]).served, learn(CoMA, {}, [0, 1, 2]).served)
    assert clipped is not None
    assert plain is not None
    assert_near(dict(clipped.dense), dict(plain.dense), tolerance=1e-5)
    free = learn(CoFiMA, {}, [0, 1, 2]).served
    assert free is not None
    assert (free.dense["bias"] - plain.dense["bias"]).abs().max() > 1e-2


def test_trainings_start_where_the_papers_say() -> None:
    notes = {}
    for method, options in METHODS:
        bench = Bench()
        learn(method, options, [0, 1], bench)
        notes[method.__name__, bool(options)] = bench.trained
    above = (True, True, "NoneType")
    assert notes["CoMA", False][1] == above
    assert notes["CoFiMA", False][1] == above
    assert [name for _, _, name in notes["PerturbMerge", False]] == ["Perturbation"] * 2
    assert notes["Became", False] == [(False, False, "NoneType"), (True, True, "GradientProjection"), above]
    assert notes["Became", True] == [(False, False, "NoneType")] * 2


def test_becames_spans_are_found_once_a_layer_and_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []

    class Noting(Bench):
        def train(self, domain, *, start=None, from_scratch=False, hooks=None):  # type: ignore[no-untyped-def]
            noted.append("training")
            return super().train(domain, start=start, from_scratch=from_scratch, hooks=hooks)

    def span(gram_sum: Tensor, *, threshold: float) -> Tensor:
        noted.append("span")
        return leading_span(gram_sum, threshold=threshold)

    monkeypatch.setattr(became, "leading_span", span)
    learn(Became, {}, [0, 1], Noting())
    assert noted == ["training", "span", "training", "training"]


def test_became_goes_on_from_where_the_projected_training_ended() -> None:
    # With no weight on the new domain's Fisher the cautious model would stay; the stub's F are all alike in size.
    learner = learn(Became, {}, [0, 1])
    change = weight_changes(Bench().train(Domain(number=1)).update)
    first = weight_changes(Bench().train(Domain(number=0)).update)
    assert learner.served is not None
    share = learner.memory["coefficient"].item()
    assert 0.2 < share < 0.8
    expected = {name: first[name] + (1 + share) * change[name] for name in change}
    assert_near(dict(learner.served.dense), expected, tolerance=1e-5)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_nothing_learned_and_no_gradients_stay_finite(method: type[MergingMethod], options: dict) -> None:
    class Dead(Bench):
        def train(self, domain, *, start=None, from_scratch=False, hooks=None):  # type: ignore[no-untyped-def]
            nothing = {"layer": LowRank(torch.zeros(2, 3), torch.zeros(4, 2))}
            return SimpleNamespace(update=add(start or Update(), Update(nothing, {"bias": torch.zeros(5)})))

        def squared_gradients(self, domain, update, *, labels, images):  # type: ignore[no-untyped-def]
            return {name: torch.zeros_like(change) for name, change in weight_changes(update).items()}

        def input_grams(self, domain, update):  # type: ignore[no-untyped-def]
            return {"layer": torch.zeros(3, 3, dtype=torch.float64)}

    served = learn(method, options, [0, 1, 2], Dead()).served
    assert served is not None
    assert all(change.abs().max() == 0 for change in served.dense.values())
