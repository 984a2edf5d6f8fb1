"""Published layouts: recognised where they lie, opened as they are, refused with what was found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.imitations import BUILDERS, SAMCL, TEST, TRAIN, build

from cosam_bench.core.errors import CosamError
from cosam_bench.data import layouts
from cosam_bench.data.cards import Card
from cosam_bench.data.layouts import recognise
from cosam_bench.data.opening import open_domain, open_stream
from cosam_bench.data.published_points import read_published
from cosam_bench.data.samples import Domain
from cosam_bench.data.streams import load_card, load_stream, names_of

REAL = os.environ.get("COSAM_BENCH_REAL", "")
BUNDLES = {"cosam_bundle": 9, "samcl_bundle": 6}


def opened(name: str, folder: Path) -> Domain:
    card = load_card(name)
    layout, root = recognise(card, folder)
    return open_domain(card.with_layout(layout, root=root), is_retention=name.startswith("coco"))


def test_every_layout_of_every_card_has_an_imitation() -> None:
    cards = [name for name in names_of("card") if not name.endswith("@open")]  # theirs are in test_open_cards.py
    every = {(name, layout) for name in cards for layout in load_card(name).layouts}
    written_by_prepare = {(name, "selected") for name in ("coco200@cosam", "coco100@samcl")}
    assert every - set(BUILDERS) == written_by_prepare | {("cod@regcl", "source_deeper")}
    assert set(BUILDERS) - every == {("camo@cosam", "cosam_bundle")}  # which holds it as published


@pytest.mark.parametrize(("name", "layout"), BUILDERS)
def test_a_layout_is_recognised_and_opens(tmp_path: Path, name: str, layout: str) -> None:
    folder = build(name, tmp_path / "data", layout)
    found, root = recognise(load_card(name), tmp_path)
    assert found == ("source" if name == "camo@cosam" else layout)
    assert root.is_relative_to(folder)
    if name.startswith("coco") and layout == "source":
        return  # is converted first
    domain = opened(name, tmp_path)
    check_sizes(domain, name, layout)
    for sample, entry in zip(domain.test, domain.test.manifest.entries, strict=True):
        bright = sample.image.to(torch.float32).mean(dim=0)
        assert bright[sample.mask].mean() > bright[~sample.mask].mean() + 30  # two ellipses: the other is bright too
        suffixes = ("_mask", "_Segmentation")
        stem = Path(entry.mask_name).stem
        assert Path(entry.image_name).stem in [stem, *(stem.removesuffix(end) for end in suffixes)]
    has_points = layout == "samcl_bundle" or name == "kvasir@regcl"
    for split in (domain.train, domain.test):
        if not has_points or not len(split):
            assert split.points_file is None
            continue
        named = set(json.loads(split.points_file.read_bytes()))
        assert named == {entry.mask_name for entry in split.manifest.entries}


def check_sizes(domain: Domain, name: str, layout: str) -> None:
    sizes = len(domain.train), len(domain.test)
    if name.startswith("coco"):
        assert sizes == (0, TEST)
    elif name == "kvasir@regcl" and layout == "source":
        assert sizes == (8, 2)  # as its lists say
    elif layout == "source" and name.partition("_")[0] in ("bsdata@cosam", "rsdd"):
        assert sum(sizes) == 15  # five images of one ellipse, five of two
        assert sizes[1] in (2, 3, 4)
    elif layout == "source" and name.startswith("mvtec"):
        members = {"mvtec_i@cosam": 3, "mvtec_ii@cosam": 3, "mvtec_iii@cosam": 4}[name]
        assert sum(sizes) == members * 6
    else:
        assert sizes == (TRAIN, TEST)


@pytest.mark.parametrize("layout", BUNDLES)
def test_all_parts_of_a_bundle_are_found_in_one_folder(tmp_path: Path, layout: str) -> None:
    names = [name for name, built in BUILDERS if built == layout]
    assert len(names) == BUNDLES[layout]
    for name in names:
        build(name, tmp_path, layout)
    for name in names:
        assert recognise(load_card(name), tmp_path)[0] == ("source" if name == "camo@cosam" else layout)
        assert len(opened(name, tmp_path).test) == TEST


def test_cod10k_with_deeper_folders(tmp_path: Path) -> None:
    root = build("cod@regcl", tmp_path) / "COD10K-v2"
    for part in ("Train", "Test"):
        for inner, outer in (("Image", "Images"), ("GT_Object", "GT_Objects")):
            (root / part / outer).mkdir()
            (root / part / inner).rename(root / part / outer / inner)
    assert recognise(load_card("cod@regcl"), tmp_path) == ("source_deeper", root)
    assert len(opened("cod@regcl", tmp_path).train) == TRAIN


def test_the_test_images_of_kvasir_are_left_out_of_training_by_name_and_by_bytes(tmp_path: Path) -> None:
    build("kvasir@cosam", tmp_path)
    domain = opened("kvasir@cosam", tmp_path)
    tested = {entry.image_name for entry in domain.test.manifest.entries}
    assert len(tested) == TEST
    assert not tested & {entry.image_name for entry in domain.train.manifest.entries}
    everything = sorted((tmp_path / "Kvasir-SEG/images").iterdir())
    assert len(everything) == TRAIN + TEST
    for path in everything:  # other bytes, the same name
        path.write_bytes(path.read_bytes() + b" ")
    assert len(opened("kvasir@cosam", tmp_path).train) == TRAIN
    for path in everything:
        path.write_bytes(path.read_bytes()[:-1])
    for folder in ("images", "masks"):  # the same image under another name
        twin = tmp_path / f"sessile-main-Kvasir-SEG/{folder}/{min(tested)}"
        twin.rename(twin.with_name("renamed.jpg"))
    again = opened("kvasir@cosam", tmp_path)
    assert (len(again.train), len(again.test)) == (TRAIN, TEST)


@pytest.mark.parametrize("name", SAMCL)
def test_samcl_pairs_by_position_within_each_part(tmp_path: Path, name: str) -> None:
    build(name, tmp_path, "samcl_bundle")
    root = tmp_path / "data" / SAMCL[name]
    (root / "test/masks/zzz.json").write_text("{}")  # no image, so no mask either
    assert len(opened(name, tmp_path).test) == TEST
    last = sorted(path for path in (root / "train/masks").iterdir() if path.suffix != ".json")[-1]
    last.rename(root / "test/masks" / last.name)  # as many in all, but not in each part
    with pytest.raises(CosamError, match=rf"{TRAIN} images but {TRAIN - 1} masks for train"):
        opened(name, tmp_path)


def camo(folder: Path) -> Card:
    build("camo@cosam", folder)
    return load_card("camo@cosam")


def test_images_without_camouflage_are_no_part_of_camo(tmp_path: Path) -> None:
    card = camo(tmp_path)
    assert recognise(card, tmp_path)[1].name == "Camouflage"
    with pytest.raises(CosamError, match="does not hold the data"):
        recognise(card, tmp_path / "CAMO-COCO-V.1.0-CVIU2019/NonCamouflage")


def test_two_copies_are_not_chosen_between_but_the_shallower_one_is(tmp_path: Path) -> None:
    card = camo(tmp_path / "a")
    camo(tmp_path / "b")
    with pytest.raises(CosamError, match=r"is in several folders: source in .*/a/.*; source in .*/b/"):
        recognise(card, tmp_path)
    camo(tmp_path / "c/deeper")
    for path in (tmp_path / "b").rglob("*.png"):
        path.unlink()  # a copy whose masks are gone is none
    assert recognise(card, tmp_path)[1] == tmp_path / "a/CAMO-COCO-V.1.0-CVIU2019/Camouflage"


def test_what_is_not_recognised_is_told(tmp_path: Path) -> None:
    card = load_card("kvasir@cosam")
    with pytest.raises(CosamError, match=r"There is no folder .*gone"):
        recognise(card, tmp_path / "gone")
    with pytest.raises(CosamError, match=r"It holds: nothing\. Expected: source \(Kvasir-SEG/images/\*\.jpg\); cosam"):
        recognise(card, tmp_path)
    for number in range(10):
        (tmp_path / f"x{number}").mkdir()
    with pytest.raises(CosamError, match=r"It holds: x0/, .*x7/, and 2 more\."):
        recognise(card, tmp_path)
    folder = build("kvasir@cosam", tmp_path / "data")
    (folder / "Kvasir-SEG/masks/cju0qkwl35piu0993l0dewe03.jpg").unlink()
    with pytest.raises(CosamError, match=r"Nearly: source in .*/data: .*dewe03\.jpg has no mask"):
        recognise(card, tmp_path)
    with pytest.raises(CosamError, match="has no layouts"):
        recognise(Card(name="mine", root="."), tmp_path)


def test_lists_that_are_not_there_are_told(tmp_path: Path) -> None:
    folder = build("kvasir@regcl", tmp_path)
    (folder / "samcl/test-points.json").unlink()
    with pytest.raises(CosamError, match=r"Nearly: source in .*: there is no list samcl/test-points\.json"):
        recognise(load_card("kvasir@regcl"), tmp_path)


@pytest.mark.parametrize("text", ["{", "3", '["a", "b"]', '"ab"', "[" * 100_000, "null", '{"moon.jpg": []}'])
def test_lists_are_the_names_of_a_json_object(tmp_path: Path, text: str) -> None:
    folder = build("kvasir@regcl", tmp_path)
    tested = {entry.image_name for entry in opened("kvasir@regcl", tmp_path).test.manifest.entries}
    assert tested == {"cju0qkwl35piu0993l0dewe00.jpg", "cju0qkwl35piu0993l0dewe01.jpg"}
    (folder / "samcl/test-points.json").write_text(text)
    with pytest.raises(
        CosamError, match=r"test-points\.json (cannot be read|lists moon\.jpg, which is the name of 0 images)"
    ):
        opened("kvasir@regcl", tmp_path)


def test_links_are_not_followed_and_the_search_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = camo(tmp_path / "far")
    inside = tmp_path / "here"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "far")
    (inside / "loop").symlink_to(inside)
    with pytest.raises(CosamError, match="does not hold the data"):
        recognise(card, inside)
    deep = tmp_path / Path(*"123456789")
    deep.mkdir(parents=True)
    (tmp_path / "far").rename(deep / "far")
    with pytest.raises(CosamError, match="does not hold the data"):
        recognise(card, tmp_path)
    monkeypatch.setattr(layouts, "FOLDERS", 3)
    for number in range(5):
        (inside / f"{number}").mkdir()
    build("camo@cosam", inside / "0")
    with pytest.raises(CosamError, match=r"holds more than 3 folders\. Give the folder"):
        recognise(card, inside)


def test_a_coco_layout_needs_its_annotations(tmp_path: Path) -> None:
    folder = build("coco200@cosam", tmp_path)
    card = load_card("coco200@cosam")
    with pytest.raises(CosamError, match=r"must be converted first: cosam-bench data prepare coco200@cosam"):
        open_domain(card.with_layout("source", root=folder), is_retention=True)
    (folder / "annotations/instances_val2017.json").unlink()
    with pytest.raises(CosamError, match="does not hold the data of coco200@cosam"):
        recognise(card, tmp_path)


@pytest.mark.skipif(not REAL, reason="COSAM_BENCH_REAL names no folder of real images")
def test_real_domains_open_through_their_published_cards(tmp_path: Path) -> None:
    text = 'name = "real"\n'
    for name, folder in (("bsdata@cosam", "bsdata_pitting"), ("kvasir@cosam", "kvasir_polyp")):
        text += f'[[domain]]\ncard = "{name}"\nroot = "{Path(REAL) / folder}"\nsamples = "union"\n'
        text += 'split = { kind = "ratio", test = 0.2 }\n'
    (tmp_path / "real.toml").write_text(text)
    stream = load_stream(str(tmp_path / "real.toml"))
    assert [card.foreground.rule for card in stream.cards] == ["auto", "above"]
    for domain, folder in zip(open_stream(stream).domains, ("bsdata_pitting", "kvasir_polyp"), strict=True):
        assert (len(domain.train), len(domain.test)) == (48, 12)
        for sample in domain.test:
            stem = sample.key.removeprefix("images/")
            assert (
                sample.mask.numpy() == (np.array(Image.open(Path(REAL) / folder / f"masks/{stem}.png")) > 128)
            ).all()


@pytest.mark.parametrize("name", ["camo@regcl", "istd@regcl", "isic@regcl", "cod@regcl"])
def test_points_beside_a_set_as_published_are_found_for_each_mask(tmp_path: Path, name: str) -> None:
    build(name, tmp_path / "source")
    build(name, tmp_path / "bundle", "samcl_bundle")
    _, root = recognise(load_card(name), tmp_path / "source")
    (root / "samcl").mkdir()
    for part in ("train", "test"):
        (points,) = (tmp_path / "bundle").rglob(f"{part}/masks/points.json")
        points.rename(root / f"samcl/{part}-points.json")
    domain = opened(name, tmp_path / "source")
    for split in (domain.train, domain.test):
        assert split.points_file == root / f"samcl/{split.part}-points.json"
        published = read_published(split.points_file)
        keys = [published.key_of(e.mask_name, image=e.image_name) for e in split.manifest.entries]
        assert sorted(map(str, keys)) == sorted(published.entries)


def test_several_files_of_points_are_refused(tmp_path: Path) -> None:
    build("camo@regcl", tmp_path, "samcl_bundle")
    card = load_card("camo@regcl")
    layout, root = recognise(card, tmp_path)
    folder = root / next(path.name for path in root.glob("CAMO*"))
    (root / "CAMO-old/test/masks").mkdir(parents=True)
    shutil.copy(folder / "test/masks/points.json", root / "CAMO-old/test/masks")
    with pytest.raises(CosamError, match=r"several files of published points: .*; keep one"):
        open_domain(card.with_layout(layout, root=root))
