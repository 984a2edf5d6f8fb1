"""The ablations: their variants, their figures, and the page that shows them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.ablations import ABLATIONS, TRM, Row, measured, read, replaced, row, table, write
from cosam_bench import CosamError
from cosam_bench.method.registry import load_method

ROOT = Path(__file__).parents[2]


def record(
    *,
    last: float,
    seconds: tuple[float, ...],
    reported: dict[str, tuple[float, ...]] | None = None,
    differs: str = "",
) -> Any:
    figures = {"last": last, "ff": 0.25, "retention": 0.5}
    return SimpleNamespace(
        info=SimpleNamespace(protocol="mini", protocol_version=2),
        differs=differs,
        summary={"iou": figures},
        cost=SimpleNamespace(merge_seconds=seconds, reported=reported or {}),
    )


def rows(**last: float) -> list[Row]:
    return [row(name, TRM[name], [record(last=value, seconds=(9.6,))]) for name, value in last.items()]


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_differs_from_the_default_in_what_it_names(name: str) -> None:
    seen = []
    for variant, (method, changed) in ABLATIONS[name].items():
        settings = load_method(method).Settings.model_validate(changed)
        assert set(settings.model_dump(exclude_defaults=True)) == set(changed), variant
        seen.append((method, settings.model_dump_json()))
    assert len(set(seen)) == len(seen)


def test_figures_are_means_deviations_and_seconds_of_a_whole_run() -> None:
    records = [record(last=0.5, seconds=(0.0, 1.0)), record(last=0.7, seconds=(2.0, 3.0))]
    found = row("midpoint", TRM["midpoint"], records)
    assert found.last == pytest.approx(0.6)
    assert (found.ff_std, found.merge_seconds) == (0.0, 3.0)
    assert found.last_std == pytest.approx(0.02**0.5)
    assert (found.protocol, found.method, found.settings, found.seeds) == (
        "mini (version 2)",
        "trm",
        '{"passes": 0}',
        2,
    )
    assert math.isnan(found.condition_number)


def test_the_condition_number_is_the_largest_of_all_merges() -> None:
    numbers = [{"condition_number": values} for values in ((math.nan, 5.0), (math.nan, 7.0))]
    records = [record(last=0.5, seconds=(0.0,), reported=reported) for reported in numbers]
    assert row("default", TRM["default"], records).condition_number == 7.0


def test_runs_on_another_stream_are_not_called_the_protocols() -> None:
    elsewhere = row("default", TRM["default"], [record(last=0.5, seconds=(1.0,), differs="stream mine.toml")])
    assert elsewhere.protocol == "mini (version 2), not the protocol (stream mine.toml)"
    assert replaced(TRM, rows(default=0.1, midpoint=0.1), [elsewhere]) == [elsewhere]


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    found = rows(midpoint=0.51, default=0.51)
    write(tmp_path / "rows.csv", found)
    assert str(read(tmp_path / "rows.csv")) == str(found)
    assert table(found).splitlines()[2:] == [
        "| midpoint | 0.510 | 0.250 | 0.500 | 10 | 1 |",
        "| default | 0.510 | 0.250 | 0.500 | 10 | 1 |",
    ]


def test_a_later_measurement_replaces_its_own_variants_alone() -> None:
    before, after = rows(default=0.1, midpoint=0.1), rows(responsiveness=0.2, midpoint=0.2)
    assert replaced(TRM, before, after) == [before[0], after[1], after[0]]


def test_rows_of_another_version_of_the_protocol_are_dropped() -> None:
    before = [dataclasses.replace(each, protocol="mini (version 1)") for each in rows(default=0.1, responsiveness=0.1)]
    after = rows(midpoint=0.2)
    assert replaced(TRM, before, after) == after


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No variant is called 'none'\. Offered: default; midpoint"):
        list(measured(TRM, ["none"], protocol="mini", seeds=[0], results=tmp_path))
