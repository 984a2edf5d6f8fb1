"""The losses of a training's steps: added up by epoch, and refused if they are no longer finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError


class EpochLosses:
    """The losses of all steps; a GPU that nobody watches is not waited for before an epoch ends."""

    def __init__(self, epochs: int, *, is_deferred: bool) -> None:
        """No losses yet.

        Args:
            is_deferred: read the losses from the device when their epoch is over, not step by step.
        """
        self._totals = [0.0] * epochs
        self._images = [0] * epochs
        self._is_deferred = is_deferred
        self._unread: list[tuple[Tensor, int, int]] = []

    def add(self, loss: Tensor, *, epoch: int, images: int) -> float | None:
        """Count the loss of a step, the mean over its images; as a number if it is read at once.

        Args:
            loss: a scalar.
            epoch: counted from 0; those of earlier epochs are read now.

        Raises:
            CosamError: a loss that is read is no longer finite.
        """
        if self._unread and self._unread[0][1] != epoch:
            self._read()
        self._unread.append((loss.detach(), epoch, images))
        return None if self._is_deferred else self._read()

    def means(self) -> tuple[float, ...]:
        """The mean loss of each epoch.

        Raises:
            CosamError: a loss that was not read yet is no longer finite.
        """
        self._read()
        return tuple(total / images for total, images in zip(self._totals, self._images, strict=True))

    def _read(self) -> float:
        """Read and count what is unread, in one transfer; the last of the losses."""
        values = torch.stack([loss for loss, _, _ in self._unread]).tolist() if self._unread else []
        for value, (_, epoch, images) in zip(values, self._unread, strict=True):
            check_finite(value, epoch=epoch)
            self._totals[epoch] += value * images
            self._images[epoch] += images
        self._unread.clear()
        return values[-1] if values else math.nan


def check_finite(value: float, *, epoch: int, setting: str = "fit.learning_rate") -> None:
    """Raise a ``CosamError`` that names the ``setting`` to lower if a loss is no longer finite."""
    if not math.isfinite(value):
        raise diverged(epoch, f"the loss is {value}", setting=setting)


def diverged(epoch: int, found: str, *, setting: str = "fit.learning_rate") -> CosamError:
    """The error of a training that diverged in an epoch, counted from 0."""
    return CosamError(f"Training diverged in epoch {epoch + 1}: {found}. Lower {setting} or use fit.precision=fp32.")
