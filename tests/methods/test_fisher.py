"""Fisher merging against the published formula on all experts at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.fisher_average import add_to_fisher_average
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.methods.fisher import Fisher, FisherSettings

SHAPES = {"layer.weight": (4, 3), "bias": (5,)}
Tensors = dict[str, Tensor]


def experts(count: int, *, seed: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensors, Tensors]]:
    """The change and the Fisher information of each expert, the latter over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()},
            {
                name: (torch.randn(shape, generator=generator) * 4 - 10).exp().to(dtype)
                for name, shape in SHAPES.items()
            },
        )
        for _ in range(count)
    ]


def merged(stream: list[tuple[Tensors, Tensors]], *, minimum: float = 1e-6, normalise: bool = True) -> Tensors:
    memory: Tensors = {}
    result: Tensors = {}
    for changes, fisher in stream:
        memory, result = add_to_fisher_average(memory, changes, fisher, minimum=minimum, normalise=normalise)
    return result


def assert_near(one: Tensors, other: Tensors, tolerance: float = 1e-10) -> None:
    for name in SHAPES:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


@given(st.integers(1, 5), st.integers(0, 10_000), st.booleans(), st.sampled_from([1e-6, 1e-2]))
@settings(max_examples=40, deadline=None)
def test_the_stream_is_the_weighted_average_of_all(count: int, seed: int, normalise: bool, minimum: float) -> None:
    stream = experts(count, seed=seed)
    norms = [torch.cat([values.flatten() for values in fisher.values()]).norm() for _, fisher in stream]
    weights = [1 / (norm + minimum) if normalise else 1.0 for norm in norms]
    expected = {}
    for name in SHAPES:
        shares = torch.stack(
            [weight * (fisher[name] + minimum) for weight, (_, fisher) in zip(weights, stream, strict=True)]
        )
        changes = torch.stack([change[name] for change, _ in stream])
        expected[name] = (shares * changes).sum(0) / shares.sum(0)
    assert_near(merged(stream, minimum=minimum, normalise=normalise), expected)


@given(st.permutations(range(4)), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_order_does_not_matter(order: list[int], normalise: bool) -> None:
    stream = experts(4, seed=1)
    assert_near(merged([stream[place] for place in order], normalise=normalise), merged(stream, normalise=normalise))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_one_domain_and_equal_experts_give_that_expert_back(seed: int, normalise: bool) -> None:
    (change, fisher), (_, another) = experts(2, seed=seed)
    assert_near(merged([(change, fisher)], normalise=normalise), change)
    assert_near(merged([(change, fisher), (change, another)], normalise=normalise), change)


def test_each_entry_follows_the_expert_that_needs_it_and_falls_back_to_the_mean() -> None:
    ones, threes = ({"w": torch.full((3,), value)} for value in (1.0, 3.0))
    result = merged(
        [(ones, {"w": torch.tensor([1.0, 0.0, 0.0])}), (threes, {"w": torch.tensor([0.0, 1.0, 0.0])})], minimum=1e-9
    )
    assert result["w"].tolist() == pytest.approx([1.0, 3.0, 2.0])


def test_normalising_takes_one_norm_for_all_parameters_of_an_expert() -> None:
    # The second expert's Fisher is ten times the first's: normalised, both weigh the same.
    (change, fisher), (other, _) = experts(2, seed=3)
    stream = [(change, fisher), (other, {name: 10 * values for name, values in fisher.items()})]
    mean = {name: (change[name] + other[name]) / 2 for name in SHAPES}
    assert_near(merged(stream, minimum=1e-30), mean)
    tenfold = {name: (change[name] + 10 * other[name]) / 11 for name in SHAPES}
    assert_near(merged(stream, minimum=1e-30, normalise=False), tenfold)


@pytest.mark.parametrize("normalise", [True, False])
def test_no_information_at_all_gives_the_mean(normalise: bool) -> None:
    stream = [(change, {name: values * 0 for name, values in fisher.items()}) for change, fisher in experts(3, seed=0)]
    mean = {name: torch.stack([change[name] for change, _ in stream]).mean(0) for name in SHAPES}
    assert_near(merged(stream, normalise=normalise), mean)


def test_float32_experts_are_summed_in_float32_without_harm() -> None:
    single = merged(experts(6, seed=4, dtype=torch.float32))
    double = merged(experts(6, seed=4))
    assert single["bias"].dtype == torch.float32
    assert_near({name: values.double() for name, values in single.items()}, double, tolerance=1e-5)


def test_a_fisher_information_of_another_shape_is_refused() -> None:
    with pytest.raises(CosamError, match=r"\(2, 3\) and \(3, 2\)"):
        add_to_fisher_average({}, {"w": torch.ones(2, 3)}, {"w": torch.ones(3, 2)}, minimum=1e-6, normalise=True)


class Bench:
    """Hands out a Fisher information a domain, and notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def squared_gradients(self, domain: int, update: Update, *, labels: str, images: int) -> Tensors:
        self.asked.append((labels, images))
        generator = torch.Generator().manual_seed(domain)
        return {name: torch.rand(change.shape, generator=generator) for name, change in weight_changes(update).items()}


def expert(seed: int, *, turn: float = 1.0) -> Update:
    """A change of both kinds; ``turn`` splits the same low-rank one differently."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, generator=generator), torch.randn(4, 2, generator=generator)
    return Update({"layer": LowRank(a / turn, b * turn)}, {"bias": torch.randn(5, generator=generator)})


def served(*, turn: float = 1.0, path: Path | None = None) -> tuple[Update, list[int]]:
    """The method's update after four domains, and the bytes of its states; rebuilt between where a path is given."""
    sizes = []
    learner = Fisher(FisherSettings(), Bench())
    for step in range(1, 5):
        learner.served = learner.merge(expert(step, turn=turn), step, step=step)
        if path is not None:
            state = learner.state()
            sizes.append(state.save(path / "state.safetensors"))
            learner = Fisher(FisherSettings(), Bench())
            learner.load(state)
    assert learner.served is not None
    return learner.served, sizes


def test_how_an_adapter_splits_its_change_does_not_matter() -> None:
    before, after = served()[0], served(turn=4.0)[0]
    for name in SHAPES:
        torch.testing.assert_close(before.dense[name], after.dense[name])


def test_the_state_does_not_grow_and_holds_all_the_rule_needs(tmp_path: Path) -> None:
    update, sizes = served(path=tmp_path)
    assert len(set(sizes)) == 1
    assert update.digest() == served()[0].digest()


def test_labels_and_images_are_passed_on() -> None:
    bench = Bench()
    Fisher(FisherSettings(labels="true", images=7), bench).merge(expert(0), 0, step=1)
    Fisher(FisherSettings(), bench).merge(expert(0), 0, step=1)
    assert bench.asked == [("true", 7), ("sampled", 256)]
