"""DOP's two solvers against slow versions of the same losses, and what the rule promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.spectral import joint_core
from cosam_bench.merging.updates import LowRank, Update, weight_changes
from cosam_bench.method.interface import State
from cosam_bench.methods.dop import (
    DOP,
    DOPSettings,
    ProjectionLoss,
    Space,
    join_by_adam,
    join_closed,
    join_factors,
    leading_rank,
    shortest_combination,
)

SEEDS = st.integers(0, 10_000)
SPACES: tuple[Space, ...] = ("u", "v", "uv")


def drawn(seed: int, rows: int = 6, columns: int = 5, *, rank: int = 2) -> LowRank:
    """A change whose singular values lie between 1 and 2, so that no solver has to resolve tiny ones."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (
        torch.linalg.qr(torch.randn((side, rank), generator=generator, dtype=torch.float64)).Q
        for side in (rows, columns)
    )
    return LowRank(v.T, u * torch.linspace(2, 1, rank, dtype=torch.float64))


def objective(change: LowRank | Tensor, *, svd_epsilon: float = 1.0, space: Space = "uv") -> ProjectionLoss:
    weight = change.dense() if isinstance(change, LowRank) else change
    return ProjectionLoss.of(weight, svd_epsilon=svd_epsilon, space=space)


def by_adam(old: ProjectionLoss, new: ProjectionLoss, **changes: float) -> Tensor:
    options = {"alpha": 0.8, "mgda": True, "ema": 0.999, "steps": 200, "learning_rate": 1e-4} | changes
    return join_by_adam(old, new, **options)  # type: ignore[arg-type]


def traces(weight: Tensor, own: Tensor, *, kept: int, space: Space) -> Tensor:
    """L_i as it is written, with the matrices A_i and B_i in full."""
    u, s, vh = torch.linalg.svd(own)
    a = u[:, :kept] @ torch.diag(s[:kept] ** 2) @ u[:, :kept].T
    b = vh[:kept].T @ torch.diag(s[:kept] ** 2) @ vh[:kept]
    offset = weight - own
    left, right = torch.trace(offset.T @ a @ offset), torch.trace(offset @ b @ offset.T)
    return left * ("u" in space) + right * ("v" in space)


