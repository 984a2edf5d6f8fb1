"""From folders and archives to the record that says where a card's data lies."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import read_toml, validate
from cosam_bench.data.acquire.archives import Part, is_archive_name, unpack
from cosam_bench.data.acquire.coco import SELECTED, write_selection
from cosam_bench.data.cards import DATASETS, Card
from cosam_bench.data.layouts import recognise
from cosam_bench.data.locations import Archive, Placed, data_folder, read_placed, write_placed
from cosam_bench.data.pairing import Pair, find_pairs
from cosam_bench.data.streams import load_stream, names_of

_ARCHIVES_DEPTH = 3  # levels of folders in which forgotten archives are looked for
_ARCHIVES_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """A folder that may hold a card's data, and what it was unpacked from."""

    folder: Path
    archives: tuple[Archive, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where a card's data was found.

    Attributes:
        card: with its layout and its root filled in.
        placed: what was recorded.
        pairs: images with their masks.
        before: what had been recorded earlier; None if nothing.
        passed_over: images that a selection had to pass over, a line each.
    """

    card: Card
    placed: Placed
    pairs: tuple[Pair, ...]
    before: Placed | None = None
    passed_over: tuple[str, ...] = ()


def bare_card(name: str) -> Card:
    """The package's card of that name, or the one in a TOML file, without a root.

    Raises:
        CosamError: there is none, or its data cannot be placed.
    """
    path = expanded(name)
    if not name.endswith(".toml"):
        if name not in names_of("card"):
            raise unknown_name("domain", name, names_of("card"))
        path = DATASETS / "cards" / f"{name}.toml"
    card = validate(Card, read_toml(path), source=str(path))
    if not card.layouts or card.root:
        raise CosamError(f"The data of {card.name} is where its card says: there is nothing to prepare.")
    return card


def with_streams(names: Sequence[str]) -> list[str]:
    """The names of cards, each once; a stream's name among them stands for its domains with layouts.

    Raises:
        CosamError: something is called neither as a card nor as a stream.
    """
    found: list[str] = []
    for name in names:
        if name in names_of("stream"):
            found += (published := [card.name for card in load_stream(name).cards if card.layouts])
            if not published:
                raise CosamError(f"The domains of {name} come with the package: there is nothing to get.")
        elif name in names_of("card") or name.endswith(".toml"):
            found.append(name)
        else:
            raise _unknown(name)
    return list(dict.fromkeys(found))


def _unknown(name: str) -> CosamError:
    """The error for a name that nothing is called by; cards are often asked for without what follows the @."""
    names = names_of("card")
    sets = {card.partition("@")[0] for card in names}
    near = difflib.get_close_matches(name.partition("@")[0], sets, n=1)
    if not near:
        return unknown_name("domain or stream", name, [*names, *names_of("stream")])
    meant = " or ".join(repr(card) for card in names if card.partition("@")[0] == near[0])
    offered = ", ".join([*names, *names_of("stream")])
    return CosamError(f"No domain or stream is called {name!r}. Did you mean {meant}? Offered: {offered}.")


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """The folders that are given, as they are, and one into which all archives that are given are unpacked.

    Raises:
        CosamError: a path is not there, or an archive cannot or must not be unpacked.
    """
    for path in paths:
        if not path.exists():
            raise CosamError(f"There is no file or folder {path}. Give the folder or the archive with the data.")
    folders = [Source(path) for path in paths if path.is_dir()]
    parts = [Part(path) for path in paths if not path.is_dir()]
    return folders + ([unpack_parts(parts)] if parts else [])


def unpack_parts(parts: Sequence[Part]) -> Source:
    """The folder in the data folder that archives are unpacked into."""
    folder, archives = unpack(parts, into=data_folder() / "_unpacked")
    return Source(folder, archives)


def place(card: Card, sources: Sequence[Source], *, layout: str = "") -> Placement:
    """Find a card's data in one of the sources, and record where it lies.

    Args:
        card: without a root.
        sources: are tried one after another.
        layout: the only layout to look for; empty: all of the card's.

    Raises:
        CosamError: none of them holds the data in a known layout.
        CannotWrite: the data folder cannot be written.
    """
    if layout and layout not in card.layouts:
        raise unknown_name(f"layout of {card.name}", layout, card.layouts)
    wanted = card.model_copy(update={"layouts": {layout: card.layouts[layout]}}) if layout else card
    faults = []
    for source in sources:
        try:
            found, root = recognise(wanted, source.folder)
        except CosamError as error:
            faults.append(f"{error}{_forgotten(source.folder)}")
            continue
        return _record(card, found, root, source.archives)
    raise CosamError("\n".join(faults))


def _record(card: Card, layout: str, root: Path, archives: tuple[Archive, ...]) -> Placement:
    before = read_placed(card.name)
    passed_over: list[str] = []
    if card.layouts[layout].annotations:
        selected = data_folder() / card.name
        passed_over = write_selection(card.layouts[layout], root=root, into=selected)
        layout, root = SELECTED, selected
    laid_out = card.laid_out(layout, root=root)
    pairs = tuple(find_pairs(laid_out))
    placed = Placed(layout=layout, root=root, archives=archives)
    write_placed(card.name, placed)
    return Placement(laid_out, placed, pairs, before, tuple(passed_over))


def _forgotten(folder: Path) -> str:
    """A hint where a folder still holds archives, as those do that were packed twice."""
    found = sorted(_archives_below(folder, depth=_ARCHIVES_DEPTH))
    if not found:
        return ""
    more = f" and {len(found) - _ARCHIVES_SHOWN} more" if len(found) > _ARCHIVES_SHOWN else ""
    listed = ", ".join(str(path) for path in found[:_ARCHIVES_SHOWN])
    return f" There are archives in it: {listed}{more}. If they hold the data, give each of them with --from."


def _archives_below(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file() and is_archive_name(Path(entry.name)):
                    yield Path(entry.path)
                elif depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__")):
                    yield from _archives_below(Path(entry.path), depth=depth - 1)
    except OSError:
        return  # not ours to read
