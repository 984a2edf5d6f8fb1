from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import validate
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.targets import target_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import layer_inputs, serving

QKV = "image_encoder.blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(sam: Sam, images: Tensor) -> Tensor:
    count = len(images)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 100.0]]).expand(count, 4)
    prompts = FramePrompts(("box",) * count, boxes, torch.zeros(count, 1, 2), torch.zeros(count, 1, 64, 64))
    return sam.decode(sam.encode(images), prompts).logits


def shake(parameters: list[nn.Parameter], *, seed: int = 1) -> None:
    source = generator(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))


def trained(sam: Sam, settings: AdapterSettings) -> Update:
    with attach(sam, settings, generator=generator()) as adapter:
        shake(adapter.parameters())
        return adapter.update()


def fingerprint(sam: Sam) -> tuple[object, ...]:
    """Everything that must come back: objects, their types, values and flags."""
    return (
        [(name, type(module), id(module)) for name, module in sam.named_modules()],
        [(name, id(parameter), parameter.requires_grad) for name, parameter in sam.named_parameters()],
        {name: tensor.clone() for name, tensor in sam.state_dict().items()},
        sorted(vars(sam)),
    )


def assert_restored(sam: Sam, before: tuple[object, ...]) -> None:
    after = fingerprint(sam)
    assert after[:2] == before[:2]
    assert after[3] == before[3]
    old, new = before[2], after[2]
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    assert [*old] == [*new]
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_a_fresh_adapter_changes_nothing(tiny: Sam, images: Tensor) -> None:
    with torch.no_grad():
        base = logits(tiny, images)
        with attach(tiny, AdapterSettings(decoder=True), generator=generator()) as adapter:
            assert torch.equal(logits(tiny, images), base)
            assert all(not factors.b.any() for factors in adapter.update().low_rank.values())
            assert not any(change.any() for change in adapter.update().dense.values())


@pytest.mark.parametrize("is_failing", [False, True])
def test_the_model_comes_back_bit_for_bit(tiny: Sam, images: Tensor, is_failing: bool) -> None:
    before = fingerprint(tiny)
    try:
        with attach(tiny, AdapterSettings(decoder=True), generator=generator()) as adapter:
            logits(tiny, images).square().mean().backward()
            shake(adapter.parameters())
            if is_failing:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert_restored(tiny, before)


def test_only_the_adapter_learns_and_all_of_it(tiny: Sam, images: Tensor) -> None:
    with attach(tiny, AdapterSettings(decoder=True, rank=2), generator=generator()) as adapter:
        asking = {id(parameter) for parameter in tiny.parameters() if parameter.requires_grad}
        assert asking == {id(parameter) for parameter in adapter.parameters()}
        shake(adapter.parameters())
        masks = logits(tiny, images)
        masks.square().mean().backward()
        unmoved = [
            name for name, parameter in tiny.named_parameters() if parameter.requires_grad and parameter.grad is None
        ]
        assert all(name.startswith("mask_decoder.iou_prediction_head") for name in unmoved)


def test_served_update_equals_the_attached_adapter(tiny: Sam, images: Tensor) -> None:
    """The layers' forward pass against base weights plus b a, with a scale that is no power of two."""
    with torch.no_grad():
        with attach(tiny, AdapterSettings(rank=3, alpha=5.0, decoder=True), generator=generator()) as adapter:
            shake(adapter.parameters())
            attached = logits(tiny, images)
            update = adapter.update()
        base = logits(tiny, images)
        before = fingerprint(tiny)
        with serving(tiny, update):
            served = logits(tiny, images)
    assert_restored(tiny, before)
    assert (attached - base).abs().max() > 0.01
    torch.testing.assert_close(served, attached, rtol=1e-5, atol=1e-5)
    assert all(factors.a.dtype == torch.float32 and not factors.a.requires_grad for factors in update.low_rank.values())


def test_the_first_factors_depend_on_the_generator_alone(tiny: Sam) -> None:
    torch.rand(1)
    before = torch.random.get_rng_state()
    updates = []
    for seed in (0, 0, 1):
        with attach(tiny, AdapterSettings(), generator=generator(seed)) as adapter:
            updates.append(adapter.update())
    assert torch.equal(before, torch.random.get_rng_state())
    assert updates[0].digest() == updates[1].digest() != updates[2].digest()
    a = updates[0].low_rank[QKV].a
    bound = a.shape[1] ** -0.5  # Kaiming's uniform rule with slope sqrt 5: 1 / sqrt(inputs)
    assert a.abs().max() <= bound
    assert a.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("rank", [4, 6])
