"""From folders and archives to the location of a card's data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import read_toml, validate
from cosam_bench.data.acquire.archive_formats import is_archive_name
from cosam_bench.data.acquire.archives import unpack
from cosam_bench.data.acquire.coco_selection import SELECTED, write_selection
from cosam_bench.data.acquire.contents import check_contents
from cosam_bench.data.acquire.extraction import DataFile
from cosam_bench.data.cards import DATASETS, Card
from cosam_bench.data.faults import first_few
from cosam_bench.data.layouts import recognise
from cosam_bench.data.locations import Archive, Location, data_folder, read_location, write_location
from cosam_bench.data.pairing import Pair, find_pairs
from cosam_bench.data.streams import is_card_file, load_stream, names_of, published_cards, refuse_folder, with_manifests

_ARCHIVES_DEPTH = 3  # levels of folders that are searched for forgotten archives


@dataclass(frozen=True)
class Candidate:
    """A folder that may hold a card's data, and the archives that it was unpacked from."""

    folder: Path
    archives: tuple[Archive, ...] = ()


@dataclass(frozen=True)
class LocatedData:
    """A card's data on this machine.

    Attributes:
        card: with its layout and root filled in.
        location: as it was recorded.
        pairs: images with their masks.
        previous: the location recorded before; None if there was none.
        skipped: images that a selection could not use, a line each.
    """

    card: Card
    location: Location
    pairs: tuple[Pair, ...]
    previous: Location | None = None
    skipped: tuple[str, ...] = ()


def published_card(name: str) -> Card:
    """The package's card of that name, or the one in a TOML file, without a root.

    Raises:
        CosamError: there is no such card, or it has a root already.
    """
    path = expanded(name)
    if not name.endswith(".toml"):
        if name not in names_of("card"):
            raise unknown_name("domain", name, names_of("card"))
        path = DATASETS / "cards" / f"{name}.toml"
    card = validate(Card, with_manifests(read_toml(path), path=path), source=str(path))
    if not card.layouts or card.root:
        raise CosamError(f"The card of {card.name} says where its data is, so there is nothing to prepare.")
    return card.with_origin(name)


def expand_streams(names: Sequence[str]) -> list[str]:
    """The names of cards, each once; the name of a stream is replaced by its domains with layouts.

    Raises:
        CosamError: a name is neither a card nor a stream, or there is nothing to get for a stream.
    """
    found: list[str] = []
    for name in names:
        if name in names_of("stream"):
            found += (published := [card.name for card in load_stream(name).cards if card.layouts])
            if not published:
                raise CosamError(f"The domains of {name} come with the package, so there is nothing to get.")
        elif name.endswith(".toml") and not is_card_file(expanded(name)):
            found += (published := published_cards(expanded(name)))
            if not published:
                raise CosamError(f"{name} says where the data of each of its domains is, so there is nothing to get.")
        elif name in names_of("card") or name.endswith(".toml"):
            found.append(name)
        else:
            refuse_folder(name)
            raise _unknown(name)
    return list(dict.fromkeys(found))


def _unknown(name: str) -> CosamError:
    """The error for an unknown name; users often leave out the part of a card's name after the @."""
    names = names_of("card")
    sets = {card.partition("@")[0] for card in names}
    near = difflib.get_close_matches(name.partition("@")[0], sets, n=1)
    if not near:
        return unknown_name("domain or stream", name, [*names, *names_of("stream")])
    meant = " or ".join(repr(card) for card in names if card.partition("@")[0] == near[0])
    offered = ", ".join([*names, *names_of("stream")])
    return CosamError(f"No domain or stream is called {name!r}. Did you mean {meant}? Offered: {offered}.")


def open_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """The given folders, and one into which all given archives are unpacked.

    Raises:
        CosamError: a path does not exist, or an archive cannot or must not be unpacked.
    """
    for path in paths:
        if not path.exists():
            raise CosamError(f"There is no file or folder {path}. Give the folder or the archive with the data.")
    folders = [Candidate(path) for path in paths if path.is_dir()]
    files = [DataFile(path) for path in paths if not path.is_dir()]
    return folders + ([unpack_candidate(files)] if files else [])


def unpack_candidate(files: Sequence[DataFile]) -> Candidate:
    """The folder in the data folder that the files are unpacked into."""
    folder, archives = unpack(files, into=data_folder() / "_unpacked")
    return Candidate(folder, archives)


def locate(card: Card, candidates: Sequence[Candidate], *, layout: str = "") -> LocatedData:
    """Find a card's data in one of the candidates, and record where it is.

    Args:
        card: without a root.
        candidates: tried one after another.
        layout: the only layout to look for; empty for all of the card's.

    Raises:
        CosamError: none of them holds the data in a known layout, or its files are not those of the card's manifest.
        CannotWrite: the data folder cannot be written.
    """
    if layout and layout not in card.layouts:
        raise unknown_name(f"layout of {card.name}", layout, card.layouts)
    wanted = card.model_copy(update={"layouts": {layout: card.layouts[layout]}}) if layout else card
    faults = []
    for candidate in candidates:
        try:
            found, root = recognise(wanted, candidate.folder)
        except CosamError as error:
            faults.append(f"{error}{_archive_hint(candidate.folder)}")
            continue
        return _record(card, found, root, candidate.archives)
    raise CosamError("\n".join(faults))


def _record(card: Card, layout: str, root: Path, archives: tuple[Archive, ...]) -> LocatedData:
    previous = read_location(card.name)
    skipped: list[str] = []
    if card.layouts[layout].annotations:
        selected = data_folder() / card.name
        skipped = write_selection(card.layouts[layout], root=root, into=selected)
        layout, root = SELECTED, selected
    card = card.with_layout(layout, root=root)
    pairs = find_pairs(card)
    check_contents(card, pairs)
    location = Location(layout=layout, root=root, archives=archives)
    write_location(card.name, location)
    return LocatedData(card, location, pairs, previous, tuple(skipped))


def _archive_hint(folder: Path) -> str:
    """A hint if a folder still holds archives, as after unpacking an archive of archives."""
    found = [str(path) for path in sorted(_archives_below(folder, depth=_ARCHIVES_DEPTH))]
    if not found:
        return ""
    return f" It contains archives: {first_few(found, shown=3)}. If they hold the data, give each of them with --from."


def _archives_below(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file() and is_archive_name(Path(entry.name)):
                    yield Path(entry.path)
                elif depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__")):
                    yield from _archives_below(Path(entry.path), depth=depth - 1)
    except OSError:
        return  # no permission
