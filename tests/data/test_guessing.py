"""What ``data init`` says of images that are turned, left over or no pairs at all; and real images."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from support.cases import case_folder
from support.guessed_folders import (
    COUNT,
    guessed,
    opened,
    pairs,
    said_of,
    save_image,
    save_mask,
    truth,
)

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import ORIENTATION
from cosam_bench.data.guessing.stream_guess import guess_stream, write_stream
from cosam_bench.data.opening import open_domain
from cosam_bench.data.pairing import pair_files
from cosam_bench.data.streams import load_stream


@pytest.mark.parametrize("stored", [True, False])
def test_images_that_are_turned(stored: bool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for index in range(COUNT):
        save_image(tmp_path / f"images/a{index:02}.jpg", index, exif=exif.tobytes())
        mask = truth(index) if stored else np.rot90(truth(index), -1)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask * np.uint8(255)).save(tmp_path / f"masks/a{index:02}.png")
    _, stream = guessed(tmp_path)
    card = stream.cards[0]
    assert card.orientation == ("stored" if stored else None)
    assert check_domain(card).fault_count == 0
    for sample in open_domain(card).test:
        number = int(sample.key[-2:])
        assert (sample.mask.numpy() == np.rot90(truth(number), -1)).all()


# What does not fit


def test_images_without_a_mask_are_counted_and_offered_to_be_skipped(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    for index in range(5):
        save_image(tmp_path / f"images/b{index}.jpg", index)
        save_mask(tmp_path / f"masks/c{index}.png", index)
    guess, _ = guessed(tmp_path)
    written = said_of(tmp_path)
    assert "5 images have no mask: images/b0.jpg, images/b1.jpg, images/b2.jpg, and 2 more." in written
    assert "5 masks have no image: masks/c0.png" in written
    assert guess.undecided
    assert 'unlabelled = "skip" # leaves images without a mask out' in written


def test_names_with_blanks_are_whole(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    save_image(tmp_path / "images/leaf 7 old.jpg", 0)
    guessed(tmp_path)
    assert "1 image has no mask: images/leaf 7 old.jpg." in said_of(tmp_path)


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    save_image(tmp_path / "images" / normalize("NFC", "blätt.jpg"), 0)
    save_mask(tmp_path / "masks" / normalize("NFD", "blätt.png"), 0)
    card = Card(name="a", root=str(tmp_path), images="images/*", masks="masks/{stem}.*")
    [fault] = pair_files(card).faults
    assert "one looks the same, but its accents are composed otherwise, in Unicode's NFC or NFD" in fault.text


def test_other_folders_of_images_are_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    save_image(tmp_path / "previews/x.jpg", 1)
    opened(tmp_path)
    assert "1 other image is not used: previews/x.jpg." in said_of(tmp_path)


def test_one_domain_per_folder_and_the_reason_why_another_is_none(tmp_path: Path) -> None:
    pairs(tmp_path, "Leaves 1/images/a{}.jpg", "Leaves 1/masks/a{}.png")
    pairs(tmp_path, "human_photo/images/b{}.jpg", "human_photo/gt/b{}.png")
    for index in range(3):
        save_image(tmp_path / f"alone/{index}.jpg", index)
    boxes = tmp_path / "boxes"
    save_image(boxes / "images/x.jpg", 1)
    (boxes / "labels").mkdir()
    (boxes / "labels/x.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.md").write_text("x")
    (tmp_path / "meta.json").write_text('{"version": 1}')
    save_image(tmp_path / "preview.jpg", 1)
    guess, stream = guessed(tmp_path)
    roots = {card.name: card.root for card in stream.cards}
    assert roots == {"leaves_1": str(tmp_path / "Leaves 1"), "human_photo": str(tmp_path / "human_photo")}
    assert "none is called as the mask of another" in guess.left_out["alone"]
    assert "1 text files of boxes, which are not masks" in guess.left_out["boxes"]
    assert guess.left_out["notes"] == "there are no images in it"
    assert guess.left_out["."] == "its images are beside the folders of domains"
    assert "notes is not a domain" in said_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is empty"),
        (("notes.md",), "There are no images in .*only files of these kinds: .md"),
        (("images/a.jpg", "images/b.jpg"), "No masks were found.*none is called as the mask of another"),
    ],
)
def test_a_folder_without_images_or_masks_is_refused(files: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for number, name in enumerate(files):
        if name.endswith(".md"):
            (tmp_path / name).write_text("x")
        else:
            save_image(tmp_path / name, number)
    with pytest.raises(CosamError, match=said):
        guess_stream(tmp_path)
    with pytest.raises(CosamError, match="There is no folder"):
        guess_stream(tmp_path / "nowhere")


# Inputs that others have reported, and real images


@pytest.mark.parametrize(
    ("case", "open_keys", "pixels", "ignored"),
    [
        ("palette_index0/quant", set(), 336, None),
        ("voc_255_border/voc255", {"foreground", "ignore"}, None, None),
        ("dense_8bit_instances/dense", {"foreground"}, None, None),
        ("twelve_bit_in_sixteen/bit12", {"levels"}, None, None),
        ("twelve_bit_in_sixteen/bit8", set(), None, None),
        ("sorted_pairing_lexical/sorted_trap", {"unlabelled"}, None, None),
        ("labelme_labels_ignored/lm_hole", set(), 1140, None),
        ("labelme_labels_ignored/lm_ignore", set(), 336, 41 * 36 - 336),
        ("object_vanishes_at_model_size/tinyd", set(), 9, None),
    ],
)
def test_reported_inputs(
    case: str, open_keys: set[str], pixels: int | None, ignored: int | None, tmp_path: Path
) -> None:
    guess = guess_stream(case_folder(case))
    write_stream(guess, tmp_path / "mine.toml")
    (domain,) = guess.domains.values()
    assert {line.partition(" ")[0] for line, _ in domain.choices} == open_keys
    card = load_stream(str(tmp_path / "mine.toml")).cards[0]
    assert (check_domain(card).fault_count == 0) == (not open_keys)
    if pixels is not None:
        sample = open_domain(card).test[0]
        assert int(sample.mask.sum()) == pixels
        assert (None if sample.ignored is None else int(sample.ignored.sum())) == ignored


def test_numbers_of_other_digits_are_the_reason(tmp_path: Path) -> None:
    """img1 to img11 with img01 to img11, which the order of names pairs wrongly."""
    for index in range(1, COUNT + 1):
        save_image(tmp_path / f"images/img{index}.png", index)
        save_mask(tmp_path / f"masks/img{index:02}.png", index)
    guessed(tmp_path)
    said = said_of(tmp_path)
    assert "9 of these images and masks have the same number with other digits" in said
    assert "images/img1.png and masks/img01.png; write all numbers with the same digits" in said


REAL = os.environ.get("COSAM_BENCH_REAL", "")


@pytest.mark.skipif(not REAL, reason="COSAM_BENCH_REAL names no folder of real images")
def test_real_images_are_guessed_and_accepted(tmp_path: Path) -> None:
    guess = guess_stream(Path(REAL))
    write_stream(guess, tmp_path / "mine.toml")
    assert guess.undecided == []
    assert len(guess.domains) == 9
    for card in load_stream(str(tmp_path / "mine.toml")).cards:
        report = check_domain(card)
        assert (report.fault_count, report.train, report.test) == (0, 48, 12), report.faults
