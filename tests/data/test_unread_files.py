"""No image is left out in silence, and a damaged one is found before anything is trained."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cases import case_folder

from cosam_bench.core.errors import CosamError
from cosam_bench.data import image_files
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import decode_image
from cosam_bench.data.faults import DataFault
from cosam_bench.data.opened_images import OpenedImages
from cosam_bench.data.opening import open_domain
from cosam_bench.data.overview import domain_row
from cosam_bench.data.samples import Domain
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.method_faults import method_faults


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images with masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(6):
        image = np.full((12, 16, 3), 40 * index, dtype=np.uint8)
        mask = np.zeros((12, 16), dtype=np.uint8)
        mask[3:9, 4 : 8 + index] = 255
        Image.fromarray(image).save(tmp_path / f"images/p{index}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/p{index}.png")
    return tmp_path


def _card(root: Path, **keys: object) -> Card:
    return Card.model_validate({"name": "a", "root": str(root), **keys})


def _refused(card: Card) -> str:
    """What opening, `domains` and `data check` all say."""
    with pytest.raises(CosamError) as caught:
        open_domain(card)
    assert domain_row(card).fault == str(caught.value)
    assert check_domain(card).fault_count > 0
    return str(caught.value)


def test_links_that_lead_nowhere_loops_pipes_and_folders_are_named(root: Path) -> None:
    (root / "images/dangling.png").symlink_to("nowhere.png")
    (root / "images/loop.png").symlink_to("loop.png")
    os.mkfifo(root / "images/pipe.png")
    (root / "images/folder.png").mkdir()
    fault = _refused(_card(root))
    assert "images/dangling.png is a link to nowhere.png, which is not there; fetch the data" in fault
    assert "images/loop.png is a link to itself" in fault
    assert "images/pipe.png is a pipe or a device" in fault
    assert "images/folder.png is a folder" in fault


@pytest.mark.parametrize("masks", ["masks/{stem}.*", "masks/{stem}.png", "masks/{stem}*"])
def test_an_image_whose_mask_is_not_fetched_is_not_skipped(root: Path, masks: str) -> None:
    (root / "masks/p0.png").unlink()
    card = _card(root, masks=masks, unlabelled="skip")
    assert len(open_domain(card).train) + len(open_domain(card).test) == 5
    (root / "masks/p0.png").symlink_to("nowhere.png")
    assert "masks/p0.png is a link to nowhere.png" in _refused(card)


def test_images_of_an_unknown_kind_and_in_folders_are_named_if_they_have_masks(root: Path) -> None:
    (root / "images/p0.png").rename(root / "images/p0.heic")
    assert "images/p0.heic has the mask masks/p0.png, but .heic is not read" in _refused(_card(root))
    (root / "images/p0.heic").rename(root / "images/p0.txt")  # no image, whatever it is
    assert len(open_domain(_card(root)).train) == 4
    (root / "images/sub").mkdir()
    (root / "images/p1.png").rename(root / "images/sub/p1.png")
    assert "images/sub is a folder of images with masks (images/sub/p1.png)" in _refused(_card(root))
    (root / "masks/sub").mkdir()
    (root / "masks/p1.png").rename(root / "masks/sub/p1.png")
    assert "images/sub is a folder of images with masks (images/sub/p1.png)" in _refused(_card(root))


def test_a_folder_without_masks_of_its_own_is_none_of_the_images(root: Path) -> None:
    (root / "images/thumbnails").mkdir()
    shutil.copy(root / "images/p0.png", root / "images/thumbnails/p0.png")
    assert len(open_domain(_card(root)).train) == 5
    assert len(open_domain(_card(root, images="images/*.png")).train) == 5


def _damage(path: Path) -> None:
    """Cut the file in its pixels; its header stays whole."""
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IDAT") + 10])


def test_all_damaged_images_are_found_before_training_and_the_data_is_blamed(root: Path) -> None:
    for index in (1, 4):
        _damage(root / f"images/p{index}.png")
    with pytest.raises(CosamError, match=r"Domain 'a': .*p1\.png is damaged.*p4\.png is damaged"):
        open_domain(_card(root))


def test_an_image_that_is_damaged_later_is_no_fault_of_the_method(root: Path) -> None:
    domain = open_domain(_card(root))
    for path in (root / "images").iterdir():
        _damage(path)
    with pytest.raises(DataFault, match="is damaged"), method_faults("mine", "learn"):
        domain.train[0]
    (root / "masks/p0.png").unlink()
    part = domain.train if "images/p0" in domain.train.keys else domain.test
    with pytest.raises(DataFault, match="cannot be read"), method_faults("mine", "learn"):
        part.mask(part.keys.index("images/p0"))


def test_images_are_decoded_once_for_all_runs_on_a_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    check = OpenedImages.check.__globals__["check_image"]
    monkeypatch.setitem(
        OpenedImages.check.__globals__, "check_image", lambda data, name: decoded.append(name) or check(data, name=name)
    )
    first = open_domain(_card(root))
    assert len(decoded) == 6
    assert open_domain(_card(root)).digest == first.digest
    assert len(decoded) == 6
    Image.fromarray(np.zeros((12, 16, 3), dtype=np.uint8)).save(root / "images/p2.png", compress_level=0)
    open_domain(_card(root, split={"test": 1.0}), is_retention=True)
    assert [Path(name).name for name in decoded[6:]] == ["p2.png"]


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_error(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "opened"
    path.write_bytes(b"\xff" * 70 + b"\nshort\n")
    opened = OpenedImages(path)
    data = (root / "images/p0.png").read_bytes()
    assert opened.check(data, sha256="0" * 64, name="x") == 0
    opened.save()
    nowhere = OpenedImages(Path("/dev/null/x"))
    assert nowhere.check(data, sha256="0" * 64, name="x") == 0
    nowhere.save()


def test_a_line_that_was_cut_short_is_no_memory_and_costs_no_other(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "opened"
    path.write_text(f"{'a' * 64} 65535\n{'b' * 40}\n{'c' * 64} 7\n{'d' * 64} 65")
    opened = OpenedImages(path)
    assert opened.check(b"", sha256="a" * 64, name="x") == 65535
    assert opened.check(b"", sha256="c" * 64, name="x") == 7
    data = (root / "images/p0.png").read_bytes()
    assert opened.check(data, sha256="d" * 64, name="x") == 0  # decoded; a part of a number is none
    opened.save()
    assert OpenedImages(path).check(b"", sha256="d" * 64, name="x") == 0


def test_the_order_and_the_faults_do_not_depend_on_the_number_of_threads(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for threads in (1, 4):
        monkeypatch.setattr(image_files, "_threads", lambda count=threads: count)
        digests.add(open_domain(_card(root)).digest)
    assert len(digests) == 1


def _deep(root: Path, largest: int) -> None:
    for index in range(6):
        levels = np.linspace(0, largest, 12 * 16).reshape(12, 16).astype(np.uint16)
        levels[0, 1] = index
        Image.fromarray(levels).save(root / f"images/p{index}.png")


def test_twelve_bits_in_sixteen_are_asked_about(root: Path) -> None:
    _deep(root, 4095)
    with pytest.raises(CosamError, match=r"16 bits \(6\) hold levels up to 4095 of 65535.*levels = 4095"):
        open_domain(_card(root))
    assert any("as if they had 12" in fault for fault in check_domain(_card(root)).faults["other"])
    with pytest.raises(CosamError, match="levels up to 4095"):  # also if the images are known already
        open_domain(_card(root))
    domain = open_domain(_card(root, levels=4095))
    assert (domain.test[0].image.min().item(), domain.test[0].image.max().item()) == (0, 255)
    assert open_domain(_card(root, levels=65535)).test[0].image.max().item() == 16
    assert open_domain(_card(root, levels=65535)).digest != domain.digest
    _deep(root, 4096)
    assert open_domain(_card(root)).test[0].image.max().item() == 16
    with pytest.raises(DataFault, match="holds the level 4096, but the card says levels = 4095"):
        _ = open_domain(_card(root, levels=4095)).test[0].image


def test_shares_of_white_are_rounded_as_before() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    expected = ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)
    assert (decode_image(file.getvalue(), name="x")[0].numpy() == expected).all()


def test_sorted_pairing_refuses_an_order_that_the_numbers_contradict(root: Path) -> None:
    for folder, pattern in (("images", "img{}"), ("masks", "img{:02}")):
        for index in range(6):
            (root / folder / f"p{index}.png").rename(root / folder / f"{pattern.format(index + 7)}.png")
    card = _card(root, pairing="sorted", masks="masks/*")
    assert "sorted pairing gives images/img10.png the mask masks/img07.png" in _refused(card)
    for index in range(7, 10):
        (root / f"images/img{index}.png").rename(root / f"images/img0{index}.png")
    assert len(open_domain(card).train) == 5


def _domain(case: str) -> Domain:
    return open_domain(load_stream(str(case_folder(case) / "stream.toml")).cards[0])


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        ("palette_index0/quant", r"palette whose index 0 is not black but \(255, 0, 0\)"),
        ("voc_255_border/voc255", "index 255, often a border to be ignored"),
        ("dense_8bit_instances/dense", "looks like a mask of class ids"),
        ("twelve_bit_in_sixteen/bit12", "hold levels up to 3677 of 65535"),
        ("sorted_pairing_lexical/sorted_trap", "img10.png the mask masks/img02.png"),
        ("partial_fetch_broken_links/heic", "p00.heic has the mask"),
        ("partial_fetch_broken_links/subfolder", "images/sub is a folder"),
        ("pillow_10_tiff_orientation/tif_orient_stored", "64 x 48 pixels upright"),
    ],
)
def test_reported_data_is_refused(case: str, fault: str) -> None:
    with pytest.raises(CosamError, match=fault):
        _domain(case)


@pytest.mark.parametrize("case", ["annex", "annexboth"])
def test_reported_data_that_is_not_fetched_is_named(case: str, tmp_path: Path) -> None:
    root = tmp_path / case
    shutil.copytree(case_folder("partial_fetch_broken_links") / case, root)
    for folder in ["images", "masks"] if case == "annexboth" else ["images"]:
        for index in range(3):
            link = root / f"g/{folder}/p0{index}.png"
            if not link.is_symlink():
                link.symlink_to("nowhere.png")
    card = load_stream(str(root / "stream.toml")).cards[0]
    fault = _refused(card)
    assert all(f"images/p0{index}.png is a link to nowhere.png" in fault for index in range(3))


@pytest.mark.parametrize(
    ("case", "pixels"),
    [
        ("labelme_labels_ignored/lm_hole", 41 * 36 - 21 * 16),
        ("labelme_labels_ignored/lm_ignore", 336),
        ("pillow_10_tiff_orientation/tif_orient_upright", 336),
        ("twelve_bit_in_sixteen/bit8", 336),
    ],
)
def test_reported_data_is_read_as_it_should_be(case: str, pixels: int) -> None:
    domain = _domain(case)
    assert {int(sample.mask.sum()) for sample in [*domain.train, *domain.test]} == {pixels}


def test_a_file_that_cannot_be_read_says_why_and_asks_nothing(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"cannot be read: it is a folder, not an ordinary file\.$"):
        image_files.read_bytes(tmp_path)
    with pytest.raises(
        CosamError, match=r"cannot be read: No such file or directory\. Check that it is still there\.$"
    ):
        image_files.read_bytes(tmp_path / "gone.png")
