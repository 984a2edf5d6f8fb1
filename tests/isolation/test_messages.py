"""What a message may say, as far as nobody but the harness writes one."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from cosam_bench.isolation.messages import BadMessage, Message
from cosam_bench.method.cost_meter import MOST_FIGURE_NAME, MOST_FIGURES, Meter


def test_figures_that_a_method_may_report_are_sent_as_they_are() -> None:
    meter = Meter()
    for value in (1, True, 2.5, numpy.float32(0.25), torch.tensor(3.0), torch.tensor([-1])):
        meter.report(f"{value!r}"[:MOST_FIGURE_NAME], value)  # type: ignore[arg-type]
    sent = json.loads(json.dumps({"reported": meter.reported}))
    assert Message("learned", sent).figures("reported") == meter.reported
    assert list(meter.reported.values()) == [1.0, 1.0, 2.5, 0.25, 3.0, -1.0]
    assert {type(value) for value in meter.reported.values()} == {float}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first\nsecond", 1.0, "printable text without line breaks"),
        ("red\x1b[31m", 1.0, "printable text without line breaks"),
        ("x" * (MOST_FIGURE_NAME + 1), 1.0, f"at most {MOST_FIGURE_NAME} characters"),
        ("condition", "1.0", "a float can hold, not this str"),
        ("condition", None, "a float can hold, not this NoneType"),
        ("condition", [1.0], "a float can hold, not this list"),
        ("condition", 10**400, "a float can hold, not this int"),
    ],
)
def test_reporting_a_figure_and_reading_it_in_a_message_have_one_rule(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Meter().report(name, value)
    with pytest.raises(BadMessage, match=message):
        Message("learned", {"reported": {name: value}}).figures("reported")


def test_a_message_has_neither_too_many_figures_nor_infinite_ones() -> None:
    for table in ({f"{number}": 1.0 for number in range(MOST_FIGURES + 1)}, {"condition": float("inf")}, [1.0]):
        with pytest.raises(BadMessage, match=r"^'reported' in its message 'learned' "):
            Message("learned", {"reported": table}).figures("reported")
