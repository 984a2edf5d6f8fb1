"""The cards of ``open``: fetched, checked against their manifests and run, on imitations of their sources."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.open_imitations import BUILDERS, OPEN, TEST, TRAIN, offered
from support.web import Site, serving
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.core import resuming_downloader as resuming
from cosam_bench.core.errors import CosamError
from cosam_bench.data.locations import read_location
from cosam_bench.data.opening import open_domain
from cosam_bench.data.split_manifests import listed_images
from cosam_bench.data.streams import load_card


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@dataclass(frozen=True)
class Fetched:
    """The nine imitations after one call of ``data fetch``."""

    folder: Path
    cards: dict[str, Path]
    result: Result
    site: Site


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetched]:
    folder = tmp_path_factory.mktemp("open")
    with pytest.MonkeyPatch.context() as patch, serving() as site:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("COLUMNS", "200")
        patch.setenv("COSAM_BENCH_DATA", str(folder / "data"))
        patch.setenv("COSAM_BENCH_CACHE", str(folder / "cache"))
        patch.setattr(resuming, "WAITS_SECONDS", (0.0,) * 4)
        cards = {name: offered(name, site, folder) for name in OPEN}
        result = call("data", "fetch", *cards.values(), "--accept-licences")
        yield Fetched(folder, cards, result, site)


def test_every_domain_has_an_imitation() -> None:
    assert tuple(BUILDERS) == OPEN
    assert len(OPEN) == 9


def test_one_command_fetches_and_checks_all_of_them(fetched: Fetched) -> None:
    assert fetched.result.exit_code == 0, fetched.result.output
    lines = fetched.result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(OPEN)
    for name, line in zip(OPEN, lines, strict=True):
        used = TEST if name == "pets@open" else TRAIN + TEST
        assert f": source, {used} images with masks, in {fetched.folder}/data/" in line


@pytest.mark.parametrize("name", OPEN)
def test_a_card_reads_its_masks_as_its_source_codes_them(fetched: Fetched, name: str) -> None:
    domain = open_domain(load_card(str(fetched.cards[name])), is_retention=name == "pets@open")
    assert len(domain.train) == (0 if name == "pets@open" else TRAIN)
    assert len(domain.test) == TEST
    for sample in (*domain.train, *domain.test):
        bright = sample.image.to(torch.float32).mean(dim=0)
        assert 0.05 < sample.mask.float().mean() < 0.5
        assert bright[sample.mask].mean() > bright[~sample.mask].mean() + 60


def test_data_check_agrees_and_a_finished_run_has_a_score_of_each(fetched: Fetched) -> None:
    stream = fetched.folder / "stream.toml"
    cards = "".join(f'[[domain]]\ncard = "{name}.toml"\n' for name in OPEN)
    stream.write_text(f'name = "imitated"\nretention = ["pets@open"]\n{cards}')
    result = call("data", "check", stream)
    assert result.exit_code == 0, result.output
    words = ("run", "--protocol", "open", "--stream", stream, "--model", "tiny", "--method", "frozen")
    result = call(*words, "--results", fetched.folder / "results")
    assert result.exit_code == 0, result.output
    (matrix,) = (fetched.folder / "results").glob("open*/frozen/*/matrix.csv")
    with matrix.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "iou"]
    assert {row["domain"] for row in rows} == set(OPEN)
    assert {row["count"] for row in rows} == {str(TEST)}


def test_an_archive_may_be_packed_otherwise_but_not_hold_other_images(fetched: Fetched, tmp_path: Path) -> None:
    archive = fetched.folder / "data/_archives/CWFID-36290d0912a0.zip"
    packed = archive.read_bytes()
    archive.unlink()
    with zipfile.ZipFile(io.BytesIO(packed)) as first:
        content = {name: first.read(name) for name in first.namelist()}
    [image] = [name for name in content if name.endswith("001_image.png")]
    for name, files in (("again", content), ("other", content | {image: content[image] + b"more"})):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive_file:
            for path, data in files.items():
                archive_file.writestr(path, data)
    card = fetched.cards["crop_weed@open"]
    fetched.site.add(archive.name, (tmp_path / "again.zip").read_bytes())
    assert call("data", "fetch", card, "--accept-licence").exit_code == 0
    before = read_location("crop_weed@open")
    archive.unlink()
    fetched.site.add(archive.name, (tmp_path / "other.zip").read_bytes())
    result = call("data", "fetch", card, "--accept-licence")
    assert result.exit_code == 2
    assert "1 of 12 files differ from the card's manifest" in result.stderr
    assert "001_image.png is not the file that the manifest lists (sha256 " in result.stderr
    assert read_location("crop_weed@open") == before


def test_a_file_that_changes_later_is_refused_by_name(fetched: Fetched) -> None:
    card = load_card(str(fetched.cards["masonry_crack@open"]))
    image = Path(card.root) / next(iter(listed_images(card)))
    content = image.read_bytes()
    try:
        image.write_bytes(content + b"\0")
        with pytest.raises(CosamError, match=rf"{image.name} is not the file that the manifest lists"):
            open_domain(card)
        result = call("data", "check", fetched.cards["masonry_crack@open"])
        assert result.exit_code == 1
        image.unlink()
        with pytest.raises(CosamError, match=rf"1 of the 6 images in .* are not in .*: .*{image.name}"):
            open_domain(card)
    finally:
        image.write_bytes(content)
    assert len(open_domain(card).train) == TRAIN
