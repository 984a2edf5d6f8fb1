"""Streams: TOML files that list domains in their order, each described by its card.

Nothing here imports torch, so that the command line lists domains without delay.
"""

from __future__ import annotations

import os
import re
import reprlib
import shlex
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.data.cards import DATASETS, Card, Key, Name, merge_layout
from cosam_bench.data.locations import read_location

MOST_DOMAINS = 1_000  # the largest stream of this package has 15; the score matrix has one cell per two domains


class Stream(Settings):
    """Domains in the order in which a method learns them, and domains that it is only tested on.

    Attributes:
        name: short, lower case.
        title: one line for people.
        order: names of the domains to learn, first to last. In TOML, by default all that are not retention.
        orders: other orders of the same domains, by the name that ``--order`` takes.
        retention: names of the domains that are only tested.
        experts: by the domain's name, the path of an expert that was trained elsewhere, which ``run --experts`` uses
            if it is given this file.
        cards: the domains, ``[[domain]]`` in TOML: a card, or ``card = "NAME"`` for one that comes with
            the package (or ``card = "path/to/card.toml"``), with keys that override it.
    """

    name: Name
    title: str = ""
    order: tuple[str, ...] = Field(min_length=1)
    orders: dict[Key, tuple[str, ...]] = Field(default_factory=dict)
    retention: tuple[str, ...] = ()
    experts: dict[Name, str] = Field(default_factory=dict)
    cards: tuple[Card, ...] = Field(alias="domain")

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [card.name for card in self.cards]
        used = [*self.order, *self.retention]
        for kind, listed in (("[[domain]]", names), ("order and retention", used)):
            if twice := sorted({name for name in listed if listed.count(name) > 1}):
                raise ValueError(f"named twice in {kind}: {', '.join(twice)}")
        for name in (*used, *self.experts):
            if name not in names:
                raise ValueError(str(unknown_name("domain of this stream", name, names)).rstrip("."))
        for name, order in self.orders.items():
            if sorted(order) != sorted(self.order):
                raise ValueError(f"the order {name!r} does not name each domain of order once")
        return self

    def card(self, name: str) -> Card:
        """The card of one domain."""
        return next(card for card in self.cards if card.name == name)


def load_stream(name_or_path: str) -> Stream:
    """The stream of that name in the package, or the one in a TOML file.

    If ``cosam-bench data`` has located a domain's data, its card has root and layout filled in.

    Raises:
        CosamError: there is no such stream or card, or a file is invalid.
    """
    path = _find(name_or_path, kind="stream")
    data = read_toml(path)
    tables = data.get("domain")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise CosamError(f"{path}: a stream needs its domains as [[domain]] tables.")
    if len(tables) > MOST_DOMAINS:
        raise CosamError(f"{path}: it has {len(tables)} domains, but at most {MOST_DOMAINS} are read. Divide it.")
    if not all(isinstance(table.get("card", ""), str) for table in tables):
        raise CosamError(f"{path}: each domain's 'card' must be text, a name or the path of a TOML file.")
    cards = [_card(table, path=path, number=number) for number, table in enumerate(tables, start=1)]
    retention = data.get("retention", [])
    if not isinstance(retention, list):
        raise CosamError(f"{path}: 'retention' is {reprlib.repr(retention)}. Give a list of names of domains.")
    in_file = [card.name for card in cards if card.name not in retention]
    if not in_file and "order" not in data:
        raise CosamError(f"{path}: all its domains are in retention, so none is learned. Take one out of retention.")
    return validate(Stream, {"order": in_file} | data | {"domain": cards}, source=str(path))


def load_card(name_or_path: str) -> Card:
    """The card of that name in the package, or the one in a TOML file, as in a stream.

    Raises:
        CosamError: there is no such card, or the file is invalid.
    """
    path = _find(name_or_path, kind="card")
    card = _card({"card": str(path.resolve())}, path=path, number=1)  # so that a layout overrides the card
    return card.with_origin(_card_name(path))


def names_of(kind: Literal["stream", "card"]) -> list[str]:
    """The names of the package's streams or cards, in alphabetical order."""
    return sorted(path.stem for path in (DATASETS / f"{kind}s").glob("*.toml"))


def is_card_file(path: Path) -> bool:
    """Whether a TOML file describes one domain, and not a stream of some.

    Raises:
        CosamError: it cannot be read.
    """
    table = read_toml(path)
    return "domain" not in table and bool(table.keys() & (Card.model_fields.keys() - Stream.model_fields.keys()))


