from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.imitations import TEST, TRAIN, build
from support.web import Site, serving
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.core import resuming_downloader as resuming
from cosam_bench.data.acquire.fetch import known_hashes
from cosam_bench.data.cards import DATASETS
from cosam_bench.data.locations import read_location
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_card, names_of

# Of the cards with direct addresses, in their order: what lies in each archive of the imitation; a name for a file.
HOLDS: dict[str, list[tuple[str, ...] | str]] = {
    "bsdata@cosam": [("BSData-main",)],
    "isic@regcl": [
        ("ISBI2016_ISIC_Part1_Training_Data",),
        ("ISBI2016_ISIC_Part1_Training_GroundTruth",),
        ("ISBI2016_ISIC_Part1_Test_Data",),
        ("ISBI2016_ISIC_Part1_Test_GroundTruth",),
    ],
    "kvasir@cosam": [("Kvasir-SEG",), ("sessile-main-Kvasir-SEG",)],
    "kvasir@regcl": [("Kvasir-SEG",), "samcl/train-points.json", "samcl/test-points.json"],
    "coco200@cosam": [("val2017",), ("annotations",)],
    "coco100@samcl": [("val2017",), ("annotations",)],
}
SIZES = {"bsdata@cosam": (8, 2), "kvasir@regcl": (8, 2), "coco200@cosam": (0, 4), "coco100@samcl": (0, 4)}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(resuming, "WAITS_SECONDS", (0.0,) * 4)
    with serving() as running:
        yield running


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``cosam-bench data`` in an empty folder whose ``data`` is the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("COSAM_BENCH_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


def packed(source: Path, names: tuple[str, ...], path: Path) -> bytes:
    """A zip of some of a folder's folders."""
    stage = path.with_suffix("")
    for name in names:
        shutil.copytree(source / name, stage / name)
    return Path(shutil.make_archive(str(stage), "zip", stage)).read_bytes()


def offered(name: str, site: Site, folder: Path, **changes: Any) -> Path:
    """A card file like the package's, whose archives are the imitation's and lie on the test's server."""
    card = tomllib.loads((DATASETS / f"cards/{name}.toml").read_text(encoding="utf-8"))
    source = build(name, folder / f"{name}-source")
    for download, names in zip(card["downloads"], HOLDS[name], strict=True):
        archive = folder / f"{name}-{download['file']}"
        content = (source / names).read_bytes() if isinstance(names, str) else packed(source, names, archive)
        site.add(download["file"], content)
        download["url"] = f"{site.url}/{download['file']}"
    train, test = SIZES.get(name, (TRAIN, TEST))
    card.pop("expected", None)
    for layout in card["layouts"].values():
        layout.pop("expected", None)
        if "select" in layout:
            layout["select"] = test
    card |= {"expected": {"train": train, "test": test}, "verified": ["expected"]} | changes
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(card))
    return path


@pytest.mark.parametrize("name", HOLDS)
def test_fetched_prepared_and_checked(cli: Callable[..., Result], site: Site, tmp_path: Path, name: str) -> None:
    card = offered(name, site, tmp_path)
    train, test = SIZES.get(name, (TRAIN, TEST))
    result = cli("fetch", card, "--accept-licence")
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1), result.output
    assert result.stdout.startswith(f"{name}: ")
    assert f", {train + test} images with masks, in {tmp_path}/data/" in result.stdout
    placed = read_location(name)
    assert placed is not None
    assert [archive.file for archive in placed.archives] == [path.lstrip("/") for path in site.pages]
    for archive in placed.archives:
        content = site.pages[archive.file].content
        assert (archive.sha256, archive.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))

    result = cli("check", card)
    assert result.exit_code == 0, result.output
    words = result.stdout.splitlines()[1].split()
    digest = open_domain(load_card(str(card)), is_retention=not train).digest
    assert words[0] == name
    assert words[2:4] == [f"{train}/{test}", f"{train}/{test}"]
    assert words[5:] == ["0", digest[:12]]

    asked = {path: list(page.asked) for path, page in site.pages.items()}
    assert cli("fetch", card, "--accept-licence").exit_code == 0
    assert {path: page.asked for path, page in site.pages.items()} == asked, "nothing is fetched twice"


