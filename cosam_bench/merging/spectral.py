"""Singular values and norms of thin factors, without forming the ``m x n`` product.

All work is in float64 and costs O((m + n) r^2) for factors ``b (m, r)`` and ``a (r, n)``: QR of both sides
leaves an ``r x r`` core with the same singular values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import LowRank, Update, as_factors

# What rounding alone leaves, relative to the largest singular value: 1e-16 times a few operations in float64, and
# 1e-7 in float32 factors if two that were rounded separately cancel out.
_FLOAT64_TOLERANCE = 1e-10
_FLOAT32_TOLERANCE = 1e-6
_FIRST_GUESS = 96  # columns: eight domains' factors at rank 10, and some to see that there are no more


def rank_tolerance(dtype: torch.dtype) -> float:
    """The share of the largest singular value below which one counts as zero, in factors of this dtype.

    For factors only. A difference ``W - W0`` of float32 weights has noise of about 1e-7 of W, which is far more
    of a small change, so this does not give its rank.
    """
    return _FLOAT64_TOLERANCE if dtype == torch.float64 else _FLOAT32_TOLERANCE


@dataclass(frozen=True)
class Spectrum:
    """A thin singular value decomposition, ``u diag(s) v^T``, float64.

    Attributes:
        u: ``(m, k)``, orthonormal columns.
        s: ``(k,)``, at least 0, descending.
        v: ``(n, k)``, orthonormal columns.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    def first(self, count: int) -> Spectrum:
        """The ``count`` largest singular values, or all if there are fewer."""
        return Spectrum(self.u[:, :count], self.s[:count], self.v[:, :count])

    def factors(self, dtype: torch.dtype) -> LowRank:
        """``b = u diag(s)`` and ``a = v^T``, rounded to ``dtype``."""
        return LowRank(a=self.v.T.contiguous().to(dtype), b=(self.u * self.s).to(dtype))


def thin_svd(factors: LowRank) -> Spectrum:
    """The singular value decomposition of ``b @ a``, with ``min(rank, m, n)`` singular values.

    Raises:
        CosamError: the factors are not finite.
    """
    left, core_left = torch.linalg.qr(_finite(factors.b))
    right, core_right = torch.linalg.qr(_finite(factors.a).T)
    u, s, vh = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    return Spectrum(left @ u, s, right @ vh.T)


def _finite(factor: Tensor) -> Tensor:
    if not torch.isfinite(factor).all():
        raise CosamError("A layer's factors are not finite: did an expert's training diverge?")
    return factor.double()


def numerical_rank(singular_values: Tensor, *, tolerance: float) -> int:
    """How many of them exceed ``tolerance`` times the largest; 0 if all are zero."""
    if not len(singular_values):
        return 0
    return int((singular_values > tolerance * singular_values.max()).sum())


def discarded_energy(singular_values: Tensor, *, rank: int) -> float:
    """``1 - sum_{i<=rank} s_i^2 / sum_i s_i^2`` of descending singular values; 0.0 if all are zero."""
    energies = singular_values.square()
    total = energies.sum().item()
    return energies[rank:].sum().item() / total if total > 0 else 0.0


def compress(factors: LowRank, *, tolerance: float | None = None) -> LowRank:
    """The same change with no more factors than its rank, ``b = U S`` and ``a = V^T``.

    Args:
        factors: of any dtype, which the result keeps.
        tolerance: singular values up to this share of the largest are dropped; None: ``rank_tolerance`` of
            the factors' dtype.

    Returns:
        The change with an error of at most ``tolerance`` times its largest singular value for each one
        dropped; no factors, ``a (0, n)`` and ``b (m, 0)``, for a zero change.
    """
    spectrum = thin_svd(factors)
    kept = numerical_rank(spectrum.s, tolerance=rank_tolerance(factors.b.dtype) if tolerance is None else tolerance)
    return spectrum.first(kept).factors(factors.b.dtype)


def frobenius_norm(factors: LowRank) -> float:
    """``||b a||``, by QR, so that factors that cancel out give zero up to float64's rounding."""
    core_left = torch.linalg.qr(_finite(factors.b)).R
    core_right = torch.linalg.qr(_finite(factors.a).T).R
    return float(torch.linalg.matrix_norm(core_left @ core_right.T))


