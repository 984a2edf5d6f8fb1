"""Cards: TOML files that say what a domain is, where its data comes from and how its files lie.

Nothing here imports torch, so that the command line can list domains at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cosam_bench.core.settings import Settings
from cosam_bench.data.foreground import Foreground

DATASETS = Path(__file__).resolve().parent.parent / "datasets"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.@-]*$")]
Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Address = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Globs = str | tuple[str, ...]
Fact = Literal["source", "licence", "citation", "layout", "split", "expected", "downloads"]
Samples = Literal["union", "component", "polygon"]
Pairing = Literal["name", "sorted"]
Unlabelled = Literal["refuse", "skip"]


class SplitRule(Settings):
    """How a domain's images are divided into training and test; one image never lies in both.

    Attributes:
        kind: ``ratio``: ``test`` is the share of images to test on (1.0: all of them).
            ``counts``: exactly ``train`` and ``test`` samples. ``folders``: ``train`` and ``test`` are
            globs of images, relative to the root. ``lists``: ``train`` and ``test`` are text files,
            relative to the root, with one image name, stem or path a line; or JSON files (``.json``) with
            an object whose keys are the names.
        train: see ``kind``.
        test: see ``kind``.
        seed: which of the possible divisions ``ratio`` and ``counts`` take. It belongs to the card, not
            to a run. Images are ranked by a hash of seed and name, so adding one moves no other.
        without_test: with ``folders``: the globs for training also match test images, which are then
            left out of training: those with a test image's stem, and those with the same bytes.
    """

    kind: Literal["ratio", "counts", "folders", "lists"] = "ratio"
    train: int | str | tuple[str, ...] | None = None
    test: int | float | str | tuple[str, ...] = 0.2
    seed: int = 0
    without_test: bool = False

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
        if self.without_test and self.kind != "folders":
            raise ValueError('without_test goes with kind = "folders" alone')
        return self


class Expected(Settings):
    """The numbers of images (pairs of image and mask) that the source states, to compare with what is found."""

    train: int
    test: int


class Download(Settings):
    """A file that can be fetched without a form or a login.

    Attributes:
        url: its direct address.
        file: its name on disk.
        sha256: of the file; empty where nobody has published it.
        size_bytes: of the file; 0 where unknown.
        folder: where an archive is unpacked, or another file is put, relative to the folder of the card's
            data; empty: into that folder itself.
    """

    url: Address
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    sha256: Sha256 = ""
    size_bytes: int = Field(default=0, ge=0)
    folder: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$")] = ""


class Layout(Settings):
    """One form in which a domain's files lie on disk; its keys go over those of the card.

    Attributes:
        title: one line for people: whose archive this is.
        own: see :class:`Card`; none: the card's, as for all keys down to ``expected``.
        images: see :class:`Card`.
        masks: see :class:`Card`.
        pairing: see :class:`Card`.
        unlabelled: see :class:`Card`.
        foreground: see :class:`Card`.
        samples: see :class:`Card`.
        min_pixels: see :class:`Card`.
        split: see :class:`Card`.
        points: see :class:`Card`.
        expected: see :class:`Card`.
        annotations: path of a COCO annotation file, relative to the root. Such a layout cannot be opened
            as it is: ``cosam-bench data prepare`` selects images and writes their masks, in the layout
            ``selected``.
        select: with ``annotations``: how many images are selected.
        select_by: with ``annotations``: ``hash`` takes those that come first when their names are ranked by
            hash, ``name`` the first by name; both among the images that have something to segment.
    """

    title: str = ""
    own: str | None = None
    images: Globs | None = None
    masks: Globs | None = None
    pairing: Pairing | None = None
    unlabelled: Unlabelled | None = None
    foreground: Foreground | None = None
    samples: Samples | None = None
    min_pixels: int | None = Field(default=None, ge=1)
    split: SplitRule | None = None
    points: str | None = None
    expected: Expected | None = None
    annotations: str = ""
    select: int = Field(default=0, ge=0)
    select_by: Literal["hash", "name"] = "hash"

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if bool(self.annotations) != bool(self.select):
            raise ValueError("annotations and select go together")
        return self


# What a layout says about itself, not about the domain.
LAYOUTS_OWN = ("title", "annotations", "select", "select_by")


class Card(Settings):
    """One domain: where its images and masks come from, and what is known about it.

    Attributes:
        name: short, lower case; part of file names.
        title: one line for people.
        own: what here is the card's own rule and not the publication's, such as its split; in a few words.
        kind: ``files``, or ``synthetic`` for images drawn by code.
        root: folder of the data. Relative paths start at the TOML file; ``~`` and environment
            variables are expanded. Empty for a card with layouts, whose data ``cosam-bench data`` places.
        layout: the layout whose keys go over this card's. Without it, and without a root, the one that
            ``cosam-bench data prepare`` has recognised.
        layouts: the forms in which the data is published, by name.
        images: glob, or list of globs, relative to the root; files that are no images are passed over.
            Default ``images/*``. Not with ``split.kind = "folders"``, which has its own.
        masks: where an image's mask lies, relative to the root: a glob in which ``{stem}``, ``{name}``
            (with suffix), ``{parent}`` (name of the image's folder) and ``{folder}`` (path of it) stand
            for the image's own. With ``pairing = "sorted"``: a glob of all masks, in which ``{part}``
            stands for train and test if the split is by folders. A mask is an image, or, where the
            pattern ends in ``.json``, a labelme file of the image's shapes.
        pairing: ``name``, or ``sorted``: the n-th image goes with the n-th mask, in order of their paths.
        unlabelled: ``refuse`` images without a mask, or ``skip`` them.
        foreground: see :class:`~cosam_bench.data.foreground.Foreground`.
        samples: ``union``: one sample an image. ``component``: one sample a connected component of the
            mask (8 neighbours). ``polygon``: one sample a shape of a labelme file.
        min_pixels: samples with fewer foreground pixels are left out and counted.
        split: see :class:`SplitRule`. Synthetic domains need ``counts``; its seed draws the images.
        points: file of published point prompts, relative to the root, with ``{part}`` for train or test.
        generator: name of the synthetic generator.
        size: side of synthetic images in pixels.
        pool: name of the collection that several cards draw on: within it, equal stems are equal images.
        source: address the data comes from.
        downloads: the files to fetch, where the source has direct addresses.
        instructions: how to get the data by hand.
        licence: its name.
        licence_url: where its text stands.
        terms: what it asks of the user, in short.
        citation: the publication to cite.
        expected: the sizes stated by the source.
        verified: those of the facts above that somebody has checked at the source.
    """

    name: Name
    title: str = ""
    own: str = ""
    kind: Literal["files", "synthetic"] = "files"
    root: str = ""
    layout: str = ""
    layouts: dict[Key, Layout] = Field(default_factory=dict)
    images: Globs | None = None
    masks: Globs = "masks/{stem}.*"
    pairing: Pairing = "name"
    unlabelled: Unlabelled = "refuse"
    foreground: Foreground = Foreground()
    samples: Samples = "union"
    min_pixels: int = Field(default=1, ge=1)
    split: SplitRule = SplitRule()
    points: str = ""
    generator: str = ""
    size: int = Field(default=128, ge=16)
    pool: str = ""
    source: str = ""
    downloads: tuple[Download, ...] = ()
    instructions: str = ""
    licence: str = ""
    licence_url: str = ""
    terms: str = ""
    citation: str = ""
    expected: Expected | None = None
    verified: tuple[Fact, ...] = ()

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "synthetic":
            if not self.generator or self.split.kind != "counts":
                raise ValueError('a synthetic domain needs a generator and split = { kind = "counts", ... }')
            return self
        if not self.root and not self.layouts:
            raise ValueError('a domain of files needs root, the folder of its data ("." for the TOML\'s own)')
        if self.layout and self.layout not in self.layouts:
            raise ValueError(f"no layout {self.layout!r} among {', '.join(self.layouts) or 'none'}")
        if self.images is not None and self.split.kind == "folders":
            raise ValueError("images are named by split.train and split.test already, so leave images out")
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        has_name = any("{stem}" in pattern or "{name}" in pattern for pattern in masks)
        if has_name != (self.pairing == "name"):
            raise ValueError('masks needs {stem} or {name} with pairing = "name", and neither with "sorted"')
        by_part = self.pairing == "sorted" and self.split.kind == "folders"
        if any("{part}" in pattern for pattern in masks) and not by_part:
            raise ValueError('{part} in masks goes with pairing = "sorted" and a split by folders')
        return self

    @property
    def full_title(self) -> str:
        """The title, with what is not as published in brackets."""
        title = self.title or self.name
        return f"{title} ({self.own})" if self.own else title

    def laid_out(self, layout: str, *, root: Path | str) -> Card:
        """This card with the keys of one of its layouts, and its data under ``root``."""
        own = self.model_dump(exclude_unset=True, by_alias=True)
        return Card.model_validate(over(own, layout) | {"root": str(root), "layout": layout})


def over(table: dict[str, Any], layout: str) -> dict[str, Any]:
    """A card's table with the keys of the layout of that name laid over it; the layout must be there."""
    keys = table["layouts"][layout]
    return table | {key: value for key, value in keys.items() if key not in LAYOUTS_OWN}
