"""Entrywise merges: average, task arithmetic, TIES, continual TIES, DARE, MagMax, and OSRM's first factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.merging.elementwise import add_task_vector, entrywise
from cosam_bench.merging.osrm import least_energy_directions
from cosam_bench.merging.sign_election import add_votes, elect, trim
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.contract_check import check_method
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.methods.average import Average
from cosam_bench.methods.continual_ties import ContinualTies, add_by_election
from cosam_bench.methods.dare import Dare, draw_masks, drop_and_rescale
from cosam_bench.methods.magmax import MagMax, keep_larger
from cosam_bench.methods.task_arithmetic import OsrmFactors, TaskArithmetic
from cosam_bench.methods.ties import Ties
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attach import Adapter

SHAPES = {"wide": (6, 9), "tall": (8, 5)}  # outputs and inputs of each layer
RANK = 2

Variant = tuple[type[MergingMethod], dict[str, Any]]
ORDER_FREE: list[Variant] = [
    (Average, {}),
    (TaskArithmetic, {}),
    (TaskArithmetic, {"scale": "1/t"}),
    (Ties, {}),
    (Ties, {"merge": "mean", "density": 0.5}),
    (Ties, {"merge": "max"}),
    (Dare, {}),
    (Dare, {"scale": "1/t", "drop": 0.9}),
    (Dare, {"combine": "ties", "density": 0.7}),
    (MagMax, {"start": "base"}),
]
ALL: list[Variant] = [*ORDER_FREE, (ContinualTies, {}), (MagMax, {})]
# Each of these takes an expert whole, so one expert comes back times the number.
WHOLE: list[tuple[type[MergingMethod], dict[str, Any], float]] = [
    (Average, {}, 1.0),
    (TaskArithmetic, {"scale": 0.4}, 0.4),
    (TaskArithmetic, {"scale": "1/t"}, 1.0),
    (Ties, {"density": 1.0}, 0.3),
    (Ties, {"density": 1.0, "merge": "mean"}, 0.3),
    (Ties, {"density": 1.0, "merge": "max"}, 0.3),
    (ContinualTies, {}, 0.5),
    (Dare, {"drop": 0.0}, 0.3),
    (Dare, {"drop": 0.0, "combine": "ties", "density": 1.0, "scale": "1/t"}, 1.0),
    (MagMax, {}, 0.5),
]
# A zero expert changes nothing in a sum, an election or a maximum.
NEUTRAL: list[Variant] = [
    (TaskArithmetic, {}),
    (Ties, {}),
    (Ties, {"merge": "mean"}),
    (Ties, {"merge": "max"}),
    (Dare, {"drop": 0.0}),
    (MagMax, {}),
]


def draw_experts(count: int, seed: int, *, dtype: torch.dtype = torch.float64) -> list[Update]:
    """Experts of two layers with thin factors and one parameter with a dense change."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        Update({name: LowRank(draw(RANK, n), draw(m, RANK)) for name, (m, n) in SHAPES.items()}, {"bias": draw(4)})
        for _ in range(count)
    ]


class Bench:
    """A workbench that knows its experts beforehand; the name of a domain is the number of its expert."""

    def __init__(self, experts: Sequence[Update]) -> None:
        self.experts = experts
        self.starts: list[Update | None] = []
        self.hooks: list[OsrmFactors | None] = []
        self.adapter = AdapterSettings()

    def train(
        self,
        domain: Any,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: OsrmFactors | None = None,
    ) -> Any:
        assert not from_scratch
        self.starts.append(start)
        self.hooks.append(hooks)
        return SimpleNamespace(update=self.experts[int(domain.name)])

    def generator(self, *names: str | int) -> torch.Generator:
        return torch_generator(0, *names)

    def input_grams(self, domain: Any, update: Update | None) -> dict[str, Tensor]:
        """Inputs of domain i lie along axis i alone."""
        assert update is None, "the frozen base is asked for"
        grams = {name: torch.zeros(n, n, dtype=torch.float64) for name, (_, n) in SHAPES.items()}
        for gram in grams.values():
            gram[int(domain.name), int(domain.name)] = 1.0
        return grams


