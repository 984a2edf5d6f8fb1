"""Changes of a model's weights, kept as thin factors if they are of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors


@dataclass(frozen=True)
class LowRank:
    """The change ``dW = b @ a`` of one linear layer's weight, with the scaling alpha/r folded into ``b``.

    Attributes:
        a: float, ``(rank, inputs)``.
        b: float, ``(outputs, rank)``.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The number of factors, an upper bound on the matrix rank."""
        return self.a.shape[0]

    def dense(self) -> Tensor:
        """``(outputs, inputs)``, the product in the factors' own dtype."""
        return self.b @ self.a

    def scaled(self, factor: float) -> LowRank:
        """The same change times ``factor``."""
        return LowRank(self.a, self.b * factor)

    def to(self, dtype: torch.dtype) -> LowRank:
        """The same factors rounded to ``dtype``."""
        return LowRank(self.a.to(dtype), self.b.to(dtype))


def as_factors(matrix: Tensor) -> LowRank:
    """A dense ``(m, n)`` matrix as ``min(m, n)`` factors, exactly: the matrix itself and an identity.

    >>> as_factors(torch.ones(2, 3)).b
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = matrix.shape
    identity = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return LowRank(a=matrix, b=identity) if rows <= columns else LowRank(a=identity, b=matrix)


@dataclass(frozen=True)
class Update:
    """A change of a frozen base model: what an expert learned, or what a merge serves.

    Attributes:
        low_rank: the change of each linear layer's weight, by the layer's name in the model.
        dense: the difference from the base of other parameters, by parameter name, in the parameter's shape.
    """

    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    dense: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """A flat mapping that ``from_tensors`` reads back: ``prefix + name + .a | .b | .dense``."""
        flat: dict[str, Tensor] = {}
        for name, factors in self.low_rank.items():
            flat[f"{prefix}{name}.a"] = factors.a
            flat[f"{prefix}{name}.b"] = factors.b
        for name, change in self.dense.items():
            flat[f"{prefix}{name}.dense"] = change
        return flat

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> Update:
        """The update that ``tensors(prefix)`` wrote; keys without the prefix are ignored.

        Raises:
            KeyError: one of a layer's two factors is missing.
        """
        mine = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        low_rank = {
            key[:-2]: LowRank(a=value, b=mine[f"{key[:-2]}.b"]) for key, value in mine.items() if key.endswith(".a")
        }
        dense = {key[: -len(".dense")]: value for key, value in mine.items() if key.endswith(".dense")}
        return cls(low_rank, dense)

    def scaled(self, factor: float) -> Update:
        """The same change times ``factor``; itself if that is 1."""
        if factor == 1:
            return self
        return Update(
            {name: factors.scaled(factor) for name, factors in self.low_rank.items()},
            {name: change * factor for name, change in self.dense.items()},
        )

    def digest(self) -> str:
        """sha256 of names, shapes, dtypes and bytes, in sorted order."""
        return digest_tensors(self.tensors())


def add(first: Update, second: Update) -> Update:
    """The sum of two updates: factors are stacked, so ranks add up; dense changes are added.

    Exact: no product is formed and nothing is truncated.
    """
    low_rank = dict(first.low_rank)
    for name, factors in second.low_rank.items():
        other = low_rank.get(name)
        low_rank[name] = (
            factors
            if other is None
            else LowRank(torch.cat([other.a, factors.a]), torch.cat([other.b, factors.b], dim=1))
        )
    dense = dict(first.dense)
    for name, change in second.dense.items():
        dense[name] = dense[name] + change if name in dense else change
    return Update(low_rank, dense)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each computed again whenever it is read, so that only one need be in memory at a time.

    Attributes:
        shapes: of each tensor, by name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], compute: Callable[[str], Tensor]) -> None:
        self.shapes = shapes
        self._compute = compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def shapes_of(tensors: Mapping[str, Tensor]) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor; no lazy tensor is computed for it."""
    if isinstance(tensors, LazyTensors):
        return tensors.shapes
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def lazy_weight_changes(update: Update) -> LazyTensors:
    """The same as ``weight_changes``, each change computed only when it is read."""
    low_rank = {f"{layer}.weight": factors for layer, factors in update.low_rank.items()}
    shapes = {name: (factors.b.shape[0], factors.a.shape[1]) for name, factors in low_rank.items()}

    def compute(name: str) -> Tensor:
        if name not in low_rank:
            return update.dense[name]
        product = low_rank[name].dense()
        return product + update.dense[name] if name in update.dense else product

    return LazyTensors({**shapes, **shapes_of(update.dense)}, compute)


def weight_changes(update: Update) -> dict[str, Tensor]:
    """The dense change of each parameter by name, in its own dtype; ``Update(dense=...)`` of it serves the same model.

    A low-rank change of layer L is ``b @ a`` under ``L.weight``; if that weight has a dense change too, the sum of
    both.
    """
    return dict(lazy_weight_changes(update))


def check_same_parameters(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Refuse two changes that are not of the same parameters in the same shapes.

    Raises:
        CosamError: naming the first parameter that differs.
    """
    _check_same(shapes_of(first), shapes_of(second))


def check_same_layers(first: Update, second: Update) -> None:
    """Refuse two updates that do not change the same layers and parameters in the same shapes and forms.

    Raises:
        CosamError: naming the first layer or parameter that differs.
    """
    both = [
        {name: (factors.b.shape[0], factors.a.shape[1]) for name, factors in update.low_rank.items()}
        | dict(shapes_of(update.dense))
        for update in (first, second)
    ]
    _check_same(*both)


def _check_same(first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name, "nothing"), second.get(name, "nothing")
        if one != other:
            raise CosamError(
                f"Two experts do not fit each other: at {name!r} one changes {one}, the other {other}. "
                "Merge only adapters of one base model with the same adapter settings."
            )
