"""``data init``: the stream that it writes, what it asks, and what it keeps."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result


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


def test_one_image_is_too_few_and_said_to_be_so_at_once(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine/leaves"), count=7)
    for folder in ("images", "masks"):
        Path("mine/e", folder).mkdir(parents=True)
        Path("mine/leaves", folder, "6.png").rename(Path("mine/e", folder, "6.png"))
    result = cli("init", "mine")
    assert "e: 1 image, 1 with a mask; too few images\n" in result.stdout
    told = "One image with a mask cannot be divided into training and test; add images to e, or have it only tested"
    assert told in result.stderr
    written = Path("mine/stream.toml").read_text()
    assert "# 1 image, 20 x 16 pixels. 1 has a mask image" in written
    checked = cli("check", "mine/stream.toml")
    assert checked.exit_code == 1
    assert "1 image cannot be divided into training and test; add images" in checked.stdout
    line = 'split = { kind = "ratio", test = 1.0 }'
    assert f"# {line}  # if the domain is only tested; list its name in retention above" in written
    written = written.replace('name = "mine"', 'name = "mine"\nretention = ["e"]').replace(f"# {line}", line)
    Path("mine/stream.toml").write_text(written)
    assert cli("check", "mine/stream.toml").exit_code == 0


def test_one_image_that_is_divided_already_is_not_too_few(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine/train"), count=3)
    write_pairs(Path("mine/test"), count=1)
    assert "decided" in cli("init", "mine").stdout
    assert "cannot be divided" not in Path("mine/stream.toml").read_text()


def test_lists_that_are_not_taken_are_told(cli: Callable[..., Result], data: Path) -> None:
    write_pairs(Path("mine"))
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        Path(f"mine/{part}.txt").write_text("".join(f"images/{one}.png masks/{one}.png\n" for one in numbers))
    result = cli("init", "mine")
    assert "mine: 6 images, 6 with masks; choose split" in result.stdout
    told = " ".join(result.stderr.split())
    assert "mine: test.txt, train.txt look like lists of a split, and are not used; mine/stream.toml says why." in told
    assert "choose for mine, where the comments say so." in told


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


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_domain_of_which_nothing_can_be_read_is_not_decided(
    cli: Callable[..., Result], data: Path, kind: str
) -> None:
    write_pairs(Path("mine"))
    for path in Path("mine", kind).iterdir():
        path.write_bytes(b"")
    result = cli("init", "mine")
    assert f"mine: 6 images, 6 with masks; none of the {kind} can be read\n" in result.stdout
    assert "Note: Convert or replace the files of mine that cannot be read; mine/stream.toml says why." in (
        result.stderr.replace("\n", " ")
    )
