"""Runs with several seeds and orders, and runs on a part of the images."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from support.quick_protocol import QUICK_DOMAINS

import cosam_bench as cb
from cosam_bench.core.errors import CosamError
from cosam_bench.data.orders import domain_order
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.options import RunOptions, resolve
from cosam_bench.experiments.repeats import different_orders, resolve_repeats

NAMES = ("a", "b", "c")


def test_each_seed_is_combined_with_each_order() -> None:
    repeats = resolve_repeats(["average", "opcm"], RunOptions(), seeds=[3, 5], orders=[None, "reverse"])
    assert [one.label for one in repeats] == [
        "seed 3, order of the stream",
        "seed 5, order of the stream",
        "seed 3, order reverse",
        "seed 5, order reverse",
    ]
    own = load_stream("mini").order
    found = [(config.method, config.seed, config.order) for one in repeats for config in one.configs]
    expected = [(seed, order) for order in ((), own[::-1]) for seed in (3, 5)]
    assert found == [(method, *rest) for rest in expected for method in ("average", "opcm")]


def test_a_single_run_keeps_its_own_seed_and_order() -> None:
    (only,) = resolve_repeats(["average"], RunOptions(seed=4, order="reverse"))
    assert only.label == ""
    assert only.configs[0].seed == 4
    assert only.configs[0].order


def test_the_own_order_can_be_asked_for_where_a_file_has_another(quick_protocol: Path, tmp_path: Path) -> None:
    (backwards,) = resolve(["average"], RunOptions(protocol=str(quick_protocol), order="reverse"))
    file = tmp_path / "config.toml"
    file.write_text(backwards.to_toml())
    given = RunOptions(config=file)
    assert [one.order for one in resolve([], given)] == [QUICK_DOMAINS[::-1]]
    assert [one.order for one in resolve([], replace(given, order="stream"))] == [()]
    first, second = resolve_repeats([], given, orders=2)
    assert first.configs[0].order == ()
    assert second.configs[0].order not in ((), QUICK_DOMAINS)


@pytest.mark.parametrize("order", ["stream", ",".join(QUICK_DOMAINS)])
def test_the_own_order_written_down_is_the_run_without_one(order: str, quick_protocol: Path, tmp_path: Path) -> None:
    plain, asked = (
        open_experiment(resolve(["frozen"], RunOptions(protocol=str(quick_protocol), order=one))[0], tmp_path)
        for one in (None, order)
    )
    assert (asked.digest, asked.config) == (plain.digest, plain.config)


def test_orders_are_all_different_and_none_is_left_out() -> None:
    found = different_orders(6, NAMES)
    assert found[0] is None
    assert {tuple(domain_order(one, NAMES)) if one else NAMES for one in found} == set(permutations(NAMES))
    assert different_orders(3, NAMES) == found[:3]
    assert different_orders(1, ("a",)) == [None]


def test_more_orders_than_there_are_and_repeats_are_refused() -> None:
    with pytest.raises(CosamError, match="3 domains have 6"):
        different_orders(7, NAMES)
    with pytest.raises(CosamError, match="seed 1 is given twice"):
        resolve_repeats(["average"], RunOptions(), seeds=[1, 0, 1])
    with pytest.raises(CosamError, match="order reverse is given twice"):
        resolve_repeats(["average"], RunOptions(), orders=["reverse", "reverse"])


def test_a_limit_takes_so_many_images_of_each_part_and_marks_the_record(quick_protocol: Path, tmp_path: Path) -> None:
    limited = cb.run("frozen", protocol=quick_protocol, settings={"limit": 2}, results=tmp_path)
    matrix = limited.score_matrix("iou")
    assert set(matrix.count.ravel().tolist()) == {2}
    for name in matrix.domains:
        kept, whole = limited.info.image_counts[name]
        assert kept == 4
        assert whole > 4
        assert f"{name} 4 of {whole} images" in limited.differs


def test_a_limit_that_leaves_nothing_out_changes_nothing(quick_protocol: Path, tmp_path: Path) -> None:
    whole = cb.run("frozen", protocol=quick_protocol, results=tmp_path)
    again = cb.run("frozen", protocol=quick_protocol, settings={"limit": 1000}, results=tmp_path)
    assert again.folder == whole.folder
    assert again.differs == ""
