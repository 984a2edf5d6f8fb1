"""The benchmarks' cost model against torch's own count of operations, and against cases worked by hand."""

from __future__ import annotations

import pytest
import torch
from segment_anything import sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import costs
from benchmarks.costs import Cost, VitShape
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attach import attach
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frames import FramePrompts
from cosam_bench.sam.sam import Features, Sam


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return build_sam("tiny", checkpoint="random", is_attention_lean=False)


def box_of(sam: Sam) -> FramePrompts:
    side = sam.logits_size
    return FramePrompts(("box",), torch.tensor([[1.0, 2, 30, 40]]), torch.zeros(1, 1, 2), torch.zeros(1, 1, side, side))


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_an_encoder_costs_what_torch_counts(name: str) -> None:
    with torch.device("meta"):  # shapes without numbers
        encoder = sam_model_registry[name]().image_encoder
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(torch.empty(1, 3, 1024, 1024))
    assert VitShape.of(encoder).encoder().flops == counter.get_total_flops()


@pytest.mark.parametrize("is_lean", [False, True])
def test_lean_attention_costs_no_more(is_lean: bool) -> None:
    sam = build_sam("tiny", checkpoint="random", is_attention_lean=is_lean)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        sam.image_encoder(torch.zeros(1, 3, 128, 128))
    assert VitShape.of(sam.image_encoder).encoder().flops == counter.get_total_flops()


def test_prefix_and_suffix_are_the_encoder(tiny: Sam) -> None:
    shape = VitShape.of(tiny.image_encoder)
    for depth in (0, 3, 6):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            features = tiny.prefix(torch.zeros(1, 3, 128, 128), depth=depth)
            first = counter.get_total_flops()
            tiny.suffix(features, depth=depth)
        assert shape.prefix(depth).flops == first
        assert shape.suffix(depth).flops == counter.get_total_flops() - first
        assert shape.prefix(depth) + shape.suffix(depth) == shape.encoder()


def test_the_decoder_costs_what_torch_counts(tiny: Sam) -> None:
    side = tiny.logits_size // 4
    features = Features(torch.zeros(1, tiny.mask_decoder.transformer_dim, side, side))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        tiny.decode(features, box_of(tiny))
    assert costs.decoder(tiny).flops == counter.get_total_flops()


def test_a_training_step_costs_what_torch_counts_within_half_a_percent(tiny: Sam) -> None:
    shape, adapter = VitShape.of(tiny.image_encoder), AdapterSettings(rank=10, alpha=10.0, blocks=(3, 4, 5))
    attached = attach(tiny, adapter, generator=torch.Generator().manual_seed(0))
    # torch counts this product only where it makes a new tensor.
    in_place = {torch.ops.aten.addmm_: lambda _, one, other, **options: 2 * one[0] * one[1] * other[1]}
    with attached, FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        embeddings = tiny.suffix(Features(torch.zeros(1, shape.grid, shape.grid, shape.width)), depth=3)
        tiny.decode(embeddings, box_of(tiny)).logits.sum().backward()
    # Half of the decoder's tokens ask for no gradient, which the model does not look at.
    expected = pytest.approx(counter.get_total_flops(), rel=0.005)
    assert costs.training_step(shape, tiny, first=3, rank=10).flops == expected


def test_bytes_are_each_operand_once() -> None:
    shape = VitShape(patch=2, grid=4, width=6, heads=2, hidden=24, out=5, windows=(3, 0))
    assert shape.layout(0) == (4, 3)  # a map of 4 x 4 padded to 6 x 6
    assert shape.layout(1) == (1, 4)
    # 36 padded tokens in, out and weights, for qkv and for proj
    projections = (36 * 6 + 6 * 18 + 36 * 18) + (36 * 6 + 6 * 6 + 36 * 6)
    attention = 4 * (2 * (9 + 9) * 6 + 4 * 3**3 * 2)  # q, k, v and answers; each head's rows and columns twice
    mlp = (16 * 6 + 6 * 24 + 16 * 24) * 2
    others = 2 * 2 * 16 * 6 + 2 * 16 * 24 + 3 * 2 * 16 * 6  # two norms, GELU, two sums
    assert shape.block(0).numbers == projections + attention + mlp + others


def test_the_slower_of_products_and_traffic_is_the_least() -> None:
    cost = Cost(flops=100, numbers=10)
    limits = {"flops_a_second": 50.0, "bytes_a_second": 80.0}
    assert cost.least_seconds(**limits, itemsize=4) == 2.0
    assert cost.least_seconds(**limits, itemsize=32) == 4.0


def test_merges_by_hand() -> None:
    # 2 x 3 from rank 1: 12 operations, 2 + 3 + 6 numbers; then 6 numbers of two operands each
    assert costs.average_merge([(2, 3)] * 4, rank=1) == Cost(4 * 12, 4 * (11 + 18))
    assert costs.regression(2, 3) == Cost(9 + 36, 18 + 12)
