"""``cosam-bench data``: fetch published data, record where it is, and check every file of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.data_check_table import legible
from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.core.console import results_console, say
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite

if TYPE_CHECKING:
    from cosam_bench.data.acquire.check import DomainReport
    from cosam_bench.data.acquire.prepare import Candidate, LocatedData
    from cosam_bench.data.cards import Card

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Domains, streams, or TOML files of either.")]
Accept = Annotated[
    bool,
    typer.Option("--accept-licence", "--accept-licences", help="I have read the licences shown and accept them."),
]
From = Annotated[
    list[Path],
    typer.Option("--from", metavar="PATH", help="A folder or an archive with the data; repeatable."),
]
Layout = Annotated[str, typer.Option(metavar="NAME", help="Look only for this layout of the card.")]
All = Annotated[bool, typer.Option("--all", help="Look for the data of every domain.")]


def fetch(names: Names, *, accept_licence: Accept = False) -> None:
    """Fetch data that needs no form or login, unpack it, and record where it is.

    Run the same command again to continue an interrupted download.

    For data behind a form or a login, this shows how to get it by hand.
    """
    from cosam_bench.data.acquire.prepare import expand_streams, published_card

    cards = [published_card(name) for name in expand_streams(names)]
    direct = [card for card in cards if card.downloads]
    by_hand = [card for card in cards if not card.downloads]
    if accept_licence:
        faults = [fault for card in direct if (fault := _fetch(card))]
    else:
        for card in direct:
            _show_licence(card)
        again = shlex.join(["cosam-bench", "data", "fetch", *names, "--accept-licence"])
        faults = [f"Nothing was fetched. To accept these terms and fetch, run: {again}"] if direct else []
    for card in by_hand:
        _show_instructions(card)
    if by_hand:
        listed = ", ".join(card.name for card in by_hand)
        faults.append(f"There is no direct address for {listed}. Get the data by hand as shown above, then prepare it.")
    if faults:
        raise CosamError("\n".join(faults))


def _fetch(card: Card) -> str:
    """Fetch and locate one card's data; returns what went wrong."""
    from cosam_bench.data.acquire.archive_formats import DamagedArchive
    from cosam_bench.data.acquire.fetch import discard_damaged, fetch_files, record_hashes
    from cosam_bench.data.acquire.prepare import locate, unpack_candidate

    try:
        files = fetch_files(card, say=_note)
        try:
            candidate = unpack_candidate(files)
        except DamagedArchive as error:
            is_removed = discard_damaged(card, error.path)
            return f"{error}{' It is removed; run the same command to fetch it again.' if is_removed else ''}"
        record_hashes(card, {archive.file: archive.sha256 for archive in candidate.archives})
        _show_located(locate(card, [candidate]))
    except CannotWrite:
        raise  # other domains would fail in the same way
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
    """Record where data is that you got by hand: it is recognised by its folders and not copied.

    Archives (zip, tar, tar.gz, tar.xz, tar.bz2) are unpacked into the data folder first.

    From COCO, a selection of images is written, with one mask each.
    """
    from cosam_bench.data.acquire.prepare import expand_streams, open_candidates
    from cosam_bench.data.streams import names_of

    if bool(names) == every:
        raise CosamError("Name the domains to look for, or give --all: cosam-bench data prepare --all --from PATH.")
    wanted = names_of("card") if every else expand_streams(names or [])
    candidates = open_candidates(source)
    located, faults = _locate_all(wanted, candidates, layout, every=every)
    if not located:
        nowhere = f"No domain's data was recognised in {', '.join(map(str, source))}."
        why = "Run cosam-bench data prepare NAME --from PATH to see what is expected of one domain."
        raise CosamError(f"{nowhere} {why}" if every else "\n".join(faults.values()))
    if faults and every:
        _note(f"Not recognised there: {', '.join(faults)}. Give a name instead of --all to see why.")
    elif faults:
        raise CosamError("\n".join(faults.values()))


