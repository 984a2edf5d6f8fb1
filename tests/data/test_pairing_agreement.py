"""Opening a domain, ``domains`` and ``data check`` agree on which images and masks pair, whatever the folders hold."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.opening import open_domain
from cosam_bench.data.overview import domain_row
from cosam_bench.data.pairing import pair_files
from cosam_bench.data.samples import Domain

STEMS = ("a", "b", "c.d", "1", "10", "2")
SUFFIXES = (".png", ".PNG", ".bmp", ".txt")  # the last is neither an image nor a mask


def picture(number: int, *, suffix: str) -> bytes:
    """An image of 4 x 4 pixels that no other number has, bright in one half."""
    image = Image.new("L", (4, 4), 255)
    image.paste(0, (0, 0, 2, 4))
    image.putpixel((0, 0), number % 100)
    image.putpixel((1, 0), number // 100)
    buffer = io.BytesIO()
    image.save(buffer, "BMP" if suffix == ".bmp" else "PNG")
    return buffer.getvalue()


names = st.tuples(st.sampled_from(STEMS), st.sampled_from(SUFFIXES)).map("".join)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, list[str]]:
    """Names by folder: masks for most images, then some added, renamed and removed."""
    found: dict[str, list[str]] = {}
    for part in ("train", "test"):
        images = draw(st.lists(names, max_size=5, unique=True))
        masks = {f"{name.rpartition('.')[0]}.png" for name in images}
        masks -= set(draw(st.lists(st.sampled_from(sorted(masks)), max_size=2))) if masks else set()
        masks |= set(draw(st.lists(names, max_size=2)))
        found |= {f"images/{part}": images, f"masks/{part}": sorted(masks)}
    return found


CARDS: dict[str, dict[str, object]] = {
    "by name": {"images": "images/*/*", "masks": "masks/{parent}/{stem}.*"},
    "by whole name": {"images": "images/*/*", "masks": "masks/{parent}/{name}"},
    "by name in one folder": {"images": "images/train/*", "masks": "masks/*/{stem}.png"},
    "by several names": {"images": ["images/train/*", "images/test/*.bmp"], "masks": ["masks/train/{stem}.*"]},
    "beside the images": {"images": "*/train/*.png", "masks": "{folder}/{stem}.bmp"},
    "by position": {"images": "images/*/*", "masks": "masks/*/*", "pairing": "sorted"},
    "by position in two folders": {
        "images": "images/train/*", "masks": ["masks/train/*", "masks/test/*"], "pairing": "sorted"
    },
    "masks among the images": {"images": "images/*/*", "masks": "*/*/*", "pairing": "sorted"},
    "by name in parts": {"masks": "masks/{parent}/{stem}.*", "split": "parts"},
    "by name without tested": {"masks": "masks/{parent}/{stem}.*", "split": "parts without test"},
    "by position in parts": {"masks": "masks/{part}/*", "pairing": "sorted", "split": "parts"},
}  # fmt: skip
SPLITS: dict[str, dict[str, object]] = {
    "ratio": {"test": 0.5},
    "parts": {"kind": "folders", "train": "images/train/*", "test": "images/test/*"},
    "parts without test": {
        "kind": "folders", "train": "images/train/*", "test": "images/test/*", "without_test": True
    },
}  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(content=folders(), keys=st.sampled_from(sorted(CARDS)), unlabelled=st.sampled_from(["refuse", "skip"]))
def test_all_three_agree(content: dict[str, list[str]], keys: str, unlabelled: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        for name, files in content.items():
            (Path(folder) / name).mkdir(parents=True)
            for file in files:
                number += 1
                (Path(folder) / name / file).write_bytes(picture(number, suffix=Path(file).suffix))
        card = {"name": "leaf", "root": folder, "foreground": {"above": 127}, "unlabelled": unlabelled} | CARDS[keys]
        agree(Card.model_validate(card | {"split": SPLITS[str(CARDS[keys].get("split", "ratio"))]}))


def agree(card: Card) -> None:
    """What the three say of a card is the same."""
    pairing, row, report, opened = pair_files(card), domain_row(card), check_domain(card), opening(card)
    event("faults" if pairing.faults else "no faults")
    pairing_faults = report.faults["no mask"] + report.faults["unclear"]
    if pairing.faults:
        assert row.fault == str(opened)
        assert pairing.faults[0].text in row.fault
        assert (row.found, report.digest) == (0, "")
        assert {fault.text for fault in pairing.faults} <= {
            *pairing_faults,
            *report.faults["broken"],
            *report.faults["other"],
        }
        assert len(pairing_faults) == sum(fault.kind not in ("unread", "other") for fault in pairing.faults)
        return
    assert (row.fault, row.found) == ("", len(pairing.pairs))
    assert pairing_faults == []
    split_faults = report.faults["other"] + report.faults["twice"]
    if isinstance(opened, CosamError):  # the files pair, but cannot be divided
        assert any(fault.rstrip(".") in str(opened) for fault in split_faults)
    else:
        assert split_faults == []
        assert (report.train, report.test) == (len(opened.train), len(opened.test))
        assert report.samples == row.found


def opening(card: Card) -> Domain | CosamError:
    """The opened domain, or why it cannot be opened."""
    try:
        return open_domain(card)
    except CosamError as error:
        return error
