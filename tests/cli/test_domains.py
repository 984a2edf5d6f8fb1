"""What ``cosam-bench domains`` shows: streams, cards, whether their data is here, and what to do next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from support.imitations import prepare
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.data.streams import load_card, names_of


@pytest.fixture(autouse=True)
def _nothing_is_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "placed"))


def shown(*arguments: str, width: int = 80) -> Result:
    return CliRunner().invoke(app, ["domains", *arguments], env={"COLUMNS": str(width)})


def test_domains_lists_streams_and_cards_in_80_columns(tmp_path: Path) -> None:
    prepare("camo@cosam", tmp_path)
    result = shown()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name in (*names_of("card"), *names_of("stream")):
        assert any(line.startswith((name, f"  {name} ")) for line in lines), name
    by_name = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert by_name["camo@cosam"].split()[1:] == ["10", "of", "1250"]
    assert by_name["bsdata@cosam"].split()[1:] == ["missing"]
    assert "    CC BY-SA 4.0, https://github.com/2Obe/BSData" in [line.rstrip() for line in lines]
    assert "    unknown ?, http://icn.bjtu.edu.cn/Visint/resources/RSDDs.aspx" in [line.rstrip() for line in lines]
    for address in (load_card(name).source for name in names_of("card")):
        assert address in result.stdout  # not broken across lines


def test_a_stream_tells_its_orders_and_the_next_steps(tmp_path: Path) -> None:
    prepare("camo@cosam", tmp_path)
    (tmp_path / "camo@cosam/CAMO-COCO-V.1.0-CVIU2019/Camouflage/GT/camourflage_00001.png").unlink()
    prepare("kvasir@cosam", tmp_path)
    text = shown("cosam").stdout
    assert "Other orders, as `--order NAME`: published_reverse, pos2, pos3, pos4, pos5." in text
    assert "  bsdata@cosam: cosam-bench data fetch bsdata@cosam --accept-licence" in text
    assert "  mvtec_iii@cosam: cosam-bench data prepare mvtec_iii@cosam --from PATH" in text
    assert "camourflage_00001.jpg has no mask GT/camourflage_00001.png" in " ".join(text.split())
    assert "fault" in next(line for line in text.splitlines() if line.startswith("camo@cosam"))
    assert "learned    10 of 1000" in text
    assert "retention  missing" in text


def test_one_command_is_named_if_it_fetches_all() -> None:
    text = " ".join(shown("open").stdout.split())
    assert text.endswith("All of them: cosam-bench data fetch open --accept-licences")
    assert "All of them" not in shown("cosam").stdout  # some of its domains have no address


@pytest.mark.parametrize("name", names_of("card"))
def test_a_card_is_shown_in_full(name: str) -> None:
    result = shown(name)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    card = load_card(name)
    for said in (
        card.full_title,
        card.licence,
        card.terms,
        card.citation,
        " ".join(card.instructions.split()),
        "not on this machine",
    ):
        assert said in text
    assert text.count("(checked at the source)") == len(set(card.verified) - {"downloads"}) + (
        "downloads" in card.verified and bool(card.downloads)
    )
    for layout in card.layouts.values():
        assert layout.title in text
    assert f"cosam-bench data prepare {name} --from FOLDER_OR_ARCHIVE" in text
    assert (f"cosam-bench data fetch {name} --accept-licence" in text) == bool(card.downloads)


def test_a_card_whose_data_is_here_says_where(tmp_path: Path) -> None:
    prepare("bsdata@cosam", tmp_path)
    text = "".join(line.strip() for line in shown("bsdata@cosam", width=200).stdout.splitlines())
    assert f"10 pairs of image and mask in {tmp_path}/bsdata@cosam/BSData-main, layout source" in text


@pytest.mark.parametrize("name", ["", "cosam", "bsdata@cosam"])
def test_listing_imports_no_torch(tmp_path: Path, name: str) -> None:
    prepare("bsdata@cosam", tmp_path)
    code = (
        "import sys; from cosam_bench.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "domains", *name.split()], capture_output=True, check=True)


def test_a_file_may_hold_a_stream_or_a_card(tmp_path: Path) -> None:
    card = tmp_path / "leaf.toml"
    card.write_text('name = "leaf"\nroot = "data"\nlicence = "CC0"\n')
    sheet = shown(str(card)).stdout
    assert sheet.startswith("leaf")
    assert "checked" not in sheet
    assert "there is no folder" in " ".join(sheet.split())
    stream = tmp_path / "own.toml"
    stream.write_text('name = "own"\n[[domain]]\ncard = "leaf.toml"\n')
    listed = shown(str(stream)).stdout
    assert listed.startswith("own")
    assert "missing" in listed
    unknown = shown("kvasir")
    assert unknown.exit_code == 2
    assert "No stream or card is called 'kvasir'. Did you mean 'kvasir@open'?" in unknown.stderr


def test_a_folder_is_not_taken_for_a_name(tmp_path: Path) -> None:
    result = shown(str(tmp_path))
    assert result.exit_code == 2
    assert "is a folder, not a TOML file that describes its images and masks. Write one: cosam-bench data init /" in (
        result.stderr
    )


def test_the_command_that_gets_data_names_the_card_and_not_what_a_stream_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my cards").mkdir()
    Path("my cards/own.toml").write_text(
        'name = "mine"\nsource = "https://example.org"\n[[downloads]]\nurl = "https://example.org/x.zip"'
        '\nfile = "x.zip"\n[layouts.source]\nimages = "images/*"\n'
    )
    Path("s.toml").write_text(
        'name = "s"\n[[domain]]\ncard = "kvasir@open"\nname = "polyps"\n[[domain]]\ncard = "camo@cosam"'
        '\nname = "hidden"\n[[domain]]\ncard = "my cards/own.toml"\n'
    )
    result = shown("s.toml", width=200)
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "polyps: cosam-bench data fetch kvasir@open --accept-licence" in lines
    assert "hidden: cosam-bench data prepare camo@cosam --from PATH" in lines
    assert "mine: cosam-bench data fetch 'my cards/own.toml' --accept-licence" in lines
    for name in ("kvasir@open", "my cards/own.toml"):
        fetched = CliRunner().invoke(app, ["data", "fetch", name])
        assert "Nothing was fetched. To accept these terms" in fetched.stderr
    sheet = shown("my cards/own.toml", width=200).stdout
    assert "data fetch" in sheet
    assert "own.toml' --accept-licence" in sheet
