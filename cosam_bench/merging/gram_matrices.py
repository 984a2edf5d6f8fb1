"""Gram matrices of the inputs of linear layers, summed on the model's device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError

EXACT_WIDTH = 256
"""Up to this many inputs, products are formed in float64, which takes less time there than a layer of SAM itself."""


class InputGrams:
    """The mean of ``x x^T`` over all inputs x of each layer, summed pass by pass on their own device.

    Products are summed in float64. They are formed in float64 if the matrix has at most ``EXACT_WIDTH`` rows, else in
    float32: rounding then moves eigenvalues by up to 1e-7 of the largest, and small ones below zero. Behind a layer
    norm, whose outputs are almost dependent, that decides whether a narrow layer's matrix has an inverse. Only
    ``means`` waits for the device.
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        ends_early: bool,
        projections: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Start with no inputs.

        Args:
            layers: their names, as ``serving.layer_inputs`` passes them to ``add``.
            ends_early: end a pass as soon as each layer has received its inputs as often as in the first pass, which
                is complete. Only for passes that use each layer equally often.
            projections: P ``(k, inputs)``, float32, by layer, on the layer's device: its matrix is then that of P x.
        """
        self._layers = tuple(layers)
        self._ends_early = ends_early
        self._projections = projections
        self._sums: dict[str, Tensor] = {}
        self._rows: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._uses_of_whole: Counter[str] | None = None

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """The passes of one batch; with ``ends_early``, all that follows the last layer's last inputs is skipped."""
        self._uses.clear()
        try:
            yield
        except _AllInputsSeen:
            return
        if self._ends_early:
            self._uses_of_whole = self._uses_of_whole or self._uses.copy()

    def add(self, layer: str, inputs: Tensor) -> None:
        """Add a layer's inputs, float ``(n, inputs)``, in the precision that they have."""
        # Autocast would multiply in bf16, whose Gram matrices have eigenvalues far below zero.
        with torch.autocast(inputs.device.type, enabled=False):
            rows = inputs.float()
            if layer in self._projections:
                rows = rows @ self._projections[layer].T
            if rows.shape[1] <= EXACT_WIDTH:
                rows = rows.double()
            gram = rows.T @ rows
        if layer in self._sums:
            self._sums[layer] += gram
        else:
            self._sums[layer] = gram.double()
        self._rows[layer] += len(inputs)
        self._uses[layer] += 1
        if self._uses == self._uses_of_whole:
            raise _AllInputsSeen

    def means(self) -> dict[str, Tensor]:
        """The means by layer, in the order of first use, float64 on the CPU, ``(inputs, inputs)`` or ``(k, k)``.

        Raises:
            CosamError: a layer received no inputs.
        """
        unseen = next((layer for layer in self._layers if layer not in self._sums), None)
        if unseen is not None:
            raise CosamError(
                f"No prediction passes the layer {unseen!r}, so it has no inputs to learn from. "
                "Choose other adapter.targets, or a method that needs no inputs."
            )
        return {layer: (total / self._rows[layer]).cpu() for layer, total in self._sums.items()}


class _AllInputsSeen(Exception):
    """Every layer has received all inputs of a complete pass."""
