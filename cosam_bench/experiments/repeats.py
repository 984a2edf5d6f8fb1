"""The same methods with several seeds and several orders of the domains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cosam_bench.core.errors import CosamError, refuse_twice
from cosam_bench.data.orders import domain_order
from cosam_bench.experiments.options import RunOptions, resolve

if TYPE_CHECKING:
    from cosam_bench.experiments.protocol import RunConfig


MOST_SEEDS = 1000
"""Of one command; more would be a slip of the keyboard, and each run is checked before the first one begins."""


@dataclass(frozen=True)
class Repeat:
    """All methods with one seed and one order.

    Attributes:
        configs: one per method.
        label: what tells it from the other repeats, such as ``seed 1, order random:2``; empty if it is the only one.
    """

    configs: list[RunConfig]
    label: str


def resolve_repeats(
    methods: Sequence[str], options: RunOptions, *, seeds: Sequence[int] = (), orders: Sequence[str | None] | int = ()
) -> list[Repeat]:
    """Every combination of seed and order, the seeds of the first order first; see ``resolve``.

    Args:
        methods: as for ``resolve``.
        options: of all runs; its seed and order are used if no others are given.
        seeds: of the runs.
        orders: as ``--order`` takes them, None for the stream's; a number: that many, see ``different_orders``.

    Raises:
        CosamError: as for ``resolve``; a seed or order is given twice; there are not so many orders.
    """
    refuse_twice("seed", seeds)
    names = _stream_order(methods, options) if isinstance(orders, int) or None in orders else ()
    if isinstance(orders, int):
        orders = different_orders(orders, names)
    refuse_twice("order", orders)
    own = ",".join(names) or None
    repeats = []
    for order in orders or (options.order,):
        for seed in seeds or (options.seed,):
            named = [f"seed {seed}"] * (len(seeds) > 1) + [f"order {order or 'of the stream'}"] * (len(orders) > 1)
            configs = resolve(methods, replace(options, seed=seed, order=order or own))
            repeats.append(Repeat(configs, ", ".join(named)))
    return repeats


def _stream_order(methods: Sequence[str], options: RunOptions) -> tuple[str, ...]:
    from cosam_bench.data.streams import load_stream

    return load_stream(resolve(methods, options)[0].protocol.stream).order


def different_orders(count: int, names: tuple[str, ...]) -> list[str | None]:
    """The stream's own order, None, then random ones that differ from it and from one another.

    Args:
        count: how many, at least 1.
        names: the domains in the stream's order.

    Raises:
        CosamError: so few domains have not so many orders.

    >>> different_orders(3, ("a", "b", "c"))
    [None, 'random:2', 'random:3']
    """
    if count < 1:
        raise CosamError(f"{count} orders were asked for. Ask for at least one.")
    most = math.factorial(len(names))
    if count > most:
        raise CosamError(f"{count} orders were asked for; {len(names)} domains have {most}. Ask for at most that many.")
    found: dict[tuple[str, ...], str | None] = {names: None}
    for asked, order in _random_orders(names):
        if len(found) >= count:
            break
        found.setdefault(order, asked)
    return list(found.values())


def _random_orders(names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    number = 1
    while True:
        asked = f"random:{number}"
        yield asked, tuple(domain_order(asked, names))
        number += 1
