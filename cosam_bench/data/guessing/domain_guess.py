"""The guess of one domain: its card, what was seen, and what somebody must choose."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.unused_masks import unused_masks
from cosam_bench.data.decoding import DEEPEST, exif_orientation, upright_size
from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import ANNOTATIONS, has_image_name, relative
from cosam_bench.data.guessing.annotation_files import (
    AnnotationFiles,
    coco_candidate,
    coco_categories,
    find_annotations,
    labelme_labels,
    yolo_classes,
)
from cosam_bench.data.guessing.candidates import Candidate, best_candidate, mask_candidates
from cosam_bench.data.guessing.folder_listing import FolderListing
from cosam_bench.data.guessing.folder_words import folder_role
from cosam_bench.data.guessing.image_headers import ImageHeaders, read_headers
from cosam_bench.data.guessing.list_files import find_lists
from cosam_bench.data.guessing.mask_choice import choose_foreground
from cosam_bench.data.guessing.toml_text import toml_line
from cosam_bench.data.image_files import read_bytes, too_dark
from cosam_bench.data.labelme import BACKGROUND, IGNORED
from cosam_bench.data.pairing import Pair

SHOWN = 3
_NAMED = ("name", "several masks", "unread")  # faults of one image's file or mask
UNDECIDED = {"kind": "undecided"}
ONE_IMAGE = "One image with a mask cannot be divided into training and test; add images"
_TEST_ONLY = 'split = { kind = "ratio", test = 1.0 }'
_KINDS = {
    "masks": "a mask image",
    "labelme": "a labelme file",
    "yolo": "a text file of YOLO's segments",
    "coco": "an entry in a COCO file",
}


@dataclass
class DomainGuess:
    """One domain as it is written.

    Attributes:
        folder: that holds it.
        keys: of the card, without name and root; empty if the domain could not be guessed.
        seen: what was found, a comment each.
        choices: for each thing that somebody must choose, the lines of TOML to choose from with their meanings.
        offers: lines of TOML that may be added, with their meanings.
        unused_lists: files that are called like lists of a split, and are not used.
        fault: why the domain could not be guessed.
        images: number of images.
        pairs: number of images with a mask.
        unread: ``images`` or ``masks`` if not one of them can be read; else empty.
    """

    folder: Path
    keys: dict[str, Any] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    choices: list[tuple[str, str]] = field(default_factory=list)
    offers: list[tuple[str, str]] = field(default_factory=list)
    unused_lists: list[str] = field(default_factory=list)
    fault: str = ""
    images: int = 0
    pairs: int = 0
    unread: str = ""

    @property
    def cannot_be_divided(self) -> bool:
        """Whether there is one image alone, and nothing says whether it is for training or for testing."""
        return self.pairs == 1 and "split" not in self.keys


def guess_domain(listing: FolderListing) -> DomainGuess:
    """The guess of the domain whose files a listing has."""
    root = listing.root
    guess = DomainGuess(root)
    images = [path for path in listing.paths("") if has_image_name(path)]
    if not images:
        guess.fault = "there are no images in it"
        return guess
    found = find_annotations(listing)
    tried = [candidate.paired(root) for candidate in _candidates(listing, found)]
    best = best_candidate(tried)
    if best is None:
        guess.fault = _why_none(listing, images, found, tried)
        return guess
    guess.keys = dict(best.keys)
    pairs = best.pairing.pairs
    guess.images, guess.pairs = len(best.pairing.images), len(pairs)
    headers = read_headers(pairs)
    guess.seen.append(f"{guess.images} {_images(guess.images)}, {headers.described()}. {_pairing_in_words(best, root)}")
    guess.seen += [*best.notes, *found.damaged[:SHOWN], *headers.faults[:SHOWN]]
    _add_unpaired(guess, best, root)
    _add_lists(guess, listing, best, found)
    if guess.cannot_be_divided:
        guess.seen.append(f"{ONE_IMAGE}.")
        guess.offers.append((_TEST_ONLY, "if the domain is only tested; list its name in retention above"))
    if pairs and not headers.sizes:
        guess.unread = "images"
    if best.kind == "masks":
        _add_masks(guess, pairs, headers)
    else:
        _add_labels(guess, best, pairs, found)
    if fault := too_dark(best.card(root), headers.deepest):
        guess.seen.append(f"Images: not clear what white is, since {fault.partition(';')[0]}.")
        guess.choices += [("levels = 4095", "if a camera of 12 bits filled them"), (f"levels = {DEEPEST}", "if not")]
    _add_unused(guess, listing, images, best)
    return guess


def _candidates(listing: FolderListing, found: AnnotationFiles) -> Iterator[Candidate]:
    yield from mask_candidates(listing, kind="masks")
    if found.coco and (coco := coco_candidate(listing, found.coco)):
        yield coco
    if found.labelme:
        yield from mask_candidates(listing, kind="labelme", files=found.labelme)
    if found.yolo:
        yield from mask_candidates(listing, kind="yolo", files=found.yolo)


def _why_none(
    listing: FolderListing, images: Sequence[Path], found: AnnotationFiles, tried: Sequence[Candidate]
) -> str:
    """Why no image has a mask."""
    held = f"it holds {len(images)} images ({first_few([relative(one, listing.root) for one in images], shown=SHOWN)})"
    if found.boxes:
        return f"{held} and {len(found.boxes)} text files of boxes, which are not masks; export segments"
    if found.coco:
        return f"{held}, but {found.coco[0].path.name} lists images of other names"
    if found.damaged:
        return f"{held}; {found.damaged[0].rstrip('.')}"
    if faults := _faults_of_names(tried):
        return f"{held}, but {first_few(faults, shown=SHOWN, separator='; ')}"
    if kinds := _other_kinds(listing):
        return f"{held}, and {first_few(kinds, shown=SHOWN)}, which are not read; convert them to PNG"
    return f"{held}, but none is called as the mask of another"


def _faults_of_names(tried: Sequence[Candidate]) -> list[str]:
    """What keeps images and masks of matching names apart, for the candidate that says most about it."""
    found = ([fault.text for fault in one.pairing.faults if fault.kind in _NAMED] for one in tried)
    return max(found, key=len, default=[])


def _other_kinds(listing: FolderListing) -> list[str]:
    """The other kinds of files in folders that are called as those of images or masks, with their numbers."""
    found = Counter(
        ("/".join(folder), Path(name).suffix.lower())
        for folder, names in listing.files.items()
        for name in names
        if folder_role(folder) and Path(name).suffix and not _is_known(name)
    )
    return [f"{folder} holds {count} {suffix} files" for (folder, suffix), count in found.most_common()]


def _is_known(name: str) -> bool:
    return has_image_name(Path(name)) or name.lower().endswith(ANNOTATIONS)


def _pairing_in_words(best: Candidate, root: Path) -> str:
    pairs = best.pairing.pairs
    first = pairs[0]
    mask = f"its entry in {relative(first.mask, root)}" if first.listed_as else relative(first.mask, root)
    count = sum(len(pair.mask_files) for pair in pairs)
    kind = f"several mask images ({count} in all)" if count > len(pairs) else _KINDS[best.kind]
    return f"{len(pairs)} {'has' if len(pairs) == 1 else 'have'} {kind}, as {relative(first.image, root)} has {mask}."


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _add_unpaired(guess: DomainGuess, best: Candidate, root: Path) -> None:
    lacking = [fault.name for fault in best.pairing.faults if fault.kind == "no mask"]
    if lacking:
        have = "image has" if len(lacking) == 1 else "images have"
        guess.seen.append(f"{len(lacking)} {have} no mask: {first_few(lacking, shown=SHOWN)}.")
        guess.choices.append((toml_line("unlabelled", "skip"), "leaves images without a mask out"))
    others = [fault.text for fault in best.pairing.faults if fault.kind != "no mask"]
    if others:
        do = "file does" if len(others) == 1 else "files do"
        guess.seen.append(f"{len(others)} {do} not fit: {first_few(others, shown=SHOWN, separator='; ')}.")
    if alone := unused_masks(best.card(root), best.pairing):
        guess.seen.append(
            f"{len(alone)} {'mask has' if len(alone) == 1 else 'masks have'} no image: {first_few(alone, shown=SHOWN)}."
        )
    numbered = {_numbers(name): name for name in alone}
    if same := [(name, numbered[_numbers(name)]) for name in lacking if _numbers(name) in numbered]:
        guess.seen.append(
            f"{len(same)} of these images and masks have the same number with other digits, such as {same[0][0]} and "
            f"{same[0][1]}; write all numbers with the same digits, as 01 and 10, and run data init again."
        )


def _numbers(name: str) -> tuple[int, ...] | str:
    """The numbers in a file's name; the name if it has none."""
    return tuple(int(digits) for digits in re.findall(r"[0-9]{1,18}", Path(name).stem)) or name


