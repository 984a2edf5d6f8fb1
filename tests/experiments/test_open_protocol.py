"""The protocol ``open``: what it trains and on what, and its copy on small pairs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.protocol import load_protocol, resolve_run
from cosam_bench.sam.adapters.targets import check_adapter, target_layers
from cosam_bench.sam.build import build_sam

PAIRS = Path(__file__).parents[2] / "results" / "reference" / "open-pairs.toml"


def test_the_order_is_fixed_and_photographs_are_only_tested() -> None:
    stream = load_stream("open")
    learned = "bsdata magnetic_tile neu_steel masonry_crack crop_weed camvid_road lung_xray kvasir"
    assert stream.order == tuple(f"{name}@open" for name in learned.split())
    assert stream.retention == ("pets@open",)


def test_the_adapter_is_in_the_last_two_stages_of_mobile_sam() -> None:
    protocol = load_protocol("open")
    sam = build_sam(protocol.model.name, checkpoint="random")
    layers = target_layers(sam, protocol.adapter)
    assert {layer.split(".")[2] for layer in layers} == {"2", "3"}
    assert len(layers) == 2 * (6 + 2)


def test_without_the_data_one_command_is_named_that_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path))
    with pytest.raises(CosamError) as error:
        open_stream(load_stream("open"))
    head, *lines = str(error.value).splitlines()
    assert "the data of 9 of its 9 domains is missing" in head
    assert head.endswith("To get all: cosam-bench data fetch open --accept-licences")
    assert len(lines) == 9
    with pytest.raises(CosamError) as error:
        open_stream(load_stream("regcl"))  # some of these are behind a form
    assert "To get all" not in str(error.value)


def test_another_model_is_one_setting() -> None:
    protocol = resolve_run(method="frozen", protocol="open", overrides=("model.name=vit_b",)).protocol
    check_adapter(protocol.adapter, model=protocol.model.name)
    assert protocol.model_copy(update={"model": load_protocol("open").model}) == load_protocol("open")


def test_the_pairs_differ_in_the_data_alone() -> None:
    """What is measured on them is measured under the same protocol; domains are in the same order."""
    pairs, whole = (load_protocol(name).model_dump() for name in (str(PAIRS), "open"))
    different = {key for key in whole if pairs[key] != whole[key]}
    assert different == {"name", "title", "stream", "version"}  # version 2 of open has other images
    stream = load_stream(str(PAIRS.with_name("open-pairs-stream.toml")))
    assert [name.partition("@")[0] for name in stream.order] == [
        name.partition("@")[0] for name in load_stream("open").order
    ]
    for name in stream.order:
        assert stream.card(name).split.counts == {"train": 24, "test": 12}
    assert stream.card("human_photo@pairs").split.counts == {"train": 0, "test": 12}


def test_the_pairs_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not os.environ.get("COSAM_BENCH_REAL"):
        pytest.skip("COSAM_BENCH_REAL names no folder of real images")
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path))
    opened = open_stream(load_stream(str(PAIRS.with_name("open-pairs-stream.toml"))))
    assert [(len(domain.train), len(domain.test)) for domain in opened.domains] == [(24, 12)] * 8
    assert [(len(domain.train), len(domain.test)) for domain in opened.retention] == [(0, 12)]


def test_a_record_names_a_variable_in_place_of_the_machines_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "$COSAM_BENCH_REFERENCE/open-pairs-stream.toml"
    monkeypatch.setenv("COSAM_BENCH_REFERENCE", str(PAIRS.parent))
    run = resolve_run(method="frozen", protocol=str(PAIRS), overrides=(f"stream={place}",))
    assert run.protocol.stream == place
    assert load_stream(place) == load_stream(str(PAIRS.with_name("open-pairs-stream.toml")))
    monkeypatch.delenv("COSAM_BENCH_REFERENCE")
    with pytest.raises(CosamError, match="variable is not set"):
        load_stream(place)
