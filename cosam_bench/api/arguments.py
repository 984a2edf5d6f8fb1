"""What callers may give for a method, an order or a path, as the text that the command line takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.repeats import MOST_SEEDS
from cosam_bench.method.offered_methods import offered_methods
from cosam_bench.method.registry import FILE_MODULE

if TYPE_CHECKING:
    from cosam_bench.method.interface import Method
    from cosam_bench.results.selection import Selection

MethodLike: TypeAlias = "str | Path | type[Method]"

METHODS = "a method's name, path or class, or a list of these"
SEEDS = "how many, such as 3, or a list of whole numbers, such as [0, 1, 2]"
ORDERS = "how many, such as 3, or a list; a single order is `order`"
SETTINGS = """settings by their keys, such as {"adapter.rank": 4}"""
SCALES = """True or False; lengths of your own are settings={"scales": [0.5, 1.0]}"""
"""What to give for an argument, in messages."""


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
        CosamError: there is none, or so many cannot be listed.
    """
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise CosamError(f"seeds is {seeds!r}. Give a number of at most {MOST_SEEDS}, or a list.")
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found:
        raise CosamError(f"seeds is {seeds!r}, which is none. Give at least one.")
    return found


def order_list(orders: int | Sequence[str | Sequence[str]]) -> int | list[str]:
    """What ``--order`` would be given for each order of a list; or how many.

    Raises:
        CosamError: there is none.
    """
    if isinstance(orders, int):
        return orders
    if not orders:
        raise CosamError("The list of orders is empty. Name at least one.")
    return [joined(order) or "" for order in orders]


def names(given: str | Sequence[str]) -> list[str]:
    """One name or several as a list."""
    return [given] if isinstance(given, str) else list(given)


def selection(
    *,
    protocol: str | None,
    methods: str | Sequence[str] | None,
    models: str | Sequence[str] | None,
    settings: Mapping[str, object] | None,
    seeds: Sequence[int] | None,
    orders: Sequence[str | Sequence[str]] | None,
) -> Selection:
    """Which records to show; what is None chooses all.

    Raises:
        CosamError: a list is empty, or a setting's value is none that a protocol can hold.
    """
    from cosam_bench.experiments.options import setting_texts
    from cosam_bench.results.selection import Selection

    given = {"methods": methods, "models": models, "settings": settings, "seeds": seeds, "orders": orders}
    for name, value in given.items():
        if value is not None and not value:
            raise CosamError(f"{name} is empty. Name at least one, or leave it out.")
    return Selection(
        protocols=() if protocol is None else (protocol,),
        methods=tuple(names(methods or ())),
        models=tuple(names(models or ())),
        settings=setting_texts(settings or {}),
        seeds=tuple(range(seed, seed + 1) for seed in seeds or ()),
        orders=tuple(joined(order) or "" for order in orders or ()),
    )


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
    return next((point.name for point in offered_methods() if point.value == reference), reference)
