"""K-Merge against dense cosines, means by hand, and peft's own combination."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.interface import State
from cosam_bench.methods.kmerge import KMerge, KMergeSettings, average_into, choose_slot, similarity


def expert(seed: int, *, rank: int = 2) -> Update:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: LowRank(torch.randn(rank, n, generator=generator), torch.randn(m, rank, generator=generator))
        for name, (m, n) in {"one": (6, 9), "two": (5, 4)}.items()
    }
    return Update(layers, {"bias": torch.randn(3, generator=generator)})


def near(first: Update, *, seed: int) -> Update:
    """Another expert whose factors are close to the first one's."""
    noise = expert(seed)
    layers = {
        name: LowRank(factors.a + 0.1 * noise.low_rank[name].a, factors.b + 0.1 * noise.low_rank[name].b)
        for name, factors in first.low_rank.items()
    }
    return Update(layers, noise.dense)


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_the_similarity_is_the_mean_cosine_of_the_dense_changes(seed: int) -> None:
    first, second = expert(seed), expert(seed + 1)
    pairs = [(factors.dense(), second.low_rank[name].dense()) for name, factors in first.low_rank.items()]
    cosines = [torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) for one, other in pairs]
    assert similarity(first, second) == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-5)
    assert similarity(first, first) == pytest.approx(1)
    assert similarity(first, Update({n: f.scaled(-3) for n, f in first.low_rank.items()})) == pytest.approx(-1)
    assert similarity(first, Update({n: f.scaled(0) for n, f in first.low_rank.items()})) == 0


def test_a_slot_is_chosen_by_room_then_by_similarity() -> None:
    slots = [expert(0), expert(1)]
    new = near(slots[1], seed=5)
    assert choose_slot([], new, count=2, threshold=None) == 0
    assert choose_slot(slots, new, count=3, threshold=None) == 2
    assert choose_slot(slots, new, count=2, threshold=None) == 1
    assert choose_slot(slots, new, count=3, threshold=0.5) == 1
    assert choose_slot(slots, expert(9), count=3, threshold=0.5) == 2
    assert choose_slot(slots, near(slots[0], seed=6), count=2, threshold=0.5) == 0


def test_with_the_released_average_it_is_pefts_linear_combination() -> None:
    one, other = (expert(seed).low_rank["one"] for seed in (0, 1))
    model: Any = torch.nn.Sequential(torch.nn.Linear(9, 6, bias=False))
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["0"])
    wrapped: Any = get_peft_model(model, config, adapter_name="old")
    wrapped.add_adapter("new", config)
    layer = wrapped.base_model.model[0]
    for name, factors in (("old", one), ("new", other)):
        layer.lora_A[name].weight.data.copy_(factors.a)
        layer.lora_B[name].weight.data.copy_(factors.b)
    wrapped.add_weighted_adapter(["old", "new"], [2 / 3, 1 / 3], "both", combination_type="linear")
    ours = average_into(Update({"one": one}), Update({"one": other}), share=1 / 3, roots=True).low_rank["one"]
    torch.testing.assert_close(ours.a, layer.lora_A["both"].weight.data)
    torch.testing.assert_close(ours.b, layer.lora_B["both"].weight.data)


def stream(experts: list[Update], **options: Any) -> KMerge:
    """The method after these experts' domains, rebuilt from its state after each."""
    trained = iter(experts)
    bench: Any = SimpleNamespace(train=lambda domain: SimpleNamespace(update=next(trained)))
    method = KMerge(KMergeSettings(**options), bench)
    for step in range(1, len(experts) + 1):
        domain: Any = SimpleNamespace(name=f"domain {step}")
        method.learn(domain, step=step)
        state = method.state()
        method = KMerge(method.settings, bench)
        method.load(State(dict(state.tensors), dict(state.values)))
    return method


def test_a_full_budget_averages_similar_experts() -> None:
    first, second = expert(0), expert(1)
    others = [near(first, seed=11), near(second, seed=12), near(first, seed=13)]
    method = stream([first, second, *others], slots=2)
    assert list(method.slot_of.values()) == [0, 1, 0, 1, 0]
    members = [first, others[0], others[2]]
    served = method.slots[0]
    for name, factors in served.low_rank.items():
        torch.testing.assert_close(factors.a, torch.stack([one.low_rank[name].a for one in members]).mean(0))
        torch.testing.assert_close(factors.b, torch.stack([one.low_rank[name].b for one in members]).mean(0))
    torch.testing.assert_close(served.dense["bias"], torch.stack([one.dense["bias"] for one in members]).mean(0))


def test_equal_experts_share_a_slot_unchanged_but_for_the_released_average() -> None:
    one = expert(0)
    kept = stream([one] * 3, slots=1).slots[0]
    for name, change in weight_changes(kept).items():
        torch.testing.assert_close(change, weight_changes(one)[name])
    doubled = stream([one] * 2, slots=1, average="released").slots[0].low_rank["one"]
    torch.testing.assert_close(doubled.dense(), 2 * one.low_rank["one"].dense())


def test_the_state_stops_growing_at_the_budget() -> None:
    sizes = [
        sum(
            tensor.nbytes
            for tensor in stream([expert(seed) for seed in range(count)], slots=3).state().tensors.values()
        )
        for count in range(1, 7)
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    assert len(set(sizes[2:])) == 1


def test_experts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CosamError, match=r"layer 'one' has rank 2 in one expert and 3 in another"):
        stream([expert(0), expert(1, rank=3)], slots=1)
    with pytest.raises(CosamError, match="do not fit each other"):
        stream([expert(0), Update(expert(1).low_rank)], slots=1)
    unnamed: Any = SimpleNamespace(domains=None)
    with pytest.raises(CosamError, match="needs each image's domain"):
        stream([expert(0)]).predict(unnamed)