def test_an_adapter_is_continued_exactly_in_its_own_factors(tiny: Sam, images: Tensor, rank: int) -> None:
    start = trained(tiny, AdapterSettings(rank=4, alpha=4.0, decoder=True))
    settings = AdapterSettings(rank=rank, alpha=2.0 * rank, decoder=True)
    with torch.no_grad(), serving(tiny, start):
        wanted = logits(tiny, images)
    with torch.no_grad(), attach(tiny, settings, generator=generator(7), start=start) as adapter:
        now = adapter.update()
        torch.testing.assert_close(logits(tiny, images), wanted, rtol=1e-5, atol=1e-5)
    for name, factors in start.low_rank.items():
        assert now.low_rank[name].rank == rank
        assert torch.equal(now.low_rank[name].a[:4], factors.a)
        assert torch.equal(now.low_rank[name].b[:, :4], factors.b)
        assert now.low_rank[name].a[4:].any() == (rank > 4)
        assert not now.low_rank[name].b[:, 4:].any()
    assert all(torch.equal(now.dense[name], change) for name, change in start.dense.items())


def test_a_start_of_higher_rank_lies_beneath_a_fresh_adapter(tiny: Sam, images: Tensor) -> None:
    start = trained(tiny, AdapterSettings(rank=6, decoder=True))
    before = fingerprint(tiny)
    with torch.no_grad():
        with serving(tiny, start):
            wanted = logits(tiny, images)
        with attach(tiny, AdapterSettings(rank=2), generator=generator(), start=start) as adapter:
            torch.testing.assert_close(logits(tiny, images), wanted, rtol=1e-5, atol=1e-5)
            assert len(adapter.parameters()) == 2 * len(start.low_rank)
            shake(adapter.parameters())
            attached, update = logits(tiny, images), adapter.update()
        assert_restored(tiny, before)
        with serving(tiny, update):
            torch.testing.assert_close(logits(tiny, images), attached, rtol=1e-5, atol=1e-5)
    assert {factors.rank for factors in update.low_rank.values()} == {8}
    assert all(torch.equal(update.dense[name], change) for name, change in start.dense.items())


def test_nothing_is_served_without_an_update(tiny: Sam, images: Tensor) -> None:
    with torch.no_grad(), serving(tiny, None):
        assert torch.equal(logits(tiny, images), logits(tiny, images))


def test_served_weights_are_base_plus_product(tiny: Sam) -> None:
    layer = tiny.get_submodule(QKV)
    own = layer.weight.clone()
    outputs, inputs = own.shape
    factors = LowRank(torch.randn(2, inputs, generator=generator(1)), torch.randn(outputs, 2, generator=generator(2)))
    change = torch.full_like(tiny.get_parameter("image_encoder.neck.0.weight"), 0.5)
    with serving(tiny, Update({QKV: factors}, {"image_encoder.neck.0.weight": change})):
        assert torch.equal(layer.weight, (own.double() + factors.b.double() @ factors.a.double()).float())
        with serving(tiny, Update({QKV: factors.scaled(-1)})):
            torch.testing.assert_close(layer.weight, own)
    assert torch.equal(layer.weight, own)


@pytest.mark.parametrize(
    "update",
    [
        Update({"image_encoder.blocks.99.attn.qkv": LowRank(torch.zeros(1, 128), torch.zeros(384, 1))}),
        Update({QKV: LowRank(torch.zeros(1, 64), torch.zeros(384, 1))}),
        Update(dense={"mask_decoder.nothing": torch.zeros(1)}),
        Update(dense={"mask_decoder.iou_token.weight": torch.zeros(1)}),
    ],
)
def test_an_update_of_another_model_is_refused(tiny: Sam, update: Update) -> None:
    before = fingerprint(tiny)
    with pytest.raises(CosamError, match="does not fit tiny"), serving(tiny, update):
        pass
    with (
        pytest.raises(CosamError, match="does not fit tiny"),
        attach(tiny, AdapterSettings(), generator=generator(), start=update),
    ):
        pass
    assert_restored(tiny, before)


def test_two_adapters_at_once_are_refused(tiny: Sam) -> None:
    before = fingerprint(tiny)
    with (
        pytest.raises(CosamError, match="has an adapter already"),
        attach(tiny, AdapterSettings(), generator=generator()),
        attach(tiny, AdapterSettings(), generator=generator()),
    ):
        pass
    assert_restored(tiny, before)