def learn(
    variant: Variant, experts: Sequence[Update], *, order: Sequence[int] | None = None, bench: Bench | None = None
) -> list[State]:
    """The state after each expert, every step by an object that was built from the state before."""
    kind, options = variant
    bench = bench or Bench(experts)
    states: list[State] = []
    for step, number in enumerate(order if order is not None else range(len(experts)), start=1):
        method = kind(kind.Settings(**options), bench)  # type: ignore[arg-type]
        if states:
            method.load(states[-1])
        method.learn(SimpleNamespace(name=str(number)), step=step)  # type: ignore[arg-type]
        states.append(method.state())
    return states


def served(variant: Variant, experts: Sequence[Update], *, order: Sequence[int] | None = None) -> dict[str, Tensor]:
    return weight_changes(Update.from_tensors(learn(variant, experts, order=order)[-1].tensors, "served/"))


def same(ours: dict[str, Tensor], others: dict[str, Tensor], *, tolerance: float = 1e-12) -> None:
    assert ours.keys() == others.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], others[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kind", "options", "scale"), WHOLE)
def test_one_expert_comes_back_times_the_scale(
    kind: type[MergingMethod], options: dict[str, Any], scale: float
) -> None:
    (expert,) = draw_experts(1, 0)
    same(served((kind, options), [expert]), {n: scale * c for n, c in weight_changes(expert).items()})


@pytest.mark.parametrize("variant", ORDER_FREE)
@given(order=st.permutations(range(4)), seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_the_order_does_not_matter(variant: Variant, order: list[int], seed: int) -> None:
    experts = draw_experts(4, seed)
    same(served(variant, experts, order=order), served(variant, experts))


def test_the_order_matters_to_continual_ties() -> None:
    experts = draw_experts(3, 0)
    forth, back = (served((ContinualTies, {}), experts, order=order) for order in ([0, 1, 2], [2, 1, 0]))
    assert not torch.allclose(forth["wide.weight"], back["wide.weight"], atol=0.1)


@pytest.mark.parametrize("variant", ALL)
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_how_an_expert_splits_into_factors_does_not_matter(variant: Variant, seed: int) -> None:
    experts = draw_experts(3, seed)
    generator = torch.Generator().manual_seed(seed)
    turned = []
    for expert in experts:
        turn = torch.randn(RANK, RANK, generator=generator, dtype=torch.float64) + 3 * torch.eye(RANK)
        factors = {n: LowRank(torch.linalg.solve(turn, f.a), f.b @ turn) for n, f in expert.low_rank.items()}
        turned.append(Update(factors, expert.dense))
    same(served(variant, turned), served(variant, experts), tolerance=1e-9)


def zero_like(expert: Update) -> Update:
    factors = {n: LowRank(f.a, torch.zeros_like(f.b)) for n, f in expert.low_rank.items()}
    return Update(factors, {n: torch.zeros_like(c) for n, c in expert.dense.items()})


@pytest.mark.parametrize("variant", NEUTRAL)
def test_a_zero_expert_changes_nothing(variant: Variant) -> None:
    experts = draw_experts(2, 1)
    same(served(variant, [*experts, zero_like(experts[0])]), served(variant, experts))


def test_a_zero_expert_pulls_the_average_and_doubles_in_continual_ties() -> None:
    experts = draw_experts(2, 1)
    padded = [*experts, zero_like(experts[0])]
    average = served((Average, {}), experts)
    same(served((Average, {}), padded), {name: change * 2 / 3 for name, change in average.items()})
    before = served((ContinualTies, {"density": 1.0}), experts)
    doubled = {name: 1.5 * change for name, change in before.items()}  # M + 0.5 TIES(M, 0), and TIES(M, 0) is M
    same(served((ContinualTies, {"density": 1.0}), padded), doubled)


@pytest.mark.parametrize("variant", [*ALL, (TaskArithmetic, {"first_factors": "osrm"})])
def test_the_state_does_not_grow(variant: Variant, tmp_path: Path) -> None:
    states = learn(variant, draw_experts(5, 2, dtype=torch.float32))
    sizes = [state.save(tmp_path / "state") for state in states]
    assert len(set(sizes[1:])) == 1
    assert all(tensor.dtype != torch.float64 for name, tensor in states[-1].tensors.items() if "served" in name)


def degenerate(kind: str) -> list[Update]:
    experts = draw_experts(3, 3, dtype=torch.float32)
    if kind == "zero":
        return [zero_like(expert) for expert in experts]
    if kind == "equal":
        return [experts[0]] * 3
    if kind == "opposite":
        flipped = {n: f.scaled(-1) for n, f in experts[0].low_rank.items()}
        return [experts[0], Update(flipped, {n: -c for n, c in experts[0].dense.items()})]
    for expert in experts:  # rank 1, the first input unit dead
        for factors in expert.low_rank.values():
            factors.a[1:] = factors.a[:1]
            factors.a[:, 0] = 0
    return experts


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", ["zero", "equal", "opposite", "rank 1"])
def test_degenerate_experts_give_finite_changes(variant: Variant, kind: str) -> None:
    assert all(change.isfinite().all() for change in served(variant, degenerate(kind)).values())


@pytest.mark.parametrize("variant", ALL)
def test_experts_of_other_parameters_are_refused(variant: Variant) -> None:
    first, second = draw_experts(2, 4)
    with pytest.raises(CosamError, match=r"at 'bias' one changes \(4,\), the other nothing"):
        served(variant, [first, Update(second.low_rank)])


# Against the batch formulas.


def flat(experts: Sequence[Update]) -> np.ndarray:
    rows = [torch.cat([change.flatten() for change in weight_changes(expert).values()]) for expert in experts]
    return torch.stack(rows).numpy()


def flat_result(variant: Variant, experts: Sequence[Update]) -> np.ndarray:
    return torch.cat([change.flatten() for change in served(variant, experts).values()]).numpy()


def ties_of_all(rows: np.ndarray, *, density: float, merge: str) -> np.ndarray:
    """TIES as it is printed: all rows at once, entry after entry."""
    count = rows.shape[1]
    kept = rows.copy()
    if density < 1:
        for row in kept:
            row[np.argsort(np.abs(row))[: count - int(density * count) - 1]] = 0
    signs = np.sign(kept.sum(0))
    signs[signs == 0] = np.sign(signs.sum())
    result = np.zeros(count)
    for entry, sign in enumerate(signs):
        agreeing = [value for value in kept[:, entry] if value * (1 if sign > 0 else -1) > 0]
        if agreeing:
            largest = max(agreeing, key=abs)
            result[entry] = {"sum": sum(agreeing), "mean": np.mean(agreeing), "max": sign * abs(largest)}[merge]
    return result


@given(
    st.integers(1, 5),
    st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    st.sampled_from(["sum", "mean", "max"]),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_running_votes_give_ties_over_all_experts(count: int, density: float, merge: str, seed: int) -> None:
    experts = draw_experts(count, seed)
    ours = flat_result((Ties, {"density": density, "merge": merge, "scale": 1.0}), experts)
    np.testing.assert_allclose(ours, ties_of_all(flat(experts), density=density, merge=merge), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_running_sums_and_maxima_are_those_of_all_experts(count: int, seed: int) -> None:
    experts = draw_experts(count, seed)
    rows = flat(experts)
    largest = rows[np.abs(rows).argmax(0), np.arange(rows.shape[1])]
    for variant, batch in (
        ((Average, {}), rows.mean(0)),
        ((TaskArithmetic, {"scale": 0.3}), 0.3 * rows.sum(0)),
        ((TaskArithmetic, {"scale": "1/t"}), rows.mean(0)),
        ((MagMax, {"scale": 0.3}), 0.3 * largest),
    ):
        np.testing.assert_allclose(flat_result(variant, experts), batch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "ties"])
def test_dare_merges_what_its_masks_leave(combine: str) -> None:
    experts = draw_experts(3, 5)
    thinned = []
    for number, expert in enumerate(experts):
        changes = weight_changes(expert)
        masks = draw_masks(changes, probability=0.6, generator=torch_generator(0, "dare", str(number)))
        thinned.append(Update(dense=drop_and_rescale(changes, masks, probability=0.6)))
    options: dict[str, Any] = {"density": 0.2} if combine == "ties" else {}
    ours = served((Dare, {"drop": 0.6, "combine": combine, "scale": 0.3}), experts)
    plain = Ties if combine == "ties" else TaskArithmetic
    same(ours, served((plain, {"scale": 0.3, **options}), thinned))


# By hand.


def test_trimming_keeps_the_largest_entries_of_all_parameters_together() -> None:
    changes = {"a": torch.tensor([[1.0, -9.0], [0.5, 3.0]]), "b": torch.tensor([-4.0, 0.1, 2.0, 0.0])}
    trimmed = trim(changes, density=0.25)  # int(0.25 * 8) + 1 = 3
    assert trimmed["a"].tolist() == [[0, -9], [0, 3]]
    assert trimmed["b"].tolist() == [-4, 0, 0, 0]
    same(trim(changes, density=1.0), changes)
    assert trim({"a": torch.tensor([2.0, -2.0, 1.0, 1.0])}, density=0.1)["a"].tolist() == [2, -2, 0, 0]  # equals stay


def election(rows: list[list[float]], merge: Any) -> list[float]:
    votes: dict[str, Tensor] = {}
    for row in rows:
        votes = add_votes(votes, {"w": torch.tensor(row, dtype=torch.float64)}, merge=merge)
    return elect(votes, merge=merge)["w"].tolist()


def test_an_election_takes_the_entries_that_agree_with_the_sum() -> None:
    rows = [[1.0, -2.0, 5.0, 0.0], [3.0, 1.0, -6.0, 0.0], [-2.0, -4.0, -1.0, 0.0]]
    assert election(rows, "sum") == [4, -6, -7, 0]
    assert election(rows, "mean") == [2, -3, -3.5, 0]
    assert election(rows, "max") == [3, -4, -6, 0]


def test_an_entry_without_a_sign_follows_the_majority_of_the_others() -> None:
    assert election([[1.0, 2.0, 2.0], [-1.0, 0.0, 0.0]], "sum") == [1, 2, 2]
    assert election([[1.0, -2.0, 0.0], [-1.0, 0.0, 0.0]], "max") == [-1, -2, 0]
    assert election([[1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]], "sum") == [-1, 2, -3]  # no majority: the negative entries
    assert election([[1.0, 2.0, -3.0], [-1.0, 0.0, 0.0]], "max") == [0, 2, -3]  # no majority: none


def test_continual_ties_adds_the_election_to_what_took_part_in_it() -> None:
    options: dict[str, Any] = {"density": 1.0, "merge": "sum", "scale": 0.5}
    first = add_by_election(None, {"w": torch.tensor([2.0, 2.0])}, step=1, **options)
    assert first["w"].tolist() == [1, 1]
    second = add_by_election(first, {"w": torch.tensor([4.0, -4.0])}, step=2, **options)
    assert second["w"].tolist() == [1 + 0.5 * 5, 1 - 0.5 * 4]


def test_magmax_takes_the_later_of_two_equal_magnitudes() -> None:
    forth = keep_larger({"w": torch.tensor([0.5, -1.0])}, {"w": torch.tensor([-1.0, 1.0])}, scale=0.5)
    assert forth["w"].tolist() == [-0.5, -1.0]
    back = keep_larger({"w": torch.tensor([-0.5, 0.5])}, {"w": torch.tensor([1.0, -2.0])}, scale=0.5)
    assert back["w"].tolist() == [0.5, -1.0]


@given(st.floats(0.05, 3), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_magmax_loses_nothing_by_dividing_the_scale_out(scale: float, seed: int) -> None:
    changes = weight_changes(draw_experts(1, seed, dtype=torch.float32)[0])
    nothing = {name: torch.zeros_like(change) for name, change in changes.items()}
    first = later = keep_larger(None, changes, scale=scale)
    for _ in range(4):
        later = keep_larger(later, nothing, scale=scale)
    assert all(torch.equal(first[name], later[name]) for name in first)


def test_magmax_trains_on_from_the_last_expert_and_not_from_the_served_update() -> None:
    experts = draw_experts(3, 6)
    bench = Bench(experts)
    learn((MagMax, {}), experts, bench=bench)
    assert bench.starts[0] is None
    assert [start.digest() for start in bench.starts[1:] if start] == [expert.digest() for expert in experts[:2]]
    bench = Bench(experts)
    learn((MagMax, {"start": "base"}), experts, bench=bench)
    assert bench.starts == [None, None, None]


# DARE's masks.


def test_dropping_keeps_the_expectation() -> None:
    changes = {"w": torch.full((200, 200), 2.0)}
    masks = draw_masks(changes, probability=0.9, generator=torch.Generator().manual_seed(0))
    thinned = drop_and_rescale(changes, masks, probability=0.9)["w"]
    torch.testing.assert_close(thinned.unique(), torch.tensor([0.0, 20.0]))
    assert thinned.mean().item() == pytest.approx(2.0, abs=0.1)  # five deviations are 0.15


def test_masks_belong_to_the_domain_and_not_to_its_place() -> None:
    experts = [draw_experts(1, 7)[0]] * 2
    alone = [served((Dare, {}), experts, order=[number]) for number in (0, 1)]
    assert not torch.equal(alone[0]["wide.weight"] == 0, alone[1]["wide.weight"] == 0)
    same(served((Dare, {}), experts, order=[1, 0]), {name: alone[0][name] + alone[1][name] for name in alone[0]})


# OSRM's first factors.


@given(st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_quiet_directions_are_orthonormal_and_the_quietest(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    rows = least_energy_directions(inputs.T @ inputs, count=count)
    torch.testing.assert_close(rows @ rows.T, torch.eye(count, dtype=torch.float64))
    other = torch.linalg.qr(torch.randn(6, count, generator=generator, dtype=torch.float64)).Q.T
    quiet, loud = (torch.linalg.matrix_norm(inputs @ directions.T) for directions in (rows, other))
    assert quiet <= loud + 1e-9
    values = torch.linalg.svdvals(inputs)
    torch.testing.assert_close(quiet, torch.linalg.vector_norm(values[6 - count :]))
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()  # signs are not left to the solver


def test_more_directions_than_inputs_are_refused() -> None:
    with pytest.raises(CosamError, match="A layer with 4 inputs has no 5 orthogonal directions"):
        least_energy_directions(torch.eye(4), count=5)


def test_osrm_begins_away_from_past_domains_and_only_from_those() -> None:
    experts = draw_experts(3, 8)
    bench = Bench(experts)
    learn((TaskArithmetic, {"first_factors": "osrm"}), experts, bench=bench)
    assert bench.hooks[0] is None
    hooks = bench.hooks[2]
    assert hooks is not None
    count = SHAPES["tall"][1] - 2
    factors = {
        name: (nn.Parameter(torch.zeros(count, n)), nn.Parameter(torch.zeros(m, count)), 1.0)
        for name, (m, n) in SHAPES.items()
    }
    hooks.attached(Adapter(factors, {}, Update()))
    tall = factors["tall"][0]
    torch.testing.assert_close(tall @ tall.T, torch.eye(count))
    # Domains 0 and 1 used those inputs; 2, which is about to be learned, is not past.
    assert tall[:, :2].abs().max() < 1e-6
    assert tall[:, 2].abs().max() > 0.1
    assert not factors["tall"][1].any()


def test_experts_that_begin_alike_are_trained_without_hooks() -> None:
    experts = draw_experts(2, 8)
    bench = Bench(experts)
    learn((TaskArithmetic, {}), experts, bench=bench)
    assert bench.hooks == [None, None]


def test_osrm_keeps_the_contract() -> None:
    assert len(check_method(TaskArithmetic, settings={"first_factors": "osrm"})) == 9


@pytest.mark.parametrize("scale", ["2/t", 0.0, -1.0, float("nan")])
def test_a_scale_is_a_positive_number_or_the_mean(scale: Any) -> None:
    for kind in (TaskArithmetic, Dare):
        with pytest.raises(ValueError, match="scale"):
            kind.Settings(scale=scale)


def test_a_sum_is_rounded_once_to_the_experts_dtype() -> None:
    changes = weight_changes(draw_experts(1, 9, dtype=torch.float32)[0])
    mean = add_task_vector(changes, changes, scale="1/t", step=3)
    assert all(torch.equal(mean[name], changes[name]) for name in changes)  # (2/3) x + (1/3) x in float64


def test_tensors_of_different_shapes_are_refused() -> None:
    with pytest.raises(CosamError, match=r"entry by entry: \(65536,\) and \(131072,\)\. Merge only"):
        entrywise(torch.add, torch.ones(131_072), torch.ones(65_536))
    with pytest.raises(CosamError, match=r"\(2, 3\) and \(3, 2\)"):
        entrywise(torch.add, torch.ones(3, 2), torch.ones(2, 3))
