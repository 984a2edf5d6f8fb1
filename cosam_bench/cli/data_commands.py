"""``cosam-bench data``: fetching published data, saying where it lies, and looking at every file of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed
from cosam_bench.core.console import results_console, say
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite

if TYPE_CHECKING:
    from cosam_bench.data.acquire.check import Report
    from cosam_bench.data.acquire.prepare import Placement, Source
    from cosam_bench.data.cards import Card
    from cosam_bench.data.locations import Placed

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Domains, or a stream for all of its domains.")]
Accept = Annotated[
    bool, typer.Option("--accept-licence", help="I have read the licences that are shown and accept them.")
]
From = Annotated[
    list[Path],
    typer.Option("--from", metavar="PATH", help="A folder or an archive with the data; repeatable."),
]
Layout = Annotated[str, typer.Option(metavar="NAME", help="Look for this layout alone, as its card names it.")]
All = Annotated[bool, typer.Option("--all", help="Look for the data of every domain.")]


def fetch(names: Names, *, accept_licence: Accept = False) -> None:
    """Fetch data that can be had without a form or a login, unpack it, and note where it lies.

    A download that was cut goes on where it was when the same command is given again.

    For data behind a form or a login this says how to get it by hand.
    """
    from cosam_bench.data.acquire.prepare import bare_card, with_streams

    cards = [bare_card(name) for name in with_streams(names)]
    direct = [card for card in cards if card.downloads]
    by_hand = [card for card in cards if not card.downloads]
    if accept_licence:
        faults = [fault for card in direct if (fault := _fetch(card))]
    else:
        for card in direct:
            _show_licence(card)
        again = shlex.join(["cosam-bench", "data", "fetch", *names, "--accept-licence"])
        faults = [f"Nothing was fetched. To accept these terms and fetch: {again}"] if direct else []
    for card in by_hand:
        _show_instructions(card)
    if by_hand:
        listed = ", ".join(card.name for card in by_hand)
        faults.append(f"There is no direct address for {listed}. Get the data by hand as told above, then prepare it.")
    if faults:
        raise CosamError("\n".join(faults))


def _fetch(card: Card) -> str:
    """Fetch and place one card's data; returns what went wrong."""
    from cosam_bench.data.acquire import fetch as getting
    from cosam_bench.data.acquire.archive_members import DamagedArchive
    from cosam_bench.data.acquire.prepare import place, unpack_parts

    try:
        parts = getting.fetch(card, say=_note)
        try:
            source = unpack_parts(parts)
        except DamagedArchive as error:
            removed = " It is removed, so the same command fetches it anew." if getting.forget(card, error.path) else ""
            return f"{error}{removed}"
        getting.remember(card, {archive.file: archive.sha256 for archive in source.archives})
        _show_placement(place(card, [source]))
    except CannotWrite:
        raise  # no other domain would fare better
    except CosamError as error:
        return f"{card.name}: {error}"
    return ""


def prepare(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help=Names.__metadata__[0].help)] = None,
    *,
    source: From,
    layout: Layout = "",
    every: All = False,
) -> None:
    """Note where data lies that you have got by hand: it is recognised by its folders and never copied.

    Archives (zip, tar, tar.gz, tar.xz, tar.bz2) are unpacked into the data folder first.

    Of COCO a selection of images is made, with one mask each.
    """
    from cosam_bench.core.files import expanded
    from cosam_bench.data.acquire.prepare import open_sources, with_streams
    from cosam_bench.data.streams import names_of

    if bool(names) == every:
        raise CosamError("Name the domains to look for, or give --all: cosam-bench data prepare --all --from PATH.")
    wanted = names_of("card") if every else with_streams(names or [])
    placed, faults = _place_all(wanted, open_sources([expanded(path) for path in source]), layout, every=every)
    if not placed:
        nowhere = f"No domain's data was recognised in {', '.join(map(str, source))}."
        why = "cosam-bench data prepare NAME --from PATH says for one domain what was looked for."
        raise CosamError(f"{nowhere} {why}" if every else "\n".join(faults.values()))
    if faults and every:
        _note(f"Not recognised there: {', '.join(faults)}. The same with a name in place of --all says why.")
    elif faults:
        raise CosamError("\n".join(faults.values()))


