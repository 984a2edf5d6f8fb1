"""Cards and streams: what TOML may say, what is refused, and a user's own folders end to end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.opening import open_stream
from cosam_bench.data.overview import domain_overview
from cosam_bench.data.streams import Stream, load_stream

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-data" / "stream.toml"
MINI = ("pitting", "rail_i", "rail_ii", "texture", "pill", "rim", "camouflage", "polyp")


def stream_file(folder: Path, text: str) -> str:
    path = folder / "stream.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def synthetic(name: str, *, train: int = 2, test: int = 1) -> str:
    split = f'{{ kind = "counts", train = {train}, test = {test} }}'
    return f'[[domain]]\nname = "{name}"\nkind = "synthetic"\ngenerator = "pill"\nsplit = {split}\n'


def test_mini_is_the_built_in_stream_in_cosam_order() -> None:
    stream = load_stream("mini")
    assert stream.order == MINI
    assert stream.retention == ("natural",)
    assert all(stream.card(name).split.counts == {"test": 24, "train": 24} for name in MINI)


def test_order_defaults_to_the_file_without_retention(tmp_path: Path) -> None:
    domains = synthetic("b") + synthetic("n", train=0) + synthetic("a")
    stream = load_stream(stream_file(tmp_path, f'name = "s"\nretention = ["n"]\n{domains}'))
    assert stream.order == ("b", "a")
    chosen = load_stream(stream_file(tmp_path, f'name = "s"\norder = ["a"]\n{domains}'))
    assert chosen.order == ("a",)
    assert chosen.retention == ()


def test_a_card_may_be_referred_to_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    card = 'name = "leaf"\nroot = "data"\nlicence = "CC0"\nsplit = { kind = "ratio", test = 0.5 }\n'
    (tmp_path / "cards" / "leaf.toml").write_text(card)
    text = 'name = "s"\n[[domain]]\ncard = "cards/leaf.toml"\n'
    plain = load_stream(stream_file(tmp_path, text)).card("leaf")
    assert plain.root == str(tmp_path / "cards" / "data")  # relative to the card, not to the stream
    other = load_stream(stream_file(tmp_path, text + 'name = "tree"\nroot = "wood"\n')).card("tree")
    assert (other.root, other.licence, other.split.test) == (str(tmp_path / "wood"), "CC0", 0.5)


def test_root_expands_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LEAVES", str(tmp_path / "leaves"))
    monkeypatch.delenv("NOWHERE", raising=False)
    text = 'name = "s"\n'
    for name, root in (("h", "~/data"), ("v", "${LEAVES}/x"), ("u", "$NOWHERE/x"), ("a", "/abs")):
        text += f'[[domain]]\nname = "{name}"\nroot = "{root}"\n'
    stream = load_stream(stream_file(tmp_path, text))
    assert stream.card("h").root == str(tmp_path / "home" / "data")
    assert stream.card("v").root == str(tmp_path / "leaves" / "x")
    assert stream.card("a").root == "/abs"
    with pytest.raises(CosamError, match=r"Domain 'u': its root is .*the variable NOWHERE is not set"):
        open_stream(Stream(name="s", order=("u",), domain=(stream.card("u"),)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs its domains as"),
        ('name = "s"\ndomain = 3\n', "needs its domains as"),
        ('name = "s"\ndomain = []\n', "needs its domains as"),
        ('name = "s"\norder = []\n' + synthetic("a"), "'order' is .*: list at least 1"),
        ('name = "s"\nretention = ["a"]\n' + synthetic("a"), "all its domains are in retention, so none is learned"),
        ('name = "s"\n[[domain]]\nname = "a"\nroots = "x"\n', "domain a: .*'roots', did you mean 'root'"),
        ('name = "s"\n[[domain]]\nroot = "x"\n', "domain number 1: 'name' is missing"),
        ('name = "s"\n[[domain]]\nname = "a"\n', "needs root, the folder of its data"),
        ('name = "s"\n[[domain]]\nname = "A b"\nroot = "x"\n', "'name' is 'A b'"),
        ('name = "s"\nordre = ["a"]\n' + synthetic("a"), "'ordre', did you mean 'order'"),
        ('name = "s"\norder = ["b"]\n' + synthetic("a"), "o domain of this stream is called 'b'.*Offered: a"),
        ('name = "s"\norder = ["a", "a"]\n' + synthetic("a"), "named twice in order and retention: a"),
        ('name = "s"\norder = ["a"]\nretention = ["a"]\n' + synthetic("a"), "named twice .*: a"),
        ('name = "s"\n' + synthetic("a") + synthetic("a"), "named twice in .*domain.*: a"),
        ('name = "s"\n[[domain]]\ncard = "moon"\n', "No card is called 'moon'"),
        ('name = "s"\n[[domain]]\ncard = "moon.toml"\n', "No file .*moon.toml"),
        ('name = "s"\n[[domain]]\nname = "a"\nkind = "synthetic"\n', "needs a generator and split"),
    ],
)
def test_faults_of_a_stream_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CosamError, match=message):
        load_stream(stream_file(tmp_path, text))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": {"kind": "ratio", "test": 2}}, "a ratio needs test"),
        ({"split": {"kind": "ratio", "test": 0}}, "a ratio needs test"),
        ({"split": {"kind": "ratio", "train": 3}}, "a ratio needs test"),
        ({"split": {"kind": "counts", "train": 3}}, "counts needs train and test"),
        ({"split": {"kind": "undecided", "test": 0.2}}, "leave the other keys out"),
        ({"split": {"kind": "counts", "train": 3, "test": -1}}, "counts needs train and test"),
        ({"split": {"kind": "lists", "train": 3, "test": "a.txt"}}, "lists needs train and test as paths"),
        ({"split": {"kind": "folders", "train": "a/*"}}, "folders needs train and test as paths"),
        ({"split": {"kind": "folders", "test": "a/*"}, "images": "x/*"}, "so leave images out"),
        ({"split": {"kind": "manifest", "train": 1, "test": 1}}, "file, the path of a CSV file, belongs to"),
        ({"split": {"kind": "manifest", "file": "m.csv", "test": 1}}, "manifest needs train and test as whole"),
        (
            {"split": {"kind": "counts", "train": 1, "test": 1, "file": "m.csv"}},
            "file, the path of a CSV file, belongs",
        ),
        ({"masks": "masks/*.png"}, "masks needs {stem} or {name}"),
        ({"pairing": "sorted"}, "masks needs {stem} or {name}"),
        ({"masks": "masks/{stm}.png"}, "it is 'masks/{stm}.png'"),
        ({"images": []}, "images is empty; give a glob, or leave it out"),
        ({"images": ""}, "images is empty"),
        ({"images": ["a/*", ""]}, "images is empty"),
        ({"labels": ["pit"]}, "masks are images, so leave labels out"),
        ({"masks": "labels/{stem}.txt", "foreground": "nonzero"}, "so leave out foreground"),
        ({"masks": "labels/{stem}.json", "ignore": 255, "orientation": "stored"}, "leave out ignore and orientation"),
        ({"foreground": "bright"}, "foreground"),
        ({"foreground": 255}, 'write "auto", "nonzero", { values = '),
        ({"foreground": {"values": []}}, "values is empty, so no pixel would be foreground"),
        ({"ignore": "255"}, "give a level, such as 255, a list of levels, or"),
        ({"foreground": {"above": 3, "values": [1]}}, "give only one of above, values"),
        ({"foreground": {"rule": "above"}}, "'above' contradicts the other keys"),
        ({"foreground": {"colours": [[1, 2, 3]], "channel": "red"}}, "leave channel out"),
    ],
)
def test_faults_of_a_card_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Card.model_validate({"name": "a", "root": "/data"} | keys)


def test_unknown_stream_suggests_the_nearest() -> None:
    with pytest.raises(CosamError, match=r"Did you mean 'mini'.*path of a file that ends in \.toml"):
        load_stream("mimi")


def test_short_and_long_forms_of_foreground() -> None:
    assert Foreground.model_validate("nonzero") == Foreground(rule="nonzero")
    assert Foreground.model_validate({"values": [3]}) == Foreground(rule="values", values=(3,))
    assert Foreground.model_validate({}) == Foreground()


def test_a_card_written_out_reads_back_the_same() -> None:
    for card in load_stream("mini").cards:
        assert Card.model_validate(card.model_dump(mode="json")) == card


def test_synthetic_streams_open_the_same_every_time(tmp_path: Path) -> None:
    path = stream_file(tmp_path, f'name = "s"\nretention = ["n"]\n{synthetic("a")}{synthetic("n", train=0)}')
    first, second = open_stream(load_stream(path)), open_stream(load_stream(path))
    (domain,), (natural,) = first.domains, first.retention
    assert domain.train.keys == ("train-0000", "train-0001")
    assert (len(natural.train), len(natural.test)) == (0, 1)
    assert domain.digest == second.domains[0].digest
    assert len({entry.image_sha256 for entry in domain.train.manifest.entries}) == 2
    sample = domain.test[0]
    assert sample.image.shape == (3, 128, 128)
    assert sample.mask.shape == (128, 128)
    assert sample.mask.any()


def test_synthetic_images_depend_on_seed_part_and_index_alone(tmp_path: Path) -> None:
    def opened(text: str) -> list[str]:
        (domain,) = open_stream(load_stream(stream_file(tmp_path, 'name = "s"\n' + text))).domains
        return [entry.image_sha256 for split in (domain.train, domain.test) for entry in split.manifest.entries]

    three = opened(synthetic("a"))
    assert len(set(three)) == 3
    assert opened(synthetic("other", train=3, test=1))[:2] == three[:2]
    assert not set(opened(synthetic("a").replace("test = 1", "test = 1, seed = 1"))) & set(three)


def test_unknown_generator(tmp_path: Path) -> None:
    text = 'name = "s"\n' + synthetic("a").replace('"pill"', '"pil"')
    with pytest.raises(CosamError, match="Did you mean 'pill'"):
        open_stream(load_stream(stream_file(tmp_path, text)))


def test_domains_without_training_or_test_samples(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="leaves nothing to train on"):
        open_stream(load_stream(stream_file(tmp_path, 'name = "s"\n' + synthetic("a", train=0))))
    with pytest.raises(CosamError, match="leaves nothing with foreground to test on"):
        open_stream(load_stream(stream_file(tmp_path, 'name = "s"\n' + synthetic("a", test=0))))


def draw_pair(folder: Path, *, image: str, mask: str, seed: int, on: int = 255) -> None:
    generator = np.random.default_rng(seed)
    for path in (folder / image, folder / mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / image)
    levels = np.zeros((20, 24), np.uint8)
    levels[2:8, 3:9] = on
    levels[12:18, 10:20] = on
    Image.fromarray(levels).save(folder / mask)


def test_the_example_for_own_data_opens(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    for number in range(10):
        draw_pair(tmp_path / "leaves", image=f"images/{number}.jpg", mask=f"masks/{number}.png", seed=number)
        draw_pair(tmp_path / "cells", image=f"raw/{number}.tif", mask=f"labels/{number}_mask.png", seed=number, on=2)
        draw_pair(tmp_path / "street/test", image=f"images/{number}.png", mask=f"masks/{number}.png", seed=number)
    draw_pair(tmp_path / "cells", image="raw/z.png", mask="labels/z_mask.png", seed=99, on=1)
    opened = open_stream(load_stream(str(tmp_path / "stream.toml")))
    leaves, cells = opened.domains
    (street,) = opened.retention
    assert [len(split) for domain in (leaves, cells, street) for split in (domain.train, domain.test)] == [
        8, 2, 6, 4, 0, 10
    ]  # fmt: skip
    assert {int(sample.mask.sum()) for sample in cells.train} <= {36, 60}
    assert not {key.partition("#")[0] for key in cells.train.keys} & {key.partition("#")[0] for key in cells.test.keys}


def test_overview_tells_what_is_there(tmp_path: Path) -> None:
    draw_pair(tmp_path / "leaf", image="images/1.png", mask="masks/1.png", seed=0)
    text = '[[domain]]\nname = "leaf"\nroot = "leaf"\nlicence = "CC0"\nexpected = { train = 3, test = 1 }\n'
    text += '[[domain]]\nname = "gone"\nroot = "gone"\nsource = "https://example.org"\n'
    stream = load_stream(stream_file(tmp_path, 'name = "s"\nretention = ["gone"]\n' + text + synthetic("pill")))
    leaf, pill, gone = domain_overview(stream)
    assert (leaf.name, leaf.role, leaf.licence, leaf.expected, leaf.found, leaf.fault) == (
        "leaf", "learned", "CC0", 4, 1, ""
    )  # fmt: skip
    assert (pill.kind, pill.expected, pill.found) == ("synthetic", None, 3)
    assert (gone.role, gone.found) == ("retention", 0)
    assert "there is no folder" in gone.fault
    assert "from https://example.org" in gone.fault


def test_cards_and_overview_import_no_torch() -> None:
    code = (
        "import sys; from cosam_bench.data.streams import load_stream;"
        "from cosam_bench.data.overview import domain_overview;"
        "print(len(domain_overview(load_stream('mini'))), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "False"]