def _locate_all(
    names: Sequence[str], candidates: Sequence[Candidate], layout: str, *, every: bool
) -> tuple[list[LocatedData], dict[str, str]]:
    """What was found, each shown at once, and why the other names were not."""
    from cosam_bench.data.acquire.prepare import locate, published_card

    located: list[LocatedData] = []
    faults: dict[str, str] = {}
    for name in names:
        card = published_card(name)
        if every and layout and layout not in card.layouts:
            continue
        try:
            located.append(locate(card, candidates, layout=layout))
        except CannotWrite:
            raise
        except CosamError as error:
            faults[name] = str(error)
        else:
            _show_located(located[-1])
    return located, faults


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="One domain, or one folder per domain.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The TOML file to write; by default stream.toml in FOLDER."),
        FILE_TO_WRITE,
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at a folder of images and masks, and write the stream that they seem to be.

    The file says as comments what was found. What is not clear, such as which levels of a mask are foreground, is left
    to you as alternatives, and `cosam-bench data check` refuses it until you have chosen.
    """
    from cosam_bench.data.faults import first_few
    from cosam_bench.data.guessing.domain_guess import ONE_IMAGE
    from cosam_bench.data.guessing.stream_guess import guess_stream, write_stream

    path = folder / "stream.toml" if out is None else out
    if path.suffix != ".toml":
        raise CosamError(f"{path} does not end in .toml. Give --out a name that does.")
    if path.exists() and not force:
        raise CosamError(f"{path} exists already. Give --force to replace it, or another name by --out.")
    guess = guess_stream(folder)
    write_stream(guess, path)
    console = results_console()
    for name, domain in guess.domains.items():
        keys = ", ".join(dict.fromkeys(line.partition(" ")[0] for line, _ in domain.choices))
        state = f"choose {keys}" if keys else "too few images" if domain.cannot_be_divided else "decided"
        state = f"none of the {domain.unread} can be read" if domain.unread else state
        images = "1 image" if domain.images == 1 else f"{domain.images} images"
        masks = "1 with a mask" if domain.pairs == 1 else f"{domain.pairs} with masks"
        console.print(legible(f"{name}: {images}, {masks}; {state}"), soft_wrap=True)
    for name, reason in guess.left_out.items():
        _note(f"{name} is not a domain: {reason}.")
    for name, domain in guess.domains.items():
        if unused := domain.unused_lists:
            _note(f"{name}: {first_few(unused)} look like lists of a split, and are not used; {path} says why.")
    if unread := [name for name, domain in guess.domains.items() if domain.unread]:
        _note(f"Convert or replace the files of {', '.join(unread)} that cannot be read; {path} says why.")
    if guess.undecided:
        _note(f"Open {path} and choose for {', '.join(guess.undecided)}, where the comments say so.")
    if single := [name for name, domain in guess.domains.items() if domain.cannot_be_divided]:
        _note(f"{ONE_IMAGE} to {', '.join(single)}, or have it only tested, as the comments in {path} say.")
    console.print(f"Written: {path}. Next:", soft_wrap=True)
    for command in (
        ["data", "check", str(path)],
        ["run", "--method", "average", "--model", "tiny", "--stream", str(path)],
    ):
        console.print(f"  {shlex.join(['cosam-bench', *command])}", soft_wrap=True)


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Domains, streams, or TOML files of either; by default all prepared domains."
        ),
    ] = None,
) -> None:
    """Check every file of the data: is it complete and readable, and do images and masks match?

    "found" and "stated" are numbers of images for training and test; the source states the latter.
    """
    from cosam_bench.cli.data_check_table import show_reports
    from cosam_bench.data.acquire.check import find_leaks, find_near_copies
    from cosam_bench.data.locations import data_folder, location_path
    from cosam_bench.data.streams import names_of

    asked = names or [name for name in names_of("card") if location_path(name).exists()]
    if not asked:
        raise CosamError(
            f"No data is prepared in {data_folder()} yet. Run cosam-bench domains cosam to list what exists, then "
            "cosam-bench data fetch NAME or cosam-bench data prepare NAME --from PATH."
        )
    reports: dict[str, DomainReport] = {}
    leaks: list[str] = []
    alike: dict[str, None] = {}
    for name in asked:
        checked = list(_check(name))
        reports |= {report.name: report for report in checked if report.name not in reports}
        leaks += [fault] if (fault := find_leaks(checked, stream=name)) else []
        alike |= dict.fromkeys(find_near_copies(checked))
    show_reports(list(reports.values()), leaks, list(alike))
    if count := sum(report.fault_count for report in reports.values()) + len(leaks):
        raise Failed(f"{count} {'fault' if count == 1 else 'faults'} in the data; see above.")


def _check(name: str) -> Iterator[DomainReport]:
    """The reports of a domain, or of all domains of a stream."""
    from cosam_bench.core.progress_bar import ByteBar
    from cosam_bench.data.acquire.check import check_domain

    for card, is_retention in _cards(name):
        with ByteBar(f"checking {card.name}") as bar:
            yield check_domain(
                card,
                is_retention=is_retention,
                begin=lambda total, bar=bar: bar.show(0, total),  # type: ignore[misc]
                advance=bar.advance,
            )


def _cards(name: str) -> list[tuple[Card, bool | None]]:
    """The cards that a name stands for, each with whether its stream only tests it; None without a stream."""
    from cosam_bench.core.files import expanded
    from cosam_bench.data.acquire.prepare import expand_streams
    from cosam_bench.data.streams import is_card_file, load_card, load_stream, names_of

    is_stream = not is_card_file(expanded(name)) if name.endswith(".toml") else name in names_of("stream")
    if not is_stream:
        return [(load_card(one), None) for one in expand_streams([name])]
    stream = load_stream(name)
    return [(stream.card(one), one in stream.retention) for one in (*stream.order, *stream.retention)]


def _show_licence(card: Card) -> None:
    from rich.text import Text

    rows = {
        "what": card.title,
        "licence": card.licence,
        "text": card.licence_url or "no address is known",
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

    from cosam_bench.data.availability import prepare_command

    console = results_console()
    console.print(Text(f"{card.name}: get it by hand", style="bold"))
    console.print(f"  source:   {card.source}", soft_wrap=True)
    console.print(f"  licence:  {card.licence}. {card.terms}", soft_wrap=True)
    for line in card.instructions.strip().splitlines():
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"  Then:     {prepare_command(card)} --from PATH", soft_wrap=True)


def _show_located(found: LocatedData) -> None:
    console = results_console()
    images = f"{len(found.pairs)} images with masks"
    console.print(f"{found.card.name}: {found.location.layout}, {images}, in {found.location.root}", soft_wrap=True)
    for line in found.skipped:
        _note(f"Skipped in the selection: {line}.")
    before, now = found.previous, found.location
    if before is not None and (before.layout, before.root) != (now.layout, now.root):
        _note(f"This replaces the location of {found.card.name}: {before.layout} in {before.root}.")
    expected = found.card.expected
    if expected is not None and len(found.pairs) != (stated := expected.train + expected.test):
        command = shlex.join(["cosam-bench", "data", "check", found.card.origin])
        _note(f"The card states {stated} images. Run {command}.")


def _note(text: str) -> None:
    say("Note", text, style="bold yellow")
