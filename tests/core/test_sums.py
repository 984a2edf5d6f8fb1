"""The sum whose bits do not depend on the version of Python."""

from __future__ import annotations

import math
import operator
import sys
from functools import reduce

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cosam_bench.core.sums import plain_sum
from cosam_bench.evaluation.scoring import ImageScore, domain_means

FLOATS = st.lists(st.floats(-1e6, 1e6), max_size=60)


@given(FLOATS)
@example([0.1] * 10)
def test_each_addition_is_rounded_from_left_to_right(values: list[float]) -> None:
    assert plain_sum(values) == reduce(operator.add, values, 0.0)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the built-in sum compensates from Python 3.12 on")
@given(FLOATS)
def test_it_is_the_sum_of_python_3_11(values: list[float]) -> None:
    assert plain_sum(values).hex() == float(sum(values)).hex()


def test_it_differs_from_the_exact_sum_where_a_compensated_one_does_not() -> None:
    assert plain_sum([0.1] * 10) == 0.9999999999999999
    assert math.fsum([0.1] * 10) == 1.0


def test_a_records_mean_is_formed_by_it() -> None:
    scores = [ImageScore(str(place), {"iou": 0.1}) for place in range(10)]
    assert domain_means(scores) == {"iou": 0.9999999999999999 / 10}
