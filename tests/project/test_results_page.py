"""docs/results.md says of results/reference/mini.csv what is in it: every row, and each sentence that compares rows."""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Iterable
from itertools import pairwise

import pytest
from support.result_figures import share_of_gain
from support.shown_commands import text_of

from benchmarks import ablations
from cosam_bench.core.setting_keys import setting_keys
from cosam_bench.data.protocol_files import read_protocol
from cosam_bench.method.registry import method_names
from cosam_bench.method.source_reading import describe
from tools.write_results import REFERENCE, is_shown, label, rows_of

PAGE = " ".join(text_of("docs/results.md").split())
ROWS = rows_of("mini")
NUMBERS = {
    label(row).replace("`", ""): {  # such as regcl, or regcl (product)
        name: float(text) for name, text in row.items() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text)
    }
    for row in ROWS
}
BOUNDS = ("experts", "joint")
SEVERAL_ADAPTERS = ("moda", "router", "kmerge")


def figure(name: str, column: str = "last") -> float:
    return NUMBERS[name][column]


def share(name: str) -> str:
    """What a method gains over frozen SAM, of what the experts gain."""
    return share_of_gain(figure(name), frozen=figure("frozen"), experts=figure("experts"))


def quoted(names: Iterable[str]) -> str:
    """The labels of rows as a sentence lists them."""
    *first, last = [re.sub(r"^\w+", r"`\g<0>`", name) for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def says(text: str) -> bool:
    """Whether the page has these words, wherever its lines break."""
    return text in PAGE


def test_each_row_has_todays_defaults_or_is_named_after_what_differs() -> None:
    assert [label(row) for row in ROWS if row["differs"] or not is_shown(row["method"], row["settings"])] == []


def test_what_was_measured() -> None:
    assert {(row["runs"], row["seeds"], row["orders"], row["metric"]) for row in ROWS} == {("3", "3", "1", "iou")}
    assert len({row["conditions"] for row in ROWS}) == 1
    version = next(iter(read_protocol("mini")[0].values()))["version"]
    assert {row["version"] for row in ROWS} == {str(version)}
    assert {row["method"] for row in ROWS} == set(method_names())
    assert says(f"All {len(method_names())} methods have been measured on `mini` (version {version})")


def test_only_one_default_was_chosen_on_this_protocol() -> None:
    keys = [key for row in ROWS for key in setting_keys(describe(row["method"]).settings, prefix=f"{row['method']}.")]
    assert len(keys) > 50
    assert {key.name for key in keys if "mini" in key.source.replace("minimum", "")} == {"ewc.strength"}


def test_what_is_said_of_the_bounds() -> None:
    gain = figure("experts") - figure("frozen")
    text = f"Frozen SAM scores {figure('frozen'):.3f}; separate experts, told the domain, {figure('experts'):.3f}."
    assert says(f"{text} These {gain:.3f} are what a method can gain")
    assert says(f"(`joint`) reaches {figure('joint'):.3f}")
    assert figure("joint") >= figure("experts") - figure("experts", "last_std")


def test_what_is_said_of_several_adapters_and_images() -> None:
    rest = [name for name in NUMBERS if name not in BOUNDS]
    assert set(rest[:4]) == {*SEVERAL_ADAPTERS, "er"}
    assert says(f"is {figure('experts') - figure('moda'):.3f} below the experts, at two encoder passes per image")
    assert figure("moda", "encoder_passes") == 2
    assert says(
        f"`router` and `kmerge`, which keep adapters and no image, gain {share('router')} and {share('kmerge')}"
    )
    assert {row["method"] for row in ROWS if "told the domain" in row["marks"]} == {"experts", "kmerge"}
    assert says(f"`er`, which trains again on kept images, gains {share('er')}")
    assert figure("router", "retention") == pytest.approx(figure("frozen", "retention"), abs=0.002)
    assert {name for name in rest if NUMBERS[name]["retention"] > figure("frozen", "retention") - 0.002} >= {"router"}


def test_what_is_said_of_one_adapter_without_images() -> None:
    rest = [name for name in NUMBERS if name not in (*BOUNDS, *SEVERAL_ADAPTERS, "er")]
    leading = [name for name in rest if figure(name) > figure("average") + 0.03]
    assert says(f"Above the plain average's {figure('average'):.3f} by more than 0.03 are {quoted(leading)}")
    assert set(leading) == {"regmean", "regcl (product)", "regcl", "ewc", "became", "slao", "coma", "trm"}


def test_what_is_said_of_merges_by_weights_alone() -> None:
    by_weights = ("magmax", "opcm", "dop", "dop (closed)", "task_arithmetic", "dare", "average", "ties", "iso_c")
    at_once = ("knots", "pcb", "tsvm")
    values = [figure(name) for name in (*by_weights, *at_once)]
    assert says(f"between {min(values):.3f} and {max(values):.3f}")
    assert min(values) > figure("frozen")
    assert max(values) < figure("regcl")
    ordered = sorted(values)
    gaps = [high - low for low, high in pairwise(ordered)]
    deviations = [figure(name, "last_std") for name in (*by_weights, *at_once)]
    assert statistics.median(gaps) < statistics.median(deviations)
    gains = [share(name) for name in sorted((*by_weights, *at_once), key=figure)]
    assert says(f"gain {gains[0].removesuffix(' %')} to {gains[-1]} of what the experts gain")


def test_what_is_said_of_rows_below_frozen_sam() -> None:
    below = [name for name in NUMBERS if figure(name) < figure("frozen")]
    assert says(f"{quoted(below)} end below frozen SAM")
    assert all(figure("frozen") - figure(name) > figure(name, "last_std") for name in below)
    kept = figure("frozen", "retention")
    assert says(f"lose at least {min(kept - figure(name, 'retention') for name in below):.3f} of retention")
    near = [name for name in NUMBERS if 0 < figure(name) - figure("frozen") < figure(name, "last_std")]
    assert says(f"{quoted(near)} are above it by less than their deviations")
    assert min(NUMBERS, key=figure) == "continual_ties"


def test_what_is_said_of_forgetting_and_plasticity() -> None:
    low = [name for name, numbers in NUMBERS.items() if numbers.get("ff", 1) < 0.01]
    assert says(f"FF is below 0.01 for {quoted(low)}")
    lost = [f"{figure(name, 'plasticity'):.3f}" for name in ("nullfilter", "frozen")]
    assert says(
        f"`nullfilter` loses {lost[0]} of what the experts reach on a domain just learned, frozen SAM {lost[1]}"
    )
    tuned = [f"{figure('finetune', name):.3f}" for name in ("plasticity", "ff")]
    assert says(f"it loses {tuned[0]} of plasticity, and forgets {tuned[1]}")


def test_what_is_said_of_transfer_and_retention() -> None:
    measured = {name: numbers for name, numbers in NUMBERS.items() if name not in (*BOUNDS, "frozen")}
    forward = [name for name, numbers in measured.items() if numbers["fwt"] > 0.0005]
    assert forward == ["router"]
    assert says(
        f"FWT, the gain over frozen SAM on the next unseen domain, is {figure('router', 'fwt'):.3f} for `router`"
    )
    kept = figure("frozen", "retention")
    above = [name for name, numbers in measured.items() if numbers["retention"] > kept + 0.0005]
    assert says(f"On the retention domain, {quoted(above)} end above frozen SAM")
    widest = max(figure(name, "retention") - kept for name in above)
    assert widest < figure("frozen", "retention_std")


def test_what_is_said_of_scatter() -> None:
    deviations = {name: numbers["last_std"] for name, numbers in NUMBERS.items()}
    wide = [name for name, deviation in deviations.items() if deviation > 0.015]
    assert says(f"Deviations of Last above 0.015 occur for {quoted(wide)}")
    assert says(f"the median is {statistics.median(deviations.values()):.3f}")


def test_what_is_said_of_costs() -> None:
    states = {name: numbers["state_kib"] for name, numbers in NUMBERS.items() if name != "frozen"}
    assert min(states, key=states.__getitem__) == "l2p"
    assert max(states, key=states.__getitem__) == "moda"
    assert says(f"`l2p` keeps {states['l2p']:.0f} KiB and `moda` {states['moda']:,.0f}")
    merges = {name: numbers["merge_seconds"] for name, numbers in NUMBERS.items()}
    rest = sorted(value for name, value in merges.items() if name != "moda")
    assert says(f"Merging takes {merges['moda']:.0f} s for `moda` (training its router), and at most {rest[-1]:.0f} s")


def test_what_is_said_of_trm() -> None:
    page = " ".join(text_of("docs/trm.md").split())
    rows = {row.variant: row for row in ablations.read(REFERENCE / "trm-ablation.csv")}
    default, midpoint, coma, four = (rows[name] for name in ("default", "midpoint", "`coma`", "K = 4"))
    assert (default.last, default.ff) == pytest.approx((figure("trm"), figure("trm", "ff")))
    assert (coma.last, coma.ff) == pytest.approx((figure("coma"), figure("coma", "ff")))
    assert f"the default scores {default.last:.3f} instead of {midpoint.last:.3f}" in page
    assert f"forgets {default.ff:.3f} instead of {midpoint.ff:.3f}" in page
    assert f"`coma`**, which scores {coma.last:.3f}, forgets {coma.ff:.3f}" in page
    assert default.last < coma.last
    assert f"**`K = 4` scores most, {four.last:.3f}, and forgets {four.ff:.3f}.**" in page
    assert four.last == max(row.last for row in rows.values())
    assert four.last - four.last_std > coma.last
    assert 1.5 < four.ff / coma.ff < 2
    assert rows["no alignment"].last < figure("frozen")
    assert f"the regulariser, without which it forgets {rows['no trajectory regulariser'].ff:.3f}" in page
    kept, shared = (rows[name].last for name in ("the served adapter trained on", "one row for all layers"))
    assert f"training it scores {kept:.3f}, with one row for all layers {shared:.3f}" in page
    ranges, free = rows["divided by ranges"], rows["no consistency"]
    assert f"Dividing by ranges makes it forget {ranges.ff:.3f}, and depends much on the seed" in page
    assert ranges.last_std == max(row.last_std for row in rows.values())
    assert f"without it Last is {free.last:.3f} and FF {free.ff:.3f} instead of {default.ff:.3f}" in page
    assert free.last - default.last < default.last_std
    steady = [rows[name] for name in ("responsiveness", "other prompts")]
    assert f"prompts change nothing:** {steady[0].last:.3f} and {steady[1].last:.3f}" in page
    assert all(abs(row.last - default.last) < 0.002 for row in steady)
    assert {row.seeds for row in rows.values()} == {3}


def test_what_is_said_of_lengths() -> None:
    page = " ".join(text_of("docs/methods.md").split())
    rows = {row["method"]: row for row in rows_of("scales-mini")}
    lengths = [name for name in rows["opcm"] if name.startswith("last_at_")]
    at = {name: {length: float(row[length]) for length in lengths} for name, row in rows.items()}
    best = {name: max(values.values()) for name, values in at.items()}
    assert {(row["protocol"], row["version"], row["runs"]) for row in rows.values()} == {("mini", "2", "3")}
    assert "On `mini` (version 2), means of Last over seeds 0, 1 and 2 at each length" in page
    own = {name: values["last_at_1"] for name, values in at.items()}
    free = ("opcm", "ties", "average")
    assert max(free, key=own.__getitem__) == "opcm"
    assert f"`opcm` leads at its own length with {own['opcm']:.3f}".replace("0.", ".") in page
    assert f"`average` has {own['average']:.3f}".replace("0.", ".") in page
    assert at["average"]["last_at_2"] == best["average"]
    said = f"`average` scores {best['average']:.3f}, and `opcm` at its best {best['opcm']:.3f}"
    assert said.replace("0.", ".") in page
    assert best["opcm"] - best["average"] < (own["opcm"] - own["average"]) / 2
    for name in ("regmean", "regcl"):
        assert at[name]["last_at_1.4"] == best[name] > max(best[other] for other in free)
        assert float(rows[name]["last_current"]) == pytest.approx(best[name])
    for name in ("ties", "opcm"):
        assert float(rows[name]["last_current"]) < own[name] - 0.01


def test_what_is_said_of_lengths_on_real_images() -> None:
    page = " ".join(text_of("docs/methods.md").split())
    rows = {row["method"]: row for row in rows_of("scales-open")}
    assert {(row["protocol"], row["runs"], row["differs"]) for row in rows.values()} == {("open-pairs", "1", "")}

    def last(method: str, column: str) -> float:
        return float(rows[method][column])

    lengths = [name for name in rows["opcm"] if name.startswith("last_at_")]
    best = {name: max(lengths, key=lambda length, name=name: last(name, length)) for name in rows}  # type: ignore[misc]
    assert best["average"] == "last_at_2"
    own = last("opcm", "last_at_1") - last("average", "last_at_1")
    rest = last("opcm", best["opcm"]) - last("average", best["average"])
    said = f"`opcm` is {own:.3f} ahead of `average`; at the best length of each, `average`'s again twice its own,"
    assert f"{said} {rest:.3f}".replace("0.", ".") in page
    assert 0.6 < 1 - rest / own < 0.72
    gains = {name: last(name, "last_seen") - last(name, "last_at_1") for name in rows}
    said = f"`average` would gain {gains['average']:.3f}, and `opcm` {gains['opcm']:.3f}"
    assert said.replace("0.", ".") in page
    for name in rows:
        assert float(rows[name]["scale_current"]) == 0.25
        assert last(name, "last_current") < last(name, "last_at_1") - 0.05


def test_what_is_said_of_ridges_on_real_images() -> None:
    page = " ".join(text_of("docs/methods.md").split())
    rows = {row.variant: row for row in ablations.read(REFERENCE / "ridge-open.csv")}
    change = abs(rows["`regcl`, 1e-6, the default"].last - rows["`regcl`, 1e-2 to the mean"].last)
    assert f"the ridge to the mean changes Last by {change:.3f}" in page
    inverse = rows["`regcl`, none, float32 inverse"]
    gain = inverse.last - rows["`regcl`, 1e-6, the default"].last
    assert f"scores {gain:.3f} more than the default, at condition numbers of up to 1e13" in page
    assert round(math.log10(inverse.condition_number)) == 13
    assert {(row.protocol, row.seeds) for row in rows.values()} == {("open-pairs (version 1)", 1)}
    measured = {row["method"]: float(row["last"]) for row in rows_of("open")}
    for name in ("regcl", "regmean"):
        assert rows[f"`{name}`, 1e-6, the default"].last == pytest.approx(measured[name])


def test_what_is_said_of_ridges_on_mini() -> None:
    page = " ".join(text_of("docs/methods.md").split())
    rows = {row.variant: row for row in ablations.read(REFERENCE / "ridge-mini.csv")}
    regcl, regmean = (
        {name.partition(", ")[2]: row for name, row in rows.items() if name.startswith(one)}
        for one in ("`regcl`", "`regmean`")
    )
    for kind in (regcl, regmean):
        assert all(abs(kind[ridge].last - kind[f"{ridge} to the mean"].last) < 0.001 for ridge in ("1e-3", "1e-2"))
        assert kind["1e-1 to the mean"].last == min(row.last for name, row in kind.items() if "inverse" not in name)
    default, stronger, inverse = (
        regcl[name] for name in ("1e-6, the default", "1e-2 to the mean", "none, float32 inverse")
    )
    assert f"{stronger.last:.3f}" == f"{default.last:.3f}"
    said = f"1e-2 to the mean leaves `regcl`'s Last at {default.last:.3f} and moves its retention from"
    assert f"{said} {default.retention:.3f} to {stronger.retention:.3f}, less than seeds differ" in page
    assert stronger.retention - default.retention < default.retention_std
    assert f"costs `regcl` {default.last - inverse.last:.3f} of Last" in page
    assert f"of up to {inverse.condition_number:.1e}" in page
    assert f"at most {regmean['none, float32 inverse'].condition_number:.1e}, nothing" in page
    assert regmean["none, float32 inverse"].last == pytest.approx(regmean["1e-6, the default"].last, abs=1e-5)
    assert default.last == pytest.approx(figure("regcl"))


@pytest.mark.parametrize(("page", "name"), [("methods", "ridge-mini"), ("trm", "trm-ablation")])
def test_a_table_of_variants_is_of_the_version_that_its_page_names(page: str, name: str) -> None:
    text = " ".join(text_of(f"docs/{page}.md").split())
    with (REFERENCE / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        (protocol,) = {row["protocol"] for row in csv.DictReader(file)}
    assert f"results/reference/{name}.csv`" in text
    assert re.sub(r"^\w+", r"`\g<0>`", protocol) in text
