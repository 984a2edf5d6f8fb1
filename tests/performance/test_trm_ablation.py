"""The ablation of TRM: its variants, its figures, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.trm_ablation import COMA, VARIANTS, markdown, measured, read, replaced, row, write
from cosam_bench import CosamError
from cosam_bench.methods.trm import TRMSettings

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "results/reference/trm-ablation.csv"


def record(*, last: float, seconds: tuple[float, ...]) -> Any:
    figures = {"last": last, "ff": 0.25, "retention": 0.5}
    return SimpleNamespace(summary={"iou": figures}, cost=SimpleNamespace(merge_seconds=seconds))


def test_every_variant_differs_from_the_default_in_what_it_names() -> None:
    default = TRMSettings()
    for name, changed in VARIANTS.items():
        settings = TRMSettings.model_validate(changed)
        assert set(settings.model_dump(exclude_defaults=True)) == set(changed), name
    assert len({TRMSettings.model_validate(changed) == default for changed in VARIANTS.values()}) == 2


def test_figures_are_means_deviations_and_seconds_of_a_whole_run() -> None:
    found = row("midpoint", [record(last=0.5, seconds=(0.0, 1.0)), record(last=0.7, seconds=(2.0, 3.0))])
    assert found.last == pytest.approx(0.6)
    assert (found.ff_std, found.merge_seconds) == (0.0, 3.0)
    assert found.last_std == pytest.approx(0.02**0.5)
    assert (found.settings, found.seeds) == ('{"steps": 0}', 2)


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    rows = [row(name, [record(last=0.51, seconds=(9.6,))]) for name in ("midpoint", COMA)]
    write(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv") == rows
    assert markdown(rows).splitlines()[2:] == [
        "| midpoint | 0.510 | 0.250 | 0.500 | 10 | 1 |",
        "| `coma` | 0.510 | 0.250 | 0.500 | 10 | 1 |",
    ]


def test_a_later_measurement_replaces_its_own_variants_alone() -> None:
    before = [row(name, [record(last=0.1, seconds=(1.0,))]) for name in ("default", "midpoint")]
    after = [row(name, [record(last=0.2, seconds=(1.0,))]) for name in (COMA, "midpoint")]
    assert replaced(before, after) == [before[0], after[1], after[0]]


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No variant is called 'none'\. Offered: default, midpoint"):
        list(measured(["none"], seeds=[0], results=tmp_path))


def test_the_page_shows_the_measured_table() -> None:
    assert markdown(read(MEASURED)) in (ROOT / "docs/methods.md").read_text(encoding="utf-8")
