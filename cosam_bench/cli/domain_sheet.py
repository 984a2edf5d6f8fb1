"""One card in full, for ``cosam-bench domains NAME``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from cosam_bench.data.cards import Card, Fact

_CHECKED = "checked at the source"
_UNCHECKED = "not checked at the source"


def domain_sheet(card: Card) -> Iterator[RenderableType]:
    """What the card says, which facts have been checked, and how to get the data."""
    from rich.text import Text

    yield Text.assemble((card.name, "bold"), f"  {card.full_title}")
    yield _grid(_facts(card))
    if card.layouts:
        from cosam_bench.data.layouts import describe

        yield Text("\nRecognised layouts", style="bold")
        yield _grid({name: f"{layout.title}\n{describe(card, name)}" for name, layout in card.layouts.items()})
    steps = list(_steps(card))
    if steps:
        yield Text("\nHow to get the data", style="bold")
        yield from steps


def _facts(card: Card) -> dict[str, str]:
    facts: dict[str, tuple[str, Fact | None]] = {
        "source": (card.source, "source"),
        "licence": (card.licence, "licence"),
        "text": (card.licence_url, None),
        "terms": (card.terms, None),
        "citation": (card.citation, "citation"),
        "samples": (_samples(card), None),
        "images": (_expected(card), "expected"),
        "split": (_split(card), "split" if card.layouts and not card.own else None),
        "layout": ("as published, see below" if card.layouts else "", "layout"),
        "downloads": ("\n".join(download.url for download in card.downloads), "downloads"),
        "data": (_data(card), None),
    }
    return {key: text + _check(card, fact) for key, (text, fact) in facts.items() if text}


def _check(card: Card, fact: Fact | None) -> str:
    # Users' own cards and those of synthetic images claim nothing about a source.
    if fact is None or not card.layouts:
        return ""
    return f"\n({_CHECKED if fact in card.verified else _UNCHECKED})"


def _samples(card: Card) -> str:
    unit = {"union": "image", "component": "connected component", "polygon": "drawn polygon", "instance": "object"}[
        card.samples
    ]
    least = f", at least {card.min_pixels} pixels" if card.min_pixels > 1 else ""
    pool = f"; images of the collection {card.pool!r}" if card.pool else ""
    return f"one per {unit}{least}{pool}"


def _expected(card: Card) -> str:
    stated = {"": card.expected} | {name: layout.expected for name, layout in card.layouts.items()}
    texts = [
        f"{sizes.train} for training, {sizes.test} for testing{f' (layout {name})' if name else ''}"
        for name, sizes in stated.items()
        if sizes is not None and (name == card.layout or not card.layout or not name)
    ]
    return "; ".join(dict.fromkeys(texts))


def _split(card: Card) -> str:
    rules = {name: layout.split or card.split for name, layout in card.layouts.items()} or {"": card.split}
    texts = []
    for name, rule in rules.items():
        if rule.kind == "ratio":
            text = f"by image, a share of {rule.test} for testing, seed {rule.seed}"
        elif rule.kind == "counts":
            text = f"{rule.train} samples for training, {rule.test} for testing, seed {rule.seed}"
        elif rule.kind == "manifest":
            file = Path(rule.file).name
            text = f"{rule.train} images for training, {rule.test} for testing, listed by name in {file}"
        else:
            text = f"by {rule.kind}"
        texts.append(f"{name}: {text}" if name else text)
    return "\n".join(texts)


def _data(card: Card) -> str:
    from cosam_bench.cli.data_check_table import legible
    from cosam_bench.data.overview import domain_row

    row = domain_row(card)
    if row.kind == "synthetic":
        return f"{row.found} images, drawn by code"
    if row.fault:
        return "not on this machine" if row.is_missing and card.layouts else legible(row.fault)
    return f"{row.found} pairs of image and mask in {card.root}{f', layout {card.layout}' if card.layout else ''}"


def _steps(card: Card) -> Iterator[RenderableType]:
    from rich.text import Text

    from cosam_bench.data.availability import fetch_command, prepare_command

    if card.downloads:
        yield Text(f"  {fetch_command(card)}")
    if card.layouts:
        yield Text(f"  {prepare_command(card)} --from FOLDER_OR_ARCHIVE")
    if card.instructions:
        yield Text(card.instructions.strip().replace("\n", " "))


def _grid(facts: dict[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in facts.items():
        table.add_row(f"  {key}", text)
    return table
