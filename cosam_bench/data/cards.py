"""Cards: TOML files that describe a domain, the source of its data and its folders.

Nothing here imports torch, so that the command line lists domains without delay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from cosam_bench.core.settings import Settings, form
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.ignored import Ignored
from cosam_bench.data.image_groups import group_fault

DATASETS = Path(__file__).resolve().parent.parent / "datasets"

MOST_SAMPLES = 1_000_000  # of one part; the largest published collection of masks has as many as a card may ask for
DRAWN_PIXELS = 10**9  # of one synthetic domain: 4 GB with their masks

_BEGIN = "begin with a letter or digit, and use only lower-case letters, digits"
_NAME = form(r"^[a-z0-9][a-z0-9_.@-]*$", f"{_BEGIN}, _, ., @ and -")
_KEY = form(r"^[a-z0-9][a-z0-9_]*$", f"{_BEGIN} and _")
_ADDRESS = form(r"^https?://\S+$", "write an address that begins with http:// or https:// and has no spaces")
_SHA256 = form(r"^([0-9a-f]{64})?$", "write a sha256, 64 lower-case hexadecimal digits, or leave it empty")
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Key = Annotated[str, StringConstraints(pattern=_KEY)]
Address = Annotated[str, StringConstraints(pattern=_ADDRESS)]
Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
Globs = str | tuple[str, ...]
Part = Literal["train", "test"]
Fact = Literal["source", "licence", "citation", "layout", "split", "expected", "downloads"]
Samples = Literal["union", "component", "polygon", "instance"]
Pairing = Literal["name", "sorted"]
Holes = Literal["fill", "cut"]
Unlabelled = Literal["refuse", "skip"]
Orientation = Literal["upright", "stored"]
Several = Literal["refuse", "union"]


class SplitRule(Settings):
    """How a domain's images are divided into training and test; no image is in both.

    Attributes:
        kind: ``ratio``: ``test`` is the share of images to test on (1.0: all of them).
            ``counts``: exactly ``train`` and ``test`` samples. ``folders``: ``train`` and ``test`` are
            globs of images, relative to the root. ``lists``: ``train`` and ``test`` are text files,
            relative to the root, with one image name, stem or path per line; or JSON files (``.json``) that
            hold an object whose keys are the names. ``manifest``: ``file`` lists each image with its part and
            hashes; ``train`` and ``test`` are the numbers of images that it lists. ``undecided`` is refused
            wherever images are divided: somebody must choose.
        file: with ``manifest``: path of a CSV file, relative to the TOML file that names it; see
            :mod:`cosam_bench.data.split_manifests`.
        train: see ``kind``.
        test: see ``kind``.
        seed: selects one of the possible divisions by ``ratio`` and ``counts``. It belongs to the card, not
            to a run. Images are ranked by a hash of seed and name, so adding one moves at most a few
            others, those next to the boundary; lists and manifests fix a split.
        without_test: with ``folders``: the globs for training also match test images; images with a test
            image's stem or bytes are then left out of training.
    """

    kind: Literal["ratio", "counts", "folders", "lists", "manifest", "undecided"] = "ratio"
    file: str = ""
    train: int | str | tuple[str, ...] | None = None
    test: int | float | str | tuple[str, ...] = 0.2
    seed: int = 0
    without_test: bool = False

    @property
    def counts(self) -> dict[Part, int]:
        """The numbers of ``counts`` and ``manifest``; test comes first because it is filled first."""
        numbers: dict[Part, object] = {"test": self.test, "train": self.train}
        return {part: number for part, number in numbers.items() if isinstance(number, int)}

    @property
    def is_test_only(self) -> bool:
        """Whether the rule leaves nothing to train on by intention."""
        if self.kind == "manifest":
            return self.train == 0
        return self.kind == "ratio" and self.test == 1

    def paths(self, part: Part) -> tuple[str, ...]:
        """The globs of ``folders`` or the files of ``lists`` for one part."""
        given = self.train if part == "train" else self.test
        return (given,) if isinstance(given, str) else given if isinstance(given, tuple) else ()

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "undecided":
            if self.model_fields_set - {"kind"}:
                raise ValueError('kind = "undecided" divides nothing, so leave the other keys out')
        elif self.kind == "ratio":
            if isinstance(self.test, str | tuple) or not 0 < self.test <= 1 or self.train is not None:
                raise ValueError("a ratio needs test = a share above 0, at most 1, and no train")
        elif self.kind in ("counts", "manifest"):
            if len(self.counts) < 2 or not 0 <= min(self.counts.values()) <= max(self.counts.values()) <= MOST_SAMPLES:
                raise ValueError(f"{self.kind} needs train and test as whole numbers from 0 to {MOST_SAMPLES}")
        elif not isinstance(self.test, str | tuple) or isinstance(self.train, int):
            raise ValueError(f"{self.kind} needs train and test as paths")
        if bool(self.file) != (self.kind == "manifest"):
            raise ValueError('file, the path of a CSV file, belongs to kind = "manifest", which needs it')
        if self.without_test and self.kind != "folders":
            raise ValueError('without_test needs kind = "folders"')
        return self


class Expected(Settings):
    """The numbers of images (pairs of image and mask) that the source states."""

    train: int
    test: int


class Download(Settings):
    """A file that can be fetched without a form or a login.

    Attributes:
        url: its direct address.
        file: its name on disk.
        sha256: of the file; empty if nobody has published it.
        size_bytes: of the file; 0 if unknown.
        folder: where the archive is unpacked, or the file is put, relative to the folder of the card's
            data; empty for that folder itself.
    """

    url: Address
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    sha256: Sha256 = ""
    size_bytes: int = Field(default=0, ge=0)
    folder: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$")] = ""


class Layout(Settings):
    """One form in which a domain is published; its keys override those of the card, see :class:`Card`.

    Attributes:
        title: one line for people: whose archive this is.
        annotations: path of a COCO annotation file, relative to the root. Such a layout cannot be opened
            directly: ``cosam-bench data prepare`` selects images and writes their masks, in the layout
            ``selected``.
        select: with ``annotations``: the number of images to select.
        select_by: with ``annotations``: ``hash`` takes the first images in order of the hashes of their
            names, ``name`` the first by name; both among images that have something to segment.
    """

    title: str = ""
    own: str | None = None
    images: Globs | None = None
    masks: Globs | None = None
    pairing: Pairing | None = None
    unlabelled: Unlabelled | None = None
    foreground: Foreground | None = None
    ignore: Ignored | None = None
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


# What a layout states about itself, not about the domain.
_OWN_KEYS = ("title", "annotations", "select", "select_by")


class Card(Settings):
    """One domain: the source of its images and masks, and what is known about it.

    Attributes:
        name: short, lower case; part of file names.
        title: one line for people.
        own: in a few words, what this card decides and the publication does not, such as its split.
        kind: ``files``, or ``synthetic`` for images drawn by code.
        root: folder of the data. Relative paths start at the TOML file; ``~`` and environment variables
            are expanded. Empty for a card with layouts, whose data ``cosam-bench data`` locates.
        layout: the layout whose keys override this card's. Without it, and without a root, the one that
            ``cosam-bench data prepare`` has recognised.
        layouts: the forms in which the data is published, by name.
        images: glob, or list of globs, relative to the root; files that are not images are ignored.
            Default ``images/*``. Not with ``split.kind = "folders"``, which has its own.
        masks: the mask of an image, relative to the root: a glob in which ``{stem}``, ``{name}`` (with
            suffix), ``{parent}`` (name of the image's folder) and ``{folder}`` (its path) are replaced by
            the image's own, and ``{id}`` by what the image's name has in the place of ``{id}`` in ``images``. With
            ``pairing = "sorted"``: a glob of all masks, with ``{part}`` for train and test if the split is by
            folders. A mask is an image; a labelme file of the image's shapes, if the pattern ends in ``.json``; or
            YOLO's text file of its segments, if it ends in ``.txt``.
        annotations: glob, or list of globs, of COCO annotation files relative to the root, instead of ``masks``.
            Crowds are neither foreground nor background.
        holes: with ``annotations``, what a polygon inside another one of the same object is: ``fill``
            joins them, as COCO's own tools do, ``cut`` makes it a hole. Without the key such an object is refused.
        pairing: ``name``, or ``sorted``: the n-th image goes with the n-th mask, in order of their paths.
        several: ``refuse`` an image with several masks, or take their ``union``, if each object has a file of its own.
        unlabelled: ``refuse`` images without a mask, or ``skip`` them.
        foreground: see :class:`~cosam_bench.data.foreground.Foreground`.
        ignore: pixels of a mask image that are neither foreground nor background, see
            :class:`~cosam_bench.data.ignored.Ignored`.
        orientation: of masks that are images, if the EXIF orientation of an image turns it: ``upright``, as the image
            is shown (the default), or ``stored``, as its pixels are stored, so that the mask is turned with it.
        samples: ``union``: one sample per image. ``component``: one per connected component of the mask
            (8 neighbours). ``polygon``: one per shape of a labelme file. ``instance``: one per object of
            ``annotations`` or of a text file.
        labels: which objects of annotation files are foreground, by labelme's labels, COCO's names of categories or
            YOLO's classes ("0"); none: all, but labelme's ``_background_``, which is a hole, and ``__ignore__``.
        levels: the white of images of 16 bits, such as 4095 if a camera of 12 bits has filled them; by default
            65535. Images whose levels all stay below 4096 are refused unless it is given.
        min_pixels: samples with fewer foreground pixels are left out and counted.
        empty: what becomes of images with empty masks, such as good parts. ``drop``: they are meant to be left out.
            ``keep``: they are trained on as negatives, and those for testing are scored by false positives, apart from
            the other images. Without it ``data check`` reports them as faults, and runs leave them out and say so.
        group: pattern of the end of an image's path without suffix, such as ``{group}_*`` or ``{group}/*``: images with
            the same ``{group}``, such as those of one patient, stay in one part of a split by ``ratio`` or ``counts``;
            for other splits ``data check`` reports groups that are in both parts.
        split: see :class:`SplitRule`. Synthetic domains need ``counts``; its seed draws the images.
        points: file of published point prompts, relative to the root, with ``{part}`` for train or test.
        generator: name of the synthetic generator.
        size: side of synthetic images in pixels.
        pool: name of the collection that several cards draw on: within it, equal stems are equal images.
        source: address that the data comes from.
        downloads: the files to fetch, if the source has direct addresses.
        instructions: how to get the data by hand.
        licence: its name.
        licence_url: address of its text.
        terms: what it asks of the user, in short.
        citation: the publication to cite.
        expected: the sizes that the source states.
        verified: which of the facts above somebody has checked at the source.
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
    annotations: Globs = ()
    holes: Holes | None = None
    pairing: Pairing = "name"
    several: Several = "refuse"
    unlabelled: Unlabelled = "refuse"
    foreground: Foreground = Foreground()
    ignore: Ignored | None = None
    orientation: Orientation | None = None
    samples: Samples = "union"
    labels: tuple[str, ...] = ()
    levels: int | None = Field(default=None, ge=255, le=65535)
    min_pixels: int = Field(default=1, ge=1, le=2**40)
    empty: Literal["drop", "keep"] | None = None
    group: str = ""
    split: SplitRule = SplitRule()
    points: str = ""
    generator: str = ""
    size: int = Field(default=128, ge=16, le=4096)
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
    _origin: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "synthetic":
            if not self.generator or self.split.kind != "counts":
                raise ValueError('a synthetic domain needs a generator and split = { kind = "counts", ... }')
            pixels = sum(self.split.counts.values()) * self.size**2
            if pixels > DRAWN_PIXELS:
                raise ValueError(
                    f"it asks for {pixels:.3g} pixels, but at most {DRAWN_PIXELS:.0e} are drawn for one domain, since "
                    "they stay in memory"
                )
            return self
        if not self.root and not self.layouts:
            raise ValueError('a domain of files needs root, the folder of its data ("." for the TOML\'s own)')
        if self.layout and self.layout not in self.layouts:
            raise ValueError(f"no layout {self.layout!r} among {', '.join(self.layouts) or 'none'}")
        if self.group and (fault := group_fault(self.group)):
            raise ValueError(fault)
        if self.images is not None and not (self.images and all(self.images)):
            raise ValueError('images is empty; give a glob, or leave it out for "images/*"')
        if self.images is not None and self.split.kind == "folders":
            raise ValueError("split.train and split.test name the images already, so leave images out")
        self._check_masks()
        return self

    def _check_masks(self) -> None:
        masks = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        if self.annotations:
            self._check_annotations()
        elif self.samples == "instance" and not all(mask.lower().endswith(".txt") for mask in masks):
            raise ValueError(
                'samples = "instance" needs annotations (COCO) or masks that end in .txt (YOLO); for labelme files say '
                '"polygon", for masks that are images "component"'
            )
        is_images = not any(mask.lower().endswith((".json", ".txt")) for mask in masks)
        if self.labels and is_images and not self.annotations:
            raise ValueError("labels are of objects in annotation files, and masks are images, so leave labels out")
        if masks and all(mask.lower().endswith((".json", ".txt")) for mask in masks):
            self._refuse_pixels("shapes in files of masks")
        if self.several == "union" and (self.annotations or self.pairing != "name" or not is_images):
            raise ValueError('several = "union" is for masks that are images, paired by name')
        if self.several == "union" and self.split.kind == "manifest":
            raise ValueError("a manifest lists one mask per image, so it cannot be used with several masks")
        if self.holes and not self.annotations:
            raise ValueError("holes is about polygons of COCO, so it needs annotations")
        words = [word for word in ("{stem}", "{name}", "{parent}", "{folder}", "{id}") if word in "".join(masks)]
        is_one_json = not words and len(masks) == 1 and masks[0].lower().endswith(".json")
        if is_one_json and self.pairing == "name":
            raise ValueError(
                f'masks names one file for all images; if it is a COCO file, say annotations = "{masks[0]}" instead'
            )
        if bool(words) != (self.pairing == "name"):
            raise ValueError(
                "masks needs {stem} or {name}, or, if each image has a folder of its own, {parent} or {folder}, with "
                f'pairing = "name"; none of them with "sorted"; it is {self.masks!r}'
            )
        by_part = self.pairing == "sorted" and self.split.kind == "folders"
        if any("{part}" in pattern for pattern in masks) and not by_part:
            raise ValueError('{part} in masks needs pairing = "sorted" and a split by folders')
        self._check_ids(has_ids="{id}" in words)

    def _check_annotations(self) -> None:
        unused = {"masks": "masks" in self.model_fields_set, 'pairing = "sorted"': self.pairing == "sorted"}
        self._refuse_pixels("annotations", *(key for key, is_given in unused.items() if is_given))
        if self.samples == "polygon":
            raise ValueError('samples = "polygon" is for labelme files; with annotations say "instance"')
        if self.split.kind == "manifest":
            raise ValueError("a manifest lists the files of masks, so it cannot be used with annotations")

    def _refuse_pixels(self, source: str, *unused: str) -> None:
        """Refuse keys about the pixels of masks that are images, beside further keys that mean nothing."""
        given = {
            "ignore": self.ignore is not None,
            "orientation": self.orientation is not None,
            "foreground": "foreground" in self.model_fields_set,
        }
        if keys := [*unused, *(key for key, is_given in given.items() if is_given)]:
            raise ValueError(f"{source} say which pixels are foreground, so leave out {' and '.join(keys)}")

    def _check_ids(self, *, has_ids: bool) -> None:
        split = (*self.split.paths("train"), *self.split.paths("test")) if self.split.kind == "folders" else ()
        images = (self.images,) if isinstance(self.images, str) else self.images or split
        in_names = [pattern.rpartition("/")[2].count("{id}") for pattern in images]
        if any("{id}" in pattern.rpartition("/")[0] for pattern in images) or max(in_names, default=0) > 1:
            raise ValueError("images may have {id} once, in the file's name; for folders use {parent} in masks")
        if has_ids != bool(in_names and min(in_names)) or any(in_names) != has_ids:
            raise ValueError("{id} must be in the patterns of images and in masks, such as frame_{id}.jpg, gt_{id}.png")

    @property
    def origin(self) -> str:
        """What ``cosam-bench data`` calls this card: its name in the package, or its TOML file's path."""
        return self._origin or self.name

    def with_origin(self, origin: str) -> Card:
        """This card, which a stream may call by another name."""
        card = self.model_copy()
        card._origin = origin
        return card

    @property
    def full_title(self) -> str:
        """The title, with what differs from the publication in brackets."""
        title = self.title or self.name
        return f"{title} ({self.own})" if self.own else title

    def with_layout(self, layout: str, *, root: Path | str) -> Card:
        """This card with the keys of one of its layouts, and its data under ``root``."""
        own = self.model_dump(exclude_unset=True, by_alias=True)
        card = Card.model_validate(merge_layout(own, layout) | {"root": str(root), "layout": layout})
        return card.with_origin(self.origin)


def merge_layout(table: dict[str, Any], layout: str) -> dict[str, Any]:
    """A card's table, overridden by the keys of one of its layouts; images go if its split names them."""
    keys = {key: value for key, value in table["layouts"][layout].items() if key not in _OWN_KEYS}
    names_images = keys.get("split", {}).get("kind") == "folders" and "images" not in keys
    return {key: value for key, value in table.items() if key != "images" or not names_images} | keys
