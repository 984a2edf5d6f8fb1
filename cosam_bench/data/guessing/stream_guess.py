"""The guess of a stream: which folders are domains, and the TOML file of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import has_image_name
from cosam_bench.data.guessing.annotation_files import is_coco
from cosam_bench.data.guessing.domain_guess import UNDECIDED, DomainGuess, guess_domain
from cosam_bench.data.guessing.file_groups import case_parents
from cosam_bench.data.guessing.folder_listing import FolderListing, list_folder
from cosam_bench.data.guessing.folder_words import division_of, folder_role, is_division, role_of
from cosam_bench.data.guessing.list_files import SUFFIXES as LIST_SUFFIXES
from cosam_bench.data.guessing.toml_text import comment, toml_line
from cosam_bench.data.streams import load_stream

_BESIDE = "it is called like a list of a split; if it is one, move it into its domain's folder, and run data init again"
_NAME = re.compile(r"[^a-z0-9_.-]+")


@dataclass(frozen=True)
class StreamGuess:
    """The domains of a folder.

    Attributes:
        name: of the stream.
        domains: by their names, in alphabetical order.
        left_out: folders that are no domain, and lists of a split beside them, each with the reason.
    """

    name: str
    domains: dict[str, DomainGuess]
    left_out: dict[str, str]

    @property
    def undecided(self) -> list[str]:
        """The domains for which somebody must choose."""
        return [name for name, domain in self.domains.items() if domain.choices]


def guess_stream(folder: Path) -> StreamGuess:
    """The stream of a folder: one domain, or one per folder in it.

    Args:
        folder: with images and masks.

    Raises:
        CosamError: there is no such folder, or nothing in it can be a domain; the message says why.
    """
    root = folder.resolve()
    listing = _unwrapped(list_folder(root))
    if not listing.files:
        raise CosamError(f"{folder} is empty. Give the folder that holds your images and masks.")
    if not any(has_image_name(path) for path in listing.paths("")):
        kinds = first_few(sorted({path.suffix or "without suffix" for path in listing.paths("")}))
        raise CosamError(f"There are no images in {folder}, only files of these kinds: {kinds}. Give another folder.")
    parts = {"": listing} if _is_one_domain(listing) else {name: listing.below((name,)) for name in listing.children()}
    domains: dict[str, DomainGuess] = {}
    left_out: dict[str, str] = {}
    for name, part in parts.items():
        shown = name or root.name
        guess = guess_domain(_unwrapped(part))
        if guess.fault:
            left_out[shown] = guess.fault
        else:
            domains[_free_name(shown, domains)] = guess
    if "" not in parts and _holds_images(listing.files.get((), [])):
        left_out["."] = "its images are beside the folders of domains"
    if not domains:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise CosamError(f"No masks were found in {folder}. {reasons}. See docs/your-data.md for what is recognised.")
    if "" not in parts:
        left_out |= dict.fromkeys(_lists_beside(listing), _BESIDE)
    return StreamGuess(_free_name(root.name, {}), domains, left_out)


def _lists_beside(listing: FolderListing) -> list[str]:
    """Files beside the folders of domains that are called like lists of a split."""
    names = [name for name in listing.files.get((), []) if name.lower().endswith(LIST_SUFFIXES)]
    return [name for name in names if division_of(Path(name).stem)]


def _unwrapped(listing: FolderListing) -> FolderListing:
    """The listing of the only folder in a folder without images, and so on."""
    while () not in listing.files and len(listing.children()) == 1 and role_of(listing.children()[0]) is None:
        listing = listing.below((listing.children()[0],))
    return listing


def _is_one_domain(listing: FolderListing) -> bool:
    """Whether a folder's own images, or what the folders in it are called, make it one domain."""
    children, names = listing.children(), listing.files.get((), [])
    if any(is_division(name) for name in children) or () in case_parents(listing):
        return True
    if any(_is_complete(listing.below((name,))) for name in children):
        return False
    if _holds_images(names) or any(role_of(name) for name in children):
        return True
    return any(is_coco(listing.root / name) for name in names if name.lower().endswith(".json"))


def _is_complete(listing: FolderListing) -> bool:
    """Whether a folder has folders of masks and others of images, and so is a domain whatever it is called."""
    roles = {folder_role(folder) for folder, names in listing.files.items() if _holds_images(names)}
    return "mask" in roles and len(roles) > 1


def _holds_images(names: Sequence[str]) -> bool:
    return any(has_image_name(Path(name)) for name in names)


def _free_name(text: str, taken: dict[str, DomainGuess]) -> str:
    """A name that cards allow and no other domain has."""
    name = _NAME.sub("_", text.lower()).lstrip("_.-") or "domain"
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def stream_text(guess: StreamGuess, *, folder: Path) -> str:
    """The TOML file of a guess, as it is put into a folder."""
    lines = comment("Written by `cosam-bench data init` from what it found. Check it, correct it, then run")
    lines += comment("`cosam-bench data check` on this file. Methods meet the domains in this order; list the names of")
    lines += comment('domains that are only tested, and never trained on, as retention = ["name"].')
    lines += ["", toml_line("name", guess.name)]
    for name, domain in guess.domains.items():
        lines += ["", "[[domain]]", *_domain_lines(name, domain, folder)]
    for name, reason in guess.left_out.items():
        lines += ["", *comment(f"{name} is not a domain: {reason}.")]
    return "\n".join(lines) + "\n"


def _domain_lines(name: str, domain: DomainGuess, folder: Path) -> list[str]:
    root = os.path.relpath(domain.folder, folder.resolve())
    lines = [toml_line("name", name), toml_line("root", Path(root).as_posix())]
    for text in domain.seen:
        lines += comment(text)
    lines += [toml_line(key, value) for key, value in domain.keys.items()]
    for key in dict.fromkeys(line.partition(" ")[0] for line, _ in domain.choices):
        is_written = domain.keys.get(key) in ("undecided", UNDECIDED)
        advice = f"Choose, and replace the line {key} above:" if is_written else f"Choose, if {key} is to be given:"
        lines += comment(advice)
        lines += _aligned([choice for choice in domain.choices if choice[0].startswith(f"{key} ")])
    if domain.offers:
        lines += comment("Possible as well:")
        lines += _aligned(domain.offers)
    return lines


def _aligned(choices: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(line) for line, _ in choices)
    return [text for line, meaning in choices for text in [f"# {line:<{width}}  # {meaning}"]]


def write_stream(guess: StreamGuess, path: Path) -> None:
    """Write the file of a guess, and read it again.

    Raises:
        CosamError: the file cannot be written, or a name is not UTF-8.
    """
    write_atomically(path, stream_text(guess, folder=path.absolute().parent))
    load_stream(str(path))
