"""RegMean, RegCL and LoRM: merges by regression, as methods, on experts and Gram matrices made up here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import MergingMethod
from cosam_bench.methods.lorm import FrozenA, LoRM, LoRMSettings
from cosam_bench.methods.regcl import RegCL, RegCLSettings
from cosam_bench.methods.regmean import RegMean, RegMeanSettings
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter

SHAPES = {"wide": (6, 9), "tall": (8, 5)}  # outputs and inputs of each layer
RANK = 2


class Stream:
    """Some experts, the inputs of their layers, and a workbench that knows no more than those.

    The domain given to ``merge`` is the number of the expert.
    """

    def __init__(self, count: int, *, seed: int, shared_a: bool = False, rank: int = RANK, tokens: int = 40) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        first = {layer: self.draw(rank, inputs) for layer, (_, inputs) in SHAPES.items()}
        self.experts = [
            Update(
                {
                    layer: LowRank(
                        a=first[layer].clone() if shared_a else first[layer] + 0.3 * self.draw(rank, inputs),
                        b=self.draw(outputs, rank),
                    )
                    for layer, (outputs, inputs) in SHAPES.items()
                },
                {"decoder.bias": self.draw(4)},
            )
            for _ in range(count)
        ]
        self.inputs = [
            {layer: self.draw(tokens, inputs).double() for layer, (_, inputs) in SHAPES.items()} for _ in range(count)
        ]
        self.layers = tuple(SHAPES)
        self.adapter = AdapterSettings()
        self.meter = Meter()

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def input_grams(
        self, domain: int, update: Update | None, *, projections: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        seen = dict(self.inputs[domain])
        for layer, matrix in (projections or {}).items():
            seen[layer] = seen[layer] @ matrix.double().T
        return {layer: rows.T @ rows / len(rows) for layer, rows in seen.items()}

    def serve(self, method: type[MergingMethod], order: list[int] | None = None, **options: object) -> Update:
        """What the method serves after the experts in that order."""
        learner = method(method.Settings(**options), self)
        for step, domain in enumerate(order if order is not None else range(len(self.experts)), start=1):
            learner.served = learner.merge(self.experts[domain], domain, step=step)
        assert learner.served is not None
        return learner.served

    def least_squares(self, layer: str, *, ratio: float = 1.0) -> Tensor:
        """The batch formula: the sums over all experts at once, inverted."""
        scale = torch.full((SHAPES[layer][1],) * 2, ratio, dtype=torch.float64).fill_diagonal_(1.0)
        grams = [self.input_grams(domain, None)[layer] * scale for domain in range(len(self.experts))]
        products = [
            expert.low_rank[layer].b.double() @ expert.low_rank[layer].a.double() @ gram
            for expert, gram in zip(self.experts, grams, strict=True)
        ]
        return torch.stack(products).sum(0) @ torch.linalg.inv(torch.stack(grams).sum(0))


REGRESSIONS = [
    (RegMean, {}),
    (RegMean, {"off_diagonal": 0.0}),
    (RegMean, {"rank": RANK}),
    (RegCL, {"space": "factors"}),
    (RegCL, {"space": "product"}),
    (LoRM, {}),
    (RegMean, {"ridge_to": "mean", "ridge": 1e-2}),
    (RegMean, {"ridge_to": "mean", "ridge": 1e-2, "off_diagonal": 0.0}),
    (RegCL, {"ridge_to": "mean", "ridge": 1e-2}),
    (RegCL, {"ridge_to": "mean", "ridge": 1e-2, "space": "product"}),
]


def assert_same(one: Update, other: Update, *, tolerance: float = 1e-4) -> None:
    expected = weight_changes(other)
    for name, change in weight_changes(one).items():
        torch.testing.assert_close(change, expected[name], rtol=tolerance, atol=tolerance)


@given(st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([1.0, 0.9, 0.3, 0.0]))
@settings(max_examples=25, deadline=None)
def test_regmean_as_a_stream_is_the_published_formula_on_all_experts(count: int, seed: int, ratio: float) -> None:
    stream = Stream(count, seed=seed)
    served = stream.serve(RegMean, off_diagonal=ratio, ridge=0.0)
    for layer in SHAPES:
        expected = stream.least_squares(layer, ratio=ratio)
        torch.testing.assert_close(served.dense[f"{layer}.weight"].double(), expected, rtol=1e-4, atol=1e-5)
    mean = torch.stack([expert.dense["decoder.bias"] for expert in stream.experts]).mean(0)
    torch.testing.assert_close(served.dense["decoder.bias"], mean)


@pytest.mark.parametrize(("method", "options"), REGRESSIONS)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(3)))
@settings(max_examples=8, deadline=None)
def test_the_order_does_not_matter(method: type[MergingMethod], options: dict, seed: int, order: list[int]) -> None:
    stream = Stream(3, seed=seed, shared_a=method is LoRM)
    assert_same(stream.serve(method, order, **options), stream.serve(method, **options))


@pytest.mark.parametrize(("method", "options"), REGRESSIONS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_one_domain_and_equal_experts_give_that_expert_back(
    method: type[MergingMethod], options: dict, seed: int
) -> None:
    stream = Stream(2, seed=seed, shared_a=method is LoRM)
    assert_same(stream.serve(method, [0], **options), stream.experts[0], tolerance=1e-3)
    stream.experts[1] = stream.experts[0]
    assert_same(stream.serve(method, **options), stream.experts[0], tolerance=1e-3)


def regauged(update: Update, seed: int) -> Update:
    """The same change split into factors in another way."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.eye(RANK) + 0.4 * torch.rand(RANK, RANK, generator=generator)
    low_rank = {
        layer: LowRank(torch.linalg.solve(turn, factors.a), factors.b @ turn)
        for layer, factors in update.low_rank.items()
    }
    return Update(low_rank, update.dense)


