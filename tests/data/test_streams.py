"""The published streams and cards: orders as published, data found where it was placed, leaks refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.imitations import prepare

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.locations import Archive, Location, data_folder, location_path, read_location, write_location
from cosam_bench.data.opening import open_stream
from cosam_bench.data.orders import domain_order
from cosam_bench.data.streams import Stream, load_card, load_stream, names_of
from cosam_bench.sam.models import cache_folder

C8 = "bsdata rsdd_i rsdd_ii mvtec_i mvtec_ii mvtec_iii camo kvasir"
R5 = "kvasir camo istd isic cod"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "placed"))
    return tmp_path / "placed"


def of(paper: str, names: str) -> tuple[str, ...]:
    return tuple(f"{name}@{paper}" for name in names.split())


def stream_of(folder: Path, text: str) -> Stream:
    path = folder / "own.toml"
    path.write_text(f'name = "own"\n{text}')
    return load_stream(str(path))


def test_streams_have_the_published_orders() -> None:
    cosam = load_stream("cosam")
    assert cosam.order == of("cosam", C8)
    assert cosam.retention == ("coco200@cosam",)
    groups = "mvtec_i mvtec_ii mvtec_iii"
    assert cosam.orders == {
        "published_reverse": of("cosam", f"kvasir camo {groups} rsdd_i rsdd_ii bsdata"),
        "pos2": of("cosam", f"rsdd_i rsdd_ii bsdata {groups} camo kvasir"),
        "pos3": of("cosam", f"rsdd_i rsdd_ii {groups} bsdata camo kvasir"),
        "pos4": of("cosam", f"rsdd_i rsdd_ii {groups} camo bsdata kvasir"),
        "pos5": of("cosam", f"rsdd_i rsdd_ii {groups} camo kvasir bsdata"),
    }
    places = [cosam.orders[name].index("bsdata@cosam") + 1 for name in ("pos2", "pos3", "pos4", "pos5")]
    assert places == [3, 6, 7, 8]
    regcl = load_stream("regcl")
    assert regcl.order == of("regcl", R5)
    assert regcl.retention == ("coco100@samcl",)
    assert list(regcl.orders.values()) == [
        of("regcl", "cod isic istd camo kvasir"),
        of("regcl", "kvasir isic camo cod istd"),
        of("regcl", "camo cod kvasir isic istd"),
        of("regcl", "istd kvasir isic camo cod"),
        of("regcl", "istd cod camo isic kvasir"),
    ]
    union = load_stream("union")
    assert union.order == cosam.order + of("regcl", "istd isic cod")
    assert union.retention == cosam.retention


def test_a_stream_names_experts_of_domains_with_any_name(tmp_path: Path) -> None:
    names = ("own-domain", "camo@cosam", "v1.2")
    paths = "".join(f'"{name}" = "{name}.safetensors"\n' for name in names)
    domains = "".join(
        f'[[domain]]\nname = "{name}"\nkind = "synthetic"\ngenerator = "pill"\n'
        'split = { kind = "counts", train = 2, test = 1 }\n'
        for name in names
    )
    assert set(stream_of(tmp_path, f"[experts]\n{paths}{domains}").experts) == set(names)


def test_an_order_is_asked_for_by_name() -> None:
    stream = load_stream("cosam")
    assert domain_order("pos3", stream.order, named=stream.orders)[5] == "bsdata@cosam"
    assert domain_order("reverse", stream.order, named=stream.orders) == list(stream.order[::-1])
    assert domain_order("reverse", ("a", "b"), named={"reverse": ("a", "b")}) == ["a", "b"]
    assert sorted(domain_order("random:3", stream.order, named=stream.orders)) == sorted(stream.order)
    with pytest.raises(CosamError, match=r"No order of this stream is called 'pos6'\. Did you mean 'pos5'"):
        domain_order("pos6", stream.order, named=stream.orders)


@pytest.mark.parametrize("order", ['["pill"]', '["pill", "pill"]', '["pill", "rim", "moon"]'])
def test_an_order_must_name_each_domain_once(tmp_path: Path, order: str) -> None:
    text = f"orders = {{ odd = {order} }}\n"
    for name in ("pill", "rim"):
        text += f'[[domain]]\nname = "{name}"\nkind = "synthetic"\ngenerator = "{name}"\n'
        text += 'split = { kind = "counts", train = 1, test = 1 }\n'
    with pytest.raises(CosamError, match="the order 'odd' does not name each domain of order once"):
        stream_of(tmp_path, text)


def test_cards_state_what_a_user_must_know() -> None:
    assert len(names_of("card")) == 15 + 9
    for name in names_of("card"):
        card = load_card(name)
        assert card.name == name
        for text in (card.title, card.source, card.licence, card.terms, card.citation, card.instructions):
            assert text, name
        # What the layouts divide by a rule of ours is nobody's published split.
        own = any((layout.split or card.split).kind in ("ratio", "manifest") for layout in card.layouts.values())
        assert not (own and "split" in card.verified), name
        assert not own or card.own, name
        bundles = [card.with_layout(one, root="/x") for one in card.layouts if one.endswith("_bundle")]
        assert not any("own" in bundle.full_title for bundle in bundles), name
        assert not (card.licence == "unknown" and "licence" in card.verified), name
    assert {name for name in names_of("card") if load_card(name).downloads} == {
        *(card.name for card in load_stream("open").cards),
        "bsdata@cosam", "kvasir@cosam", "kvasir@regcl", "isic@regcl", "coco200@cosam", "coco100@samcl",
    }  # fmt: skip


def test_placed_data_is_found_by_every_stream(tmp_path: Path) -> None:
    placed = prepare("kvasir@cosam", tmp_path)
    for stream in ("cosam", "union"):
        card = load_stream(stream).card("kvasir@cosam")
        assert (card.layout, card.root, card.split.kind) == ("source", str(placed.root), "folders")
    assert load_card("kvasir@cosam").root == str(placed.root)
    bundle = prepare("kvasir@cosam", tmp_path / "bundle", layout="cosam_bundle")
    card = load_card("kvasir@cosam")
    assert (card.layout, card.root) == ("cosam_bundle", str(bundle.root))
    assert card.split.train == "train/images/*.jpg"


def test_a_user_s_own_keys_lie_on_top(tmp_path: Path) -> None:
    prepare("kvasir@cosam", tmp_path)
    text = '[[domain]]\ncard = "kvasir@cosam"\n'
    mine = stream_of(tmp_path, text + 'min_pixels = 7\nmasks = "m/{stem}.png"\n').card("kvasir@cosam")
    assert (mine.min_pixels, mine.masks, mine.split.kind) == (7, "m/{stem}.png", "folders")
    elsewhere = stream_of(tmp_path, text + 'name = "polyps"\nlayout = "cosam_bundle"\nroot = "mine"\n').card("polyps")
    assert elsewhere.root == str(tmp_path / "mine")
    assert elsewhere.split.train == "train/images/*.jpg"
    # With a root and no layout the card's rules hold, but for where the files lie.
    plain = stream_of(tmp_path, text + 'root = "mine"\n').card("kvasir@cosam")
    assert (plain.layout, plain.images, plain.split.kind) == ("", None, "ratio")
    assert plain.foreground == Foreground(rule="above", above=128, channel="red")
    with pytest.raises(CosamError, match="no layout 'cosam' among source, cosam_bundle"):
        stream_of(tmp_path, text + 'layout = "cosam"\nroot = "mine"\n')


def test_records_hold_odd_paths_and_damaged_ones_are_named(tmp_path: Path, data: Path) -> None:
    odd = tmp_path / 'a "b"\\c\t\x7f é'
    placed = Location(layout="source", root=odd, archives=(Archive(file="x.zip", sha256="0" * 64, size_bytes=3),))
    assert write_location("kvasir@cosam", placed) == data / "kvasir@cosam.toml" == location_path("kvasir@cosam")
    assert read_location("kvasir@cosam") == placed
    assert read_location("camo@cosam") is None
    for text, said in (("layout = 3", "'layout' is 3"), ('layout = "a"\nroot = "b"', "absolute"), ("[", "as TOML")):
        location_path("camo@cosam").write_text(text)
        with pytest.raises(CosamError, match=said) as error:
            load_stream("cosam")
        assert "camo@cosam.toml" in str(error.value)
    with pytest.raises(CosamError, match="is not UTF-8"):
        write_location("camo@cosam", Location(layout="source", root=Path("/\udcff")))


def test_the_data_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == tmp_path / "placed"
    monkeypatch.delenv("COSAM_BENCH_DATA")
    for cache in ("", str(tmp_path / "cache")):
        monkeypatch.setenv("COSAM_BENCH_CACHE", cache)
        assert data_folder() == cache_folder() / "data"


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    prepare("camo@cosam", tmp_path)
    gone = prepare("rsdd_i@cosam", tmp_path)
    gone.root.rename(tmp_path / "moved")
    with pytest.raises(CosamError) as error:
        open_stream(load_stream("cosam"))
    head, *lines = str(error.value).splitlines()
    assert head.startswith("Stream 'cosam': the data of 8 of its 9 domains is missing.")
    assert [line.split(":")[0].strip() for line in lines] == [
        name for name in (*of("cosam", C8), "coco200@cosam") if name != "camo@cosam"
    ]
    assert lines[0] == (
        "  bsdata@cosam: cosam-bench data fetch bsdata@cosam --accept-licence (from https://github.com/2Obe/BSData)"
    )
    assert f"the folder {gone.root} no longer exists: cosam-bench data prepare rsdd_i@cosam --from PATH" in lines[1]
    assert "mvtec_i@cosam --from PATH (get it from https://www.mvtec.com/" in lines[3]
    one = Stream(name="one", order=("isic@regcl",), domain=(load_card("isic@regcl"),))
    with pytest.raises(CosamError, match=r"^Domain 'isic@regcl': its data is not here: cosam-bench data fetch isic"):
        open_stream(one)


def domains(*names: str) -> str:
    return "".join(f'[[domain]]\ncard = "{name}"\n' for name in names)


def test_training_on_what_another_domain_tests_is_refused(tmp_path: Path) -> None:
    for name in ("kvasir@cosam", "kvasir@regcl", "camo@cosam", "camo@regcl"):
        prepare(name, tmp_path)
    # The sessile test images are numbers 7 to 9, SAMCL's 0 and 1: each trains on all that the other tests.
    both = stream_of(tmp_path, domains("kvasir@cosam", "kvasir@regcl"))
    said = (
        "'kvasir@cosam' trains on 2 of the images that 'kvasir@regcl' is tested on; "
        "'kvasir@regcl' trains on 3 of the images that 'kvasir@cosam' is tested on"
    )
    with pytest.raises(CosamError, match=said):
        open_stream(both)
    tested_only = f'retention = ["kvasir@regcl"]\n{domains("kvasir@cosam", "kvasir@regcl")}'
    with pytest.raises(CosamError, match="'kvasir@cosam' trains on 2 of the images that 'kvasir@regcl' is tested on"):
        open_stream(stream_of(tmp_path, tested_only))
    # CAMO is divided alike in both papers.
    assert len(open_stream(stream_of(tmp_path, domains("camo@cosam", "camo@regcl"))).domains) == 2


@pytest.mark.parametrize("pool", ["kvasir-seg", "another"])
def test_images_of_one_pool_are_the_same_by_name(tmp_path: Path, pool: str) -> None:
    for name in ("kvasir@cosam", "kvasir@regcl"):
        prepare(name, tmp_path)
    for path in (tmp_path / "kvasir@regcl/Kvasir-SEG/images").iterdir():
        path.write_bytes(path.read_bytes() + b" ")  # other bytes, the same picture
    stream = stream_of(tmp_path, domains("kvasir@cosam", "kvasir@regcl") + f'pool = "{pool}"\n')
    if pool == "another":
        open_stream(stream)
        for path in (tmp_path / "kvasir@regcl/Kvasir-SEG/images").iterdir():
            path.write_bytes(path.read_bytes()[:-1])  # the same bytes are the same image in every pool
    with pytest.raises(CosamError, match="'kvasir@cosam' trains on 2 of the images that 'kvasir@regcl' is tested on"):
        open_stream(stream)


def test_the_whole_union_opens_without_a_leak(tmp_path: Path) -> None:
    names = (*of("cosam", C8), *of("regcl", "istd isic cod"))
    for name in names:
        prepare(name, tmp_path, layout="source")
    prepare("coco200@cosam", tmp_path, layout="cosam_bundle")
    opened = open_stream(load_stream("union"))
    assert tuple(domain.name for domain in opened.domains) == names
    assert all(len(domain.train) and len(domain.test) for domain in opened.domains)
    assert [len(domain.train) for domain in opened.retention] == [0]


def test_a_protocol_s_foreground_goes_before_the_cards(tmp_path: Path) -> None:
    for name in of("regcl", R5):
        prepare(name, tmp_path, layout="samcl_bundle")
    stream = stream_of(tmp_path, domains(*of("regcl", R5)))
    published = Foreground.model_validate({"values": [255], "channel": "red"})  # of the protocol regcl, mode faithful
    clean, strict = open_stream(stream), open_stream(stream, foreground=published)
    for card_name, mine, other in zip(stream.order, clean.domains, strict.domains, strict=True):
        assert mine.digest != other.digest
        lost = [int((mask & ~mine.test.mask(i)).sum()) for i, mask in enumerate(map(other.test.mask, range(3)))]
        assert lost == [0, 0, 0]  # only what is wholly white is left
        ratio = other.test.mask(0).sum() / mine.test.mask(0).sum()
        is_lossy = mine.test.manifest.entries[0].mask_name.endswith(".jpg")
        assert (ratio < 0.9) == is_lossy, card_name


@pytest.mark.parametrize(
    "rule",
    [{"values": [255]}, {"values": [254, 255], "channel": "red"}, {"rule": "nonzero", "channel": "red"}, {"above": 3}],
    ids=str,
)
def test_lossy_masks_are_refused_under_a_rule_that_no_protocol_publishes(rule: object, tmp_path: Path) -> None:
    prepare("kvasir@regcl", tmp_path, layout="samcl_bundle")
    stream = stream_of(tmp_path, domains("kvasir@regcl"))
    with pytest.raises(CosamError, match=r"is a JPEG, whose compression changes levels.*Save masks as PNG"):
        open_stream(stream, foreground=Foreground.model_validate(rule))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layouts": {"Big": {}}}, "layouts"),
        ({"layouts": {"a": {"annotations": "x.json"}}}, "annotations and select go together"),
        ({"layouts": {"a": {"image": "x"}}}, "Extra inputs"),
        ({"layout": "a", "root": "."}, "no layout 'a' among none"),
        ({"downloads": [{"url": "ftp://x", "file": "x.zip"}], "root": "."}, "url"),
        ({"downloads": [{"url": "https://x/x.zip", "file": "../x.zip"}], "root": "."}, "file"),
        ({"downloads": [{"url": "https://x/x.zip", "file": "x.zip", "folder": "a/../.."}], "root": "."}, "folder"),
        ({"downloads": [{"url": "https://x/x.zip", "file": "x.zip", "sha256": "12"}], "root": "."}, "sha256"),
        ({"split": {"without_test": True}, "root": "."}, "without_test needs kind"),
        ({"masks": "{part}/*", "pairing": "sorted", "root": "."}, "{part} in masks needs"),
        ({}, "needs root"),
    ],
)
def test_faults_of_a_card_with_layouts_are_named(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Card.model_validate({"name": "a"} | keys)
