"""A merge as a search within the subspace that a training run spans, with exact gradients.

TRM, reconstructed from the abstract of arXiv 2605.08311: everything here beyond the abstract's three aims is this
project's reading, not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice, pairwise
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """What the search sees at a point: scalars of one forward pass, with a graph to the parameters.

    Attributes:
        parameters: they hold the point's values.
        alignment: L_TA.
        consistency: L_PC.
        probe: the loss on labels that were not trained, whose gradient's norm is the responsiveness; None if that
            does not count.
    """

    parameters: Sequence[Tensor]
    alignment: Tensor
    consistency: Tensor
    probe: Tensor | None = None


Evaluate = Callable[[Sequence[Tensor]], Losses]


@dataclass(frozen=True)
class Trajectory:
    """The points ``start + sum_m c[row, m] * direction_m``, for coefficients c.

    Attributes:
        start: the adapter's tensors before training, of any shapes.
        rows: for each tensor, the row of the coefficients that moves it; tensors of one layer share a row.
        directions: the training's segments in order, each shaped like ``start``.
        history: a last direction that rescales the earlier change; None: it is not moved.
    """

    start: tuple[Tensor, ...]
    rows: tuple[int, ...]
    directions: tuple[tuple[Tensor, ...], ...]
    history: tuple[Tensor, ...] | None = None

    @classmethod
    def from_points(
        cls, points: Sequence[Sequence[Tensor]], *, rows: Sequence[int], history: Sequence[Tensor] | None = None
    ) -> Trajectory:
        """The subspace of a run through these points, beginning at the first."""
        segments = tuple(
            tuple(later - earlier for earlier, later in zip(before, after, strict=True))
            for before, after in pairwise(points)
        )
        return cls(tuple(points[0]), tuple(rows), segments, tuple(history) if history is not None else None)

    @property
    def all_directions(self) -> tuple[tuple[Tensor, ...], ...]:
        """All directions, the history's last."""
        return self.directions if self.history is None else (*self.directions, self.history)

    def initial_coefficients(self) -> Tensor:
        """Halfway along every segment, the history unchanged: ``(rows, directions)``."""
        return self._in_columns(0.5, 0.0)

    def clamp_(self, coefficients: Tensor) -> None:
        """Keep segments within [-0.2, 1.2] and the history within [-0.2, 0.2], in place."""
        lowest, highest = self._in_columns(-0.2, -0.2), self._in_columns(1.2, 0.2)
        coefficients.copy_(torch.minimum(torch.maximum(coefficients, lowest), highest))

    def _in_columns(self, segment: float, history: float) -> Tensor:
        first = self.start[0]
        values = torch.full(
            (max(self.rows) + 1, len(self.all_directions)), segment, dtype=first.dtype, device=first.device
        )
        if self.history is not None:
            values[:, -1] = history
        return values

    def point_at(self, coefficients: Tensor) -> list[Tensor]:
        """The point of these coefficients ``(rows, directions)``, as tensors like ``start``."""
        return [
            tensor + sum(coefficients[row, number] * move[place] for number, move in enumerate(self.all_directions))
            for place, (row, tensor) in enumerate(zip(self.rows, self.start, strict=True))
        ]

    def directional_derivatives(self, gradients: Sequence[Tensor]) -> Tensor:
        """The inner product of each row's gradient with each of its directions, ``(rows, directions)``."""
        products = torch.zeros_like(self.initial_coefficients())
        for place, row in enumerate(self.rows):
            for number, move in enumerate(self.all_directions):
                products[row, number] += (gradients[place] * move[place]).sum()
        return products

    @cached_property
    def segment_shares(self) -> Tensor:
        """``||s_k||^2 / ||sum_k s_k||^2`` of each row's segments, zero for the history: ``(rows, directions)``."""
        squares = torch.zeros_like(self.initial_coefficients())
        whole = torch.zeros(len(squares), 1, dtype=squares.dtype, device=squares.device)
        for place, row in enumerate(self.rows):
            parts = [move[place] for move in self.directions]
            for number, part in enumerate(parts):
                squares[row, number] += part.square().sum()
            whole[row] += sum(parts, torch.zeros_like(parts[0])).square().sum()
        return torch.where(whole > 0, squares / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0)


Normalisation = Literal["old", "range", "none"]
LEAST_FALL = 0.05  # below the change of a mini-batch's loss from one step to the next


