"""The limits' cost model: torch's own count of operations, and numbers that are read and written, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import limits, subjects
from benchmarks.limits import Cost, Machine, counted

LAST = subjects.ADAPTER.model_copy(update={"blocks": (3, 4, 5)})


@pytest.mark.parametrize("is_lean", [False, True])
def test_an_encoder_costs_what_torch_counts_with_either_attention(is_lean: bool) -> None:
    sam, other = (subjects.model(is_lean=lean, name="tiny") for lean in (is_lean, False))
    image = subjects.image(sam.image_size)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            other.image_encoder(image)
        assert counted(lambda: sam.image_encoder(image)).flops == counter.get_total_flops() > 1e8


def test_the_parts_add_up_to_the_encoder_and_a_step_runs_the_last_ones_forward_and_back() -> None:
    stock = subjects.model(is_lean=False, name="tiny")
    whole, prefix, suffix, decoder, step = limits.stage_costs(stock, LAST).values()
    with torch.inference_mode():
        assert whole == counted(lambda: stock.image_encoder(subjects.image(stock.image_size)))
    assert whole == Cost(prefix.flops + suffix.flops, prefix.numbers + suffix.numbers)
    assert decoder.flops > 0
    # forward once; backward again once for each layer's input and twice for attention, and the adapters are small
    assert 2 * (suffix.flops + decoder.flops) < step.flops < 2.8 * (suffix.flops + decoder.flops)


def test_a_product_that_is_added_in_place_counts() -> None:
    one, other, target = torch.zeros(2, 3), torch.zeros(3, 5), torch.zeros(2, 5)
    assert counted(lambda: target.addmm_(one, other)) == Cost(2 * 2 * 3 * 5, 6 + 15 + 10 + 10)


@pytest.mark.parametrize(
    ("work", "cost"),
    [
        # 4 tokens of 3 to 5 numbers, with a bias of 5
        (lambda: nn.Linear(3, 5)(torch.zeros(4, 3)), Cost(2 * 4 * 3 * 5, 4 * 3 + 3 * 5 + 5 + 4 * 5)),
        # 3 x 3 windows of a padded 4 x 4 map, 2 channels to 6
        (lambda: nn.Conv2d(2, 6, 3, padding=1, bias=False)(torch.zeros(1, 2, 4, 4)), Cost(3456, 32 + 108 + 96)),
        (lambda: torch.zeros(2, 4, 3) @ torch.zeros(2, 3, 4), Cost(2 * 2 * 4 * 3 * 4, 0)),  # as in attention
        (lambda: nn.functional.gelu(torch.zeros(7)), Cost(0, 0)),
    ],
)
def test_numbers_are_each_layers_operands_and_results_once(work: Callable[[], object], cost: Cost) -> None:
    assert counted(work) == cost


def test_merges_by_hand() -> None:
    # 2 x 3 from rank 1: 12 operations, 2 + 3 + 6 numbers; then 6 numbers of two operands each
    assert limits.average_cost([(2, 3)] * 4, rank=1) == Cost(4 * 12, 4 * (11 + 18))
    assert limits.regression_cost(2, 3) == Cost(9 + 36, 18 + 12)


def test_limits_are_rates_and_the_slower_of_products_and_traffic_is_the_least() -> None:
    machine = limits.measured(dtypes=(torch.float32,), side=64, megabytes=1, repeats=2)
    assert machine.flops[torch.float32] > 1e6
    assert machine.bytes_per_second > 1e6
    known = Machine({torch.float32: 100.0, torch.float64: 100.0}, 8.0)
    assert limits.against(known, "a", Cost(50, 0), 2.0, torch.float32).share == 0.25
    assert limits.against(known, "a", Cost(50, 2), 2.0, torch.float32).share == 0.5  # 8 bytes in a second of two
    assert known.least(Cost(50, 2), torch.float64) == 2.0


def test_every_stage_has_a_limit() -> None:
    types = (torch.float32, torch.bfloat16, torch.float64)
    machine = Machine(dict.fromkeys(types, 1e15), 1e15)  # a machine that leaves any stage far behind
    found = list(limits.figures("tiny", adapter=LAST, machine=machine))
    assert [figure.stage for figure in found[:9]] == [
        *(f"limit of products, {name}" for name in ("fp32", "bf16", "fp64")),
        "limit of copies",
        "encoder, 6 blocks, fp32",
        "prefix, 3 blocks, fp32",
        "suffix, 3 blocks, fp32",
        "decoder, fp32",
        "training step, kept features, fp32",
    ]
    stages = [figure for figure in found if figure.limit]
    assert len(stages) == len(found) - 4 == 13
    assert all(figure.share and 0 < figure.share < 1 for figure in stages)
