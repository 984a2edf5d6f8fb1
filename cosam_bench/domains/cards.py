"""Cards and streams: TOML files that say what a domain is and in which order domains come.

Nothing here imports torch, so that the command line can list domains at once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cosam_bench.config import Settings, read_toml, validate
from cosam_bench.domains.foreground import Foreground
from cosam_bench.errors import CosamError, unknown_name

DATASETS = Path(__file__).resolve().parent.parent / "datasets"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.@-]*$")]
Globs = str | tuple[str, ...]
Fact = Literal["source", "licence", "citation", "layout", "split", "expected"]


class SplitRule(Settings):
    """How a domain's images are divided into training and test; one image never lies in both.

    Attributes:
        kind: ``ratio``: ``test`` is the share of images to test on (1.0: all of them).
            ``counts``: exactly ``train`` and ``test`` samples. ``folders``: ``train`` and ``test`` are
            globs of images, relative to the root. ``lists``: ``train`` and ``test`` are text files,
            relative to the root, with one image name, stem or path a line.
        train: see ``kind``.
        test: see ``kind``.
        seed: which of the possible divisions ``ratio`` and ``counts`` take. It belongs to the card, not
            to a run. Images are ranked by a hash of seed and name, so adding one moves no other.
    """

    kind: Literal["ratio", "counts", "folders", "lists"] = "ratio"
    train: int | str | tuple[str, ...] | None = None
    test: int | float | str | tuple[str, ...] = 0.2
    seed: int = 0

    @property
    def counts(self) -> dict[Literal["train", "test"], int]:
        """The numbers of samples for ``counts``; test stands first, as it is filled first."""
        numbers: dict[Literal["train", "test"], object] = {"test": self.test, "train": self.train}
        return {part: number for part, number in numbers.items() if isinstance(number, int)}

    def paths(self, part: Literal["train", "test"]) -> tuple[str, ...]:
        """The globs or the lists of one part for ``folders`` and ``lists``."""
        given = self.train if part == "train" else self.test
        return (given,) if isinstance(given, str) else given if isinstance(given, tuple) else ()

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "ratio":
            if isinstance(self.test, str | tuple) or not 0 < self.test <= 1 or self.train is not None:
                raise ValueError("a ratio needs test = a share above 0 and up to 1, and no train")
        elif self.kind == "counts":
            if len(self.counts) < 2 or min(self.counts.values()) < 0:
                raise ValueError("counts need train and test as whole numbers")
        elif not isinstance(self.test, str | tuple) or isinstance(self.train, int):
            raise ValueError(f"{self.kind} need train and test as paths")
        return self


class Expected(Settings):
    """The sizes that the source states, for comparison with what is found."""

    train: int
    test: int


class Card(Settings):
    """One domain: where its images and masks come from, and what is known about it.

    Attributes:
        name: short, lower case; part of file names.
        title: one line for people.
        kind: ``files``, or ``synthetic`` for images drawn by code.
        root: folder of the data. Relative paths start at the TOML file; ``~`` and environment
            variables are expanded.
        images: glob, or list of globs, relative to the root; files that are no images are passed over.
            Default ``images/*``. Not with ``split.kind = "folders"``, which has its own.
        masks: where an image's mask lies, relative to the root: a glob in which ``{stem}``, ``{name}``
            (with suffix), ``{parent}`` (name of the image's folder) and ``{folder}`` (path of it) stand
            for the image's own. With ``pairing = "sorted"``: a glob of all masks.
        pairing: ``name``, or ``sorted``: the n-th image goes with the n-th mask, in order of their paths.
        foreground: see :class:`~cosam_bench.domains.foreground.Foreground`.
        samples: ``union``: one sample an image. ``component``: one sample a connected component of the
            mask (8 neighbours).
        min_pixels: samples with fewer foreground pixels are left out and counted.
        split: see :class:`SplitRule`. Synthetic domains need ``counts``; its seed draws the images.
        generator: name of the synthetic generator.
        size: side of synthetic images in pixels.
        source: address the data comes from.
        licence: its terms.
        citation: the publication to cite.
        expected: the sizes stated by the source.
        verified: those of the facts above that somebody has checked at the source.
    """

    name: Name
    title: str = ""
    kind: Literal["files", "synthetic"] = "files"
    root: str = ""
    images: Globs | None = None
    masks: Globs = "masks/{stem}.*"
    pairing: Literal["name", "sorted"] = "name"
    foreground: Foreground = Foreground()
    samples: Literal["union", "component"] = "union"
    min_pixels: int = Field(default=1, ge=1)
    split: SplitRule = SplitRule()
    generator: str = ""
    size: int = Field(default=128, ge=16)
    source: str = ""
    licence: str = ""
    citation: str = ""
    expected: Expected | None = None
    verified: tuple[Fact, ...] = ()

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "synthetic":
            if not self.generator or self.split.kind != "counts":
                raise ValueError('a synthetic domain needs a generator and split = { kind = "counts", ... }')
            return self
        if not self.root:
            raise ValueError('a domain of files needs root, the folder of its data ("." for the TOML\'s own)')
        if self.images is not None and self.split.kind == "folders":
            raise ValueError("images are named by split.train and split.test already, so leave images out")
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        has_name = any("{stem}" in pattern or "{name}" in pattern for pattern in masks)
        if has_name != (self.pairing == "name"):
            raise ValueError('masks needs {stem} or {name} with pairing = "name", and neither with "sorted"')
        return self


class Stream(Settings):
    """Domains in the order in which a method meets them, and domains it is only ever tested on.

    Attributes:
        name: short, lower case.
        title: one line for people.
        order: names of the domains to learn, first to last. In TOML by default all that are not retention.
        retention: names of the domains that are only ever tested.
        cards: the domains, ``[[domain]]`` in TOML: a card, or ``card = "NAME"`` for one that comes with
            the package (or ``card = "path/to/card.toml"``), whose keys may be overridden beside it.
    """

    name: Name
    title: str = ""
    order: tuple[str, ...] = Field(min_length=1)
    retention: tuple[str, ...] = ()
    cards: tuple[Card, ...] = Field(alias="domain")

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [card.name for card in self.cards]
        used = [*self.order, *self.retention]
        for kind, listed in (("[[domain]]", names), ("order and retention", used)):
            if twice := sorted({name for name in listed if listed.count(name) > 1}):
                raise ValueError(f"named twice in {kind}: {', '.join(twice)}")
        for name in used:
            if name not in names:
                raise ValueError(str(unknown_name("domain of this stream", name, names)).rstrip("."))
        return self

    def card(self, name: str) -> Card:
        """The card of one domain."""
        return next(card for card in self.cards if card.name == name)


def load_stream(name_or_path: str) -> Stream:
    """The stream of that name in the package, or the one in a TOML file of the user's.

    Raises:
        CosamError: there is no such stream or card, or the file has faults.
    """
    path = _find(name_or_path, kind="stream")
    data = read_toml(path)
    tables = data.get("domain")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise CosamError(f"{path}: a stream needs its domains as [[domain]] tables.")
    cards = [_card(table, path=path, number=number) for number, table in enumerate(tables, start=1)]
    retention = data.get("retention", [])
    in_file = [card.name for card in cards if card.name not in retention]
    return validate(Stream, {"order": in_file} | data | {"domain": cards}, source=str(path))


def _find(name_or_path: str, *, kind: Literal["stream", "card"], beside: Path | None = None) -> Path:
    """The TOML file that is meant: a path, else a name of the package's."""
    if name_or_path.endswith(".toml"):
        return (beside or Path()) / Path(name_or_path).expanduser()
    folder = DATASETS / f"{kind}s"
    names = [path.stem for path in folder.glob("*.toml")]
    if name_or_path not in names:
        error = unknown_name(kind, name_or_path, names)
        raise CosamError(f"{error} Or give the path of a file that ends in .toml.")
    return folder / f"{name_or_path}.toml"


def _card(table: dict[str, Any], *, path: Path, number: int) -> Card:
    """The card of one ``[[domain]]`` table, what it refers to filled in and its root made absolute."""
    own = _rooted({key: value for key, value in table.items() if key != "card"}, path=path)
    if "card" in table:
        card_path = _find(str(table["card"]), kind="card", beside=path.parent)
        own = _rooted(read_toml(card_path), path=card_path) | own
    return validate(Card, own, source=f"{path}, domain {own.get('name', f'number {number}')}")


def _rooted(table: dict[str, Any], *, path: Path) -> dict[str, Any]:
    if not isinstance(table.get("root"), str) or not table["root"]:
        return table
    root = os.path.expandvars(Path(table["root"]).expanduser())
    if re.search(r"\$\w|\$\{", root):
        return table  # a variable is not set: an error only once somebody opens the domain
    return table | {"root": os.path.normpath(path.resolve().parent / root)}
