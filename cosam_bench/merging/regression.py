"""RegMean: merging linear layers by regression on their inputs, from running sums of constant size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.ridge import Solver
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


def merge_by_regression(
    gram_sum: Tensor,
    product_sum: Tensor,
    *,
    ridge: float,
    towards: Tensor | None = None,
    solver: Solver = "float64",
    layer: str = "a layer",
) -> Tensor:
    """The weight whose outputs are closest to those of each domain's own weight, over all domains' inputs.

    W = M + (P - M S) (S + r I)^-1 with r = ridge * tr(S)/n, the minimiser of ``sum_t ||x W^T - x W_t^T||^2`` over all
    inputs x plus the ridge's pull ``r ||W - M||^2``; S = sum_t G_t and P = sum_t W_t G_t. If all W_t are M, it is M.

    Args:
        gram_sum: float64, S, symmetric positive semi-definite ``(n, n)``, or its diagonal ``(n,)``.
        product_sum: float64, ``(m, n)``, P.
        ridge: at least 0, relative to the mean diagonal of S; 0 is the papers' plain inverse.
        towards: float64, ``(m, n)``, M, which inputs that never occur get; None: zero.
        solver: ``float32_inverse`` forms the inverse, and multiplies by it, in float32.
        layer: its name in errors.

    Returns:
        float64, ``(m, n)``.

    Raises:
        CosamError: the sums are not finite, or S has no inverse and the ridge is 0.

    Source: Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, and the merge of
    RegCL (arXiv 2507.12297), whose released code is ``float32_inverse``. ``float64`` solves by Cholesky.

    >>> one = torch.eye(2, dtype=torch.float64)
    >>> merge_by_regression(2 * one, one @ torch.tensor([[1.0, 3.0]], dtype=torch.float64).T.expand(2, 2), ridge=0)
    tensor([[0.5000, 0.5000],
            [1.5000, 1.5000]], dtype=torch.float64)
    """
    mean_diagonal = _diagonal(gram_sum).mean()
    if not (torch.isfinite(mean_diagonal) and torch.isfinite(product_sum).all()):
        raise CosamError("A layer's Gram or product sum is not finite: did an expert's training diverge?")
    if mean_diagonal == 0:  # no input was ever active, so any weight will do
        return torch.zeros_like(product_sum) if towards is None else towards
    if towards is not None:
        answered = towards * gram_sum if gram_sum.ndim == 1 else towards @ gram_sum
        product_sum = product_sum - answered
    solve = _solve if solver == "float64" else _times_float32_inverse
    moved = solve(gram_sum, product_sum, ridge * mean_diagonal.item())
    if moved is None:
        raise _no_inverse(gram_sum, layer, solver)
    return moved if towards is None else moved.add_(towards)


def _solve(gram_sum: Tensor, product_sum: Tensor, lift: float) -> Tensor | None:
    """``P (S + lift I)^-1``; None if there is no inverse and no lift."""
    if gram_sum.ndim == 1:
        lifted = gram_sum + lift
        return None if (lifted == 0).any() else product_sum / lifted
    raised = gram_sum.clone()
    raised.diagonal().add_(lift)
    factor, failed = torch.linalg.cholesky_ex(raised)
    del raised
    if not failed and not _is_singular(factor):
        return torch.cholesky_solve(product_sum.T, factor).T
    if lift == 0:
        return None
    # Rounding in the inputs' dtype left eigenvalues further below zero than the ridge lifts them; they are zero.
    eigenvalues, vectors = torch.linalg.eigh(gram_sum)
    merged: Tensor = (product_sum @ vectors / (eigenvalues.clamp(min=0) + lift)) @ vectors.T
    return merged


def _times_float32_inverse(gram_sum: Tensor, product_sum: Tensor, lift: float) -> Tensor | None:
    """The same with an inverse that is formed in float32; None if that fails."""
    if gram_sum.ndim == 1:
        merged = product_sum.float() / (gram_sum + lift).float()
    else:
        raised = gram_sum.clone()
        raised.diagonal().add_(lift)
        inverse, failed = torch.linalg.inv_ex(raised.float())
        if failed:
            return None
        merged = product_sum.float() @ inverse
    return merged.double() if torch.isfinite(merged).all() else None


def condition_number(gram_sum: Tensor, *, ridge: float) -> float:
    """The largest eigenvalue of ``S + ridge * tr(S)/n * I`` over its smallest, in size; infinite if that is 0.

    A solution has about as many digits as the arithmetic has beyond this number: 7 for float32, 16 for float64.

    >>> condition_number(torch.diag(torch.tensor([4.0, 0.5], dtype=torch.float64)), ridge=0)
    8.0
    """
    sizes = (_eigenvalues(gram_sum) + ridge * _diagonal(gram_sum).mean()).abs()
    smallest = sizes.min().item()
    return sizes.max().item() / smallest if smallest > 0 else math.inf


def _diagonal(gram_sum: Tensor) -> Tensor:
    return gram_sum if gram_sum.ndim == 1 else gram_sum.diagonal()


def _eigenvalues(gram_sum: Tensor) -> Tensor:
    return gram_sum if gram_sum.ndim == 1 else torch.linalg.eigvalsh(gram_sum)


def _is_singular(factor: Tensor) -> bool:
    """Whether a pivot of a Cholesky factor is only the rounding of larger ones."""
    pivots = factor.diagonal().square()
    smallest_sure = len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max()
    return bool(pivots.min() <= smallest_sure)


def _no_inverse(gram_sum: Tensor, layer: str, solver: Solver) -> CosamError:
    """What kept a matrix from having an inverse: inputs that are unused or dependent, or rounding."""
    eigenvalues, inputs = _eigenvalues(gram_sum), len(gram_sum)
    smallest, largest = eigenvalues.min().item(), eigenvalues.max().item()
    unused = int((_diagonal(gram_sum) == 0).sum())
    if unused:
        cause = f"{unused} of them are 0 in every sample" if unused > 1 else "1 of them is 0 in every sample"
    elif solver == "float32_inverse":
        cause = "float32 has too few digits for it"
    elif smallest < -inputs * torch.finfo(torch.float64).eps * largest:
        cause = "its products were rounded to float32, which makes its smallest eigenvalue negative"
    else:
        cause = "some of them are combinations of others"
    return CosamError(
        f"The Gram matrix of {layer} with {inputs} inputs has no inverse: {cause}. Its eigenvalues are between "
        f"{smallest:.2g} and {largest:.2g}. Set a ridge, for example --set method.ridge=1e-6."
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
