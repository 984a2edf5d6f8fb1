"""RegMean: merging linear layers by regression on their inputs, from running sums of constant size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank


def running_sums(memory: Mapping[str, Tensor], terms: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The sums in ``memory`` with each named term added, in float64; entries without a term are left out.

    Args:
        terms: names and tensors; float64 tensors are overwritten, because they may be as large as the memory.
    """
    sums = {}
    for name, term in terms:
        sums[name] = term.double().add_(memory[name]) if name in memory else term.double()
    return sums


def pop_items(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by name in their order, each removed from the dict, so that it can be freed after its use."""
    for name in list(tensors):
        yield name, tensors.pop(name)


def scale_off_diagonal(gram: Tensor, ratio: float) -> Tensor:
    """The Gram matrix ``(n, n)`` with its off-diagonal times ``ratio``; 0 gives the diagonal alone, ``(n,)``.

    Source: RegMean (Jin et al., ICLR 2023), section 3: the factor keeps the merge from degenerating if the Gram
    matrices are ill-conditioned.
    """
    if ratio == 0:
        return gram.diagonal().clone()
    return gram * ratio + torch.diag(gram.diagonal() * (1 - ratio))


def merge_by_regression(gram_sum: Tensor, product_sum: Tensor, *, ridge: float) -> Tensor:
    """The weight whose outputs are closest to those of each domain's own weight, over all domains' inputs.

    W = P (S + ridge * tr(S)/n * I)^-1, the minimiser of ``sum_t ||x W^T - x W_t^T||^2`` over all inputs x,
    plus the ridge's pull to zero; S = sum_t G_t and P = sum_t W_t G_t.

    Args:
        gram_sum: float64, S, symmetric positive semi-definite ``(n, n)``, or its diagonal ``(n,)``.
        product_sum: float64, ``(m, n)``, P.
        ridge: at least 0, relative to the mean diagonal of S; 0 is the papers' plain inverse.

    Returns:
        float64, ``(m, n)``.

    Raises:
        CosamError: the sums are not finite, or S has no inverse and the ridge is 0.

    Source: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, and the
    merge of RegCL (arXiv 2507.12297). Solved by Cholesky in float64; the released code inverts in float32.

    >>> one = torch.eye(2, dtype=torch.float64)
    >>> merge_by_regression(2 * one, one @ torch.tensor([[1.0, 3.0]], dtype=torch.float64).T.expand(2, 2), ridge=0)
    tensor([[0.5000, 0.5000],
            [1.5000, 1.5000]], dtype=torch.float64)
    """
    weights = gram_sum if gram_sum.ndim == 1 else gram_sum.diagonal()
    mean_diagonal = weights.mean()
    if not (torch.isfinite(mean_diagonal) and torch.isfinite(product_sum).all()):
        raise CosamError("A layer's Gram or product sum is not finite: did an expert's training diverge?")
    if mean_diagonal == 0:  # no input was ever active, so any weight will do
        return torch.zeros_like(product_sum)
    if gram_sum.ndim == 1:
        lifted = weights + ridge * mean_diagonal
        if (lifted == 0).any():
            raise _no_inverse(len(weights))
        return product_sum / lifted
    raised = gram_sum.clone()
    raised.diagonal().add_(ridge * mean_diagonal)
    factor, failed = torch.linalg.cholesky_ex(raised)
    del raised
    if not failed and not _is_singular(factor):
        return torch.cholesky_solve(product_sum.T, factor).T
    if ridge == 0:
        raise _no_inverse(len(weights))
    # Rounding in the inputs' dtype left eigenvalues further below zero than the ridge lifts them; they are zero.
    eigenvalues, vectors = torch.linalg.eigh(gram_sum)
    lifted = eigenvalues.clamp(min=0) + ridge * mean_diagonal
    merged: Tensor = (product_sum @ vectors / lifted) @ vectors.T
    return merged


def _is_singular(factor: Tensor) -> bool:
    """Whether a pivot of a Cholesky factor is only the rounding of larger ones."""
    pivots = factor.diagonal().square()
    smallest_sure = len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max()
    return bool(pivots.min() <= smallest_sure)


def _no_inverse(inputs: int) -> CosamError:
    return CosamError(
        f"A layer's Gram matrix of {inputs} inputs has no inverse: some input is unused or a combination of "
        "others. Set a ridge, for example --set method.ridge=1e-6."
    )


def truncate_by_gram(weight: Tensor, gram_sum: Tensor, *, rank: int) -> tuple[LowRank, float]:
    """The weight of at most ``rank`` whose outputs are closest to those of ``weight`` over the inputs.

    The minimiser of ``sum ||x W^T - x W_r^T||^2`` over all inputs x with S = sum x x^T: the SVD of W S^(1/2) truncated
    to ``rank`` values and multiplied by S^(-1/2), which is U U^T W with U its left vectors. So no inverse is
    taken, and inputs that never occur do no harm.

    Args:
        weight: float64, ``(m, n)``.
        gram_sum: float64, S as for ``merge_by_regression``.
        rank: at least 1; capped at m and n.

    Returns:
        ``a`` ``(rank, n)`` and ``b`` ``(m, rank)`` in float64, b with orthonormal columns; and the discarded
        share in [0, 1] of the energy tr(W S W^T).
    """
    if gram_sum.ndim == 1:
        rooted = weight * gram_sum.clamp(min=0).sqrt()
    else:
        eigenvalues, vectors = torch.linalg.eigh(gram_sum)
        rooted = weight @ vectors * eigenvalues.clamp(min=0).sqrt()
    left, values, _ = torch.linalg.svd(rooted, full_matrices=False)
    energies = values.square()
    total = energies.sum().item()
    discarded = energies[rank:].sum().item() / total if total > 0 else 0.0
    kept = left[:, :rank]
    return LowRank(a=kept.T @ weight, b=kept.clone()), discarded
