"""``data check``: the faults it finds, how they are shown, and that its hashes are those of records."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.imitations import BUILDERS, TEST, TRAIN, build
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.data.acquire.check import KINDS, check_domain
from cosam_bench.data.acquire.prepare import locate, open_candidates, published_card
from cosam_bench.data.cards import Card
from cosam_bench.data.locations import location_path
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_card, names_of


def prepared(name: str, layout: str, folder: Path) -> Card:
    build(name, folder, layout)
    found = locate(published_card(name), open_candidates([folder]))
    return found.card.model_copy(update={"expected": None})


def faults(card: Card) -> dict[str, list[str]]:
    return {kind: found for kind, found in check_domain(card).faults.items() if found}


@pytest.mark.parametrize(
    ("name", "layout"), [key for key in BUILDERS if key[0].partition("@")[0] not in ("coco200", "coco100")]
)
def test_sound_data_has_no_faults_and_the_hash_of_records(data: Path, name: str, layout: str) -> None:
    card = prepared(name, layout, Path("from"))
    found = check_domain(card)
    assert found.fault_count == 0, found.faults
    domain = open_domain(card)
    assert found.digest == domain.digest
    assert found.samples == len(domain.train) + len(domain.test)
    for part, count in ((domain.train, found.train), (domain.test, found.test)):
        assert count == len({entry.image_name + entry.key.partition("#")[0] for entry in part.manifest.entries})
    by_name = load_card(name)
    assert check_domain(by_name).digest in (found.digest, "")  # the card of a name is the one that a stream has


def test_retention_data_has_the_hash_of_records(data: Path) -> None:
    for name, layout in (("coco200@cosam", "cosam_bundle"), ("coco100@samcl", "samcl_bundle")):
        card = prepared(name, layout, Path(name))
        assert check_domain(card).digest == check_domain(card, is_retention=True).digest
        assert check_domain(card).digest == open_domain(card, is_retention=True).digest
        assert (check_domain(card).train, check_domain(card).test) == (0, TEST)


TRAINING = "ISBI2016_ISIC_Part1_Training"


def broken_isic(folder: Path) -> dict[str, list[str]]:
    """Break the imitation in every way at once; returns the names that each fault must hold."""
    images, masks = folder / f"{TRAINING}_Data", folder / f"{TRAINING}_GroundTruth"
    test = folder / "ISBI2016_ISIC_Part1_Test_Data"
    (masks / "ISIC_0000000_Segmentation.png").unlink()
    (images / "ISIC_0000001.jpg").unlink()
    with Image.open(masks / "ISIC_0000002_Segmentation.png") as mask:
        size = mask.size
    Image.new("L", size).save(masks / "ISIC_0000002_Segmentation.png")
    Image.new("L", (5, 6), 255).save(masks / "ISIC_0000003_Segmentation.png")
    whole = (images / "ISIC_0000004.jpg").read_bytes()
    (images / "ISIC_0000004.jpg").write_bytes(whole[: len(whole) // 2])
    (masks / "ISIC_0000005_Segmentation.png").write_bytes(b"nonsense")
    shutil.copy(test / "ISIC_0000007.jpg", images / "ISIC_0000006.jpg")
    return {
        "no mask": ["ISIC_0000000.jpg"],
        "no image": ["ISIC_0000001_Segmentation.png"],
        "empty": ["ISIC_0000002_Segmentation.png"],
        "size": ["its mask ISIC_0000003_Segmentation.png is 5 x 6"],
        "broken": ["ISIC_0000004.jpg is damaged", "ISIC_0000005_Segmentation.png is not an image"],
        "twice": ["ISIC_0000006 in training and ISBI2016_ISIC_Part1_Test_Data/ISIC_0000007 in test are the same image"],
    }


def test_all_kinds_of_faults_are_found_at_once(data: Path) -> None:
    card = prepared("isic@regcl", "source", Path("isic"))
    expected = broken_isic(Path("isic"))
    found = faults(card)
    assert list(found) == list(expected)
    for kind, texts in expected.items():
        assert len(found[kind]) == len(texts)
        assert all(text in fault for text, fault in zip(texts, found[kind], strict=True)), found[kind]
    assert check_domain(card).digest == ""
    assert (check_domain(card).train, check_domain(card).test) == (1, TEST)


def test_what_is_found_is_shown_with_an_exit_code(cli: Callable[..., Result], data: Path) -> None:
    prepared("isic@regcl", "source", Path("isic"))
    broken_isic(Path("isic"))
    result = cli("check", "isic@regcl")
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines()]
    heads = "domain layout found stated samples no mask no image empty size broken twice other split"
    assert " ".join(rows[0]) == heads
    assert rows[1][:5] == ["isic@regcl", "source", "1/3", "900/379", "4"]
    assert rows[1][5:] == ["1", "1", "1", "1", "2", "1", "1"]
    for kind, meaning in KINDS.items():
        assert (f"isic@regcl: {meaning}: " in result.stdout) == (kind not in ("unclear", "group"))
    assert "the source states 900 and 379" in result.stdout
    assert result.stderr == "Error: 8 faults in the data; see above.\n"


@pytest.mark.parametrize("width", [80, 130])
def test_the_table_fits_the_window(
    cli: Callable[..., Result], data: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    prepared("isic@regcl", "source", Path("isic"))
    prepared("mvtec_iii@cosam", "cosam_bundle", Path("mvtec"))
    broken_isic(Path("isic"))
    monkeypatch.setenv("COLUMNS", str(width))
    rows = cli("check").stdout.splitlines()[:3]
    assert all(len(row) <= width and "…" not in row for row in rows)
    assert ("faults" in rows[0]) == (width == 80)
    assert "cosam_bundle" in rows[2]
    assert rows[2].split()[-1].isalnum()
    assert len(rows[2].split()[-1]) == 12


def test_five_faults_of_a_kind_are_shown_and_the_rest_counted(cli: Callable[..., Result], data: Path) -> None:
    prepared("isic@regcl", "source", Path("isic"))
    for mask in sorted(Path(f"isic/{TRAINING}_GroundTruth").iterdir())[:6]:
        mask.unlink()
    lines = cli("check", "isic@regcl").stdout.splitlines()
    at = lines.index("isic@regcl: images without a mask: 6")
    assert lines[at + 1 : at + 6] == [
        f"  {TRAINING}_Data/ISIC_000000{n}.jpg has no mask {TRAINING}_GroundTruth/ISIC_000000{n}_Segmentation.png"
        for n in range(5)
    ]
    assert lines[at + 6] == "  and 1 more"


def test_the_stated_number_counts_only_where_somebody_checked_it(data: Path) -> None:
    card = prepared("isic@regcl", "source", Path("isic"))
    stated = load_card("isic@regcl").expected
    told = f"images for training and test: {TRAIN} and {TEST}; the"
    assert stated is not None
    checked = card.model_copy(update={"expected": stated, "verified": ("expected",)})
    assert faults(checked) == {"other": [f"{told} source states 900 and 379"]}
    unchecked = check_domain(checked.model_copy(update={"verified": ()}))
    assert unchecked.fault_count == 0
    assert unchecked.notes == [f"{told} card states 900 and 379, which nobody has checked"]
    assert unchecked.digest


def test_labelme_files_are_looked_into(data: Path) -> None:
    card = prepared("bsdata@cosam", "source", Path("bsdata"))
    labels = sorted(Path("bsdata/BSData-main/label").iterdir())
    labels[0].write_text("{")
    labels[1].write_text('{"shapes": []}')
    (labels[2].with_name("nobody.json")).write_text("{}")
    found = check_domain(card)
    assert {kind: len(texts) for kind, texts in found.faults.items() if texts} == {
        "no image": 1,
        "empty": 1,
        "broken": 1,
    }
    assert found.faults["no image"] == ["label/nobody.json"]
    assert found.notes == ["left out, as the card says: 2 images without a mask"]


def test_masks_of_images_that_a_card_leaves_out_are_no_fault(data: Path) -> None:
    card = prepared("cod@regcl", "source", Path("cod"))
    root = Path(card.root)
    some = next((root / "Train/GT_Object").iterdir())
    shutil.copy(some, root / "Train/GT_Object/COD10K-NonCAM-2-Terrestrial-20-Ant-0.png")
    assert faults(card) == {}
    shutil.copy(some, root / "Train/GT_Object/COD10K-NonCAM-2-Terrestrial-20-Ant-99.png")
    assert faults(card) == {"no image": ["Train/GT_Object/COD10K-NonCAM-2-Terrestrial-20-Ant-99.png"]}


def test_a_folder_whose_images_are_gone_leaves_its_masks_alone(data: Path) -> None:
    card = prepared("mvtec_i@cosam", "source", Path("mvtec"))
    root = Path(card.root)
    for image in (root / "tile/test/cut").iterdir():
        image.unlink()
    assert faults(card) == {
        "no image": ["tile/ground_truth/cut/000_mask.png", "tile/ground_truth/cut/002_mask.png"],
    }
    shutil.rmtree(root / "tile")
    text = f"no image matches 'tile/test/*/*.png' in {root}; there is no folder {root}/tile/test"
    assert faults(card) == {"other": [text]}


def test_sorted_pairing_tells_which_mask_is_missing(data: Path) -> None:
    card = prepared("kvasir@regcl", "samcl_bundle", Path("samcl"))
    masks = sorted((Path(card.root) / "Kvasir/train/masks").glob("*.jpg"))
    masks[0].unlink()
    shutil.copy(masks[1], masks[1].with_name("zzz.jpg"))
    shutil.copy(masks[1], masks[1].with_name("zzzz.jpg"))
    assert faults(card) == {
        "no mask": [f"Kvasir/train/images/{masks[0].name} has no mask called {masks[0].stem}"],
        "other": ["7 images but 8 masks for train; sorted pairing needs one mask per image"],
        "no image": ["Kvasir/train/masks/zzz.jpg", "Kvasir/train/masks/zzzz.jpg"],
    }


def own_card(folder: Path, **keys: Any) -> Card:
    return Card.model_validate({"name": "own", "root": str(folder), "split": {"test": 0.5}, **keys})


def square(path: Path, *, level: int = 255, size: tuple[int, int] = (8, 8), at: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", size)
    picture.paste(level, (at, at, at + 3, at + 3))
    picture.save(path)


def four(folder: Path) -> None:
    for number in range(4):
        square(folder / f"images/{number}.png", at=number)
        square(folder / f"masks/{number}.png")


def test_several_masks_and_shared_names_are_unclear(tmp_path: Path) -> None:
    four(tmp_path)
    square(tmp_path / "masks/0.bmp")
    square(tmp_path / "images/1.bmp", at=5)
    found = check_domain(own_card(tmp_path))
    assert found.train + found.test == 2
    assert {kind: texts for kind, texts in found.faults.items() if texts} == {
        "unclear": [
            "images/0.png has several masks (0.bmp, 0.png)",
            "images/1.bmp shares its name with another image",
            "images/1.png shares its name with another image",
        ]
    }


def test_a_mask_below_the_least_size_is_a_note_and_an_empty_one_a_fault(tmp_path: Path) -> None:
    four(tmp_path)
    square(tmp_path / "masks/0.png", at=7)  # one pixel
    found = check_domain(own_card(tmp_path, min_pixels=2))
    assert found.fault_count == 0
    assert found.notes == ["left out, as the card says: 1 with fewer than 2 pixels"]
    square(tmp_path / "masks/1.png", level=0)
    assert faults(own_card(tmp_path, min_pixels=2)) == {"empty": [f"{tmp_path}/masks/1.png"]}


def test_empty_masks_are_a_note_if_the_card_drops_them(tmp_path: Path) -> None:
    four(tmp_path)
    for number in (0, 1):
        square(tmp_path / f"masks/{number}.png", level=0)
    found = check_domain(own_card(tmp_path, empty="drop"))
    assert (found.fault_count, found.samples) == (0, 2)
    assert found.notes == ["left out, as the card says: 2 with empty masks"]
    assert len(faults(own_card(tmp_path))["empty"]) == 2


def test_training_images_that_are_tested_under_another_name_go_as_the_card_says(tmp_path: Path) -> None:
    four(tmp_path)
    for part, numbers in (("train", (0, 1)), ("test", (2, 3))):
        for number in numbers:
            square(tmp_path / f"{part}/{number}.png", at=number)
    shutil.copy(tmp_path / "test/2.png", tmp_path / "train/1.png")
    shutil.copy(tmp_path / "test/2.png", tmp_path / "train/3.png")
    split = {"kind": "folders", "train": "train/*", "test": "test/*", "without_test": True}
    card = own_card(tmp_path, split=split, masks="masks/{stem}.png")
    found = check_domain(card)
    assert (found.fault_count, found.train, found.test) == (0, 1, 2)
    assert found.digest == open_domain(card).digest
    (tmp_path / "train/3.png").unlink()  # which has a test image's name
    both = card.model_copy(update={"split": card.split.model_copy(update={"without_test": False})})
    assert faults(both) == {"twice": ["train/1 in training and test/2 in test are the same image"]}


def test_masks_that_are_not_understood_are_told(tmp_path: Path) -> None:
    four(tmp_path)
    square(tmp_path / "masks/0.png", level=7)
    (fault,) = faults(own_card(tmp_path))["broken"]
    assert "0.png looks like a mask of class ids" in fault


def test_a_split_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    four(tmp_path)
    split = {"kind": "counts", "train": 0, "test": 4}
    assert faults(own_card(tmp_path, split=split)) == {
        "other": ["its split leaves nothing to train on; correct it or list the domain as retention"]
    }
    found = faults(own_card(tmp_path, split={"kind": "counts", "train": 4, "test": 4}))
    assert "its split asks for 4 training and 4 test samples" in found["other"][0]


def test_data_that_is_not_there_is_a_fault_with_the_next_step(cli: Callable[..., Result], data: Path) -> None:
    result = cli("check", "istd@regcl")
    assert result.exit_code == 1
    assert "missing" in result.stdout
    assert "cosam-bench data prepare istd@regcl --from PATH" in result.stdout
    build("isic@regcl", Path("isic"))
    cli("prepare", "isic@regcl", "--from", "isic")
    shutil.rmtree("isic")
    result = cli("check")
    assert result.exit_code == 1
    assert f"the folder {Path('isic').resolve()} no longer exists" in result.stdout


def test_a_stream_is_checked_whole_and_between_its_domains(cli: Callable[..., Result], data: Path) -> None:
    for name in ("a", "b"):
        four(Path(name))
    cards = "".join(f'[[domain]]\nname = "{name}"\nroot = "{name}"\nsplit = {{ test = 0.5 }}\n' for name in "ab")
    Path("own.toml").write_text('name = "own"\n' + cards)
    result = cli("check", "own.toml")
    assert result.exit_code == 0, result.output  # the same images, divided alike
    Path("own.toml").write_text(('name = "own"\n' + cards).replace("0.5", "0.25", 1))
    result = cli("check", "own.toml")
    assert result.exit_code == 1
    assert "between domains: Stream 'own'" in result.stdout or "'own.toml'" in result.stdout
    assert "trains on" in result.stdout
    assert "1 fault in the data" in result.stderr
    assert cli("check", "mini").exit_code == 0


def test_a_damaged_record_is_named(cli: Callable[..., Result], data: Path) -> None:
    data.mkdir()
    location_path("isic@regcl").write_text("layout = 3")
    result = cli("check")
    assert result.exit_code == 2
    assert "isic@regcl.toml" in result.stderr


def test_every_name_of_a_card_is_a_name_of_a_record(data: Path) -> None:
    for name in names_of("card"):
        assert location_path(name) == data / f"{name}.toml"
    assert KINDS.keys() == check_domain(Card(name="x", root="nowhere")).faults.keys()


def test_names_that_are_no_text_are_told_legibly(cli: Callable[..., Result], tmp_path: Path) -> None:
    four(tmp_path / "own")
    image, mask = next((tmp_path / "own/images").iterdir()), next((tmp_path / "own/masks").iterdir())
    for name in ("no\udcfftext.png", "red\x1b[31m.png"):
        shutil.copy(image, image.with_name(name))
    shutil.copy(mask, mask.with_name("no\udcfftext.png"))
    (tmp_path / "own.toml").write_text('name = "own"\n[[domain]]\nname = "one"\nroot = "own"\n')
    result = cli("check", "own.toml")
    assert result.exit_code == 1
    assert "the path 'images/no\\udcfftext' is not UTF-8; rename it" in result.stdout
    assert "images/red\\x1b[31m.png" in result.stdout
    shown = CliRunner().invoke(app, ["domains", "own.toml"])
    assert shown.exit_code == 0
    assert "red\\x1b[31m.png has no mask" in shown.stdout