def _place_all(
    names: Sequence[str], sources: Sequence[Source], layout: str, *, every: bool
) -> tuple[list[Placement], dict[str, str]]:
    """What was found, each told at once, and why the other names were not."""
    from cosam_bench.data.acquire.prepare import bare_card, place

    placed: list[Placement] = []
    faults: dict[str, str] = {}
    for name in names:
        card = bare_card(name)
        if every and layout and layout not in card.layouts:
            continue
        try:
            placed.append(place(card, sources, layout=layout))
        except CannotWrite:
            raise
        except CosamError as error:
            faults[name] = str(error)
        else:
            _show_placement(placed[-1])
    return placed, faults


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Domains or a stream; all that are prepared if empty."),
    ] = None,
) -> None:
    """Look at every file of the data: is all there, can it be read, do images and masks go together?

    Found and stated are images for training and test; stated by the source.
    """
    from cosam_bench.cli.data_check_table import show_reports
    from cosam_bench.data.acquire.check import leaks
    from cosam_bench.data.locations import data_folder, record_path
    from cosam_bench.data.streams import names_of

    asked = names or [name for name in names_of("card") if record_path(name).exists()]
    if not asked:
        raise CosamError(
            f"No data is prepared in {data_folder()} yet. cosam-bench domains cosam lists what there is; then "
            "cosam-bench data fetch NAME or cosam-bench data prepare NAME --from PATH."
        )
    reports: list[Report] = []
    between: list[str] = []
    for name in asked:
        looked_at = list(_look(name))
        reports += [one for one in looked_at if one.name not in {known.name for known in reports}]
        between += [fault] if (fault := leaks(looked_at, stream=name)) else []
    show_reports(reports, between)
    wrong = [one for one in reports if one.fault_count]
    if wrong or between:
        count = sum(one.fault_count for one in wrong) + len(between)
        raise Failed(f"{count} {'fault' if count == 1 else 'faults'} in the data; see above.")


def _look(name: str) -> Iterator[Report]:
    """The reports of a domain, or of all domains of a stream."""
    from cosam_bench.core.progress_bar import ByteBar
    from cosam_bench.data.acquire.check import report

    for card, is_retention in _cards(name):
        with ByteBar(f"looking at {card.name}") as bar:
            yield report(
                card,
                is_retention=is_retention,
                begin=lambda total, bar=bar: bar.show(0, total),  # type: ignore[misc]
                advance=bar.advance,
            )


def _cards(name: str) -> list[tuple[Card, bool]]:
    """The cards that a name stands for, each with whether it is only tested."""
    from cosam_bench.core.files import expanded
    from cosam_bench.core.settings import read_toml
    from cosam_bench.data.acquire.prepare import with_streams
    from cosam_bench.data.streams import load_card, load_stream, names_of

    is_stream = "domain" in read_toml(expanded(name)) if name.endswith(".toml") else name in names_of("stream")
    if not is_stream:
        return [(load_card(one), False) for one in with_streams([name])]
    stream = load_stream(name)
    return [(stream.card(one), one in stream.retention) for one in (*stream.order, *stream.retention)]


def _show_licence(card: Card) -> None:
    from rich.text import Text

    rows = {
        "what": card.title,
        "licence": card.licence,
        "its text": card.licence_url or "no address is known",
        "terms": card.terms,
        "source": card.source,
        "files": "\n            ".join(download.url for download in card.downloads),
    }
    console = results_console()
    console.print(Text(card.name, style="bold"))
    for head, text in rows.items():
        if text:
            console.print(f"  {head + ':':<9} {text}", soft_wrap=True)


def _show_instructions(card: Card) -> None:
    from rich.text import Text

    console = results_console()
    console.print(Text(f"{card.name}: to be fetched by hand", style="bold"))
    console.print(f"  source:   {card.source}", soft_wrap=True)
    console.print(f"  licence:  {card.licence}. {card.terms}", soft_wrap=True)
    for line in card.instructions.strip().splitlines():
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"  Then:     cosam-bench data prepare {card.name} --from PATH", soft_wrap=True)


def _show_placement(found: Placement) -> None:
    console = results_console()
    images = f"{len(found.pairs)} images with masks"
    console.print(f"{found.card.name}: {found.placed.layout}, {images}, in {found.placed.root}", soft_wrap=True)
    for line in found.passed_over:
        _note(f"passed over in the selection: {line}.")
    if found.before is not None and _place(found.before) != _place(found.placed):
        _note(f"This replaces what was recorded for {found.card.name}: {found.before.layout} in {found.before.root}.")
    expected = found.card.expected
    if expected is not None and len(found.pairs) != expected.train + expected.test:
        _note(f"{expected.train + expected.test} images are stated, so look: cosam-bench data check {found.card.name}.")


def _place(placed: Placed) -> tuple[str, Path]:
    return placed.layout, placed.root


def _note(text: str) -> None:
    say("Note", text, style="bold yellow")