@dataclass(frozen=True)
class ObjectiveWeights:
    """The weight of each objective: J = alignment L_TA + consistency L_PC + responsiveness L_GR + anchor R.

    The defaults are those of ``trm``.

    Attributes:
        floor: rho; the probe's gradient should keep at least this share of the reference norm.
    """

    alignment: float = 1.0
    consistency: float = 0.1
    responsiveness: float = 0.0
    anchor: float = 0.55
    floor: float = 0.5

    def normalised(self, by: Normalisation, *, alignment: tuple[float, float], consistency: float) -> ObjectiveWeights:
        """The weights divided by a scale of each objective on this path, so that domains weigh alike.

        Args:
            by: ``old``: L_TA by its value at the old point, so that a training that hardly lowered it moves the merge
                less. ``range``: L_TA by how far it fell between the ends; a fall by less than ``LEAST_FALL`` of its
                value counts as one by so much, because what is left is noise. Both: L_PC by its value at the new
                point, its range, since it is 0 at the old one. ``none``: neither is divided.
            alignment: L_TA at the old point and at the new one.
            consistency: L_PC at the new one. A scale that is not above 0 leaves its weight as it is.

        >>> ObjectiveWeights().normalised("range", alignment=(0.5, 0.25), consistency=0.1).alignment
        4.0
        """
        if by == "none":
            return self
        before, after = alignment
        scale = before if by == "old" else max(before - after, LEAST_FALL * before)
        return replace(
            self,
            alignment=self.alignment / scale if scale > 0 else self.alignment,
            consistency=self.consistency / consistency if consistency > 0 else self.consistency,
        )


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        coefficients: ``(rows, directions)``.
        values: J before each step.
    """

    coefficients: Tensor
    values: tuple[float, ...]


def search(
    batches: Sequence[Evaluate],
    trajectory: Trajectory,
    *,
    weights: ObjectiveWeights,
    reference_norm: float,
    steps: int,
    learning_rate: float,
    tolerance: float,
) -> Found:
    """The coefficients that Adam finds from the middle of the path; the batches take turns, one per step.

    Args:
        batches: the losses at a point, for each of the batches.
        reference_norm: as for ``objective_and_gradient``.
        steps: at most so many.
        tolerance: as for ``has_converged``.
    """
    coefficients = trajectory.initial_coefficients()
    adam = torch.optim.Adam([coefficients], lr=learning_rate)
    values: list[float] = []
    for evaluate in islice(cycle(batches), steps):
        value, coefficients.grad = objective_and_gradient(
            evaluate, trajectory, coefficients, weights=weights, reference_norm=reference_norm
        )
        values.append(value)
        adam.step()
        trajectory.clamp_(coefficients)
        if has_converged(values, batches=len(batches), tolerance=tolerance):
            break
    return Found(coefficients, tuple(values))


def has_converged(values: Sequence[float], *, batches: int, tolerance: float) -> bool:
    """Whether the last pass over all batches lowered their mean by less than ``tolerance``, at the end of a pass.

    >>> has_converged([4, 2, 3, 2], batches=2, tolerance=0.6), has_converged([4, 2, 3, 2], batches=2, tolerance=0.5)
    (True, False)
    """
    if len(values) % batches or len(values) < 2 * batches:
        return False
    before, last = sum(values[-2 * batches : -batches]) / batches, sum(values[-batches:]) / batches
    return before - last < tolerance


def objective_and_gradient(
    evaluate: Evaluate,
    trajectory: Trajectory,
    coefficients: Tensor,
    *,
    weights: ObjectiveWeights,
    reference_norm: float,
) -> tuple[float, Tensor]:
    """The objective J at the coefficients, and its gradient; no second derivative is taken.

    L_TA and L_PC share a forward and a backward pass. With g the gradient of the probe's loss at the point and n its
    norm, L_GR = max(0, 1 - n / (rho n_ref))^2. Below the floor its gradient needs the Hessian times g / n, which is
    taken from central differences of g.

    Args:
        evaluate: the losses at a point.
        coefficients: ``(rows, directions)``.
        reference_norm: n_ref, above 0 if responsiveness counts.

    Returns:
        J and dJ/dc, ``(rows, directions)``.
    """
    point = trajectory.point_at(coefficients)
    losses = evaluate(point)
    joint = weights.alignment * losses.alignment + weights.consistency * losses.consistency
    slopes = gradients(joint, losses.parameters, retain_graph=losses.probe is not None)
    shares = trajectory.segment_shares
    anchor = weights.anchor / len(coefficients)
    value = joint.item() + anchor * (shares * coefficients.square()).sum().item()
    gradient = trajectory.directional_derivatives(slopes) + 2 * anchor * shares * coefficients
    if losses.probe is None or weights.responsiveness == 0:
        return value, gradient
    probe = gradients(losses.probe, losses.parameters)
    norm, floor = total_norm(probe), weights.floor * reference_norm
    if 0 < norm < floor:
        lack = 1 - norm / floor
        turned = _hessian_vector_product(
            evaluate, point, [slope / norm for slope in probe], scale=total_norm(trajectory.start)
        )
        value += weights.responsiveness * lack**2
        gradient = gradient - weights.responsiveness * 2 * lack / floor * trajectory.directional_derivatives(turned)
    return value, gradient


def gradients(scalar: Tensor, parameters: Sequence[Tensor], *, retain_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient for each parameter; zero if the scalar is independent of it, as masks are of the IoU head."""
    return torch.autograd.grad(scalar, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The Frobenius norm of all tensors together."""
    return float(sum(tensor.square().sum() for tensor in tensors) ** 0.5)


def _hessian_vector_product(
    evaluate: Evaluate, point: Sequence[Tensor], unit: Sequence[Tensor], *, scale: float
) -> list[Tensor]:
    """The Hessian of the probe's loss times a unit vector, by central differences."""
    width = 1e-3 * max(1.0, scale)
    ends = []
    for sign in (1, -1):
        moved = [tensor + sign * width * step for tensor, step in zip(point, unit, strict=True)]
        losses = evaluate(moved)
        assert losses.probe is not None
        ends.append(gradients(losses.probe, losses.parameters))
    return [(upper - lower) / (2 * width) for upper, lower in zip(*ends, strict=True)]
