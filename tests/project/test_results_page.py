"""docs/results.md says of results/reference/mini.csv what is in it: every row, and each sentence that compares rows."""

from __future__ import annotations

import re

import pytest

from cosam_bench.core.setting_keys import setting_keys
from cosam_bench.method.source_reading import describe
from tools.write_results import label, rows_of

ROWS = rows_of("mini")
NUMBERS = {
    label(row): {name: float(text) for name, text in row.items() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text)}
    for row in ROWS
}
LAST = {name: numbers["last"] for name, numbers in NUMBERS.items()}
BOUNDS = {"`experts`", "`joint`"}
STORES_IMAGES = {"`moda`", "`er`"}


def test_every_row_is_of_three_seeds_and_one_order_under_the_same_conditions() -> None:
    assert {(row["runs"], row["seeds"], row["orders"], row["metric"]) for row in ROWS} == {("3", "3", "1", "iou")}
    assert len({row["conditions"] for row in ROWS}) == 1


def test_only_one_default_was_chosen_on_this_protocol() -> None:
    keys = [key for row in ROWS for key in setting_keys(describe(row["method"]).settings, prefix=f"{row['method']}.")]
    assert len(keys) > 50
    assert {key.name for key in keys if "mini" in key.source.replace("minimum", "")} == {"ewc.strength"}


def test_what_is_said_of_the_bounds() -> None:
    experts, joint, moda, frozen = (NUMBERS[f"`{name}`"] for name in ("experts", "joint", "moda", "frozen"))
    assert f"{experts['last'] - frozen['last']:.3f}" == "0.168"
    assert experts["last"] - joint["last"] < min(experts["last_std"], joint["last_std"])
    assert f"{experts['last'] - moda['last']:.3f}" == "0.003"
    assert moda["encoder_passes"] == 2
    ordered = [name for name in LAST if name not in BOUNDS]
    assert ordered[:2] == ["`moda`", "`er`"]
    assert f"{(NUMBERS['`er`']['last'] - frozen['last']) / (experts['last'] - frozen['last']):.0%}" == "62%"


def test_what_is_said_of_methods_without_images() -> None:
    rest = [name for name in LAST if name not in BOUNDS | STORES_IMAGES]
    assert rest[:7] == ["`ewc`", "`regmean`", "`coma`", "`trm`", "`regcl`, product", "`regcl`", "`lorm`"]
    assert LAST["`ewc`"] - LAST["`regmean`"] < NUMBERS["`ewc`"]["last_std"]
    span = LAST["`regmean`"] - LAST["`lorm`"]
    assert f"{span:.3f}" == "0.014"
    assert all(LAST[name] > LAST["`average`"] for name in rest[:7])
    assert f"{LAST['`regcl`'] - LAST['`average`']:.3f}" == "0.034"


def test_what_is_said_of_methods_below_frozen_sam() -> None:
    below = [name for name in LAST if LAST[name] < LAST["`frozen`"]]
    assert len(below) == 12
    assert {"`finetune`", "`opcm`", "`ties`", "`task_arithmetic`", "`dare`"} <= set(below)
    near = [name for name in below if LAST["`frozen`"] - LAST[name] < NUMBERS[name]["last_std"]]
    assert near == ["`finetune`", "`lwf`", "`perturb_merge`"]
    assert min(LAST, key=LAST.__getitem__) == "`continual_ties`"


def test_what_is_said_of_forgetting_and_plasticity() -> None:
    forgets = {name: numbers["ff"] for name, numbers in NUMBERS.items() if "ff" in numbers}
    loses = {name: numbers["plasticity"] for name, numbers in NUMBERS.items() if "plasticity" in numbers}
    low = sorted(name for name, value in forgets.items() if value < 0.01)
    assert low == ["`experts`", "`fisher`", "`frozen`", "`moda`", "`nullfilter`"]
    assert [f"{loses[name]:.3f}" for name in ("`fisher`", "`frozen`", "`nullfilter`")] == ["0.142", "0.168", "0.188"]
    assert (f"{loses['`finetune`']:.3f}", f"{forgets['`finetune`']:.3f}") == ("0.011", "0.182")


def test_what_is_said_of_transfer_and_retention() -> None:
    changed = {name: numbers for name, numbers in NUMBERS.items() if name not in BOUNDS | {"`frozen`"}}
    assert all(numbers["fwt"] < 0 for numbers in changed.values())
    frozen = NUMBERS["`frozen`"]["retention"]
    assert [name for name, numbers in changed.items() if numbers["retention"] > frozen] == ["`lorm`"]
    assert NUMBERS["`lorm`"]["retention"] - frozen < NUMBERS["`frozen`"]["retention_std"]


def test_what_is_said_of_scatter() -> None:
    deviations = {name: numbers["last_std"] for name, numbers in NUMBERS.items()}
    wide = {name for name, deviation in deviations.items() if deviation > 0.02}
    assert wide == {"`became`", "`finetune`", "`lwf`", "`perturb_merge`"}
    assert max(deviation for name, deviation in deviations.items() if name not in wide) == pytest.approx(
        0.0164, abs=1e-4
    )


def test_what_is_said_of_costs() -> None:
    states = {name: numbers["state_kib"] for name, numbers in NUMBERS.items() if name != "`frozen`"}
    assert min(states, key=states.__getitem__) == "`l2p`"
    assert max(states, key=states.__getitem__) == "`moda`"
    merges = {name: numbers["merge_seconds"] for name, numbers in NUMBERS.items()}
    assert round(merges["`moda`"]) == 72
    assert all(value < 20 for name, value in merges.items() if name != "`moda`")