def test_layer_inputs_are_what_the_layer_multiplies(tiny: Sam, images: Tensor) -> None:
    """Rows times weight plus bias is the layer's output; bare, attached and serving alike."""
    layer = tiny.get_submodule(QKV)
    outputs: list[Tensor] = []
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    update = trained(tiny, AdapterSettings(rank=2))
    outputs.clear()
    with torch.no_grad(), layer_inputs(tiny, [QKV], lambda name, rows: seen.append(rows)):
        tiny.encode(images)
        with torch.inference_mode(), serving(tiny, update):
            tiny.encode(images)
        with attach(tiny, AdapterSettings(), generator=generator()):
            pass
    handle.remove()
    assert [rows.shape for rows in seen] == [(2 * 16 * 16, layer.in_features)] * 2
    torch.testing.assert_close(layer(seen[0]), outputs[0].flatten(0, -2))
    torch.testing.assert_close(seen[0], seen[1])  # the first block's inputs lie before any change
    with attach(tiny, AdapterSettings(), generator=generator()), torch.no_grad():
        with layer_inputs(tiny, [QKV], lambda name, rows: seen.append(rows)):
            tiny.encode(images)
        tiny.encode(images)
    assert len(seen) == 3
    assert torch.equal(seen[2], seen[0])
    with pytest.raises(CosamError, match="no linear layer called 'neck'"), layer_inputs(tiny, ["neck"], print):
        pass


def test_targets_and_blocks_choose_the_layers(tiny: Sam) -> None:
    every = target_layers(tiny, AdapterSettings())
    assert every[:3] == (QKV, "image_encoder.blocks.0.attn.proj", "image_encoder.blocks.1.attn.qkv")
    assert len(every) == 12
    last = target_layers(tiny, AdapterSettings(blocks=(4, 5)))
    assert last == every[8:]
    mlp = target_layers(tiny, AdapterSettings(targets=r".*mlp\.lin1", blocks=(0,)))
    assert mlp == ("image_encoder.blocks.0.mlp.lin1",)
    with pytest.raises(CosamError, match=r"tiny has no block 6; its blocks are 0 to 5"):
        target_layers(tiny, AdapterSettings(blocks=(6,)))
    with pytest.raises(CosamError, match="No linear layer of tiny matches 'nothing'"):
        target_layers(tiny, AdapterSettings(targets="nothing"))


def test_mobile_sams_blocks_are_numbered_through_its_stages() -> None:
    sam = build_sam("mobile_sam", checkpoint="random")
    assert len(target_layers(sam, AdapterSettings())) == 2 * (6 + 2)
    eighth = target_layers(sam, AdapterSettings(blocks=(8,)))
    assert eighth == tuple(f"image_encoder.stages.3.blocks.0.attn.{leaf}" for leaf in ("qkv", "proj"))


def test_mobile_sam_trains_after_it_was_scored() -> None:
    """timm keeps gathered attention biases; kept from inference mode they would break the backward pass."""
    sam = build_sam("mobile_sam", checkpoint="random")
    batch = torch.randn(1, 3, 128, 128, generator=generator())
    before = fingerprint(sam)
    with torch.inference_mode():
        sam.encode(batch)
    with attach(sam, AdapterSettings(rank=2, alpha=2.0), generator=generator()) as adapter:
        sam.encode(batch).maps.square().mean().backward()
        # B is zero at first, so its gradient alone is not.
        assert all(b.grad is not None and b.grad.any() for _, b, _ in adapter.factors.values())
        shake(adapter.parameters())
        with torch.no_grad():
            attached = sam.encode(batch)
        update = adapter.update()
    with torch.no_grad(), serving(sam, update):
        torch.testing.assert_close(sam.encode(batch), attached, rtol=1e-5, atol=1e-5)
    assert_restored(sam, before)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 0}, "'rank' is 0"),
        ({"alpha": -1.0}, "'alpha' is -1.0"),
        ({"targets": "("}, "not a regular expression"),
        ({"targets": "[[], None]"}, "not a regular expression, Possible nested set"),
        ({"ranks": 8}, "did you mean 'rank'"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(CosamError, match=said):
        validate(AdapterSettings, wrong, source="adapter")


def test_the_published_mobile_sam_takes_an_adapter() -> None:
    folder = os.environ.get("COSAM_BENCH_REAL")
    if not folder:
        pytest.skip("COSAM_BENCH_REAL names no folder of real images and weights")
    sam = build_sam("mobile_sam", checkpoint=Path(folder) / "mobile_sam.pt")
    batch = torch.randn(1, 3, 1024, 1024, generator=generator())
    with torch.no_grad():
        with attach(sam, AdapterSettings(), generator=generator()) as adapter:
            shake(adapter.parameters())
            attached, update = sam.encode(batch), adapter.update()
        with serving(sam, update):
            torch.testing.assert_close(sam.encode(batch), attached, rtol=1e-5, atol=1e-5)