def test_cards_that_share_an_archive_fetch_it_once(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    cards = [offered(name, site, tmp_path) for name in ("coco200@cosam", "coco100@samcl")]
    assert cli("fetch", *cards, "--accept-licence").exit_code == 0
    assert [page.asked for page in site.pages.values()] == [[None], [None]]
    assert (tmp_path / "data/coco200@cosam/masks").is_dir()
    assert (tmp_path / "data/coco100@samcl/masks").is_dir()


def test_every_card_gives_one_address_for_one_file_name() -> None:
    addresses: dict[str, set[str]] = {}
    for name in names_of("card"):
        for download in load_card(name).downloads:
            addresses.setdefault(download.file, set()).add(download.url)
    assert {file: urls for file, urls in addresses.items() if len(urls) > 1} == {}
    fetched = {name for name in names_of("card") if load_card(name).downloads}
    assert set(HOLDS) == {name for name in fetched if not name.endswith("@open")}  # theirs are in test_open_cards.py


def test_the_licence_is_shown_and_must_be_accepted(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    card = offered("isic@regcl", site, tmp_path, terms="Be kind.", licence="MIT", licence_url="https://example.org/mit")
    result = cli("fetch", card)
    assert result.exit_code == 2
    for word in ("MIT", "https://example.org/mit", "Be kind.", *(f"{site.url}/{file}" for file in site.pages)):
        assert word in result.stdout
    assert result.stderr == (
        "Error: Nothing was fetched. To accept these terms and fetch, run: "
        f"cosam-bench data fetch {card} --accept-licence\n"
    )
    assert not (tmp_path / "data").exists()
    assert [page.asked for page in site.pages.values()] == [[]] * 4


def test_data_without_an_address_is_told_by_hand(cli: Callable[..., Result]) -> None:
    result = cli("fetch", "istd@regcl", "--accept-licence")
    assert result.exit_code == 2
    assert load_card("istd@regcl").instructions.strip().splitlines()[0] in result.stdout
    assert "cosam-bench data prepare istd@regcl --from PATH" in result.stdout
    assert "There is no direct address for istd@regcl" in result.stderr


def test_a_stream_stands_for_its_domains(cli: Callable[..., Result]) -> None:
    result = cli("fetch", "cosam")
    assert result.exit_code == 2
    assert "bsdata@cosam\n" in result.stdout
    assert "camo@cosam: get it by hand" in result.stdout
    assert "cosam-bench data fetch cosam --accept-licence" in result.stderr


def test_a_cut_download_goes_on_with_the_same_command(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    page = site.pages["BSData-main.zip"]
    page.cuts = [1000, *[0] * 5]
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "0.0 MiB are kept in" in result.stderr
    assert f"Or fetch it by hand to {tmp_path}/data/_archives/BSData-main.zip" in result.stderr
    assert cli("fetch", card, "--accept-licence").exit_code == 0
    assert page.asked[-1] == "bytes=1000-"


def test_ctrl_c_says_what_is_kept(
    cli: Callable[..., Result], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    write = resuming.write_whole

    def pressed(file: Any, block: bytes) -> None:
        write(file, block)
        raise KeyboardInterrupt

    monkeypatch.setattr(resuming, "write_whole", pressed)
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 130
    assert "Stopped: " in result.stderr
    assert "are kept in" in result.stderr
    assert "run the same command to continue." in result.stderr


def test_the_first_download_is_remembered_and_later_ones_must_agree(
    cli: Callable[..., Result], site: Site, tmp_path: Path
) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    assert cli("fetch", card, "--accept-licence").exit_code == 0
    archive = tmp_path / "data/_archives/BSData-main.zip"
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    hashes = archive.with_name("hashes.toml")
    url = f"{site.url}/BSData-main.zip"
    assert tomllib.loads(hashes.read_text()) == {"BSData-main.zip": {"url": url, "sha256": sha256}}
    archive.unlink()
    site.add("BSData-main.zip", packed(build("isic@regcl", tmp_path / "x"), HOLDS["isic@regcl"][0], tmp_path / "y.zip"))
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert f"its sha256 is not {sha256}" in result.stderr
    assert f'If you trust the new file, remove ["BSData-main.zip"] from {hashes}.' in result.stderr
    assert not archive.exists()


def test_a_hash_on_the_card_goes_before_the_one_remembered(
    cli: Callable[..., Result], site: Site, tmp_path: Path
) -> None:
    download = {"url": f"{site.url}/BSData-main.zip", "file": "BSData-main.zip", "sha256": "0" * 64}
    card = offered("bsdata@cosam", site, tmp_path, downloads=[download])
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert f"its sha256 is not {'0' * 64}" in result.stderr
    assert "hashes.toml" not in result.stderr
    sha256 = hashlib.sha256(site.pages["BSData-main.zip"].content).hexdigest()
    card.write_text(card.read_text().replace("0" * 64, sha256))
    assert cli("fetch", card, "--accept-licence").exit_code == 0


def test_a_size_that_differs_from_the_card_is_said(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    download = {"url": f"{site.url}/BSData-main.zip", "file": "BSData-main.zip", "size_bytes": 123}
    card = offered("bsdata@cosam", site, tmp_path, downloads=[download])
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 0
    assert "but the card of bsdata@cosam states 123." in result.stderr


@pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", b"", b"<html>Sign in</html>"])
def test_a_damaged_archive_is_not_kept(cli: Callable[..., Result], site: Site, tmp_path: Path, content: bytes) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    good = site.pages["BSData-main.zip"].content
    site.add("BSData-main.zip", content)
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "BSData-main.zip is" in result.stderr
    assert "It is removed; run the same command to fetch it again." in result.stderr
    assert not (tmp_path / "data/_archives/hashes.toml").exists()
    site.add("BSData-main.zip", good)
    assert cli("fetch", card, "--accept-licence").exit_code == 0


def test_a_hostile_archive_stays_for_a_look_but_is_not_unpacked(
    cli: Callable[..., Result], site: Site, tmp_path: Path
) -> None:
    import zipfile

    card = offered("bsdata@cosam", site, tmp_path)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../../evil", "evil")
    site.add("BSData-main.zip", (tmp_path / "evil.zip").read_bytes())
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "leads out of the folder" in result.stderr
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "data/_archives/hashes.toml").exists()


def test_the_right_archive_of_the_wrong_data_is_told(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    site.add("BSData-main.zip", packed(build("isic@regcl", tmp_path / "x"), HOLDS["isic@regcl"][0], tmp_path / "y.zip"))
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "does not hold the data of bsdata@cosam" in result.stderr
    assert read_location("bsdata@cosam") is None


def test_one_domain_that_fails_does_not_stop_the_others(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    cards = [offered(name, site, tmp_path) for name in ("bsdata@cosam", "isic@regcl")]
    site.pages["BSData-main.zip"].statuses = [404]
    result = cli("fetch", *cards, "--accept-licence")
    assert result.exit_code == 2
    assert result.stdout.startswith("isic@regcl: source, 10 images")
    assert "bsdata@cosam: http" in result.stderr
    assert "404" in result.stderr


@pytest.mark.parametrize("text", ["x = [", "x = 3"])
def test_a_damaged_file_of_hashes_is_named(cli: Callable[..., Result], site: Site, tmp_path: Path, text: str) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    (tmp_path / "data/_archives").mkdir(parents=True)
    (tmp_path / "data/_archives/hashes.toml").write_text(text)
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "hashes.toml" in result.stderr


def test_a_data_folder_that_cannot_be_made_is_named(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    (tmp_path / "data").write_text("")
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "data/_archives" in result.stderr
    assert "Traceback" not in result.output


def test_an_archive_that_was_put_there_by_hand_is_taken(cli: Callable[..., Result], site: Site, tmp_path: Path) -> None:
    card = offered("bsdata@cosam", site, tmp_path)
    page = site.pages["BSData-main.zip"]
    (tmp_path / "data/_archives").mkdir(parents=True)
    (tmp_path / "data/_archives/BSData-main.zip").write_bytes(page.content)
    assert cli("fetch", card, "--accept-licence").exit_code == 0
    assert page.asked == []
    assert known_hashes()["BSData-main.zip"]["sha256"] == hashlib.sha256(page.content).hexdigest()


@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>"])
def test_a_plain_file_that_is_none_is_not_kept(
    cli: Callable[..., Result], site: Site, tmp_path: Path, content: bytes
) -> None:
    card = offered("kvasir@regcl", site, tmp_path)
    good = site.pages["test-points.json"].content
    site.add("test-points.json", content)
    result = cli("fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "test-points.json is" in result.stderr
    assert "It is removed; run the same command to fetch it again." in result.stderr
    site.add("test-points.json", good)
    assert cli("fetch", card, "--accept-licence").exit_code == 0
