from __future__ import annotations

import errno
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from PIL import Image
from support.imitations import BUILDERS, TEST, TRAIN, build
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.data.acquire import archives, extraction
from cosam_bench.data.acquire.check import KINDS, check_domain
from cosam_bench.data.acquire.prepare import locate, open_candidates, published_card
from cosam_bench.data.cards import DATASETS, Card
from cosam_bench.data.locations import location_path, read_location
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_card, names_of

COSAM_DOMAINS = [name for name, layout in BUILDERS if layout == "cosam_bundle"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, within an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def cli(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("COSAM_BENCH_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="session")
def cosam_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "CoSAM data"
    for name in COSAM_DOMAINS:
        build(name, folder, "cosam_bundle")
    return folder


def first_words(result: Result) -> list[str]:
    return [line.partition(":")[0] for line in result.stdout.splitlines()]


def test_a_folder_is_recognised_and_not_copied(cli: Callable[..., Result], data: Path) -> None:
    build("isic@regcl", Path("isic"))
    result = cli("prepare", "isic@regcl", "--from", "isic")
    assert result.exit_code == 0
    root = Path("isic").resolve()
    assert result.stdout == f"isic@regcl: source, {TRAIN + TEST} images with masks, in {root}\n"
    location = read_location("isic@regcl")
    assert location is not None
    assert (location.layout, location.root, location.archives) == ("source", root, ())
    assert [path.name for path in data.iterdir()] == ["isic@regcl.toml"]


def test_a_bundle_holds_all_domains(cli: Callable[..., Result], cosam_bundle: Path) -> None:
    result = cli("prepare", "--all", "--from", cosam_bundle)
    assert result.exit_code == 0
    # CAMO lies there as published, so it serves the other stream too.
    assert first_words(result) == sorted([*COSAM_DOMAINS, "camo@regcl"])
    others = sorted(set(names_of("card")) - {*COSAM_DOMAINS, "camo@regcl"})
    assert f"Not recognised there: {', '.join(others)}." in result.stderr
    assert {"coco100@samcl", "kvasir@open", "kvasir@regcl"} < set(others)
    assert all(location_path(name).is_file() for name in COSAM_DOMAINS)
    assert cli("prepare", "cosam", "--from", cosam_bundle).exit_code == 0


def test_a_bundle_as_an_archive_is_unpacked_once(
    cli: Callable[..., Result], cosam_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive("bundle", "gztar", cosam_bundle)
    assert cli("prepare", "kvasir@cosam", "bsdata@cosam", "--from", archive).exit_code == 0
    (folder,) = (data / "_unpacked").iterdir()
    monkeypatch.setattr(archives, "_unpack", lambda *_: pytest.fail("unpacked a second time"))
    result = cli("prepare", "mvtec_i@cosam", "--from", archive)
    assert result.exit_code == 0
    location = read_location("mvtec_i@cosam")
    assert location is not None
    assert location.root == folder / "mvtec_groups"
    assert [one.file for one in location.archives] == ["bundle.tar.gz"]


def test_several_archives_make_one_source(cli: Callable[..., Result], data: Path) -> None:
    build("mvtec_i@cosam", Path("mvtec"))
    given: list[str] = []
    for name in ("carpet", "leather", "tile"):
        given += ["--from", shutil.make_archive(name, "xztar", "mvtec/mvtec_anomaly_detection", name)]
    assert cli("prepare", "mvtec_i@cosam", *given[:4]).exit_code == 2
    result = cli("prepare", "mvtec_i@cosam", *given)
    assert result.exit_code == 0
    assert "source, 12 images with masks" in result.stdout


def test_a_second_preparation_replaces_the_first_and_says_so(cli: Callable[..., Result], cosam_bundle: Path) -> None:
    build("kvasir@cosam", Path("source"))
    first = cli("prepare", "kvasir@cosam", "--from", "source")
    assert "This replaces" not in first.stderr
    again = cli("prepare", "kvasir@cosam", "--from", "source")
    assert "This replaces" not in again.stderr
    second = cli("prepare", "kvasir@cosam", "--from", cosam_bundle)
    assert f"This replaces the location of kvasir@cosam: source in {Path('source').resolve()}." in second.stderr
    location = read_location("kvasir@cosam")
    assert location is not None
    assert location.layout == "cosam_bundle"


def test_a_layout_can_be_asked_for(cli: Callable[..., Result], cosam_bundle: Path) -> None:
    result = cli("prepare", "kvasir@cosam", "--from", cosam_bundle, "--layout", "source")
    assert result.exit_code == 2
    assert "Expected: source (" in result.stderr
    assert "cosam_bundle (" not in result.stderr
    assert cli("prepare", "kvasir@cosam", "--from", cosam_bundle, "--layout", "cosam_bundle").exit_code == 0
    result = cli("prepare", "--all", "--from", cosam_bundle, "--layout", "samcl_bundle")
    assert result.exit_code == 2


def test_coco_is_selected_from_its_annotations(cli: Callable[..., Result], data: Path) -> None:
    card = tomllib.loads((DATASETS / "cards/coco200@cosam.toml").read_text())
    card["layouts"]["source"]["select"] = 4
    card["layouts"]["selected"].pop("expected", None)
    Path("coco.toml").write_text(tomli_w.dumps(card | {"expected": {"train": 0, "test": 4}}))
    build("coco200@cosam", Path("coco"))
    result = cli("prepare", "coco.toml", "--from", "coco")
    assert result.stdout == f"coco200@cosam: selected, 4 images with masks, in {data}/coco200@cosam\n"
    assert cli("check", "coco.toml").exit_code == 0
    result = cli("prepare", "coco200@cosam", "--from", "coco")
    assert result.exit_code == 2
    assert "leads to 10 images with something to segment, but 200 are wanted" in result.stderr


WRONG = [
    (["prepare", "kvasr", "--from", "empty"], "Did you mean 'kvasir@cosam' or 'kvasir@open' or 'kvasir@regcl'?"),
    (["prepare", "kvasir", "--from", "empty"], "Did you mean 'kvasir@cosam' or 'kvasir@open' or 'kvasir@regcl'?"),
    (["prepare", "xxxx", "--from", "empty"], "No domain or stream is called 'xxxx'. Offered: "),
    (["prepare", "mini", "--from", "empty"], "come with the package"),
    (["prepare", "nothing.toml", "--from", "empty"], "No file nothing.toml"),
    (["prepare", "camo@cosam", "--from", "nowhere"], "There is no file or folder nowhere."),
    (["prepare", "camo@cosam", "--from", "empty"], "empty does not hold the data of camo@cosam"),
    (["prepare", "camo@cosam", "--from", "isic"], "It holds: ISBI2016_ISIC_Part1_Test_Data/"),
    (["prepare", "camo@cosam", "--from", "isic", "--layout", "sauce"], "No layout of camo@cosam is called 'sauce'."),
    (["prepare", "camo@cosam", "--from", "text.zip"], "text.zip is not an archive of a known kind"),
    (["prepare", "camo@cosam", "--from", "cut.zip"], "cut.zip is damaged or cut off"),
    (["prepare", "camo@cosam", "--from", "data.rar"], "is a rar archive"),
    (["prepare", "camo@cosam", "--from", "outer"], "It contains archives: "),
    (["prepare", "--from", "empty"], "give --all"),
    (["prepare", "camo@cosam", "--all", "--from", "empty"], "give --all"),
    (["prepare", "--all", "--from", "empty"], "No domain's data was recognised in empty."),
    (["prepare", "camo@cosam"], "Missing option '--from'"),
    (["check"], "No data is prepared in "),
    (["check", "camo"], "Did you mean 'camo@cosam' or 'camo@regcl'?"),
    (["check", "nothing.toml"], "No file nothing.toml"),
    (["fetch", "mini"], "come with the package"),
    (["fetch", "bsdata"], "Did you mean 'bsdata@cosam' or 'bsdata@open'?"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_what_is_asked_wrongly_gets_one_clear_error(
    cli: Callable[..., Result], data: Path, arguments: list[str], said: str
) -> None:
    build("isic@regcl", Path("isic"))
    for folder in ("empty", "outer/deep"):
        Path(folder).mkdir(parents=True)
    Path("text.zip").write_text("text")
    Path("data.rar").write_bytes(b"Rar!\x1a\x07\x01\x00")
    whole = Path(shutil.make_archive("outer/deep/inner", "zip", "isic")).read_bytes()
    Path("cut.zip").write_bytes(whole[:1000])
    result = cli(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not data.exists() or [*data.rglob("*")] in ([], [data / "_unpacked"])


def test_some_of_several_names_are_prepared_and_the_others_told(cli: Callable[..., Result], cosam_bundle: Path) -> None:
    result = cli("prepare", "isic@regcl", "kvasir@cosam", "--from", cosam_bundle)
    assert result.exit_code == 2
    assert first_words(result) == ["kvasir@cosam"]
    assert "does not hold the data of isic@regcl" in result.stderr


def test_a_record_that_cannot_be_written_is_one_error(
    cli: Callable[..., Result], data: Path, cosam_bundle: Path
) -> None:
    data.write_text("a file")
    result = cli("prepare", "--all", "--from", cosam_bundle)
    assert result.exit_code == 2
    assert result.stderr.count("cannot be written") == 1


def test_ctrl_c_while_unpacking_says_that_nothing_is_left(
    cli: Callable[..., Result], data: Path, cosam_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction.Quota, "take", pressed)
    result = cli("prepare", "--all", "--from", shutil.make_archive("bundle", "zip", cosam_bundle))
    assert result.exit_code == 130
    assert result.stderr == "Stopped: The unpacked files are removed; run the same command to unpack again.\n"
    assert [*(data / "_unpacked").iterdir()] == []


def test_a_full_disk_while_unpacking_is_one_error(
    cli: Callable[..., Result], data: Path, cosam_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(extraction.Quota, "take", full)
    result = cli("prepare", "--all", "--from", shutil.make_archive("bundle", "zip", cosam_bundle))
    assert result.exit_code == 2
    assert "cannot be written: No space left on device. Nothing was kept." in result.stderr


# What `data check` finds.


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


@pytest.mark.parametrize("arguments", [["prepare", "camo@cosam", "--from"], ["check"], ["fetch"]])
def test_somebody_without_a_home_is_told(cli: Callable[..., Result], arguments: list[str]) -> None:
    result = cli(*arguments, "~nobody.at.all/data.toml")
    assert result.exit_code == 2
    assert result.stderr.endswith("~nobody.at.all/data.toml: there is no such home folder. Give the full path.\n")


def test_the_error_of_an_unknown_folder_stays_short(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(exist_ok=True)
    for name in names_of("card"):
        result = cli("prepare", name, "--from", tmp_path / "empty")
        assert result.exit_code == 2
        assert len(result.stderr.replace(str(tmp_path), "")) < 450, name


def test_the_error_of_an_incomplete_folder_stays_short(cli: Callable[..., Result], tmp_path: Path) -> None:
    build("isic@regcl", tmp_path / "isic")
    for mask in sorted((tmp_path / "isic").rglob("*_Segmentation.png"))[:6]:
        mask.unlink()
    result = cli("prepare", "isic@regcl", "--from", tmp_path / "isic")
    assert "and 1 more. Complete the data.\n" in result.stderr
    assert len(result.stderr.replace(str(tmp_path), "")) < 800


# `data init`


def write_pairs(root: Path, *, level: int = 255, count: int = 6) -> Path:
    """Images with masks of one level each."""
    for number in range(count):
        for folder, mode, colour in (("images", "RGB", (9 * number, 40, 90)), ("masks", "L", 0)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            picture = Image.new(mode, (20, 16), colour)
            if mode == "L":
                picture.paste(level, (3, 4, 9, 10))
                if level == 250:  # a third level
                    picture.paste(125, (0, 0, 2, 16))
            else:
                picture.paste((200, number, 0), (3, 4, 9, 10))
            picture.save(root / folder / f"{number}.png")
    return root


def test_init_writes_a_stream_that_check_accepts(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine/leaves"))
    write_pairs(Path("mine/cells"), level=1, count=7)
    (Path("mine/notes")).mkdir()
    (Path("mine/notes/x.txt")).write_text("x")
    result = cli("init", "mine")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "cells: 7 images, 7 with masks; decided\n"
        "leaves: 6 images, 6 with masks; decided\n"
        "Written: mine/stream.toml. Next:\n"
        "  cosam-bench data check mine/stream.toml\n"
        "  cosam-bench run --method average --model tiny --stream mine/stream.toml\n"
    )
    assert "Note: notes is not a domain: there are no images in it." in result.stderr
    assert cli("check", "mine/stream.toml").exit_code == 0


def test_init_asks_and_check_repeats_the_question(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine"), level=250)
    result = cli("init", "mine", "--out", "new/mine.toml")
    assert result.exit_code == 0
    assert "mine: 6 images, 6 with masks; choose foreground, ignore" in result.stdout
    assert "Open new/mine.toml and choose for mine, where the comments say so." in result.stderr
    checked = cli("check", "new/mine.toml")
    assert checked.exit_code == 1
    assert "it is undecided which of its pixels are foreground (levels 0: 78.8 %, 125: 10.0 %," in checked.stdout


def test_init_keeps_a_file_unless_it_is_forced(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine"))
    Path("mine/stream.toml").write_text("# mine")
    refused = cli("init", "mine")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "mine/stream.toml exists already. Give --force to replace it, or another name by --out." in refused.stderr
    assert Path("mine/stream.toml").read_text() == "# mine"
    assert cli("init", "mine", "--force").exit_code == 0
    assert tomllib.loads(Path("mine/stream.toml").read_text())["name"] == "mine"


@pytest.mark.parametrize(
    ("folder", "options", "said"),
    [
        ("nowhere", (), "nowhere. Give the folder that holds your images and masks."),
        ("empty", (), "empty is empty."),
        ("texts", (), "There are no images in texts, only files of these kinds: .md."),
        ("images", (), "No masks were found in images."),
        ("images", ("--out", "mine.json"), "mine.json does not end in .toml."),
    ],
)
def test_init_says_why_it_cannot_write(
    cli: Callable[..., Result], data: Path, folder: str, options: tuple[str, ...], said: str
) -> None:
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/x.md").write_text("x")
    write_pairs(Path("pairs"))
    shutil.copytree("pairs/images", "images")
    result = cli("init", folder, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())
    assert not list(Path(folder).glob("*.toml"))
