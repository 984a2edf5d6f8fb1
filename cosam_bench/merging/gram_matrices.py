"""Gram matrices of what linear layers are given, summed where the model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError


class InputGrams:
    """The mean of ``x x^T`` over all inputs x of some layers, added up pass by pass on their own device.

    Products are formed in float32 and summed in float64. Only ``means`` waits for the device.
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        ends_early: bool,
        projections: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Nothing yet.

        Args:
            layers: as ``serving.layer_inputs`` names them to ``add``.
            ends_early: end a pass as soon as each layer was given its inputs as often as in the first pass, which
                is whole. Only for passes that use each layer equally often.
            projections: float32 by layer, P ``(k, inputs)`` on the layer's device: its matrix is then that of P x.
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
        """The passes of one batch; what comes in it after the last layer's last inputs is left out."""
        self._uses.clear()
        try:
            yield
        except _NothingLeft:
            return
        if self._ends_early:
            self._uses_of_whole = self._uses_of_whole or self._uses.copy()

    def add(self, layer: str, inputs: Tensor) -> None:
        """Add a layer's inputs, float ``(n, inputs)``, in the precision in which they arrive."""
        # Autocast would multiply in bf16, whose Gram matrices have eigenvalues far below zero.
        with torch.autocast(inputs.device.type, enabled=False):
            rows = inputs.float()
            if layer in self._projections:
                rows = rows @ self._projections[layer].T
            gram = rows.T @ rows
        if layer in self._sums:
            self._sums[layer] += gram
        else:
            self._sums[layer] = gram.double()
        self._rows[layer] += len(inputs)
        self._uses[layer] += 1
        if self._uses == self._uses_of_whole:
            raise _NothingLeft

    def means(self) -> dict[str, Tensor]:
        """By layer, in the order in which they were first seen, float64 on the CPU, ``(inputs, inputs)`` or ``(k, k)``.

        Raises:
            CosamError: a layer was given nothing.
        """
        unseen = next((layer for layer in self._layers if layer not in self._sums), None)
        if unseen is not None:
            raise CosamError(
                f"No prediction passes the layer {unseen!r}, so nothing is known of its inputs. "
                "Choose other adapter.targets, or a method that needs no inputs."
            )
        return {layer: (total / self._rows[layer]).cpu() for layer, total in self._sums.items()}


class _NothingLeft(Exception):
    """Every layer has been given what it is given in a whole pass."""
