"""Images find their masks by name or by position, or the fault is named."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from pydantic import ValidationError

from cosam_bench.core.errors import CosamError
from cosam_bench.data import folder_names
from cosam_bench.data.acquire.unused_masks import unused_masks
from cosam_bench.data.cards import Card
from cosam_bench.data.file_patterns import ImageIds, MaskLookup, any_case, is_image, mask_patterns
from cosam_bench.data.pairing import find_pairs, pair_files


def laid_out(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def card(root: Path, **keys: object) -> Card:
    return Card.model_validate({"name": "leaf", "root": str(root)} | keys)


def paired(root: Path, **keys: object) -> dict[str, str]:
    return {
        pair.image.relative_to(root).as_posix(): pair.mask.relative_to(root).as_posix()
        for pair in find_pairs(card(root, **keys))
    }


def test_defaults_pair_by_stem_and_pass_over_what_is_no_image(tmp_path: Path) -> None:
    laid_out(tmp_path, "images/b.jpg", "images/a.PNG", "images/Thumbs.db", "images/._a.PNG", "images/sub/c.png")
    laid_out(tmp_path, "masks/a.png", "masks/b.png", "masks/b.json", "masks/extra.png")
    assert paired(tmp_path) == {"images/a.PNG": "masks/a.png", "images/b.jpg": "masks/b.png"}
    assert [pair.key for pair in find_pairs(card(tmp_path))] == ["images/a", "images/b"]


def test_stems_with_dots_and_glob_signs_are_taken_literally(tmp_path: Path) -> None:
    laid_out(tmp_path, "images/a.jpg", "images/a.b.jpg", "images/x[1]*.jpg")
    laid_out(tmp_path, "masks/a.png", "masks/a.b.png", "masks/x[1]*.png", "masks/x1.png")
    expected = {f"images/{stem}.jpg": f"masks/{stem}.png" for stem in ("a", "a.b", "x[1]*")}
    assert paired(tmp_path) == expected
    assert paired(tmp_path, masks="masks/{stem}.png") == expected
    laid_out(tmp_path, *(f"masks/{stem}-v2.png" for stem in ("a", "a.b", "x[1]*")))
    assert paired(tmp_path, masks="mask?/{stem}-v*.png") == {
        image: mask.replace(".png", "-v2.png") for image, mask in expected.items()
    }


def test_layouts_of_published_sets(tmp_path: Path) -> None:
    bottle = tmp_path / "bottle"
    laid_out(bottle, "test/broken/000.png", "test/dent/000.png", "ground_truth/broken/000_mask.png")
    laid_out(bottle, "ground_truth/dent/000_mask.png")
    keys = {"images": "test/*/*.png", "masks": "ground_truth/{parent}/{stem}_mask.png"}
    assert paired(bottle, **keys) == {
        f"test/{kind}/000.png": f"ground_truth/{kind}/000_mask.png" for kind in ("broken", "dent")
    }
    rail = tmp_path / "rail"
    laid_out(rail, "my_train/1.jpg", "my_train/1.png", "my_test/2.jpg", "my_test/2.png")
    split = {"kind": "folders", "train": "my_train/*.jpg", "test": "my_test/*.jpg"}
    found = find_pairs(card(rail, masks="{folder}/{stem}.*", split=split))
    assert [(pair.key, pair.mask.name, pair.part) for pair in found] == [
        ("my_train/1", "1.png", "train"),
        ("my_test/2", "2.png", "test"),
    ]
    samcl = tmp_path / "samcl"
    laid_out(samcl, "train/images/1.jpg", "train/masks/1.jpg", "test/images/1.jpg", "test/masks/1.png")
    laid_out(samcl, "test/masks/points.json")
    split = {"kind": "folders", "train": "train/images/*", "test": ["test/images/*"]}
    assert paired(samcl, masks="{folder}/../masks/{stem}.*", split=split) == {
        "train/images/1.jpg": "train/masks/1.jpg",
        "test/images/1.jpg": "test/masks/1.png",
    }


def test_several_globs_and_mask_patterns(tmp_path: Path) -> None:
    laid_out(tmp_path, "a/1.jpg", "b/deep/2.jpg", "m/1.png", "n/2.png")
    keys = {"images": ["a/*.jpg", "**/*.jpg"], "masks": ["m/{stem}.png", "n/{stem}.png"]}
    assert paired(tmp_path, **keys) == {"a/1.jpg": "m/1.png", "b/deep/2.jpg": "n/2.png"}


def test_sorted_pairing(tmp_path: Path) -> None:
    laid_out(tmp_path, "images/a.jpg", "images/b.jpg", "masks/001.png", "masks/002.png")
    keys = {"masks": "masks/*", "pairing": "sorted"}
    assert paired(tmp_path, **keys) == {"images/a.jpg": "masks/001.png", "images/b.jpg": "masks/002.png"}
    laid_out(tmp_path, "masks/003.png")
    with pytest.raises(CosamError, match="Domain 'leaf': 2 images but 3 masks"):
        find_pairs(card(tmp_path, **keys))


@pytest.mark.parametrize(
    ("names", "keys", "message"),
    [
        ([], {}, r"there is no folder .*get the data or correct root"),
        (["images/a.txt"], {}, r"no image matches 'images/\*' in .*; that folder holds 1 .txt"),
        (["images/a.JPG"], {"images": "images/*.png"}, r"no image matches .*; that folder holds 1 .JPG"),
        (["pictures/a.jpg"], {}, r"no image matches .*; there is no folder .*images"),
        (["images/a.jpg", "masks/b.png"], {}, r"images/a.jpg has no mask masks/a\.\*\. Complete the data or correct"),
        (["images/a.jpg", "masks/a.png", "masks/a.jpg"], {}, r"images/a.jpg has several masks \(a.jpg, a.png\)"),
        (["images/a.jpg", "images/a.png", "masks/a.png"], {}, r"images/a.jpg shares its name with another image"),
        (
            ["images/1/a.jpg", "images/2/a.jpg", "masks/a.png"],
            {"images": "images/*/*.jpg"},
            r"images/1/a.jpg shares its mask a.png with another image",
        ),
        (["images/a.jpg"], {"masks": "{folder}/{stem}.*"}, r"images/a.jpg has no mask images/a\.\*"),
    ],
)
def test_faults_are_named(tmp_path: Path, names: list[str], keys: dict[str, object], message: str) -> None:
    laid_out(tmp_path / "data", *names) if names else None
    with pytest.raises(CosamError, match=f"Domain 'leaf': {message}"):
        find_pairs(card(tmp_path / "data", **keys))


def test_many_faults_become_one_message(tmp_path: Path) -> None:
    laid_out(tmp_path, *(f"images/{number:02d}.jpg" for number in range(12)), "masks/00.png")
    with pytest.raises(CosamError) as error:
        find_pairs(card(tmp_path))
    assert str(error.value).count("has no mask") == 5
    assert "05.jpg" in str(error.value)
    assert "and 6 more" in str(error.value)


def test_one_folder_per_case(tmp_path: Path) -> None:
    for case in ("a[1]", "b", "b.2"):
        laid_out(tmp_path, f"cases/{case}/image.png", f"cases/{case}/label.png", f"labels/{case}.png")
    images = {"images": "cases/*/image.png"}
    expected = {f"cases/{case}/image.png": f"cases/{case}/label.png" for case in ("a[1]", "b", "b.2")}
    assert paired(tmp_path, masks="{folder}/label.png", **images) == expected
    assert paired(tmp_path, masks="{folder}/label.*", **images) == expected
    by_parent = {image: f"labels/{Path(image).parent.name}.png" for image in expected}
    assert paired(tmp_path, masks="labels/{parent}.png", **images) == by_parent
    assert [pair.key for pair in find_pairs(card(tmp_path, masks="{folder}/label.png", **images))] == [
        f"cases/{case}/image" for case in ("a[1]", "b.2", "b")
    ]
    laid_out(tmp_path, "cases/c/label.png")
    found = card(tmp_path, masks="{folder}/label.png", **images)
    assert unused_masks(found, pair_files(found)) == ["cases/c/label.png"]


def test_images_that_share_a_folder_cannot_share_its_mask(tmp_path: Path) -> None:
    laid_out(tmp_path, "cases/a/1.jpg", "cases/a/2.jpg", "cases/a/label.png", "cases/b/1.jpg")
    with pytest.raises(CosamError, match=r"a/1\.jpg shares its mask label\.png with another image") as error:
        find_pairs(card(tmp_path, images="cases/*/*.jpg", masks="{folder}/label.png"))
    assert "cases/b/1.jpg has no mask cases/b/label.png" in str(error.value)


def test_names_with_an_id(tmp_path: Path) -> None:
    laid_out(tmp_path, "in/frame_1.jpg", "in/frame_10.JPG", "in/frame_[a].b.jpg", "in/other.jpg")
    laid_out(tmp_path, "out/gt_1.png", "out/gt_10.png", "out/gt_[a].b.png", "out/gt_2.png")
    pairs = {
        "in/frame_1.jpg": "out/gt_1.png",
        "in/frame_10.JPG": "out/gt_10.png",
        "in/frame_[a].b.jpg": "out/gt_[a].b.png",
    }
    keys: dict[str, object] = {"images": "in/frame_{id}.jpg", "masks": "out/gt_{id}.png"}
    assert paired(tmp_path, **keys) == pairs
    assert paired(tmp_path, **keys | {"masks": "out/gt_{id}.*"}) == pairs
    assert paired(tmp_path, **keys | {"masks": "o?t/gt_{id}.png"}) == pairs
    assert unused_masks(card(tmp_path, **keys), pair_files(card(tmp_path, **keys))) == ["out/gt_2.png"]
    (tmp_path / "out/gt_10.png").unlink()
    with pytest.raises(CosamError, match=r"frame_10\.JPG has no mask out/gt_10\.png"):
        find_pairs(card(tmp_path, **keys))
    laid_out(tmp_path, "test/7_left.png", "gt/7.png", "out/gt_10.png")
    split = {"kind": "folders", "train": "in/frame_{id}.jpg", "test": "test/{id}_left.png"}
    assert paired(tmp_path, split=split, masks=["out/gt_{id}.png", "gt/{id}.png"]) == pairs | {
        "test/7_left.png": "gt/7.png"
    }


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("images/*.jpg", "masks/{id}.png", "must be in the patterns of images and in masks"),
        ("images/{id}.jpg", "masks/{stem}.png", "must be in the patterns of images and in masks"),
        (["images/{id}.jpg", "more/*.jpg"], "masks/{id}.png", "must be in the patterns of images and in masks"),
        ("images/{id}_{id}.jpg", "masks/{id}.png", "once, in the file's name"),
        ("{id}/image.jpg", "{id}/mask.png", "once, in the file's name"),
    ],
)
def test_an_id_has_one_place_in_images(tmp_path: Path, images: object, masks: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        card(tmp_path, images=images, masks=masks)
    assert message in str(caught.value)


def test_suffixes_in_capital_letters_are_the_same(tmp_path: Path) -> None:
    laid_out(tmp_path, "images/a.JPG", "images/b.jpg", "masks/a.png", "masks/b.PNG", "labels/a.JSON", "labels/b.json")
    wanted = {"images/a.JPG": "masks/a.png", "images/b.jpg": "masks/b.PNG"}
    for masks in ("masks/{stem}.png", "masks/{stem}.PNG", "masks/{stem}.*", "m*s/{stem}.png"):
        assert paired(tmp_path, images="images/*.jpg", masks=masks) == wanted
        assert paired(tmp_path, images="images/*.JPG", masks=masks) == wanted
    assert paired(tmp_path, masks="labels/{stem}.json") == {
        "images/a.JPG": "labels/a.JSON",
        "images/b.jpg": "labels/b.json",
    }


@pytest.mark.parametrize(
    ("mask", "masks", "message"),
    [
        ("gt/a.mat", "gt/{stem}.*", r"images/a.jpg has the mask gt/a.mat, but .mat is not read as a mask"),
        ("gt/a.seg", "gt/{stem}.seg", r"images/a.jpg has the mask gt/a.seg, but .seg is not read as a mask"),
        ("gt/a-1.npy", "gt/{stem}-*", r"images/a.jpg has the mask gt/a-1.npy, but .npy is not read as a mask"),
        ("gt/a", "gt/{stem}", r"images/a.jpg has the mask gt/a, but a file without suffix is not read as a mask"),
        ("gt/a.txt", "gt/{stem}.*", r"masks does not end in .txt; if it holds YOLO's segments, say so"),
        ("gt/a.json", "gt/{stem}.*", r"masks does not end in .json; if it holds labelme's file of this image, say so"),
    ],
)
def test_a_mask_of_a_kind_that_is_not_read_is_not_called_missing(
    tmp_path: Path, mask: str, masks: str, message: str
) -> None:
    laid_out(tmp_path, "images/a.jpg", mask, "images/b.jpg", "gt/b.png", "gt/b-1.png")
    with pytest.raises(CosamError) as caught:
        find_pairs(card(tmp_path, masks=masks))
    assert message in str(caught.value)
    assert "a.jpg has no mask" not in str(caught.value)


def test_text_beside_images_that_are_skipped_is_no_mask(tmp_path: Path) -> None:
    laid_out(tmp_path, "images/a.jpg", "images/b.jpg", "masks/b.png", "masks/a.txt")
    assert paired(tmp_path, unlabelled="skip") == {"images/b.jpg": "masks/b.png"}
    laid_out(tmp_path, "masks/a.mat")
    with pytest.raises(CosamError, match=r"a\.mat, but \.mat is not read"):
        paired(tmp_path, unlabelled="skip")


Form = Literal["NFC", "NFD"]
ALIKE = "one looks the same, but its accents are composed otherwise, in Unicode's NFC or NFD; rename it"


def lacking(root: Path, masks: str) -> list[str]:
    return [fault.text for fault in pair_files(card(root, masks=masks)).faults]


@pytest.mark.parametrize(
    ("image", "mask", "masks"),
    [
        ("a0.jpg", "a0_mask.jpg", "{stem}*.png"),
        ("a0.jpg", "a0.png.jpg", "{stem}.png"),
        ("a0.jpg", "a0_m.bmp", "{stem}_*.png"),
        ("a0.jpg", "a00.png", "{stem}.*"),
        ("a0.jpg", "b0.png", "*_{stem}.png"),
        (normalize("NFC", "blätt.jpg"), normalize("NFC", "blätter.png"), "{stem}.png"),
        (normalize("NFC", "blätt.jpg"), normalize("NFD", "blätter.png"), "{stem}.*"),
        (normalize("NFC", "blätt.jpg"), normalize("NFD", "blätt.txt"), "{stem}.*"),  # no mask under any name
    ],
)
def test_names_that_do_not_look_the_same_are_only_missing(tmp_path: Path, image: str, mask: str, masks: str) -> None:
    laid_out(tmp_path, f"images/{image}", f"masks/{mask}")
    filled = masks.replace("{stem}", Path(image).stem)
    assert lacking(tmp_path, f"masks/{masks}") == [f"images/{image} has no mask masks/{filled}"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize(
    ("mask", "masks"),
    [
        ("blätt[1].png", "{stem}.*"),
        ("blätt[1].PNG", "{stem}.png"),
        ("blätt[1]_m.png", "{stem}_?.png"),
        ("gt_blätt[1].png", "*_{stem}.png"),
    ],
)
def test_names_that_look_the_same_are_told_apart(
    tmp_path: Path, forms: tuple[Form, Form], mask: str, masks: str
) -> None:
    laid_out(tmp_path, f"images/{normalize(forms[0], 'blätt[1].jpg')}", f"masks/{normalize(forms[1], mask)}")
    (text,) = lacking(tmp_path, f"masks/{masks}")
    assert text.endswith(f"({ALIKE})")


def test_a_folder_of_masks_is_normalised_once_for_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is linear: looking at every mask for each image took seconds for two thousand."""
    count, seen = 40, []

    def counted(form: Literal["NFC"], text: str) -> str:
        seen.append(text)
        return normalize(form, text)

    monkeypatch.setattr(folder_names, "normalize", counted)
    laid_out(tmp_path, *(f"images/ä{index}.jpg" for index in range(count)))
    laid_out(tmp_path, *(f"masks/{normalize('NFD', 'ä')}{index}.png" for index in range(count)))
    assert all(ALIKE in text for text in lacking(tmp_path, "masks/{stem}.*"))
    assert count <= len(seen) <= 3 * count


