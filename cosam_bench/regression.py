"""RegMean: merging linear layers by regression on their inputs, from running sums of constant size."""

from __future__ import annotations

import torch
from torch import Tensor

from cosam_bench.errors import CosamError


def merge_by_regression(gram_sum: Tensor, product_sum: Tensor, *, ridge: float) -> Tensor:
    """The weight that answers every domain's inputs as nearly as one weight can.

    W = P (S + ridge * tr(S)/n * I)^-1, the minimiser of ``sum_t ||x W^T - x W_t^T||^2`` over all inputs x,
    plus the ridge's pull to zero; S = sum_t G_t and P = sum_t W_t G_t.

    Args:
        gram_sum: float64, ``(n, n)``, S, symmetric positive semi-definite.
        product_sum: float64, ``(m, n)``, P.
        ridge: at least 0, relative to the mean diagonal of S; 0 is the papers' plain inverse.

    Returns:
        float64, ``(m, n)``.

    Raises:
        CosamError: S has no inverse, which a ridge above 0 mends, or the sums are not finite.

    Source: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, and the
    merge of RegCL (arXiv 2507.12297). Solved by Cholesky in float64 where the released code inverts in
    float32.

    >>> one = torch.eye(2, dtype=torch.float64)
    >>> merge_by_regression(2 * one, one @ torch.tensor([[1.0, 3.0]], dtype=torch.float64).T.expand(2, 2), ridge=0)
    tensor([[0.5000, 0.5000],
            [1.5000, 1.5000]], dtype=torch.float64)
    """
    inputs = gram_sum.shape[0]
    mean_diagonal = gram_sum.diagonal().mean()
    if not (torch.isfinite(mean_diagonal) and torch.isfinite(product_sum).all()):
        raise CosamError("A layer's Gram or product sum is not finite: did an expert's training diverge?")
    if mean_diagonal == 0:  # no input was ever active, so any weight answers all of them
        return torch.zeros_like(product_sum)
    diagonal = torch.eye(inputs, dtype=gram_sum.dtype, device=gram_sum.device)
    factor, failed = torch.linalg.cholesky_ex(gram_sum + ridge * mean_diagonal * diagonal)
    if not failed and not _is_singular(factor):
        return torch.cholesky_solve(product_sum.T, factor).T
    if ridge == 0:
        raise CosamError(
            f"A layer's Gram matrix of {inputs} inputs has no inverse: some input is unused or a combination of "
            "others. Set a ridge, say --set method.ridge=1e-6."
        )
    # Rounding of the inputs' dtype left eigenvalues further below zero than the ridge lifts: they are zero.
    eigenvalues, vectors = torch.linalg.eigh(gram_sum)
    lifted = eigenvalues.clamp(min=0) + ridge * mean_diagonal
    merged: Tensor = (product_sum @ vectors / lifted) @ vectors.T
    return merged


def _is_singular(factor: Tensor) -> bool:
    """Whether a pivot of a Cholesky factor is nothing but the rounding of the larger ones."""
    pivots = factor.diagonal().square()
    smallest_sure = len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max()
    return bool(pivots.min() <= smallest_sure)
