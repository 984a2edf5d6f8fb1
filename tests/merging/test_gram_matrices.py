"""Sums of products of a layer's inputs, above all of almost dependent ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cosam_bench.merging.gram_matrices import EXACT_WIDTH, InputGrams


def after_a_layer_norm(width: int, *, spread: float) -> Tensor:
    """Inputs as a fresh norm leaves them: their sum is nearly 0 in every row."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.layer_norm(torch.randn(4000, width, generator=generator), [width])
    return rows + spread * torch.randn(rows.shape, generator=generator)


def mean_of(rows: Tensor, projections: dict[str, Tensor] | None = None) -> Tensor:
    grams = InputGrams(["layer"], ends_early=False, projections=projections or {})
    for part in rows.split(1000):
        with grams.one_pass():
            grams.add("layer", part)
    return grams.means()["layer"]


def test_a_narrow_layer_keeps_its_smallest_eigenvalue() -> None:
    rows = after_a_layer_norm(10, spread=2e-5)
    exact = np.linalg.svd(rows.double().numpy(), compute_uv=False) ** 2 / len(rows)
    found = torch.linalg.eigvalsh(mean_of(rows)).flip(0)
    assert exact[0] / exact[-1] > 1e9  # beyond what products in float32 could tell
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-5)
    rounded = sum((part.T @ part).double() for part in rows.split(1000)) / len(rows)
    assert abs(torch.linalg.eigvalsh(rounded)[0] / exact[-1] - 1) > 0.5


def test_the_width_that_counts_is_the_projections() -> None:
    wide = torch.randn(300, EXACT_WIDTH + 1, generator=torch.Generator().manual_seed(1))
    matrix = torch.randn(3, EXACT_WIDTH + 1, generator=torch.Generator().manual_seed(2))
    seen = (wide @ matrix.T).double()
    assert torch.equal(mean_of(wide, {"layer": matrix}), seen.T @ seen / len(seen))
    exact = wide.double().T @ wide.double() / len(wide)
    assert not torch.equal(mean_of(wide), exact)
    torch.testing.assert_close(mean_of(wide), exact, rtol=1e-4, atol=1e-5)
