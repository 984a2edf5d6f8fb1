"""Arguments that are checked by the types in a signature: what is taken, and how the rest is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

from cosam_bench.core.argument_checks import checked_arguments, found_value
from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from elsewhere import Unknown

Named = "str | Path"


@checked_arguments(several="a name or a list of names")
def function(
    name: str = "",
    *,
    count: int | None = None,
    share: float = 0.5,
    flag: bool = False,
    place: Named = "",  # type: ignore[valid-type]
    several: str | Sequence[str] = (),
    orders: int | Sequence[str | Sequence[str]] = 1,
    numbers: Sequence[int] = (),
    table: Mapping[str, Mapping[str, Any]] | None = None,
    kind: Literal["a", "b"] = "a",
    base: type[Exception] = Exception,
    other: Unknown | None = None,
    fault: CosamError | None = None,
) -> dict[str, object]:
    """All that it was given."""
    return dict(locals())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": np.int64(3)}, 3),
        ({"share": np.float32(0.5)}, 0.5),
        ({"share": 1}, 1.0),
        ({"flag": np.True_}, True),
        ({"place": Path("x")}, Path("x")),
        ({"several": "pill"}, "pill"),
        ({"several": (name for name in ("a", "b"))}, ["a", "b"]),
        ({"several": np.array(["a", "b"])}, ["a", "b"]),
        ({"orders": ["stream", ("a", "b")]}, ["stream", ["a", "b"]]),
        ({"numbers": range(2)}, [0, 1]),
        ({"numbers": np.arange(2)}, [0, 1]),
        ({"table": {"a": {"b": 1}}}, {"a": {"b": 1}}),
        ({"other": 3}, 3),
        ({"fault": None}, None),
    ],
)
def test_values_of_these_types_are_taken(given: dict[str, Any], expected: object) -> None:
    (name,) = given
    found = function(**given)[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": None}, "name is None. Give text."),
        ({"fault": 3}, "fault is 3. Give a value of type CosamError or None."),
        ({"name": Path("x")}, f"name is {Path('x')!r}. Give text."),
        ({"count": "3"}, "count is '3'. Give a whole number or None."),
        ({"count": True}, "count is True. Give a whole number or None."),
        ({"count": 1.0}, "count is 1.0. Give a whole number or None."),
        ({"count": torch.tensor([1])}, "count is of type Tensor. Give a whole number or None."),
        ({"count": 10**5000}, "count is of type int. Give a whole number or None."),
        ({"share": "0.9"}, "share is '0.9'. Give a number."),
        ({"share": False}, "share is False. Give a number."),
        ({"share": np.True_}, "share is True. Give a number."),
        ({"share": 10**400}, "share is "),
        ({"flag": 1}, "flag is 1. Give True or False."),
        ({"flag": "no"}, "flag is 'no'. Give True or False."),
        ({"place": b"x"}, "place is b'x'. Give text or a path."),
        ({"several": ["a", 3]}, "several is ['a', 3]. Give a name or a list of names."),
        ({"several": {"a"}}, "several is {'a'}. Give a name"),
        ({"several": {"a": 1}}, "several is {'a': 1}. Give a name"),
        ({"orders": [["a", 3]]}, "orders is [['a', 3]]. Give a whole number or a list of texts or lists of texts."),
        ({"numbers": "12"}, "numbers is '12'. Give a list of whole numbers."),
        ({"numbers": np.zeros(40)}, "numbers is of type ndarray and shape (40,). Give a list of whole numbers."),
        ({"table": {"a": 3}}, "table is {'a': 3}. Give a dictionary or None."),
        ({"table": {3: {}}}, "table is {3: {}}. Give a dictionary or None."),
        ({"kind": 3}, "kind is 3. Give text."),
        ({"base": "Exception"}, "base is 'Exception'. Give a class."),
    ],
)
def test_others_are_refused_with_what_was_found_and_what_to_give(given: dict[str, Any], said: str) -> None:
    with pytest.raises(CosamError) as caught:
        function(**given)
    assert str(caught.value).startswith(said)


def test_the_signature_and_the_words_stay() -> None:
    assert str(inspect.signature(function)).startswith("(name: 'str' = '', *, count: 'int | None' = None")
    assert (function.__name__, function.__doc__) == ("function", "All that it was given.")
    with pytest.raises(TypeError, match=r"function\(\) got an unexpected keyword argument 'cuont'"):
        function(cuont=3)  # type: ignore[call-arg]


def test_a_value_that_cannot_be_written_is_named_by_its_type() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert found_value(Broken()) == "of type Broken"
    assert "Broken" in found_value([Broken()])
