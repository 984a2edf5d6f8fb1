"""OSRM: initial LoRA factors that are orthogonal to other domains' inputs of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError


def least_energy_directions(second_moment: Tensor, *, count: int) -> Tensor:
    """The orthonormal directions along which a layer's inputs have the least energy.

    The minimiser of ``||H A^T||`` over A with ``A A^T = I``, where ``second_moment`` is H^T H up to a factor:
    its eigenvectors of the smallest eigenvalues. Signs are chosen so that each row's entry of largest magnitude
    is positive. If more than ``count`` smallest eigenvalues are equal, for example because H has a larger null
    space, the basis is whatever the eigenvalue solver returns.

    Args:
        second_moment: symmetric positive semi-definite ``(n, n)``.
        count: rows of A, at most n.

    Returns:
        float64, ``(count, n)``, orthonormal rows, in ascending order of energy.

    Raises:
        CosamError: ``count`` exceeds n.

    Source: OSRM ("Unraveling LoRA Interference", ACL 2025, arXiv 2505.22934).
    """
    inputs = len(second_moment)
    if count > inputs:
        raise CosamError(
            f"A layer with {inputs} inputs has no {count} orthogonal directions. Set adapter.rank to {inputs} "
            "or less, or method.first_factors=shared."
        )
    rows: Tensor = torch.linalg.eigh(second_moment.double()).eigenvectors[:, :count].T
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * largest.sign()
