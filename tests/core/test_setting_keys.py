"""Each key of each settings model says what it means and where its default comes from."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import PlainValidator

from cosam_bench.core.setting_keys import REQUIRED, SettingKey, setting_keys
from cosam_bench.core.settings import Settings, setting
from cosam_bench.experiments.protocol import Protocol, RunConfig
from cosam_bench.method.registry import load_method, method_names


class Inner(Settings):
    rank: int = setting(4, "how many", source="a paper", ge=1)


class Outer(Settings):
    seed: int = setting(..., "where it starts")
    share: float = setting(0.5, "how much", source="a guess", gt=0, le=1)
    size: Annotated[int | Literal["auto"], PlainValidator(lambda value: value)] = setting(8, "at once", source="ours")
    inner: Inner = setting(Inner(), "a table")
    perhaps: Inner | None = setting(None, "a table that may be left out", source="ours")


def test_keys_are_listed_in_order_with_those_of_their_tables() -> None:
    assert list(setting_keys(Outer, prefix="x.")) == [
        SettingKey("x.seed", "int", REQUIRED, "where it starts", ""),
        SettingKey("x.share", "float > 0 <= 1", "0.5", "how much", "a guess", "0.01 to 1"),
        SettingKey("x.size", "int or auto", "8", "at once", "ours"),
        SettingKey("x.inner.rank", "int >= 1", "4", "how many", "a paper"),
        SettingKey("x.perhaps", "table or none", "none", "a table that may be left out", "ours"),
        SettingKey("x.perhaps.rank", "int >= 1", "4", "how many", "a paper"),
    ]


def without_meaning_or_source(model: type[Settings]) -> list[str]:
    return [key.name for key in setting_keys(model) if not key.meaning or (not key.source and key.default != REQUIRED)]


def test_a_key_without_a_meaning_or_a_source_is_found() -> None:
    class Bare(Settings):
        plain: int = 3
        sourceless: int = setting(3, "how many")
        complete: int = setting(3, "how many", source="a paper")

    assert without_meaning_or_source(Bare) == ["plain", "sourceless"]


@pytest.mark.parametrize("model", [Protocol, RunConfig])
def test_each_key_of_a_run_has_a_meaning_and_a_source(model: type[Settings]) -> None:
    assert without_meaning_or_source(model) == []


@pytest.mark.parametrize("name", method_names())
def test_each_setting_of_a_method_has_a_meaning_and_a_source(name: str) -> None:
    assert without_meaning_or_source(load_method(name).Settings) == []
