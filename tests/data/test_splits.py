"""Training and test parts: disjoint, as large as asked for, and the same every time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.image_files import components
from cosam_bench.data.image_groups import GroupPattern
from cosam_bench.data.opening import open_domain
from cosam_bench.data.pairing import Pair
from cosam_bench.data.samples import Domain, Entry, Manifest, Pixels, Split, union
from cosam_bench.data.splits import FileSample, divide

REAL = os.environ.get("COSAM_BENCH_REAL", "")
REAL_ORDER = (
    "bsdata_pitting", "magnetic_tile", "neu_steel", "masonry_crack",
    "crop_weed", "camvid_road", "lung_xray", "kvasir_polyp",
)  # fmt: skip


def card(root: Path | str = "/data", **keys: object) -> Card:
    return Card.model_validate({"name": "leaf", "root": str(root)} | keys)


def items(samples: dict[str, int]) -> list[FileSample]:
    """So many samples of each image, without files."""
    return [
        FileSample(
            Pair(name, Path(f"{name}.png"), Path(f"m/{name}.png")), Entry(f"{name}#{number}", name, name), number
        )
        for name, count in samples.items()
        for number in range(1, count + 1)
    ]


def images_of(part: list[FileSample]) -> set[str]:
    return {item.pair.key for item in part}


@given(
    samples=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.integers(1, 4), min_size=2),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_ratio_divides_all_images(samples: dict[str, int], share: float, seed: int) -> None:
    train, test = divide(card(split={"kind": "ratio", "test": share, "seed": seed}), items(samples))
    assert not images_of(train) & images_of(test)
    assert len(train) + len(test) == sum(samples.values())
    assert len(images_of(test)) == min(max(round(share * len(samples)), 1), len(samples) - 1)
    keys = [item.entry.key for item in items(samples)]
    assert [item.entry.key for item in train] == [key for key in keys if key in {i.entry.key for i in train}]


@given(samples=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), st.integers(1, 4)), data=st.data())
def test_counts_are_exact_and_images_stay_whole(samples: dict[str, int], data: st.DataObject) -> None:
    wanted = {"train": data.draw(st.integers(0, 6)), "test": data.draw(st.integers(0, 6))}
    rule = card(split={"kind": "counts", "seed": data.draw(st.integers(0, 5))} | wanted)
    # Whole images are taken, so up to three samples of one may be left over in test.
    if sum(samples.values()) < wanted["train"] + wanted["test"]:
        with pytest.raises(CosamError, match="ask for fewer"):
            divide(rule, items(samples))
    elif sum(samples.values()) >= wanted["train"] + wanted["test"] + 3:
        train, test = divide(rule, items(samples))
        assert (len(train), len(test)) == (wanted["train"], wanted["test"])
        assert not images_of(train) & images_of(test)


def test_a_new_image_moves_no_other_between_the_parts() -> None:
    rule = card(split={"kind": "ratio", "test": 0.5, "seed": 3})
    before = images_of(divide(rule, items({f"i{number}": 1 for number in range(40)}))[1])
    after = images_of(divide(rule, items({f"i{number}": 1 for number in range(42)}))[1])
    assert len(before - after) <= 2  # only the last in rank may give way


def test_seeds_give_other_divisions() -> None:
    many = items({f"i{number}": 1 for number in range(40)})
    parts = [images_of(divide(card(split={"seed": seed}), many)[1]) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_ratio_of_one_is_all_test_and_one_image_cannot_be_divided() -> None:
    train, test = divide(card(split={"kind": "ratio", "test": 1.0}), items({"a": 1, "b": 1}))
    assert (len(train), len(test)) == (0, 2)
    with pytest.raises(CosamError, match="1 image cannot be divided"):
        divide(card(), items({"a": 3}))


def test_lists_name_images_by_path_name_or_stem(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\ufeff# comment\n\na.png\nb\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("c\n")
    rule = card(tmp_path, split={"kind": "lists", "train": "train.txt", "test": "test.txt"})
    train, test = divide(rule, items({"a": 1, "b": 2, "c": 1, "unlisted": 1}))
    assert [item.entry.key for item in train] == ["a#1", "b#1", "b#2"]
    assert [item.entry.key for item in test] == ["c#1"]
    (tmp_path / "test.txt").write_text("a\nz\n")
    with pytest.raises(
        CosamError, match=r"a is listed for training and for test; test\.txt lists z, which is the name of 0 images"
    ):
        divide(rule, items({"a": 1, "b": 1}))
    with pytest.raises(CosamError, match=r"its list /.*/gone\.txt cannot be read: No such file or directory\.$"):
        divide(card(tmp_path, split={"kind": "lists", "test": "gone.txt"}), items({"a": 1}))


def save(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def leaf_files(root: Path, *, count: int = 10) -> None:
    """Images of one level each; masks with two blocks of 4 and 9 pixels and one lone pixel."""
    mask = np.zeros((12, 16), np.uint8)
    mask[1:3, 1:3] = mask[5:8, 5:8] = mask[10, 14] = 255
    for number in range(count):
        save(root / f"images/{number}.png", np.full((12, 16, 3), number, np.uint8))
        save(root / f"masks/{number}.png", mask)


def test_union_samples(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    domain = open_domain(card(tmp_path, title="Leaves"))
    assert (domain.name, domain.title, len(domain.train), len(domain.test)) == ("leaf", "Leaves", 8, 2)
    sample = domain.train[-1]
    number = int(sample.key.removeprefix("images/"))
    assert (sample.image == number).all()
    assert sample.mask.sum() == 14
    assert torch.equal(domain.train.mask(7), sample.mask)
    assert [s.key for s in domain.train[2:4]] == list(domain.train.keys[2:4])
    with pytest.raises(IndexError):
        domain.train[8]


def test_component_samples(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    domain = open_domain(card(tmp_path, samples="component", min_pixels=2))
    assert (len(domain.train), len(domain.test), domain.test.manifest.left_out) == (16, 4, 10)
    assert [int(sample.mask.sum()) for sample in domain.test] == [4, 9, 4, 9]
    assert domain.test.keys[0].endswith("#1")
    assert open_domain(card(tmp_path, min_pixels=14)).train.manifest.left_out == 0
    with pytest.raises(CosamError, match="all 10 masks have fewer than 15 foreground pixels"):
        open_domain(card(tmp_path, min_pixels=15))


def test_empty_masks_are_left_out_and_counted(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    for number in (0, 5):
        save(tmp_path / f"masks/{number}.png", np.zeros((12, 16), np.uint8))
    domain = open_domain(card(tmp_path))
    assert len(domain.train) + len(domain.test) == 8
    assert domain.train.manifest.left_out == 2
    with pytest.raises(CosamError, match="asks for 5 training and 4 test samples, but 8 images hold 8"):
        open_domain(card(tmp_path, split={"kind": "counts", "train": 5, "test": 4}))


def test_digest_follows_the_data_and_the_rule(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    first = open_domain(card(tmp_path))
    assert first.digest == open_domain(card(tmp_path)).digest
    assert first.digest != open_domain(card(tmp_path, foreground="nonzero")).digest
    assert first.digest != open_domain(card(tmp_path, split={"seed": 1})).digest
    (tmp_path / "moved").mkdir()
    for name in ("images", "masks"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert first.digest == open_domain(card(tmp_path / "moved")).digest
    save(tmp_path / "moved/images/3.png", np.full((12, 16, 3), 99, np.uint8))
    assert first.digest != open_domain(card(tmp_path / "moved")).digest


def test_sizes_must_agree(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    save(tmp_path / "images/4.png", np.zeros((16, 12, 3), np.uint8))
    save(tmp_path / "masks/6.png", np.full((12, 16), 3, np.uint8))
    with pytest.raises(CosamError) as error:
        open_domain(card(tmp_path))
    assert "4.png is 12 x 16 pixels upright, but its mask 4.png is 16 x 12" in str(error.value)
    assert "6.png looks like a mask of class ids" in str(error.value)


def test_image_and_mask_are_turned_each_by_its_own_tag(tmp_path: Path) -> None:
    leaf_files(tmp_path, count=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)
    Image.fromarray(np.rot90(lying)).save(tmp_path / "images/0.png", exif=exif)
    domain = open_domain(card(tmp_path, split={"kind": "ratio", "test": 1.0}), is_retention=True)
    assert (domain.test[0].image.numpy() == lying).all()
    assert domain.test[0].mask.shape == (12, 16)


def test_the_same_image_in_both_parts_is_refused(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    twin = (tmp_path / "images/0.png").read_bytes()
    for number in range(1, 9):
        (tmp_path / f"images/{number}.png").write_bytes(twin)
    with pytest.raises(CosamError, match=r"images/\d in training and images/\d in test are the same image"):
        open_domain(card(tmp_path))


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    leaf_files(tmp_path)
    domain = open_domain(card(tmp_path))
    (tmp_path / f"{domain.test.keys[0]}.png").unlink()
    with pytest.raises(CosamError, match="cannot be read: No such file"):
        domain.test[0]


def flood(mask: list[list[bool]]) -> list[list[int]]:
    """Connected components by the obvious way: fill from each pixel that has no number yet."""
    height, width = len(mask), len(mask[0])
    labels = [[0] * width for _ in range(height)]
    count = 0
    for row in range(height):
        for column in range(width):
            if not mask[row][column] or labels[row][column]:
                continue
            count += 1
            waiting = [(row, column)]
            while waiting:
                y, x = waiting.pop()
                if 0 <= y < height and 0 <= x < width and mask[y][x] and not labels[y][x]:
                    labels[y][x] = count
                    waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


@given(rows=st.integers(1, 7), columns=st.integers(1, 7), data=st.data())
def test_components_against_a_flood_fill(rows: int, columns: int, data: st.DataObject) -> None:
    row = st.lists(st.booleans(), min_size=columns, max_size=columns)
    mask = data.draw(st.lists(row, min_size=rows, max_size=rows))
    assert components(torch.tensor(mask)).tolist() == flood(mask)


def counted_split(count: int, *, decoded_bytes: int, part: str = "train") -> tuple[Split, list[int]]:
    decoded: list[int] = []

    class Counting(Pixels):
        def image(self, index: int) -> torch.Tensor:
            decoded.append(index)
            return torch.full((3, 2, 5), index, dtype=torch.uint8)  # 30 bytes

        def mask(self, index: int) -> torch.Tensor:
            return torch.ones(2, 5, dtype=torch.bool)  # 10 bytes

    manifest = Manifest(tuple(Entry(f"k{index}", f"i{index}", "m") for index in range(count)))
    return Split("d", part="train", manifest=manifest, source=Counting(), decoded_bytes=decoded_bytes), decoded


def test_decoded_samples_are_kept_up_to_the_budget() -> None:
    split, decoded = counted_split(4, decoded_bytes=85)
    for _ in range(3):
        assert [int(sample.image[0, 0, 0]) for sample in split] == [0, 1, 2, 3]
    assert decoded == [0, 1, 2, 3, 2, 3, 2, 3]


def test_union_joins_the_training_parts() -> None:
    (first, _), (second, decoded) = counted_split(2, decoded_bytes=999), counted_split(3, decoded_bytes=999)
    second.domain = "e"
    domains = [Domain(split.domain, "", split, split) for split in (first, second)]
    joined = union(domains, "all")
    assert joined.keys == ("d/k0", "d/k1", "e/k0", "e/k1", "e/k2")
    assert [int(sample.image[0, 0, 0]) for sample in joined] == [0, 1, 0, 1, 2]
    assert [sample.key for sample in joined] == list(joined.keys)
    assert joined.mask(4).all()
    assert decoded == [0, 1, 2]
    assert joined.digest != union(domains[::-1], "all").digest
    with pytest.raises(CosamError, match="The union 'all' has no training samples"):
        union([], "all")


@pytest.mark.skipif(not REAL, reason="COSAM_BENCH_REAL names no folder of real images")
def test_real_domains_open_through_one_file(tmp_path: Path) -> None:
    from cosam_bench.data.opening import open_stream
    from cosam_bench.data.streams import load_stream

    text = 'name = "real"\nretention = ["human_photo"]\n'
    for name in (*REAL_ORDER, "human_photo"):
        train = 0 if name == "human_photo" else 24
        split = f'{{ kind = "counts", train = {train}, test = 12 }}'
        text += f'[[domain]]\nname = "{name}"\nroot = "{Path(REAL) / name}"\nsplit = {split}\n'
    (tmp_path / "real.toml").write_text(text)
    stream = load_stream(str(tmp_path / "real.toml"))
    opened = open_stream(stream)
    assert [domain.name for domain in opened.domains] == list(REAL_ORDER)
    assert all((len(domain.train), len(domain.test)) == (24, 12) for domain in opened.domains)
    assert (len(opened.retention[0].train), len(opened.retention[0].test)) == (0, 12)
    assert [domain.digest for domain in opened.domains] == [d.digest for d in open_stream(stream).domains]
    for domain in opened.domains + opened.retention:
        for sample in domain.test:
            stem = sample.key.removeprefix("images/")
            (image_file,) = (Path(REAL) / domain.name / "images").glob(f"{stem}.*")
            mask = np.array(Image.open(Path(REAL) / domain.name / "masks" / f"{stem}.png")) > 127
            assert (sample.mask.numpy() == mask).all()
            image = np.array(Image.open(image_file).convert("RGB"))
            assert (sample.image.permute(1, 2, 0).numpy() == image).all()


@pytest.mark.parametrize("content", ['["ab", "cd"]', '[["leaf", 1]]', '"leaf"', "1"])
def test_a_json_list_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    leaf_files(tmp_path)
    (tmp_path / "train.json").write_text(content)
    (tmp_path / "test.json").write_text("{}")
    lists = {"kind": "lists", "train": "train.json", "test": "test.json"}
    with pytest.raises(CosamError, match=r"train\.json cannot be read: it does not hold an object"):
        open_domain(card(tmp_path, split=lists))


# Groups


def grouped(counts: dict[str, int]) -> list[FileSample]:
    """So many images of each group, called ``images/GROUP_NUMBER``."""
    return items({f"images/{group}_{number}": 1 for group, count in counts.items() for number in range(count)})


@given(
    counts=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 6), min_size=2),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_groups_stay_whole_in_a_split_by_ratio(counts: dict[str, int], share: float, seed: int) -> None:
    rule = card(split={"kind": "ratio", "test": share, "seed": seed}, group="{group}_*")
    train, test = divide(rule, grouped(counts))
    groups = [{image.split("/")[1].split("_")[0] for image in images_of(part)} for part in (train, test)]
    assert groups[0] | groups[1] == set(counts)
    assert not groups[0] & groups[1]
    assert groups[0]
    assert groups[1]
    wanted = max(round(share * sum(counts.values())), 1)
    is_all_but_one = len(groups[0]) == 1
    assert len(test) >= wanted or is_all_but_one
    assert len(test) - max(counts[group] for group in groups[1]) < wanted


def test_groups_stay_whole_in_a_split_by_counts() -> None:
    rule = card(split={"kind": "counts", "train": 4, "test": 4}, group="{group}_*")
    train, test = divide(rule, grouped({"a": 3, "b": 3, "c": 3, "d": 3}))
    assert (len(train), len(test)) == (4, 4)
    groups = [{image.split("/")[1][0] for image in images_of(part)} for part in (train, test)]
    assert not groups[0] & groups[1]
    with pytest.raises(CosamError, match=r"12 images in 4 groups, of which each stays in one part, hold 12"):
        divide(
            card(split={"kind": "counts", "train": 7, "test": 5}, group="{group}_*"), grouped(dict.fromkeys("abcd", 3))
        )


def test_without_groups_the_division_is_as_it_was() -> None:
    """The names that were chosen before there were groups."""
    names = {f"i{number}": 1 for number in range(12)}
    tested = images_of(divide(card(split={"kind": "ratio", "test": 0.25, "seed": 3}), items(names))[1])
    assert sorted(tested) == ["i2", "i4", "i7"]
    counted = divide(card(split={"kind": "counts", "train": 5, "test": 3, "seed": 1}), items(names))
    assert [sorted(images_of(part)) for part in counted] == [["i3", "i4", "i6", "i7", "i8"], ["i10", "i2", "i5"]]


def test_a_group_that_does_not_fit_or_is_the_only_one_is_refused() -> None:
    with pytest.raises(CosamError, match=r"group = '\{group\}_\*' does not fit 1 of its images: images/x"):
        divide(card(group="{group}_*"), [*grouped({"a": 3}), *items({"images/x": 1})])
    with pytest.raises(CosamError, match="1 group of images cannot be divided"):
        divide(card(group="{group}_*"), grouped({"a": 3}))


@pytest.mark.parametrize("pattern", ["{id}_*", "*_*", "{group}_{group}", "{group}_{", "group"])
def test_other_patterns_of_groups_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"group needs \{group\} once"):
        card(group=pattern)


@pytest.mark.parametrize(
    ("pattern", "key", "group"),
    [
        ("{group}_*", "images/p07_1_2", "p07"),
        ("{group}/*", "scans/p07/1", "p07"),
        ("{group}/*/*", "p07/a/1", "p07"),
        ("scan-{group}-??", "images/scan-4-b-01", "4-b"),
        ("*_{group}", "a_b_c", "c"),
        ("{group}_*", "p07/x", None),
        ("a.{group}", "axb", None),
    ],
)
def test_the_group_of_an_image(pattern: str, key: str, group: str | None) -> None:
    assert GroupPattern(pattern).of(key) == group


@pytest.mark.parametrize("samples", ["union", "component"])
def test_samples_know_the_group_of_their_image(samples: str, tmp_path: Path) -> None:
    leaf_files(tmp_path, count=6)
    for number in range(6):
        for folder in ("images", "masks"):
            (tmp_path / folder / f"{number}.png").rename(tmp_path / folder / f"p{number // 2}_{number}.png")
    split = {"kind": "folders", "train": "images/p[01]_*.png", "test": "images/p2_*.png"}
    whole, plain = (open_domain(card(tmp_path, split=split, samples=samples, group=one)) for one in ("{group}_*", ""))
    for entry in whole.train.manifest.entries:
        assert entry.group == entry.key.removeprefix("images/")[:2]
    assert whole.digest == plain.digest
    kept, out = hold_out(whole.train)
    assert len(kept) == len(out) == len(whole.train) / 2
    assert {entry.group for entry in kept.manifest.entries} != {entry.group for entry in out.manifest.entries}


def test_a_check_reports_groups_in_both_parts_of_a_fixed_split(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    names = ["p1_a", "p1_b", "p2_a", "p3_a", "p3_b"]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{name}.png")
        Image.fromarray(np.full((16, 20), 255, np.uint8)).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "train.txt").write_text("p1_a\np2_a\np3_a\n")
    (tmp_path / "test.txt").write_text("p1_b\np3_b\n")
    split = {"kind": "lists", "train": "train.txt", "test": "test.txt"}
    assert check_domain(card(tmp_path, split=split)).fault_count == 0
    report = check_domain(card(tmp_path, split=split, group="{group}_*"))
    assert report.faults["group"] == ["p1", "p3"]
    assert report.fault_count == 2
