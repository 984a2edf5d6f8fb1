"""The method keeps the harness's contract, and its rule does what its formula says."""

from __future__ import annotations

import torch
from cosam_bench_ema import Ema, blend

from cosam_bench import LowRank, Update, check_method


def test_it_keeps_the_contract() -> None:
    check_method(Ema, settings={"weight": 0.25})


def test_a_quarter_of_the_way() -> None:
    old = Update({"layer": LowRank(torch.zeros(1, 2), torch.ones(3, 1))}, {"bias": torch.full((3,), 4.0)})
    new = Update({"layer": LowRank(torch.ones(1, 2), torch.ones(3, 1))}, {"bias": torch.full((3,), 8.0)})
    blended = blend(old, new, weight=0.25)
    torch.testing.assert_close(blended.low_rank["layer"].a, torch.full((1, 2), 0.25))
    torch.testing.assert_close(blended.low_rank["layer"].b, torch.ones(3, 1))
    torch.testing.assert_close(blended.dense["bias"], torch.full((3,), 5.0))