@given(SEEDS, st.sampled_from(SPACES), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_loss_and_gradient_are_those_of_the_written_out_traces(seed: int, space: Space, rank: int) -> None:
    change = drawn(seed, rank=rank)
    weight = drawn(seed + 1, rank=5).dense().requires_grad_()
    expected = traces(weight, change.dense(), kept=rank, space=space)
    (gradient,) = torch.autograd.grad(expected, weight)
    loss, ours = objective(change, space=space).loss_and_gradient(weight.detach())
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(ours, gradient)


def test_the_direction_that_reaches_the_share_is_left_out() -> None:
    values = torch.tensor([6.0, 3.0, 1.0, 0.0])
    assert [leading_rank(values, svd_epsilon=share) for share in (0.5, 0.9, 0.95, 0.99999, 1.0)] == [0, 1, 2, 2, 3]
    assert leading_rank(torch.tensor([1.0]), svd_epsilon=0.99999) == 0
    assert leading_rank(torch.tensor([1.0, 1e-7]), svd_epsilon=1.0) == 1
    for share in (0.9, 1.0):
        assert leading_rank(torch.zeros(3), svd_epsilon=share) == 0


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_shortest_combination_is_that_of_a_fine_grid(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn((2, 3), generator=generator, dtype=torch.float64)
    grid = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64)[:, None]
    best = grid[(grid * first + (1 - grid) * second).norm(dim=1).argmin()]
    within_grid = min(max(shortest_combination(first, second), 0.001), 0.999)  # a minimum may be nearer to an end
    assert within_grid == pytest.approx(float(best), abs=2e-4)


@given(SEEDS, st.booleans())
@settings(max_examples=5, deadline=None)
def test_adam_takes_the_textbooks_steps_on_the_weighed_loss(seed: int, mgda: bool) -> None:
    changes = [drawn(seed).dense(), drawn(seed + 1).dense()]
    weight = (changes[0] + changes[1]) / 2
    first_moment, second_moment, alpha = torch.zeros_like(weight), torch.zeros_like(weight), 0.8
    for step in range(1, 21):
        weight.requires_grad_()
        losses = [traces(weight, change, kept=2, space="uv") for change in changes]
        gradients = [torch.autograd.grad(loss, weight)[0] for loss in losses]
        weight = weight.detach()
        if mgda:
            parts = [gradient / loss.detach() for gradient, loss in zip(gradients, losses, strict=True)]
            alpha = 0.9 * alpha + 0.1 * shortest_combination(parts[0], parts[1])
        gradient = alpha * gradients[0] + (1 - alpha) * gradients[1]
        first_moment = 0.9 * first_moment + 0.1 * gradient
        second_moment = 0.999 * second_moment + 0.001 * gradient**2
        corrected = second_moment / (1 - 0.999**step)
        weight = weight - 1e-3 * first_moment / (1 - 0.9**step) / (corrected.sqrt() + 1e-8)
    ours = by_adam(objective(changes[0]), objective(changes[1]), mgda=mgda, ema=0.9, steps=20, learning_rate=1e-3)
    torch.testing.assert_close(ours, weight, rtol=1e-9, atol=1e-10)


@given(SEEDS, st.floats(0.1, 0.9), st.integers(1, 3), st.integers(1, 3), st.sampled_from(SPACES))
@settings(max_examples=30, deadline=None)
def test_the_closed_form_is_the_nearest_least_squares_solution(
    seed: int, alpha: float, rank: int, other: int, space: Space
) -> None:
    changes = [drawn(seed, rank=rank), drawn(seed + 1, rank=other)]
    sides = [objective(change, space=space) for change in changes]
    mean = (sides[0].weight + sides[1].weight) / 2
    # The losses as one linear system in the entries of W, row after row.
    rows, targets = [], []
    for weight, side in zip((alpha, 1 - alpha), sides, strict=True):
        eye_left, eye_right = (torch.eye(size, dtype=torch.float64) for size in mean.shape)
        left, right = side.left.T.contiguous(), side.right.T.contiguous()
        for system in (torch.kron(left, eye_right), torch.kron(eye_left, right)):
            rows.append(weight**0.5 * system)
            targets.append(weight**0.5 * system @ (side.weight - mean).flatten())
    step = torch.linalg.pinv(torch.cat(rows), rtol=1e-9) @ torch.cat(targets)
    ours = join_closed(sides[0], sides[1], alpha=alpha)
    torch.testing.assert_close(ours, mean + step.reshape(mean.shape), rtol=1e-7, atol=1e-8)
    thin = join_factors(changes[0], changes[1], alpha=alpha, svd_epsilon=1, space=space)
    torch.testing.assert_close(thin.dense(), ours, rtol=1e-7, atol=1e-8)
    assert thin.rank <= rank + other


@pytest.mark.parametrize("seed", range(3))
def test_many_steps_of_adam_end_at_the_closed_form(seed: int) -> None:
    # Of full rank, as otherwise Adam also drifts along entries that no loss holds.
    sides = [objective(drawn(seed + step, rank=5)) for step in range(2)]
    stepped = by_adam(sides[0], sides[1], mgda=False, steps=500, learning_rate=1e-2)
    torch.testing.assert_close(stepped, join_closed(sides[0], sides[1], alpha=0.8), rtol=0, atol=1e-3)


def test_changes_without_a_common_direction_are_both_kept_whole() -> None:
    values = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    first, second = objective(values), objective(values.flip(0, 1))
    for alpha in (0.2, 0.8):
        torch.testing.assert_close(join_closed(first, second, alpha=alpha), values + values.flip(0, 1))


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_equal_and_zero_experts_change_nothing(seed: int) -> None:
    change = drawn(seed)
    side, nothing = objective(change), objective(LowRank(change.a, torch.zeros_like(change.b)))
    for joined in (
        by_adam(side, side, steps=10),
        join_closed(side, side, alpha=0.8),
        join_closed(side, nothing, alpha=0.8),
    ):
        torch.testing.assert_close(joined, side.weight, rtol=1e-9, atol=1e-9)
    for joined in (by_adam(nothing, nothing, steps=10), join_closed(nothing, nothing, alpha=0.8)):
        assert not joined.any()
    torch.testing.assert_close(by_adam(nothing, side, mgda=False, steps=1), by_adam(nothing, side, steps=1))


def test_where_nothing_leads_the_mean_is_kept() -> None:
    changes = [drawn(step, rank=1) for step in range(2)]
    first, second = (objective(change, svd_epsilon=0.99999) for change in changes)
    mean = (first.weight + second.weight) / 2
    torch.testing.assert_close(by_adam(first, second), mean)
    torch.testing.assert_close(join_closed(first, second, alpha=0.8), mean)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_split_of_a_change_into_factors_does_not_matter(seed: int) -> None:
    old, new = drawn(seed), drawn(seed + 1)
    turn = torch.tensor([[2.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    other = LowRank(torch.linalg.solve(turn, new.a), new.b @ turn)
    one, two = (join_factors(old, change, alpha=0.8, svd_epsilon=1, space="uv").dense() for change in (new, other))
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


def test_adams_path_depends_on_the_coordinates() -> None:
    # Why the published steps are not run in the joint core: there the same ones lead less far.
    old, new = drawn(0, 96, 96, rank=8), drawn(1, 96, 96, rank=8)
    core = joint_core(old, new)
    moved = by_adam(objective(old), objective(new)) - (old.dense() + new.dense()) / 2
    in_core = by_adam(objective(core.first), objective(core.second)) - (core.first + core.second) / 2
    assert in_core.norm() < moved.norm() / 2


def test_a_broken_change_is_refused() -> None:
    with pytest.raises(CosamError, match="not finite"):
        objective(torch.full((2, 2), math.inf))


def experts(count: int, *, both_kinds: bool = False) -> list[Update]:
    changes = [drawn(step) for step in range(count)]
    on_it = [0.1 * drawn(10 + step, rank=1).dense() for step in range(count)]
    return [
        Update(
            {"layer": LowRank(change.a.float(), change.b.float())},
            {"bias": torch.full((3,), float(step))} | ({"layer.weight": on_it[step].float()} if both_kinds else {}),
        )
        for step, change in enumerate(changes)
    ]


def stream(changes: list[Update], **options: object) -> tuple[Update, list[int]]:
    """What is served after these experts, by methods rebuilt from their states, and the states' bytes."""
    method, sizes = DOP(DOPSettings(**options), None), []  # type: ignore[arg-type]
    for step, expert in enumerate(changes, start=1):
        method.served = method.merge(expert, None, step=step)  # type: ignore[arg-type]
        state = method.state()
        sizes.append(sum(tensor.nbytes for tensor in state.tensors.values()))
        method = DOP(method.settings, None)  # type: ignore[arg-type]
        method.load(State(dict(state.tensors), dict(state.values)))
    assert method.served is not None
    return method.served, sizes


@pytest.mark.parametrize("solver", ["adam", "closed"])
@pytest.mark.parametrize("both_kinds", [False, True])
def test_the_method_carries_dense_weights_of_constant_size(solver: str, both_kinds: bool) -> None:
    changes = experts(4, both_kinds=both_kinds)
    first, sizes = stream(changes[:1], solver=solver)
    assert weight_changes(first).keys() == {"layer.weight", "bias"}
    torch.testing.assert_close(first.dense["layer.weight"], weight_changes(changes[0])["layer.weight"])
    last, sizes = stream(changes, solver=solver)
    assert sizes == [4 * (30 + 3)] * 4
    assert last.dense["bias"].tolist() == [(((0 + 1) / 2 + 2) / 2 + 3) / 2] * 3
    joined = weight_changes(changes[0])["layer.weight"].double()
    for expert in changes[1:]:
        sides = objective(joined), objective(weight_changes(expert)["layer.weight"].double())
        joined = by_adam(*sides) if solver == "adam" else join_closed(*sides, alpha=0.8)
    torch.testing.assert_close(last.dense["layer.weight"].double(), joined, rtol=1e-3, atol=1e-3)


def test_the_order_matters() -> None:
    changes = experts(2)
    for solver in ("adam", "closed"):
        one, other = (stream(order, solver=solver)[0].dense["layer.weight"] for order in (changes, changes[::-1]))
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "is_square"), [((8, 4), (False, True)), ((4, 9), (True, False)), ((5, 5), (True, True))]
)
def test_a_side_of_many_directions_is_squared_with_the_same_result(
    shape: tuple[int, int], is_square: tuple[bool, bool]
) -> None:
    draws = torch.Generator().manual_seed(sum(shape))
    own, weight = (torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(2))
    side = objective(own[:, :3] @ own[:3] if shape == (8, 4) else own)
    if shape == (8, 4):
        side = ProjectionLoss(side.weight, side.left[:, :3], side.right[:, :3])
    is_found = (side._left_square is not None, side._right_square is not None)
    assert is_found == is_square
    loss, gradient = side.loss_and_gradient(weight)
    offset = weight - side.weight
    a, b = side.left @ side.left.T, side.right @ side.right.T
    torch.testing.assert_close(gradient, 2 * (a @ offset + offset @ b))
    assert loss == pytest.approx(float((offset.T @ a @ offset).trace() + (offset @ b @ offset.T).trace()))