@pytest.mark.parametrize("masks", ["{stem}_*.png", "*{stem}*", "{stem}.p*", "[ab]{stem}?.png", "{stem}*", ".{stem}*"])
def test_masks_in_a_folder_are_those_of_the_glob(tmp_path: Path, masks: str) -> None:
    stems = ("a", "a[1]", "a.b", "ä", "é")
    laid_out(tmp_path, *(f"images/{stem}.jpg" for stem in stems), "images/.a.jpg")
    names = [f"{head}{stem}{tail}" for stem in stems for head in ("", "b", ".") for tail in ("", "_1", ".x")]
    laid_out(tmp_path, *(f"masks/{name}{kind}" for name in names for kind in (".png", ".PNG", ".txt", "")))
    asked = card(tmp_path, masks=f"masks/{masks}")
    lookup = MaskLookup(tmp_path, mask_patterns(asked), ImageIds(asked))
    for stem in stems:
        pattern = any_case(f"masks/{masks.replace('{stem}', glob.escape(stem))}")
        found = sorted(tmp_path / name for name in glob.glob(pattern, root_dir=tmp_path))  # noqa: PTH207 - with a root
        assert lookup.masks_of(tmp_path / f"images/{stem}.jpg") == [path for path in found if is_image(path)]


def test_a_folder_is_listed_once_for_all_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out(tmp_path, *(f"images/{index:02}.jpg" for index in range(20)))
    laid_out(tmp_path, *(f"masks/{index:02}_m.png" for index in range(10)))
    listed: list[object] = []
    for place, name in ((os, "scandir"), (Path, "iterdir")):
        original = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *given, original=original: listed.append(given) or original(*given))
    assert len(lacking(tmp_path, "masks/{stem}_*.png")) == 10
    assert len(listed) <= 3


def test_a_glob_of_all_folders_does_not_follow_a_link_to_a_folder_that_holds_it(tmp_path: Path) -> None:
    for name in ("images/1.png", "images/deep/2.png", "masks/1.png", "masks/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "images/loop").symlink_to("..")
    (tmp_path / "images/itself").symlink_to("itself")
    found = paired(tmp_path, images="**/images/**/*.png", masks="masks/{stem}.png")
    assert found == {"images/1.png": "masks/1.png", "images/deep/2.png": "masks/2.png"}
