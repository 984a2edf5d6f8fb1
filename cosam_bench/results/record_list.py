"""Records side by side: seed, order, and the settings and code in which those of one method differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosam_bench.results.cell_text import MISSING, code_mark
from cosam_bench.results.protocol_defaults import current_defaults
from cosam_bench.results.records import Record

_SHOWN_APART = ("seed", "order", "method")


@dataclass(frozen=True)
class ListedRecord:
    """One record in a list.

    Attributes:
        name: ``protocol/method/hash``.
        status: ``complete``, ``running`` or ``failed``.
        seed: of the run.
        order: the domains in the order of learning.
        settings: by dotted key, those in which the listed records of this protocol and method differ.
        code: ``code 82eae6`` if the listed records of this protocol and method differ in the method's code, else empty.
        started: the time in UTC, ISO 8601.
    """

    name: str
    status: str
    seed: int
    order: tuple[str, ...]
    settings: dict[str, Any]
    code: str
    started: str

    @property
    def settings_text(self) -> str:
        """The settings as ``KEY=VALUE`` and the code, separated by commas; ``-`` if there are none."""
        texts = [f"{key}={value}" for key, value in self.settings.items()]
        return ", ".join(filter(None, [*texts, self.code])) or MISSING


def list_records(records: Sequence[Record]) -> list[ListedRecord]:
    """What tells the records apart, in the same order."""
    flat = [_flat(record.info.config) for record in records]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record, keys in zip(records, flat, strict=True):
        groups.setdefault((record.info.protocol, record.info.method), []).append(keys)
    codes = [(record.info.protocol, record.info.method, record.info.rule) for record in records]
    varying = {group: _varying(members) for group, members in groups.items()}
    listed = []
    for record, keys, code in zip(records, flat, codes, strict=True):
        info = record.info
        settings = {_asked(key): keys.get(key) for key in varying[info.protocol, info.method]}
        name = "/".join(record.folder.parts[-3:])
        mark = code_mark(code, codes)
        listed.append(ListedRecord(name, info.status, info.seed, info.order, settings, mark, info.started))
    return listed


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _varying(members: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for member in members for key in member if key not in _SHOWN_APART)
    return [key for key in keys if _differ(_meant(member, key) for member in members)]


def _meant(member: Mapping[str, Any], key: str) -> Any:
    """A record's value of a key; of one that is newer than the record, what it means to leave it out."""
    value = member[key] if key in member else current_defaults().get(key.removeprefix("protocol."))
    return None if value == [] else value  # the default of each key of a run that takes a list


def _differ(values: Iterable[Any]) -> bool:
    first, *others = values
    return any(value != first for value in others)


def _asked(key: str) -> str:
    """The key as ``--set`` takes it."""
    head, _, rest = key.partition(".")
    return {"settings": f"method.{rest}", "protocol": rest}.get(head, key)
