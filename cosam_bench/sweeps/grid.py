"""What a sweep varies: methods, orders, seeds, models and settings, each with each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from cosam_bench.core.errors import CosamError, refuse_twice
from cosam_bench.core.settings import Settings, read_toml, setting, validate
from cosam_bench.data.orders import domain_order
from cosam_bench.experiments.options import RunOptions, resolve, setting_texts
from cosam_bench.experiments.overrides import override_path
from cosam_bench.experiments.own_protocol import OWN
from cosam_bench.experiments.repeats import MOST_SEEDS, different_orders

if TYPE_CHECKING:
    from cosam_bench.data.streams import Stream
    from cosam_bench.experiments.protocol import RunConfig

_AXES = {
    ("seed",): "seeds",
    ("order",): "orders",
    ("device",): "device",
    ("protocol", "model", "name"): "models",
}
"""By the place of a key in the tables of a run, the key of a grid that it is varied by."""

_Count = Annotated[int, Field(ge=1, le=MOST_SEEDS)]
_Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Variant(NamedTuple):
    """A run of a sweep, but for its seed and order.

    Attributes:
        config: its resolved settings, at the first seed and in the stream's order.
        label: its table of settings as text, if the sweep has several; else empty.
    """

    config: RunConfig
    label: str


class Grid(Settings):
    """A sweep: one run for each method, order, seed, model and table of settings."""

    methods: tuple[str, ...] = setting(..., "the methods, as `run --method` takes each", min_length=1)
    protocol: str = setting("mini", "a built-in protocol or a TOML file", source="as `run`")
    mode: str = setting("clean", "the protocol's mode", source="as `run`")
    orders: _Count | tuple[str, ...] = setting(
        1,
        "how many: the stream's own, then random:1, random:2 and so on, without those that an earlier one equals; or a "
        "list of orders as `run --order` takes each, and `stream` for the stream's own",
        source="one: the stream's own",
    )
    seeds: _Count | tuple[_Seed, ...] = setting(
        1, "how many: 0, 1, 2 and so on; or a list of seeds", source="one: the default of `run`"
    )
    models: tuple[str, ...] = setting((), "base models; empty: the protocol's", source="as `run`")
    settings: tuple[dict[str, Any], ...] = setting(
        ({},), "tables of settings by their keys, as `run --set` takes them", source="one table: the protocol's"
    )
    device: str = setting("auto", "as `run --device` takes it", source="as `run`")
    threads: int = setting(
        1,
        "threads of each process; another number rounds sums differently, so its experts and rows are others",
        source="this project: one process per core does most work per second",
        ge=1,
        le=1024,
    )
    store: str = setting(
        "", "the address through which workers exchange files, such as `s3://bucket/prefix`", source="none"
    )
    isolated: bool | None = setting(
        None, "run methods in processes of their own; not given: those that are not built in", source="as `run`"
    )

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def all_orders(self, stream: Stream) -> tuple[tuple[str, ...], ...]:
        """The orders of the stream's domains: as many different ones as asked for, or those of a list without those
        that an earlier one equals.

        Raises:
            CosamError: an order does not fit the stream, or so few domains have not so many.
        """
        if isinstance(self.orders, int):
            different = different_orders(self.orders, tuple(stream.order))
            return tuple(tuple(stream.order) if one is None else _order(one, stream) for one in different)
        return tuple(dict.fromkeys(_order(one, stream) for one in self.orders))

    def variants(self, *, results: Path | None = None) -> list[Variant]:
        """The run of each method, model and table of settings.

        Args:
            results: the folder of records, which an isolated method must not see; None: the default one.

        Raises:
            CosamError: an axis is empty or has something twice, or a name, a key or a value does not fit.
        """
        if self.protocol == OWN:
            raise CosamError(
                f"The protocol {OWN!r} is for a stream that `run --stream` names, and a sweep takes none. Write a "
                "protocol that names the stream (docs/your-data.md, step 6) and give its file, or give `run` several "
                "--seeds and --orders."
            )
        for axis in ("orders", "seeds", "settings"):
            if not isinstance(value := getattr(self, axis), int) and not value:
                raise CosamError(f"The sweep's {axis!r} is an empty list. Name at least one, or leave the key out.")
        for what, given in (("order", self.orders), ("seed", self.seeds), ("model", self.models)):
            refuse_twice(what, () if isinstance(given, int) else given)
        found: list[Variant] = []
        for model in self.models or (None,):
            for table in self.settings:
                texts = _allowed(setting_texts(table))
                options = RunOptions(
                    protocol=self.protocol,
                    mode=self.mode,
                    model=model,
                    device=self.device,
                    settings=texts,
                    isolated=self.isolated,
                    results=results,
                )
                label = " ".join(texts) if len(self.settings) > 1 else ""
                found += [Variant(config, label) for config in resolve(self.methods, options)]
        return found


def _order(asked: str, stream: Stream) -> tuple[str, ...]:
    return tuple(domain_order(asked, stream.order, named=stream.orders))


def _allowed(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if axis := _AXES.get(override_path(text)):
            key = text.partition("=")[0]
            raise CosamError(f"{key!r} cannot be among a sweep's settings. Give it as {axis!r}.")
    return texts


def read_grid(path: Path) -> Grid:
    """The grid in a TOML file; relative paths in it start at the file's folder.

    Raises:
        CosamError: the file cannot be read, or a key or value does not fit.
    """
    tables = read_toml(path)
    for key in ("protocol", "methods"):
        if key in tables:
            tables[key] = _anchored(tables[key], path.parent)
    return validate(Grid, tables, source=str(path))


def _anchored(value: Any, folder: Path) -> Any:
    """The same names; one that is the relative path of a file starts at ``folder``."""
    if isinstance(value, list):
        return [_anchored(one, folder) for one in value]
    if isinstance(value, str) and value.partition(":")[0].endswith((".toml", ".py")):
        return str(folder.absolute() / Path(value).expanduser())
    return value


def grid_from_texts(*, orders: str | None = None, seeds: str | None = None, **given: Any) -> Grid:
    """The grid that options describe; None for what is not given.

    Args:
        orders: a number, or orders by name, separated by commas.
        seeds: a number, or ``[0,3,7]``.
        given: the other keys of a grid.

    Raises:
        CosamError: a value does not fit.

    >>> grid_from_texts(methods=["regcl"], orders="stream,random:4", seeds="2").orders
    ('stream', 'random:4')
    """
    tables = {key: value for key, value in given.items() if value is not None}
    if orders is not None:
        is_number = orders.strip().isdecimal()
        tables["orders"] = int(orders) if is_number else [one.strip() for one in orders.split(",")]
    if seeds is not None:
        try:
            tables["seeds"] = json.loads(seeds)
        except ValueError:
            raise CosamError(f"--seeds {seeds!r} is neither a number nor a list such as [0,3,7]. Correct it.") from None
    return validate(Grid, tables, source="The sweep's options")