@pytest.mark.parametrize(
    ("method", "options", "is_invariant"),
    [
        (RegMean, {}, True),
        (RegMean, {"rank": RANK}, True),
        (RegCL, {"space": "product"}, True),
        (RegCL, {"space": "factors"}, False),
    ],
)
def test_how_an_adapter_splits_its_change_matters_to_regcls_factors_alone(
    method: type[MergingMethod], options: dict, is_invariant: bool
) -> None:
    stream = Stream(3, seed=5)
    before = stream.serve(method, **options)
    stream.experts = [regauged(expert, number) for number, expert in enumerate(stream.experts)]
    after = stream.serve(method, **options)
    apart = max(
        (change - weight_changes(before)[name]).abs().max().item() for name, change in weight_changes(after).items()
    )
    assert apart < 1e-4 if is_invariant else apart > 1e-2


def stacked_least_squares(inputs: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The weight whose answers to all inputs, one below the other, are nearest to each expert's own."""
    answers = torch.cat([rows @ weight.double().T for rows, weight in zip(inputs, weights, strict=True)])
    return torch.linalg.lstsq(torch.cat(inputs), answers).solution.T


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_regcls_factors_are_the_regressions_of_a_and_of_b_on_what_each_sees(seed: int) -> None:
    stream = Stream(3, seed=seed)
    served = stream.serve(RegCL, ridge=0.0)
    for layer, merged in served.low_rank.items():
        factors = [expert.low_rank[layer] for expert in stream.experts]
        inputs = [domain[layer] for domain in stream.inputs]
        seen_by_b = [rows @ one.a.double().T for rows, one in zip(inputs, factors, strict=True)]
        a = stacked_least_squares(inputs, [one.a for one in factors])
        b = stacked_least_squares(seen_by_b, [one.b for one in factors])
        torch.testing.assert_close(merged.a.double(), a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(merged.b.double(), b, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_regcls_product_answers_all_inputs_at_least_as_well_as_its_factors(seed: int) -> None:
    stream = Stream(3, seed=seed)
    errors = {}
    for space in ("factors", "product"):
        served = stream.serve(RegCL, space=space, ridge=0.0)
        assert all(factors.rank == RANK for factors in served.low_rank.values())
        errors[space] = sum(
            (rows @ (served.low_rank[layer].dense() - expert.low_rank[layer].dense()).double().T).square().sum().item()
            for expert, inputs in zip(stream.experts, stream.inputs, strict=True)
            for layer, rows in inputs.items()
        )
    assert errors["product"] <= errors["factors"] * (1 + 1e-6)


def test_a_rank_cap_is_taken_from_the_full_sums_and_says_what_it_drops() -> None:
    stream = Stream(3, seed=1)
    full, capped = stream.serve(RegMean), stream.serve(RegMean, rank=3)
    assert not full.low_rank
    assert {factors.rank for factors in capped.low_rank.values()} == {3}
    assert_same(stream.serve(RegMean, rank=9), full)
    learner = RegMean(RegMeanSettings(rank=3), stream)
    for step, domain in enumerate(range(3), start=1):
        learner.served = learner.merge(stream.experts[domain], domain, step=step)
    assert learner.memory["discarded"].shape == (2,)
    assert learner.memory["discarded"].min() > 0
    assert learner.memory["discarded"].max() < 1


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_lorm_is_regmean_on_the_products_where_a_is_shared(seed: int) -> None:
    stream = Stream(3, seed=seed, shared_a=True)
    served = stream.serve(LoRM, ridge=0.0)
    for layer, factors in served.low_rank.items():
        a, b = factors.a.double(), factors.b.double()
        # No B with this A is nearer to the unconstrained regression: their difference is orthogonal to A's answers.
        gram = sum(stream.input_grams(domain, None)[layer] for domain in range(3))
        residual = (stream.least_squares(layer) - b @ a) @ gram @ a.T
        assert residual.abs().max() < 1e-4 * gram.abs().max()
        assert torch.equal(factors.a, stream.experts[0].low_rank[layer].a)


def test_lorm_refuses_experts_that_do_not_share_a() -> None:
    with pytest.raises(CosamError, match=r"different A in 'wide'.*the same seed"):
        Stream(2, seed=0).serve(LoRM)


def test_lorm_trains_b_alone() -> None:
    a, b = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(4, 2))
    FrozenA().attached(Adapter({"layer": (a, b, 1.0)}, {}, Update()))
    assert (a.requires_grad, b.requires_grad) == (False, True)
    assert isinstance(LoRM(LoRMSettings(), SimpleNamespace()).hooks(0, step=1), FrozenA)


@pytest.mark.parametrize(("method", "options"), REGRESSIONS)
def test_degenerate_experts_and_inputs_give_finite_updates(method: type[MergingMethod], options: dict) -> None:
    stream = Stream(4, seed=2, shared_a=method is LoRM, tokens=3)  # fewer tokens than inputs: singular Grams
    zero = {layer: LowRank(factors.a, factors.b * 0) for layer, factors in stream.experts[1].low_rank.items()}
    stream.experts[1] = Update(zero, stream.experts[1].dense)
    for inputs in stream.inputs:
        inputs["wide"][:, 0] = 0  # a dead unit
    stream.inputs[2]["tall"].zero_()
    stream.inputs[3] = stream.inputs[0]
    served = stream.serve(method, **options)
    assert all(torch.isfinite(change).all() for change in weight_changes(served).values())


@pytest.mark.parametrize(("method", "options"), [*REGRESSIONS, (RegMean, {"off_diagonal": 0.0, "rank": 1})])
def test_the_state_does_not_grow_and_holds_all_the_rule_needs(
    method: type[MergingMethod], options: dict, tmp_path: Path
) -> None:
    stream = Stream(4, seed=3, shared_a=method is LoRM)
    expected = stream.serve(method, **options)
    learner, sizes = method(method.Settings(**options), stream), []
    for step, domain in enumerate(range(4), start=1):
        learner.served = learner.merge(stream.experts[domain], domain, step=step)
        state = learner.state()
        sizes.append(state.save(tmp_path / "state.safetensors"))
        learner = method(method.Settings(**options), stream)
        learner.load(state)
    assert len(set(sizes)) == 1
    assert learner.served is not None
    assert learner.served.digest() == expected.digest()


def test_a_diagonal_takes_a_number_an_input() -> None:
    stream = Stream(1, seed=0)
    learner = RegMean(RegMeanSettings(off_diagonal=0.0), stream)
    learner.merge(stream.experts[0], 0, step=1)
    assert {layer: learner.memory[f"{layer}/gram"].shape for layer in SHAPES} == {"wide": (9,), "tall": (5,)}


def test_regcl_rejects_a_space_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="space"):
        RegCLSettings(space="weights")


@pytest.mark.parametrize(("method", "options"), REGRESSIONS)
def test_the_first_expert_is_served_as_it_is(method: type[MergingMethod], options: dict) -> None:
    stream = Stream(1, seed=6, shared_a=method is LoRM, tokens=3)  # even if its Gram matrices have no inverse
    expert = weight_changes(stream.experts[0])
    served = weight_changes(stream.serve(method, **(options | ({"ridge": 0.0} if "ridge" not in options else {}))))
    assert served.keys() == expert.keys()
    for name, change in expert.items():
        if options.get("rank"):
            torch.testing.assert_close(served[name], change)
        else:
            assert torch.equal(served[name], change)


@pytest.mark.parametrize(
    ("method", "options"), [(RegMean, {}), (RegMean, {"off_diagonal": 0.0}), (RegCL, {}), (RegCL, {"space": "product"})]
)
def test_equal_experts_come_back_whole_from_a_ridge_to_their_mean_and_shortened_from_one_to_zero(
    method: type[MergingMethod], options: dict
) -> None:
    stream = Stream(2, seed=7, tokens=4)  # inputs that leave directions unused
    stream.experts[1] = stream.experts[0]
    expert = stream.experts[0]
    assert_same(stream.serve(method, ridge_to="mean", ridge=0.1, **options), expert, tolerance=1e-5)
    short = stream.serve(method, ridge_to="zero", ridge=0.1, **options)
    norms = [sum(weight_changes(one)[f"{layer}.weight"].norm() for layer in SHAPES) for one in (short, expert)]
    assert norms[0] < 0.95 * norms[1]


@pytest.mark.parametrize("method", [RegMean, RegCL])
def test_the_float32_inverse_is_close_where_float32_has_digits_enough_and_reports_the_condition(
    method: type[MergingMethod],
) -> None:
    stream = Stream(3, seed=8)
    exact = stream.serve(method, ridge=0.0)
    assert not stream.meter.reported
    rounded = stream.serve(method, ridge=0.0, solver="float32_inverse")
    assert_same(rounded, exact, tolerance=2e-3)
    assert rounded.digest() != exact.digest()
    ratio = RegMeanSettings().off_diagonal if method is RegMean else 1.0
    scale = {
        layer: torch.full((inputs,) * 2, ratio).fill_diagonal_(1.0).double() for layer, (_, inputs) in SHAPES.items()
    }
    worst = 0.0
    for step in (2, 3):  # the first expert is not solved for
        sums = {layer: sum(stream.input_grams(number, None)[layer] for number in range(step)) for layer in SHAPES}
        worst = max([worst, *(torch.linalg.cond(sums[layer] * scale[layer]).item() for layer in SHAPES)])
    assert stream.meter.reported["condition_number"] >= worst * (1 - 1e-9)  # RegCL's inner sums may be worse
    if method is RegMean:
        assert stream.meter.reported["condition_number"] == pytest.approx(worst)