def published_cards(path: Path) -> list[str]:
    """The names, or the paths, of the cards that a stream's file refers to and whose data the stream does not place.

    Raises:
        CosamError: the file is invalid.
    """
    load_stream(str(path))
    tables = [table for table in read_toml(path)["domain"] if "card" in table and not table.get("root")]
    found = [_find(table["card"], kind="card", beside=path.parent) for table in tables]
    return [_card_name(card) for card in found if read_toml(card).get("layouts")]


def refuse_folder(name: str) -> None:
    """Refuse the name of a folder in the place of a TOML file that describes it.

    Raises:
        CosamError: there is such a folder.
    """
    if not expanded(name).is_dir():
        return
    if (expanded(name) / "stream.toml").is_file():
        raise CosamError(f"{name} is a folder. Give the path of the TOML file in it: {Path(name, 'stream.toml')}.")
    raise CosamError(
        f"{name} is a folder, not a TOML file that describes its images and masks. Write one: "
        f"{shlex.join(['cosam-bench', 'data', 'init', name])}."
    )


def _find(name_or_path: str, *, kind: Literal["stream", "card"], beside: Path | None = None) -> Path:
    """The TOML file of that path, or of that name in the package."""
    if name_or_path.endswith(".toml"):
        path = os.path.expandvars(expanded(name_or_path))
        if path.startswith("$"):
            raise CosamError(f"The {kind} {name_or_path}: this variable is not set. Set it to the file's folder.")
        return (beside or Path()) / path
    names = names_of(kind)
    if name_or_path not in names:
        refuse_folder(name_or_path)
        error = unknown_name(kind, name_or_path, names)
        raise CosamError(f"{error} Or give the path of a file that ends in .toml.")
    return DATASETS / f"{kind}s" / f"{name_or_path}.toml"


def _card(table: dict[str, Any], *, path: Path, number: int) -> Card:
    """The card of one ``[[domain]]`` table.

    A layout's keys override those of the card that the table refers to, and the table's own override both.
    """
    own = _rooted({key: value for key, value in table.items() if key != "card"}, path=path)
    if "card" not in table:
        return _overridden({}, own, path=path, number=number)
    card_path = _find(str(table["card"]), kind="card", beside=path.parent)
    base = _rooted(read_toml(card_path), path=card_path)
    return _overridden(base, own, path=path, number=number).with_origin(_card_name(card_path))


def _card_name(path: Path) -> str:
    """The name of a card of the package; the path of another one's file."""
    return path.stem if path.resolve().parent == (DATASETS / "cards").resolve() else str(path)


def _overridden(base: dict[str, Any], own: dict[str, Any], *, path: Path, number: int) -> Card:
    source = f"{path}, domain {own.get('name', base.get('name', f'number {number}'))}"
    card = validate(Card, base | own, source=source)
    merged = base | own
    if card.layouts and not card.root and (found := read_location(str(base.get("name", card.name)))) is not None:
        merged |= {"root": str(found.root), "layout": card.layout or found.layout}
    if not merged.get("layout"):
        return card
    validate(Card, merged, source=source)  # names an unknown layout
    merged = merge_layout(merged, merged["layout"]) | own | {"root": merged.get("root", "")}
    return validate(Card, merged, source=source)


def with_manifests(table: dict[str, Any], *, path: Path) -> dict[str, Any]:
    """A card's table, in which the manifests of its splits start at the folder of the TOML file ``path``."""
    layouts = table.get("layouts")
    if isinstance(layouts, dict):
        tables = layouts.items()
        layouts = {name: _anchored_split(one, path) if isinstance(one, dict) else one for name, one in tables}
        table = table | {"layouts": layouts}
    return _anchored_split(table, path)


def _anchored_split(table: dict[str, Any], path: Path) -> dict[str, Any]:
    split = table.get("split")
    if not isinstance(split, dict) or not isinstance(split.get("file"), str) or not split["file"]:
        return table
    file = os.path.normpath(path.resolve().parent / expanded(split["file"]))
    return table | {"split": split | {"file": file}}


def _rooted(table: dict[str, Any], *, path: Path) -> dict[str, Any]:
    table = with_manifests(table, path=path)
    if not isinstance(table.get("root"), str) or not table["root"]:
        return table
    root = os.path.expandvars(expanded(table["root"]))
    if re.search(r"\$\w|\$\{", root):
        return table  # a variable is not set: an error only when the domain is opened
    return table | {"root": os.path.normpath(path.resolve().parent / root)}