def _add_lists(guess: DomainGuess, listing: FolderListing, best: Candidate, found: AnnotationFiles) -> None:
    """Take lists of names, such as train.txt and test.txt, as the split, and name those that are not taken."""
    has_split = "split" in guess.keys
    annotations = {*found.yolo, *found.boxes, *found.labelme, *(file.path for file in found.coco)}
    lists = find_lists(listing, best.pairing.pairs, annotations=annotations, has_split=has_split)
    if lists.train and lists.test:
        train, test = lists.train.name, lists.test.name
        guess.keys["split"] = {"kind": "lists", "train": train, "test": test}
        guess.seen.append(f"The split is that of {train} and {test}; images in neither list are left out.")
    if not lists.unused:
        return
    guess.unused_lists += [one.name for one in lists.unused]
    guess.seen.append(f"Called like lists of a split, but not used: {lists.reasons(has_split=has_split)}.")
    if "split" not in guess.keys:
        by_part = {one.part: one.name for one in reversed(lists.unused)}
        test = by_part.get("test") or by_part.get("validation", "test.txt")
        guess.keys["split"] = dict(UNDECIDED)
        split = {"kind": "lists", "train": by_part.get("train", "train.txt"), "test": test}
        guess.choices += [
            (toml_line("split", split), "once each line of both files names one image"),
            (toml_line("split", {"kind": "ratio", "test": 0.2}), "if none are published for testing: a fifth is"),
        ]