def update_norm(update: Update) -> float:
    """The norm over all changed weights; a weight with a low-rank and a dense change counts with their sum."""
    norm = UpdateNorm(update.dense)
    for layer, factors in update.low_rank.items():
        norm.add(layer, factors)
    return norm.value()


class UpdateNorm:
    """``update_norm`` of an update whose low-rank changes are added one after another, in any order: the same bits."""

    def __init__(self, dense: Mapping[str, Tensor]) -> None:
        self._dense = {name: change.double() for name, change in dense.items()}
        self._energies: dict[str, float] = {}

    def add(self, layer: str, factors: LowRank) -> None:
        """Add one more layer's change."""
        name = f"{layer}.weight"
        if name in self._dense:
            self._dense[name] = self._dense[name] + _finite(factors.b) @ _finite(factors.a)
        else:
            self._energies[layer] = frobenius_norm(factors) ** 2

    def value(self) -> float:
        """The norm of all."""
        energy = sum(self._energies[layer] for layer in sorted(self._energies))
        return math.sqrt(energy + sum(float(self._dense[name].square().sum()) for name in sorted(self._dense)))


def find_factors(matrix: Tensor, *, tolerance: float) -> LowRank:
    """A dense ``(m, n)`` matrix as few factors if it is of low rank, else as ``as_factors``.

    The columns of ``b`` span the images of random vectors, twice as many each time until nothing above
    ``tolerance`` times the largest singular value remains outside.

    Args:
        matrix: finite, of any dtype.
        tolerance: above the matrix's own rounding.

    Returns:
        float64, ``b (m, k)`` with orthonormal columns and ``a (k, n)``, k at least the rank.

    Source: Halko, Martinsson and Tropp, "Finding Structure with Randomness", SIAM Review 2011, section 4.
    """
    whole = matrix.double()
    count, draws = _FIRST_GUESS, torch.Generator().manual_seed(0)
    while 2 * count <= min(whole.shape):
        random = torch.randn(whole.shape[1], count, generator=draws, dtype=torch.float64)
        b = torch.linalg.qr(whole @ random.to(whole.device)).Q
        a = b.T @ whole
        # The largest singular value is at least the root of the mean square of all k.
        if torch.linalg.matrix_norm(whole - b @ a) <= tolerance * torch.linalg.matrix_norm(a) / math.sqrt(count):
            return LowRank(a, b)
        count *= 2
    return as_factors(whole)


@dataclass(frozen=True)
class JointCore:
    """Two changes of one layer in common orthonormal coordinates: each is ``left @ core @ right^T``.

    Any combination of the two has the same singular values, norms and inner products as that of the cores.

    Attributes:
        left: float64, ``(m, p)``, orthonormal columns that span both column spaces.
        right: float64, ``(n, q)``, orthonormal columns that span both row spaces.
        first: float64, ``(p, q)``.
        second: float64, ``(p, q)``.
    """

    left: Tensor
    right: Tensor
    first: Tensor
    second: Tensor

    def spectrum(self, core: Tensor) -> Spectrum:
        """The decomposition of ``left @ core @ right^T``."""
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        return Spectrum(self.left @ u, s, self.right @ vh.T)


def joint_core(first: LowRank, second: LowRank) -> JointCore:
    """Common coordinates of two changes of the same shape, in float64.

    Raises:
        CosamError: their shapes differ, or they are not finite.
    """
    shapes = [(factors.b.shape[0], factors.a.shape[1]) for factors in (first, second)]
    if shapes[0] != shapes[1]:
        raise CosamError(
            f"Two changes of one layer have the shapes {shapes[0]} and {shapes[1]}. Merge only equal layers."
        )
    left, b = torch.linalg.qr(_finite(torch.cat([first.b, second.b], dim=1)))
    right, a = torch.linalg.qr(_finite(torch.cat([first.a, second.a])).T)
    split = first.rank
    return JointCore(left, right, b[:, :split] @ a[:, :split].T, b[:, split:] @ a[:, split:].T)
