"""Regression merging against least squares on the inputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.regression import (
    condition_number,
    merge_by_regression,
    pop_items,
    running_sums,
    scale_off_diagonal,
    truncate_by_gram,
)


def domains(
    count: int, *, seed: int = 0, inputs: int = 5, outputs: int = 3, rows: int = 40
) -> list[tuple[Tensor, Tensor]]:
    """Inputs ``(rows, inputs)`` and the weight ``(outputs, inputs)`` of each domain's expert."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, inputs), (outputs, inputs))
    return [
        (
            torch.randn(shapes[0], generator=generator, dtype=torch.float64),
            torch.randn(shapes[1], generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def merged(stream: list[tuple[Tensor, Tensor]], *, ridge: float = 0.0) -> Tensor:
    """The merge from running sums, one domain after another."""
    gram_sum: Tensor | float = 0.0
    product_sum: Tensor | float = 0.0
    for inputs, weight in stream:
        gram = inputs.T @ inputs / len(inputs)
        gram_sum, product_sum = gram_sum + gram, product_sum + weight @ gram
    assert isinstance(gram_sum, Tensor)
    assert isinstance(product_sum, Tensor)
    return merge_by_regression(gram_sum, product_sum, ridge=ridge)


@given(st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_running_sums_give_the_least_squares_of_all_inputs_stacked(count: int, seed: int) -> None:
    stream = domains(count, seed=seed)
    inputs = np.concatenate([rows.numpy() for rows, _ in stream])
    answers = np.concatenate([(rows @ weight.T).numpy() for rows, weight in stream])
    best, *_ = np.linalg.lstsq(inputs, answers, rcond=None)
    np.testing.assert_allclose(merged(stream).numpy(), best.T, rtol=1e-8, atol=1e-10)


@given(st.permutations(range(4)))
@settings(max_examples=20, deadline=None)
def test_the_order_does_not_matter(order: list[int]) -> None:
    stream = domains(4)
    torch.testing.assert_close(merged([stream[place] for place in order]), merged(stream), rtol=1e-11, atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_one_domain_and_equal_experts_give_that_expert_back(seed: int) -> None:
    (rows, weight), (others, _) = domains(2, seed=seed)
    torch.testing.assert_close(merged([(rows, weight)]), weight)
    torch.testing.assert_close(merged([(rows, weight), (others, weight)]), weight)


def test_each_expert_rules_where_only_its_own_domain_has_inputs() -> None:
    first, second = torch.eye(2, dtype=torch.float64)[:1], torch.eye(2, dtype=torch.float64)[1:]
    weights = [torch.tensor([row], dtype=torch.float64) for row in ([1.0, 2.0], [3.0, 4.0])]
    assert merged([(first, weights[0]), (second, weights[1])]).tolist() == [[1.0, 4.0]]


def test_a_ridge_pulls_by_its_share_of_the_mean_diagonal() -> None:
    # S = 3 I with 4 inputs: P (3 + r * 3)^-1 = W / (1 + r).
    weight = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    gram = 3 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(merge_by_regression(gram, weight @ gram, ridge=0.25), weight / 1.25)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_a_scale_of_all_inputs_does_not_matter(factor: float, ridge: float) -> None:
    stream = domains(3)
    scaled = [(rows * factor, weight) for rows, weight in stream]
    torch.testing.assert_close(merged(scaled, ridge=ridge), merged(stream, ridge=ridge), rtol=1e-9, atol=1e-12)


def dependent(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Two domains in which the last input is the mean of the first two."""
    found = []
    for rows, weight in domains(2, seed=seed):
        rows[:, -1] = rows[:, :2].mean(1)
        found.append((rows, weight))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_dependent_inputs_are_refused_without_a_ridge_and_solved_with_one(seed: int) -> None:
    stream = dependent(seed)
    with pytest.raises(CosamError, match=r"no inverse.*--set method\.ridge"):
        merged(stream)
    ridge = 1e-9
    answer = merged(stream, ridge=ridge)
    inputs = torch.cat([rows for rows, _ in stream])
    answers = torch.cat([rows @ weight.T for rows, weight in stream])
    best, *_ = np.linalg.lstsq(inputs.numpy(), answers.numpy(), rcond=None)
    np.testing.assert_allclose((inputs @ answer.T).numpy(), inputs.numpy() @ best, rtol=1e-5, atol=1e-6)


def test_a_dead_input_gets_no_weight_with_a_ridge() -> None:
    stream = domains(2)
    for rows, _ in stream:
        rows[:, 2] = 0
    with pytest.raises(CosamError, match="no inverse"):
        merged(stream)
    answer = merged(stream, ridge=1e-8)
    assert answer[:, 2].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(answer).all()


def test_rounding_of_float32_sums_below_zero_is_taken_as_zero() -> None:
    rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))  # of rank 3 in 20 inputs
    gram = (rows.T @ rows).double()
    gram -= 1e-6 * gram.diagonal().mean() * torch.eye(20, dtype=torch.float64)
    weight = torch.randn(2, 20, generator=torch.Generator().manual_seed(1)).double()
    answer = merge_by_regression(gram, weight @ gram, ridge=1e-8)
    assert torch.isfinite(answer).all()
    torch.testing.assert_close(rows.double() @ answer.T, rows.double() @ weight.T, rtol=1e-3, atol=1e-3)


def test_no_inputs_at_all_give_no_weight() -> None:
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    assert merge_by_regression(zeros, zeros[:2], ridge=0).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_sums_that_are_not_finite_are_refused(number: float) -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for gram, product in ((eye * number, eye), (eye, eye * number)):
        with pytest.raises(CosamError, match="not finite"):
            merge_by_regression(gram, product, ridge=1e-6)


def test_running_sums_keep_only_what_is_added_and_do_so_in_float64() -> None:
    first = running_sums({"other": torch.ones(2)}, {"sum": torch.tensor([1.0, 2.0])}.items())
    again = running_sums(first, {"sum": torch.tensor([1e-12, 0.0])}.items())
    assert list(again) == ["sum"]
    assert again["sum"].tolist() == [1 + 1e-12, 2.0]  # float32 would round the first to 1
    assert first["sum"].tolist() == [1.0, 2.0]


def test_the_off_diagonal_is_scaled_and_the_diagonal_is_not() -> None:
    gram = torch.tensor([[2.0, 4.0], [4.0, 10.0]], dtype=torch.float64)
    assert scale_off_diagonal(gram, 0.5).tolist() == [[2.0, 2.0], [2.0, 10.0]]
    assert scale_off_diagonal(gram, 1.0).tolist() == gram.tolist()
    assert scale_off_diagonal(gram, 0.0).tolist() == [2.0, 10.0]


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-6, 0.5]))
@settings(max_examples=20, deadline=None)
def test_a_diagonal_given_as_a_vector_is_solved_as_the_matrix(seed: int, ridge: float) -> None:
    (rows, weight), (others, _) = domains(2, seed=seed)
    diagonal = (rows.square() + others.square()).sum(0)
    product = weight * diagonal.flip(0)
    torch.testing.assert_close(
        merge_by_regression(diagonal, product, ridge=ridge),
        merge_by_regression(torch.diag(diagonal), product, ridge=ridge),
    )


def test_a_diagonal_with_a_dead_input_wants_a_ridge() -> None:
    diagonal, product = torch.tensor([1.0, 0.0]).double(), torch.tensor([[3.0, 0.0]]).double()
    with pytest.raises(CosamError, match=r"2 inputs has no inverse"):
        merge_by_regression(diagonal, product, ridge=0.0)
    assert merge_by_regression(diagonal, product, ridge=1e-9)[0, 1] == 0.0


def lost(rows: Tensor, weight: Tensor, other: Tensor) -> float:
    """The sum of squared differences of the answers to the rows."""
    return (rows @ (weight - other).T).square().sum().item()


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_no_weight_of_the_rank_answers_the_inputs_better_than_the_truncation(seed: int, rank: int) -> None:
    (rows, weight), (_, other) = domains(2, seed=seed, outputs=4)
    cut, discarded = truncate_by_gram(weight, rows.T @ rows, rank=rank)
    best = lost(rows, weight, cut.dense())
    assert cut.rank == rank
    assert best == pytest.approx(discarded * (rows @ weight.T).square().sum().item(), rel=1e-9)
    # Eckart and Young: no answers of that rank are nearer, wherever the weight comes from.
    values = torch.linalg.svdvals(rows @ weight.T)
    assert best == pytest.approx(values[rank:].square().sum().item(), rel=1e-9)
    plain = torch.linalg.svd(weight, full_matrices=False)
    euclidean = plain.U[:, :rank] * plain.S[:rank] @ plain.Vh[:rank]
    moved = cut.dense() + 1e-3 * (cut.b @ (cut.b.T @ other))
    assert best <= min(lost(rows, weight, euclidean), lost(rows, weight, moved)) + 1e-9


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_a_weight_of_low_rank_is_kept_whole(seed: int, rank: int) -> None:
    (rows, weight), _ = domains(2, seed=seed, outputs=4)
    low = weight[:, :rank] @ weight[:rank, :rank].T @ rows[:rank]
    cut, discarded = truncate_by_gram(low, rows.T @ rows, rank=rank)
    torch.testing.assert_close(cut.dense(), low, rtol=1e-8, atol=1e-9)
    assert discarded == pytest.approx(0.0, abs=1e-12)


def test_a_truncation_with_dead_inputs_or_no_weight_is_finite() -> None:
    (rows, weight), _ = domains(2)
    rows[:, 2] = 0
    cut, _ = truncate_by_gram(weight, rows.T @ rows, rank=2)
    assert torch.isfinite(cut.dense()).all()
    nothing, discarded = truncate_by_gram(torch.zeros_like(weight), rows.T @ rows, rank=2)
    assert nothing.dense().abs().max() == 0
    assert discarded == 0.0
    diagonal, _ = truncate_by_gram(weight, rows.square().sum(0), rank=2)
    matrix, _ = truncate_by_gram(weight, torch.diag(rows.square().sum(0)), rank=2)
    torch.testing.assert_close(diagonal.dense(), matrix.dense())


def test_a_rank_above_the_matrix_keeps_all_of_it() -> None:
    (rows, weight), _ = domains(2)
    cut, discarded = truncate_by_gram(weight, rows.T @ rows, rank=50)
    torch.testing.assert_close(cut.dense(), weight)
    assert cut.rank == 3
    assert discarded == 0.0


def test_popped_items_leave_the_dict_one_after_another() -> None:
    tensors = {"one": torch.ones(1), "two": torch.ones(2)}
    assert [(name, len(tensor), list(tensors)) for name, tensor in pop_items(tensors)] == [
        ("one", 1, ["two"]),
        ("two", 2, []),
    ]


@given(st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([1e-3, 0.3]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_ridge_to_some_weight_is_least_squares_with_rows_that_ask_for_it(
    count: int, seed: int, ridge: float, is_diagonal: bool
) -> None:
    stream = domains(count, seed=seed)
    towards = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    rows = torch.cat([inputs / len(inputs) ** 0.5 for inputs, _ in stream])
    answers = torch.cat([inputs @ weight.T / len(inputs) ** 0.5 for inputs, weight in stream])
    gram = rows.T @ rows
    product = answers.T @ rows
    if is_diagonal:  # inputs that are independent of each other: only their lengths matter
        rows = torch.diag(gram.diagonal().sqrt())
        answers = (product / gram.diagonal().sqrt()).T
        gram = gram.diagonal()
    lift = (ridge * rows.square().sum().item() / 5) ** 0.5
    asked = np.concatenate([rows.numpy(), lift * np.eye(5)])
    answered = np.concatenate([answers.numpy(), lift * towards.T.numpy()])
    best, *_ = np.linalg.lstsq(asked, answered, rcond=None)
    found = merge_by_regression(gram, product, ridge=ridge, towards=towards)
    np.testing.assert_allclose(found.numpy(), best.T, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ridge", [1e-6, 10.0])
def test_equal_experts_and_unused_inputs_get_the_mean_exactly(ridge: float) -> None:
    (rows, weight), (others, _) = domains(2)
    rows[:, 2] = others[:, 2] = 0
    gram = rows.T @ rows + others.T @ others
    assert torch.equal(merge_by_regression(gram, weight @ gram, ridge=ridge, towards=weight), weight)
    shortened = merge_by_regression(gram, weight @ gram, ridge=ridge)
    assert shortened[:, 2].abs().max() == 0
    assert shortened.norm() < weight.norm()
    nothing = torch.zeros_like(gram)
    assert torch.equal(merge_by_regression(nothing, nothing[:3], ridge=ridge, towards=weight), weight)


def test_the_float32_inverse_is_numpys_and_loses_the_digits_that_the_condition_number_says() -> None:
    (rows, weight), _ = domains(2)
    lost = {}
    for own in (1.0, 1e-4):  # how much of the last input is not the mean of the first two
        inputs = rows.clone()
        inputs[:, -1] = own * rows[:, -1] + (1 - own) * rows[:, :2].mean(1)
        gram = inputs.T @ inputs
        found = merge_by_regression(gram, weight @ gram, ridge=0, solver="float32_inverse")
        assert condition_number(gram, ridge=0) == pytest.approx(np.linalg.cond(gram.numpy()), rel=1e-6)
        lost[own] = (found - weight).abs().max().item()
        torch.testing.assert_close(merge_by_regression(gram, weight @ gram, ridge=0), weight, rtol=1e-6, atol=1e-6)
        if own == 1:
            inverse = np.linalg.inv(gram.numpy().astype(np.float32))
            expected = (weight @ gram).numpy().astype(np.float32) @ inverse
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert lost[1.0] < 1e-5  # a condition number of 3
    assert lost[1e-4] > 1e-3  # of 1e8, more than float32's seven digits


def test_the_condition_number_counts_the_ridge_and_knows_diagonals() -> None:
    diagonal = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)
    assert condition_number(diagonal, ridge=0) == condition_number(torch.diag(diagonal), ridge=0) == 4
    assert condition_number(diagonal, ridge=1) == pytest.approx(6 / 3)
    assert condition_number(torch.tensor([1.0, 0.0]), ridge=0) == float("inf")


def test_the_error_names_what_keeps_a_matrix_from_having_an_inverse() -> None:
    gram = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    product = gram[:2]
    with pytest.raises(CosamError, match=r"of qkv with 3 inputs.*1 of them is 0 in every sample.*between 0 and 2"):
        merge_by_regression(gram, product, ridge=0, layer="qkv")
    rows, weight = dependent(0)[0]
    gram = rows.T @ rows
    with pytest.raises(CosamError, match="some of them are combinations of others"):
        merge_by_regression(gram, weight @ gram, ridge=0)
    rounded = gram - 1e-7 * gram.diagonal().max() * torch.eye(5, dtype=torch.float64)
    with pytest.raises(CosamError, match=r"rounded to float32, which makes.*eigenvalue negative.*between -"):
        merge_by_regression(rounded, weight @ gram, ridge=0)
    exact = torch.diag(torch.tensor([1.0, 1e-60], dtype=torch.float64))
    with pytest.raises(CosamError, match="float32 has too few digits"):
        merge_by_regression(exact, exact, ridge=0, solver="float32_inverse")