def _add_masks(guess: DomainGuess, pairs: Sequence[Pair], headers: ImageHeaders) -> None:
    choice = choose_foreground(pairs)
    guess.keys |= choice.keys
    guess.seen += choice.comments
    guess.choices += choice.alternatives
    if choice.is_unread:
        guess.unread = "masks"
    if not headers.turned:
        return
    count = f"{len(headers.turned)} {_images(len(headers.turned))}"
    kinds = {_orientation_of_mask(pair) for pair, _ in headers.turned}
    text = f"An EXIF orientation turns {count}"
    if kinds == {"upright"}:
        guess.seen.append(f"{text}; their masks have the size of the upright images.")
    elif kinds <= {"stored", "either"} and "stored" in kinds:
        guess.keys["orientation"] = "stored"
        guess.seen.append(f"{text}; their masks have the size of the stored pixels, so they are turned with them.")
    elif kinds <= {"upright", "either"} and "upright" in kinds:
        guess.keys["orientation"] = "upright"
        guess.seen.append(f"{text}; masks whose size tells have that of the upright images.")
    else:
        guess.seen.append(f"{text}, and the sizes of masks do not tell whether they are turned. Look at one.")
        guess.choices += [
            (toml_line("orientation", "upright"), "masks fit the image as it is shown"),
            (toml_line("orientation", "stored"), "masks fit the pixels as they are stored"),
        ]


def _orientation_of_mask(pair: Pair) -> str:
    """Whether a mask has the size of the upright image, of the stored one, or either."""
    try:
        image, mask = (read_bytes(path) for path in (pair.image, pair.mask))
        upright = upright_size(image, name=str(pair.image))
        size = upright_size(mask, name=str(pair.mask))
        if exif_orientation(mask, name=str(pair.mask)) > 1:
            return "upright"
        is_swapped = exif_orientation(image, name=str(pair.image)) >= 5 and upright[0] != upright[1]
    except CosamError:
        return "either"
    if not is_swapped:
        return "either"
    return "upright" if size == upright else "stored"


def _add_labels(guess: DomainGuess, best: Candidate, pairs: Sequence[Pair], found: AnnotationFiles) -> None:
    if best.kind == "coco":
        counts, without = coco_categories(found.coco)
        word = "categories"
        if without:
            objects = "object has" if without == 1 else "objects have"
            guess.seen.append(f"{without} {objects} no segmentation, only a box, which a check refuses.")
    elif best.kind == "labelme":
        counts, word = labelme_labels([pair.mask for pair in pairs]), "labels"
    else:
        counts, word = yolo_classes([pair.mask for pair in pairs]), "classes"
    listed = ", ".join(f"{label} ({count})" for label, count in counts.most_common())
    guess.seen.append(f"Objects by their {word}: {listed or 'none'}.")
    special = [label for label in (BACKGROUND, IGNORED) if best.kind == "labelme" and label in counts]
    chosen = [label for label, _ in counts.most_common() if label not in special]
    if special:
        guess.seen.append(f"{BACKGROUND} is a hole, and {IGNORED} is left out of loss and metrics.")
    if len(chosen) > 1:
        guess.seen.append("All of them together are foreground, in one mask per image.")
        guess.offers.append((toml_line("labels", [chosen[0]]), "if only some count"))
    by_object = "polygon" if best.kind == "labelme" else "instance"
    guess.offers.append((toml_line("samples", by_object), "one sample per object"))


def _add_unused(guess: DomainGuess, listing: FolderListing, images: Sequence[Path], best: Candidate) -> None:
    """Name the images that the guess leaves out."""
    used = {image.path for image in best.pairing.images}
    used |= {mask for pair in best.pairing.pairs for mask in pair.mask_files}
    used |= {listing.root / name for name in unused_masks(best.card(listing.root), best.pairing)}
    rest = [relative(path, listing.root) for path in images if path not in used]
    if rest:
        are = "image is" if len(rest) == 1 else "images are"
        guess.seen.append(f"{len(rest)} other {are} not used: {first_few(rest, shown=SHOWN)}.")
