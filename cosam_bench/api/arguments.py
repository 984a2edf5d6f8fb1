"""What callers may give for a method, an order or a path, as the text that the command line takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cosam_bench.core.errors import CosamError
from cosam_bench.method.registry import FILE_MODULE, GROUP

if TYPE_CHECKING:
    from cosam_bench.method.interface import Method

MethodLike: TypeAlias = "str | Path | type[Method]"


def references(methods: MethodLike | Sequence[MethodLike]) -> list[str]:
    """What ``--method`` would be given for one method or several."""
    if isinstance(methods, str | Path | type):
        return [method_reference(methods)]
    return [method_reference(method) for method in methods]


def joined(names: str | Sequence[str] | None) -> str | None:
    """What an option that takes names separated by commas, such as ``--order``, would be given for them."""
    return names if names is None or isinstance(names, str) else ",".join(names)


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds of a list, or so many: 0, 1, 2 and so on.

    Raises:
        CosamError: there is none, or one is no whole number.
    """
    found = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(type(seed) is int for seed in found):
        raise CosamError(
            f"seeds is {seeds!r}. Give how many, such as 3, or a list of whole numbers, such as [0, 1, 2]."
        )
    if not found:
        raise CosamError(f"seeds is {seeds!r}, which is none. Give at least one.")
    return list(found)


def order_list(orders: int | Sequence[str | Sequence[str]]) -> int | list[str]:
    """What ``--order`` would be given for each order of a list; or how many.

    Raises:
        CosamError: there is none, or it is a single order.
    """
    if isinstance(orders, int) and not isinstance(orders, bool):
        return orders
    if not isinstance(orders, Sequence) or isinstance(orders, str):
        raise CosamError(f"orders is {orders!r}. Give how many, such as 3, or a list; a single order is `order`.")
    if not orders:
        raise CosamError("The list of orders is empty. Name at least one.")
    return [joined(order) or "" for order in orders]


def text(value: str | Path | None) -> str | None:
    """A name or path as text."""
    return None if value is None else str(value)


def method_reference(method: MethodLike) -> str:
    """What ``--method`` would be given for a method.

    Raises:
        CosamError: a class that no file of its own defines. The identity of a run covers the source of its method,
            and a notebook's cell or a running script cannot be read again to repeat it.
    """
    if not isinstance(method, type):
        return str(method)
    module, name = sys.modules.get(method.__module__), method.__qualname__
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__" or getattr(module, name, None) is not method:
        raise CosamError(
            f"The class {name!r} is defined in a notebook, a running script or a function, so the run could not be "
            "repeated from its source. Put it into a file of its own, and give that file's path as the method."
        )
    if module.__name__.startswith(FILE_MODULE):
        return f"{file}:{name}"
    reference = f"{module.__name__}:{name}"
    return next((point.name for point in entry_points(group=GROUP) if point.value == reference), reference)
