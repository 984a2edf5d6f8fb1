"""Split manifests: those that ship agree with their cards, and what a manifest may hold."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import DATASETS, Card
from cosam_bench.data.opening import open_domain
from cosam_bench.data.split_manifests import COLUMNS, ListedImage, listed_images, manifest_text, read_manifest
from cosam_bench.data.streams import load_card, load_stream, names_of
from tools.write_manifests import RULES, Rule, choose

OPEN = [card.name for card in load_stream("open").cards]
HEAD = ",".join(COLUMNS)
A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize("name", OPEN)
def test_a_manifest_that_ships_fits_its_card(name: str) -> None:
    card = load_card(name)
    listed = listed_images(card)
    assert Path(card.split.file) == (DATASETS / "manifests" / f"{name}.csv").resolve()
    parts = Counter(image.part for image in listed.values())
    assert (parts["train"], parts["test"]) == (card.split.train, card.split.test)
    assert parts["train"] <= 100
    assert 20 <= parts["test"] <= 50
    hashes = [image.image_sha256 for image in listed.values()]
    assert len(set(hashes)) == len(hashes)  # so no image is in both parts, whatever its name
    assert list(listed) == [path for _, path in sorted((image.part, path) for path, image in listed.items())]
    patterns = card.with_layout("source", root="").images
    for path in listed:
        assert any(Path(path).match(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


@pytest.mark.parametrize("name", OPEN)
def test_a_manifest_that_ships_is_what_the_written_rule_chooses(name: str) -> None:
    """Groups stay in one part, few images of each are taken, and parts come from the source's own if it has some."""
    rule, listed = RULES[name], listed_images(load_card(name))
    groups: dict[str, list[str]] = {}
    for path, image in listed.items():
        assert re.search(rule.test if image.part == "test" else rule.train, f"/{path}")
        found = re.search(rule.group, f"/{path}") if rule.group else None
        group = next(filter(None, found.groups())) if found else path
        groups.setdefault(group, []).append(image.part)
    assert all(len(set(parts)) == 1 and len(parts) <= rule.most for parts in groups.values())
    assert len(groups) == len(listed) or rule.group


def in_common(card: str, path: str) -> str:
    """The place, photograph or video that an image shows, from the parts of its file's name."""
    words = Path(path).stem.split("_")
    if card == "bsdata@open":  # 01_TIME_POSITION_ANGLE_crop_N, and names without a series
        return "_".join(words[2:4]) if words[0] == "01" else words[0]
    if card == "masonry_crack@open":  # LETTER_PHOTOGRAPH_PIECE
        return "_".join(words[:2])
    return words[0] if card == "camvid_road@open" else path


@pytest.mark.parametrize("name", OPEN)
def test_no_place_photograph_or_video_is_in_both_parts(name: str) -> None:
    """By file names read otherwise than by the tool that has divided them."""
    of_part: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    for path, image in listed_images(load_card(name)).items():
        of_part[image.part][in_common(name, path)] += 1
    assert of_part["train"].keys().isdisjoint(of_part["test"])
    found = {name: max(max(counts.values(), default=0) for counts in of_part.values())}
    wanted = {"bsdata@open": 6, "masonry_crack@open": 22, "camvid_road@open": 60}
    assert found[name] == wanted.get(name, 1)
    assert name not in wanted or sum(map(len, of_part.values())) < 150


def test_every_manifest_belongs_to_a_card() -> None:
    cards = {name for name in names_of("card") if load_card(name).split.kind == "manifest"}
    assert {path.stem for path in (DATASETS / "manifests").iterdir()} == cards == set(OPEN)


def test_images_are_chosen_by_rank_test_first_and_groups_stay_whole() -> None:
    paths = [f"x/{place}_{number}.png" for place in "abcdef" for number in range(3)]

    def rank(text: str) -> str:
        return hashlib.sha256(f"0/{text}".encode()).hexdigest()

    places = sorted("abcdef", key=rank)
    of = {place: sorted((path for path in paths if path[2] == place), key=rank) for place in places}
    wanted = dict.fromkeys(of[places[0]][:2] + of[places[1]][:1], "test")
    wanted |= dict.fromkeys(of[places[2]][:2] + of[places[3]][:2], "train")
    rule = Rule(group=r"/([a-f])_", most=2)
    assert choose(reversed(paths), rule=rule, wanted={"train": 4, "test": 3}) == wanted
    with pytest.raises(ValueError, match="there are 8 images for train, not 9"):
        choose(paths, rule=rule, wanted={"train": 9, "test": 3})


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    images = (ListedImage("train", 'a, "b".png', A, B), ListedImage("test", "ü/c.jpg", B, A))
    path = tmp_path / "m.csv"
    path.write_text(manifest_text(images), encoding="utf-8")
    assert read_manifest(path) == images


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.csv is not a manifest. Its first line must be part,image,image_sha256,mask_sha256."),
        ("image,part\n", "m.csv is not a manifest"),
        (f"{HEAD}\nvalid,a,{A},{B}\n", "m.csv, line 2: the part is 'valid'. Write train or test."),
        (f"{HEAD}\ntest,a,{A},{B}\ntest,b,{A}\n", "m.csv, line 3: it must have train or test, a path, and two"),
        (f"{HEAD}\ntest,a,{A},{B[1:]}\n", "m.csv, line 2: it must have"),
        (f"{HEAD}\ntest,a,{A},{B.upper()}\n", "m.csv, line 2: it must have"),
        (f"{HEAD}\ntest,,{A},{B}\n", "m.csv, line 2: it must have"),
        (f"{HEAD}\ntest,a,{A},{B}\ntrain,a,{B},{A}\n", "m.csv lists a twice"),
        (f'{HEAD}\ntest,"a,{A},{B}\n', "m.csv cannot be read: unexpected end of data"),
        (None, "m.csv cannot be read: No such file or directory"),
    ],
)
def test_faults_of_a_manifest_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CosamError) as error:
        read_manifest(tmp_path / "m.csv")
    assert message in str(error.value)


@pytest.mark.parametrize("pairing", ["name", "sorted"])
def test_images_that_are_not_listed_are_left_alone(tmp_path: Path, pairing: str) -> None:
    """With masks paired by name or by position; an image that is not listed may be broken."""
    lines = []
    for number, part in enumerate(("train", "", "test", "test")):
        pixels = np.full((8, 8, 3), 40 * number, np.uint8)
        for folder, content in (("images", pixels), ("masks", np.eye(8, dtype=np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(content).save(tmp_path / folder / f"{number}.png")
        if not part:
            (tmp_path / f"images/{number}.png").write_bytes(b"broken")
            continue
        files = [(tmp_path / folder / f"{number}.png").read_bytes() for folder in ("images", "masks")]
        lines.append(ListedImage(part, f"images/{number}.png", *(hashlib.sha256(file).hexdigest() for file in files)))  # type: ignore[arg-type]
    (tmp_path / "m.csv").write_text(manifest_text(lines))
    split = {"kind": "manifest", "file": str(tmp_path / "m.csv"), "train": 1, "test": 2}
    masks = "masks/{stem}.png" if pairing == "name" else "masks/*.png"
    card = Card.model_validate({"name": "m", "root": str(tmp_path), "masks": masks, "pairing": pairing, "split": split})
    domain = open_domain(card)
    assert (domain.train.keys, domain.test.keys) == (("images/0",), ("images/2", "images/3"))
    fewer = card.model_copy(update={"split": card.split.model_copy(update={"train": 2})})
    with pytest.raises(CosamError, match=r"split\.train is 2, but the images that .*m\.csv lists for train are 1"):
        open_domain(fewer)
