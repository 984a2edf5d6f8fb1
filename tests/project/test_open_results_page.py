"""docs/open-results.md says of results/reference/open.csv what is in it."""

from __future__ import annotations

import pytest
from support.shown_commands import text_of

from cosam_bench.method.registry import method_names
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import find_records
from tools.write_results import REFERENCE, correlation, rows_of

PAGE = " ".join(text_of("docs/open-results.md").split())
README = " ".join(text_of("README.md").split())
ROWS = {row["method"]: row for row in rows_of("open")}
BY_WEIGHTS = ("opcm", "ties", "average")


def figure(method: str, name: str = "last") -> float:
    return float(ROWS[method][name])


def share(method: str) -> str:
    """What a method gains over frozen SAM, of what the experts gain."""
    frozen, experts = figure("frozen"), figure("experts")
    return f"{(figure(method) - frozen) / (experts - frozen):.0%}".replace("%", " %")


def record(method: str) -> Record:
    return next(one for one in find_records(REFERENCE / "open")[0] if one.info.method == method)


def test_how_many_were_measured_and_how() -> None:
    assert f"{len(ROWS)} of the {len(method_names())} methods" in PAGE
    assert "One seed and one order" in PAGE
    assert {(row["runs"], row["seeds"], row["orders"], row["differs"]) for row in ROWS.values()} == {
        ("1", "1", "1", "")
    }
    assert len({row["conditions"] for row in ROWS.values()}) == 1


def test_what_is_said_of_the_gain() -> None:
    assert f"scores {figure('frozen'):.3f}, separate experts that are told the domain {figure('experts'):.3f}" in PAGE
    for method in ("regmean", "regcl", *BY_WEIGHTS):
        assert share(method) in PAGE, method
    assert (
        f"`regmean` and `regcl`, which merge by the layers' inputs, reach {share('regmean')} and {share('regcl')}"
        in README
    )
    assert figure("regmean", "last_high") > figure("experts", "last_low")


def test_what_is_said_of_domains() -> None:
    frozen, experts = (record(name).score_matrix("iou") for name in ("frozen", "experts"))
    column = {name.partition("@")[0]: place for place, name in enumerate(frozen.columns)}

    def pair(name: str) -> str:
        return f"({frozen.values[0, column[name]]:.2f} to {experts.values[-1, column[name]]:.2f})"

    for name in ("crop_weed", "masonry_crack", "neu_steel", "lung_xray"):
        assert pair(name) in PAGE, name
    near = max(abs(frozen.values[0, column[name]] - experts.values[-1, column[name]]) for name in ("kvasir", "bsdata"))
    assert f"frozen SAM is within {near:.3f} of the expert" in PAGE
    roads = [record(name).score_matrix("iou").values[-1, column["camvid_road"]] for name in ("opcm", "ties")]
    assert (
        f"scores {frozen.values[0, column['camvid_road']]:.2f}, they end at {roads[0]:.2f} and {roads[1]:.2f}" in PAGE
    )


def test_what_is_said_of_merges_by_weights() -> None:
    assert all(figure(name, "last_low") > figure("frozen") for name in BY_WEIGHTS)
    assert max(figure(name, "last_low") for name in BY_WEIGHTS) < min(figure(name, "last_high") for name in BY_WEIGHTS)
    assert all(figure(name, "ff") < 0 for name in ("opcm", "ties"))
    lost = [f"{figure(name, 'plasticity'):.3f}" for name in ("opcm", "ties")]
    assert f"What they lose, {lost[0]} and {lost[1]}, they lose right after learning" in PAGE
    above = [f"{figure(name) - figure('frozen'):.3f}" for name in ("opcm", "ties")]
    assert f"below frozen SAM there, and {above[0]} and {above[1]} above it here" in PAGE


def test_what_is_said_of_fine_tuning_and_retention() -> None:
    assert abs(figure("finetune", "plasticity")) < 0.005
    assert (
        f"{figure('finetune', 'ff'):.3f} lower, and {figure('finetune') - figure('frozen'):.3f} above frozen SAM"
        in PAGE
    )
    assert figure("finetune", "last_low") < figure("frozen") < figure("finetune", "last_high")
    kept = figure("frozen", "retention")
    others = [figure(name, "retention") for name in ROWS if name not in ("finetune", "frozen")]
    widest = max(abs(value - kept) for value in others)
    assert f"Retention is within {widest:.3f} of frozen SAM's {kept:.3f} for every merge" in PAGE
    assert f"fine-tuning loses {kept - figure('finetune', 'retention'):.3f}" in PAGE


def test_what_is_said_of_mini() -> None:
    mini = {row["method"]: float(row["last"]) for row in rows_of("mini") if "product" not in row["settings"]}
    assert all(mini[name] < mini["frozen"] for name in ("opcm", "ties"))
    order = sorted(ROWS, key=lambda name: -mini[name])
    assert order[:3] == list(ROWS)[:3] == ["experts", "regmean", "regcl"]
    assert correlation() == pytest.approx(0.60, abs=0.005)
