"""The ranges in which settings are tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from cosam_bench.core.errors import CosamError
from cosam_bench.core.search_ranges import SearchRange, is_whole, range_from, search_range, search_ranges
from cosam_bench.core.settings import Settings, setting
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.method.registry import method_names
from cosam_bench.method.source_reading import describe
from cosam_bench.tuning.space import check_methods, read_ranges, space_of


class Many(Settings):
    """Settings of every kind."""

    share: float = setting(0.5, "in two bounds", gt=0, le=1)
    count: int = setting(3, "whole, in two bounds", gt=0, lt=10)
    is_on: bool = setting(True, "a truth value")
    rule: Literal["sum", "mean"] = setting("sum", "a choice")
    only: Literal["one"] = setting("one", "no choice")
    ridge: float = setting(1e-6, "declared", search=(1e-9, 1.0, "log"), ge=0)
    rank: int | None = setting(None, "declared, or none", search=(1, 64), ge=1)
    scale: Annotated[float, Field(gt=0)] | Literal["1/t"] = setting(0.3, "or a word", search=(0.1, 2.0))
    memory: int = setting(10, "a budget", search=None, ge=1, le=100)
    length: float = setting(1.0, "without an upper bound", gt=0)
    factor: float = setting(1.0, "declared by whole numbers", search=(0, 10))
    steps: int = setting(1, "declared by fractions", search=(1.0, 10.0))
    start: Literal["zero", "mean", None] = setting("zero", "a choice, or none")
    end: Literal["zero", None] = setting("zero", "one choice, or none")


def test_ranges_follow_from_types_and_bounds_unless_they_are_declared() -> None:
    assert search_ranges(Many) == {
        "share": SearchRange(low=0.01, high=1),
        "count": SearchRange(low=1, high=9, is_whole=True),
        "is_on": SearchRange(choices=(False, True)),
        "rule": SearchRange(choices=("sum", "mean")),
        "ridge": SearchRange(low=1e-9, high=1.0, is_log=True),
        "rank": SearchRange(low=1, high=64, is_whole=True),
        "scale": SearchRange(low=0.1, high=2.0),
        "factor": SearchRange(low=0, high=10),
        "steps": SearchRange(low=1.0, high=10.0, is_whole=True),
        "start": SearchRange(choices=("zero", "mean")),
    }


def test_a_range_is_the_same_after_it_was_sent_as_a_message() -> None:
    for found in search_ranges(Many).values():
        assert range_from(json.loads(json.dumps(found.as_table()))) == found


def test_the_table_of_a_range_says_only_what_does_not_follow_from_its_ends() -> None:
    assert SearchRange(low=1, high=9, is_whole=True).as_table() == {"low": 1, "high": 9, "log": False}
    assert SearchRange(low=1, high=9).as_table() == {"low": 1, "high": 9, "log": False, "whole": False}


@pytest.mark.parametrize(
    ("value", "is_in"), [(0.1, True), (1, True), (0, False), (True, False), ("0.1", False), (None, False)]
)
def test_a_range_of_numbers_holds_numbers(value: object, is_in: bool) -> None:
    assert (value in SearchRange(low=0.1, high=1.0)) is is_in


def test_a_choice_is_of_its_own_type() -> None:
    assert True in SearchRange(choices=(False, True))
    assert 1 not in SearchRange(choices=(False, True))


def test_every_number_of_a_built_in_method_has_a_range_or_says_that_it_has_none() -> None:
    for name in method_names():
        for key, field in describe(name).settings.model_fields.items():
            found, extra = search_range(field), field.json_schema_extra
            assert found is not None or (isinstance(extra, dict) and extra.get("search", 0) is None), (name, key)
            default = field.get_default()
            if found is not None and default is not None:
                assert default in found, (name, key)
            assert found is None or not found.is_whole or is_whole(field), (name, key)


@pytest.mark.parametrize("name", [name for name in method_names() if describe(name).settings.model_fields])
def test_both_ends_of_each_range_are_allowed(name: str) -> None:
    settings = describe(name).settings
    for key, found in search_ranges(settings).items():
        for value in found.choices or (found.low, found.high):
            assert getattr(settings.model_validate({key: value}), key) == value


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "write choices"),
        ({"choices": []}, "at least one"),
        ({"low": 1}, "it has the keys low"),
        ({"low": 1, "high": "2"}, "must be numbers"),
        ({"low": 1, "high": float("inf")}, "must be numbers"),
        ({"low": 2, "high": 1}, "low = 2 must be below high = 1"),
        ({"low": 0, "high": 1, "log": True}, "above 0 for log"),
        ({"low": 0, "high": 1, "whole": 1}, "whole must be true or false"),
    ],
)
def test_what_is_no_range_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        range_from(table)
    with pytest.raises(CosamError, match=rf"The range of ties\.density: .*{message}"):
        space_of(resolve_run(method="ties"), isolated=False, ranges={"ties": {"density": table}})


def test_a_users_range_replaces_the_declared_one_and_a_given_value_is_not_tuned() -> None:
    config = resolve_run(method="regcl", overrides=("method.ridge=0.1",))
    ranges = {"regcl": {"scale": {"low": 0.5, "high": 1.0}, "solver": {"choices": ["float64"]}}}
    assert space_of(config, isolated=False, ranges=ranges, fixed={"ridge"}) == {
        "scale": SearchRange(low=0.5, high=1.0),
        "space": SearchRange(choices=("factors", "product")),
        "ridge_to": SearchRange(choices=("zero", "mean")),
        "solver": SearchRange(choices=("float64",)),
    }
    with pytest.raises(CosamError, match=r"method\.ridge has a given value and a range"):
        space_of(config, isolated=False, ranges={"regcl": {"ridge": {"low": 0.1, "high": 1.0}}}, fixed={"ridge"})
    with pytest.raises(CosamError, match=r"No setting of 'regcl' is called 'rigde'\. Did you mean 'ridge'"):
        space_of(config, isolated=False, ranges={"regcl": {"rigde": {"low": 0.1, "high": 1.0}}})
    with pytest.raises(CosamError, match=r"'scale' is -1\.0: input should be greater than 0"):
        space_of(config, isolated=False, ranges={"regcl": {"scale": {"low": -1.0, "high": 1.0}}})
    with pytest.raises(CosamError, match=r"No method that is tuned.* is called 'opcn'\. Did you mean 'opcm'"):
        check_methods({"opcn": {}}, ["opcm", "ties"])


def test_a_file_of_ranges_has_tables(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text("[ties.density]\nlow = 0.1\nhigh = 0.5\n")
    assert read_ranges(file) == {"ties": {"density": {"low": 0.1, "high": 0.5}}}
    file.write_text("trials = 3\n")
    with pytest.raises(CosamError, match="'trials' is not a table"):
        read_ranges(file)


def test_a_method_without_settings_has_nothing_to_tune() -> None:
    assert space_of(resolve_run(method="frozen"), isolated=False) == {}


ODD = '''
from typing import Literal

from cosam_bench import MergingMethod, MethodCard, Settings, setting


class OddSettings(Settings):
    """Ranges whose ends do not say whether numbers are whole."""

    scale: float = setting(1.0, "any number", source="here", search=(0, 10))
    count: int = setting(1, "a whole number", source="here", search=(1.0, 10.0))
    start: Literal["zero", "mean", None] = setting("zero", "may be none", source="here")


class Odd(MergingMethod[OddSettings]):
    card = MethodCard(title="Odd")

    def merge(self, expert, domain, *, step):
        return expert
'''


def test_an_isolated_method_has_the_ranges_that_it_has_in_this_process(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(ODD)
    config = resolve_run(method=str(file))
    expected = {
        "scale": SearchRange(low=0, high=10),
        "count": SearchRange(low=1.0, high=10.0, is_whole=True),
        "start": SearchRange(choices=("zero", "mean")),
    }
    assert space_of(config, isolated=False) == expected
    assert space_of(config, isolated=True) == expected
