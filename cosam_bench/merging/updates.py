"""Changes of a model's weights, kept as thin factors wherever they are of low rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError

Value = TypeVar("Value")


@dataclass(frozen=True)
class LowRank:
    """The change ``dW = b @ a`` of one linear layer's weight, the scaling alpha/r folded into ``b``.

    Attributes:
        a: float, ``(rank, inputs)``.
        b: float, ``(outputs, rank)``.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The number of factors, an upper bound of the matrix rank."""
        return self.a.shape[0]

    def dense(self) -> Tensor:
        """``(outputs, inputs)``, the product in the factors' own dtype."""
        return self.b @ self.a

    def scaled(self, factor: float) -> LowRank:
        """The same change times ``factor``."""
        return LowRank(self.a, self.b * factor)


def whole(change: Tensor) -> LowRank:
    """The change ``(m, n)`` of a whole weight as exact factors, itself and an identity, of rank min(m, n).

    >>> whole(torch.ones(2, 3)).b
    tensor([[1., 0.],
            [0., 1.]])
    """
    outputs, inputs = change.shape
    identity = torch.eye(min(outputs, inputs), dtype=change.dtype, device=change.device)
    return LowRank(a=change, b=identity) if outputs <= inputs else LowRank(a=identity, b=change)


@dataclass(frozen=True)
class Update:
    """A change of a frozen base model: what an expert learned, or what a merge serves.

    Attributes:
        low_rank: by the linear layer's name in the model, its weight's change.
        dense: by the parameter's name in the model, the difference from the base, in its shape.
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
        """The update that ``tensors(prefix)`` wrote; keys without the prefix are passed over.

        Raises:
            KeyError: of a layer's two factors only one is there.
        """
        mine = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        low_rank = {
            key[:-2]: LowRank(a=value, b=mine[f"{key[:-2]}.b"]) for key, value in mine.items() if key.endswith(".a")
        }
        dense = {key[: -len(".dense")]: value for key, value in mine.items() if key.endswith(".dense")}
        return cls(low_rank, dense)

    def digest(self) -> str:
        """sha256 of names, shapes, dtypes and bytes, in sorted order."""
        return digest_tensors(self.tensors())


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the sorted names with each tensor's dtype, shape and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def add(first: Update, second: Update) -> Update:
    """The sum of two updates: factors are stacked (ranks add up), dense changes are added.

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


class Computed(Mapping[str, Value]):
    """Values by name, each computed whenever it is asked for, so that no more than one need be held at a time."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Value]) -> None:
        self._names = dict.fromkeys(names)
        self._compute = compute

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class InTurn(Computed[Tensor]):
    """Tensors that are computed whenever they are asked for.

    Attributes:
        shapes: of each tensor, by name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], compute: Callable[[str], Tensor]) -> None:
        super().__init__(shapes, compute)
        self.shapes = shapes


def taken_from(tensors: dict[str, Tensor]) -> Computed[Tensor]:
    """The tensors, each of which is taken out when it is asked for, so that it is freed when it was used."""
    return Computed(list(tensors), tensors.pop)


def shapes_of(tensors: Mapping[str, Tensor]) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor, without computing one."""
    return (
        tensors.shapes if isinstance(tensors, InTurn) else {name: tuple(part.shape) for name, part in tensors.items()}
    )


def changes_in_turn(update: Update) -> InTurn:
    """What ``weight_changes`` gives, each change formed whenever it is asked for."""
    low_rank = {f"{layer}.weight": factors for layer, factors in update.low_rank.items()}
    shapes = {name: (factors.b.shape[0], factors.a.shape[1]) for name, factors in low_rank.items()}

    def compute(name: str) -> Tensor:
        if name not in low_rank:
            return update.dense[name]
        product = low_rank[name].dense()
        return product + update.dense[name] if name in update.dense else product

    return InTurn(shapes | {name: tuple(change.shape) for name, change in update.dense.items()}, compute)


def weight_changes(update: Update) -> dict[str, Tensor]:
    """The whole change by parameter name, each dense and in its own dtype; ``Update(dense=...)`` serves the same.

    A low-rank change of layer L is ``b @ a`` under ``L.weight``; where that weight has a dense change too, the
    sum of both.
    """
    return dict(changes_in_turn(update))


def check_same_layers(first: Update, second: Update) -> None:
    """Refuse two updates that do not change the same layers by the same shapes.

    Raises:
        CosamError: naming the first layer that differs.
    """
    mine, others = _shapes(first), _shapes(second)
    for name in sorted(mine.keys() | others.keys()):
        if mine.get(name) != others.get(name):
            raise CosamError(
                f"Two updates do not fit each other: at {name!r} one has "
                f"{mine.get(name, 'nothing')}, the other {others.get(name, 'nothing')}. "
                "Merge only adapters of one base model and one adapter setting."
            )


def _shapes(update: Update) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {n: (f.b.shape[0], f.a.shape[1]) for n, f in update.low_rank.items()}
    return shapes | dict(shapes_of(update.dense))
