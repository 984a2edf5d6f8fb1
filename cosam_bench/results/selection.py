"""Which of the recorded runs to show: by protocol, model, method, settings, seed and order."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.data.orders import MOST_DIGITS, REVERSE_ORDER, STREAM_ORDER, seeded_order
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import RunInfo


@dataclass(frozen=True)
class Selection:
    """What a run must be to be shown; an empty field stands for all runs.

    Attributes:
        protocols: names of protocols.
        models: names of base models.
        methods: names of methods.
        settings: ``KEY=VALUE`` each: a key of ``--set``, or the name of a setting of the method.
        seeds: ranges of them; each must contain the seed of some run.
        orders: ``stream``, ``reverse``, ``random:N``, or the first domains, separated by commas. A reversed order is
            recognised by a record in the stream's own.
    """

    protocols: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    seeds: tuple[range, ...] = ()
    orders: tuple[str, ...] = ()

    def of(self, records: Sequence[Record]) -> list[Record]:
        """The records that fit.

        Raises:
            CosamError: no record has one of the wanted values; the message lists what there is.
        """
        records = _named(records, "protocol", self.protocols, lambda info: info.protocol)
        records = _named(records, "model", self.models, model_name)
        records = _named(records, "method", self.methods, lambda info: info.method)
        for text in self.settings:
            records = _with_setting(records, text)
        return _in_orders(_with_seeds(records, self.seeds), self.orders)


def model_name(info: RunInfo) -> str:
    """The base model's name; empty if the record does not say."""
    protocol = info.config.get("protocol")
    model = protocol.get("model") if isinstance(protocol, dict) else None
    return str(model.get("name", "")) if isinstance(model, dict) else ""


def has_own_order(info: RunInfo) -> bool:
    """Whether a run has the order in which the stream itself lists its domains."""
    return not info.config.get("order")


def _named(
    records: Sequence[Record], kind: str, wanted: Iterable[str], name_of: Callable[[RunInfo], str]
) -> list[Record]:
    names = {name_of(record.info) for record in records}
    wanted = list(wanted)
    for name in wanted:
        if name not in names:
            raise unknown_name(f"{kind} in these records", name, names)
    return [record for record in records if not wanted or name_of(record.info) in wanted]


def _with_seeds(records: Sequence[Record], ranges: Sequence[range]) -> list[Record]:
    for wanted in ranges:
        if not any(record.info.seed in wanted for record in records):
            text = str(wanted.start) if len(wanted) == 1 else f"{wanted.start}-{wanted.stop - 1}"
            found = ", ".join(str(seed) for seed in sorted({record.info.seed for record in records}))
            raise CosamError(f"No record here has the seed {text}. Found: {found or 'none'}.")
    return [record for record in records if not ranges or any(record.info.seed in wanted for wanted in ranges)]


def _with_setting(records: Sequence[Record], text: str) -> list[Record]:
    key, equals, wanted = text.partition("=")
    if not equals or not key.strip():
        raise CosamError(f"--setting {text!r} has no value. Write it as KEY=VALUE, such as --setting adapter.rank=8.")
    found = [(record, _setting(record.info, key.strip())) for record in records]
    values = sorted({json.dumps(value) for _, has in found for value in has})
    if not values:
        raise CosamError(f"No record here has the setting {key.strip()!r}. List the keys: cosam-bench settings.")
    fitting = [record for record, has in found if any(_equal(value, wanted.strip()) for value in has)]
    if not fitting:
        raise CosamError(f"No record here has {text}. Found: {', '.join(values)}.")
    return fitting


def _setting(info: RunInfo, key: str) -> list[Any]:
    """The value of a setting in a list, which is empty if the run has no such setting."""
    own = key.removeprefix("method.")
    if own in info.settings:
        return [info.settings[own]]
    for table in (info.config.get("protocol"), info.config):
        value: Any = table
        for part in key.split("."):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            return [value]
    return []


_MISSING = object()


def _equal(value: Any, wanted: str) -> bool:
    try:
        parsed = json.loads(wanted)
    except ValueError:
        parsed = wanted
    return bool(value == parsed) or value == wanted


def _in_orders(records: Sequence[Record], orders: Sequence[str]) -> list[Record]:
    own = {record.info.order for record in records if has_own_order(record.info)}
    kept: dict[str, Record] = {}
    for order in orders:
        fitting = [record for record in records if _has_order(record.info, order, own=own)]
        if not fitting:
            found = sorted({",".join(record.info.order) for record in records})
            raise CosamError(f"No record here has the order {reprlib.repr(order)}. Found: {'; '.join(found[:8])}.")
        kept |= {record.name: record for record in fitting}
    return [record for record in records if not orders or record.name in kept]


def _has_order(info: RunInfo, asked: str, *, own: Collection[tuple[str, ...]]) -> bool:
    """Whether a run has the asked order; ``own`` has those that are a stream's own."""
    kind, _, number = asked.partition(":")
    if asked == STREAM_ORDER:
        return has_own_order(info)
    if asked == REVERSE_ORDER:
        return not has_own_order(info) and info.order[::-1] in own
    if kind == "random" and number.isdecimal() and len(number) <= MOST_DIGITS:
        return info.order == seeded_order(int(number), info.order)
    first = tuple(name.strip() for name in asked.split(",") if name.strip())
    return bool(first) and info.order[: len(first)] == first
