"""``data prepare``: what is recognised, unpacked, recorded and refused; what all data commands refuse alike."""

from __future__ import annotations

import errno
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from support.imitations import BUILDERS, TEST, TRAIN, build
from typer.testing import Result

from cosam_bench.data.acquire import archives, extraction
from cosam_bench.data.cards import DATASETS
from cosam_bench.data.locations import location_path, read_location
from cosam_bench.data.streams import names_of

COSAM_DOMAINS = [name for name, layout in BUILDERS if layout == "cosam_bundle"]


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
    (["fetch", "empty"], "empty is a folder, not a TOML file that describes its images and masks. Write one: cosam"),
    (["check", "empty"], "Write one: cosam-bench data init empty."),
    (["check", "described"], "described is a folder. Give the path of the TOML file in it: described/stream.toml."),
    (["fetch", "described/stream.toml"], "says where the data of each of its domains is, so there is nothing to get"),
    (["prepare", "described/stream.toml", "--from", "empty"], "so there is nothing to get"),
    (["check", "typo.toml"], "typo.toml: a stream needs its domains as [[domain]] tables."),
    (["fetch", "typo.toml"], "typo.toml: a stream needs its domains as [[domain]] tables."),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_what_is_asked_wrongly_gets_one_clear_error(
    cli: Callable[..., Result], data: Path, arguments: list[str], said: str
) -> None:
    build("isic@regcl", Path("isic"))
    for folder in ("empty", "outer/deep", "described"):
        Path(folder).mkdir(parents=True)
    Path("described/stream.toml").write_text('name = "s"\n[[domain]]\nname = "a"\nroot = "."\n')
    Path("typo.toml").write_text('name = "s"\n[[domains]]\nname = "a"\nroot = "."\n')
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


def test_a_stream_of_your_own_gets_the_data_of_the_cards_in_it(cli: Callable[..., Result], data: Path) -> None:
    Path("mine.toml").write_text(
        'name = "s"\n[[domain]]\nname = "a"\nroot = "a"\n[[domain]]\ncard = "camo@cosam"\n'
        '[[domain]]\ncard = "kvasir@open"\nname = "polyps"\n[[domain]]\ncard = "isic@regcl"\nroot = "skin"\n'
    )
    fetched = cli("fetch", "mine.toml")
    assert fetched.exit_code == 2
    assert [line for line in fetched.stdout.splitlines() if "@" in line and not line.startswith(" ")] == [
        "kvasir@open",
        "camo@cosam: get it by hand",
    ]
    build("camo@cosam", Path("camo"))
    assert cli("prepare", "mine.toml", "--from", "camo").exit_code == 2  # kvasir is not in it
    assert read_location("camo@cosam") is not None


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
