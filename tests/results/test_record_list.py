"""What tells records of one method apart."""

from __future__ import annotations

from pathlib import Path

from support.records import run_info

from cosam_bench.results.record_list import list_records
from cosam_bench.results.records import Record


def made(name: str, **changes: object) -> Record:
    return Record(Path("results") / "mini" / name, run_info(**changes))


def config(*, seed: int = 3, ridge: float = 1e-3, epochs: int = 2) -> dict[str, object]:
    return {"seed": seed, "method": "regcl", "settings": {"ridge": ridge}, "protocol": {"fit": {"epochs": epochs}}}


def test_only_settings_that_differ_within_a_method_are_listed() -> None:
    records = [
        made("regcl/aa", config=config()),
        made("regcl/bb", config=config(seed=4, ridge=0.5), seed=4, order=("camo", "pill"), status="failed"),
        made("opcm/cc", method="opcm", config=config(epochs=9)),
    ]
    first, second, third = list_records(records)
    assert [one.name for one in (first, second, third)] == ["mini/regcl/aa", "mini/regcl/bb", "mini/opcm/cc"]
    assert (first.settings, second.settings, third.settings) == ({"method.ridge": 1e-3}, {"method.ridge": 0.5}, {})
    assert (second.seed, second.order, second.status) == (4, ("camo", "pill"), "failed")
    assert third.settings_text == "-"


def test_a_protocols_setting_is_listed_as_set_takes_it_and_a_missing_one_as_none() -> None:
    without = config()
    del without["protocol"]
    listed = list_records([made("regcl/aa", config=config(epochs=5)), made("regcl/bb", config=without)])
    assert [one.settings_text for one in listed] == ["fit.epochs=5", "fit.epochs=None"]


def test_a_key_that_is_newer_than_a_record_is_no_difference() -> None:
    older, newer, other = config(), config(), config()
    written = {"fit": {"epochs": 2}, "prompts": {"grid": 8}, "foreground": {"values": []}}
    newer |= {"also_prompts": [], "protocol": written}
    other |= {"also_prompts": ["image"], "protocol": {"fit": {"epochs": 2}, "prompts": {"grid": 9}}}
    listed = list_records([made("regcl/aa", config=older), made("regcl/bb", config=newer)])
    assert [one.settings_text for one in listed] == ["-", "-"]
    listed = list_records([made("regcl/aa", config=older), made("regcl/bb", config=other)])
    assert listed[1].settings == {"also_prompts": ["image"], "prompts.grid": 9}


def test_the_code_is_told_where_that_of_a_method_differs() -> None:
    records = [
        made("regcl/aa", config=config(), rule="82eae6f5"),
        made("regcl/bb", config=config(ridge=0.5), rule="428dc7b1"),
        made("regcl/cc", config=config(), rule=""),
        made("opcm/dd", method="opcm", config=config(), rule="428dc7b1"),
    ]
    assert [one.settings_text for one in list_records(records)] == [
        "method.ridge=0.001, code 82eae6",
        "method.ridge=0.5, code 428dc7",
        "method.ridge=0.001, code not recorded",
        "-",
    ]


def test_no_records_make_an_empty_list() -> None:
    assert list_records([]) == []
