"""Adapters that are layers of their own: HQ-SAM's, RegCL's AugModule and its LoRA beside the attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.merging.updates import Update, as_factors, weight_changes
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.augmodule import AugModule, heatmap
from cosam_bench.sam.adapters.hq import HQLayers
from cosam_bench.sam.adapters.targets import add_side_layers, target_layers, touched_layers, trained_whole
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.encoder_sections import early_section, frozen_depth
from cosam_bench.sam.feature_cache import PrefixCache, encode
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import layer_inputs, serving

KINDS = ("hq", "augmodule", "regcl_lora")
ADAPTERS = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
PUBLISHED = {"hq": 1_071_104, "augmodule": 62_074, "regcl_lora": 80_690}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(kind: Any, **others: Any) -> AdapterSettings:
    return AdapterSettings(kind=kind, **({} if kind in ("hq", "decoder") else {"rank": 3}) | others)


def with_side(kind: Any, **others: Any) -> Sam:
    sam = build_sam("tiny", checkpoint="random")
    add_side_layers(sam, settings(kind, **others), generator=generator())
    return sam


def some_images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 128, 128, generator=generator(1))


def some_points(count: int = 2) -> FramePrompts:
    points = torch.rand(count, 3, 2, generator=generator(2)) * 128
    return FramePrompts(("points",) * count, torch.zeros(count, 4), points, torch.zeros(count, 1, 64, 64))


def disturb(sam: Sam, *, size: float = 0.3) -> Update:
    """A random change of all side layers."""
    side = {name: parameter for name, parameter in sam.named_parameters() if name.startswith("side.")}
    draw = generator(3)
    return Update(dense={name: size * torch.randn(p.shape, generator=draw) for name, p in side.items()})


def logits(sam: Sam, images: Tensor, prompts: FramePrompts) -> Tensor:
    with torch.no_grad():
        return sam.decode(sam.encode(images, prompts), prompts).logits


@pytest.mark.parametrize("kind", [*KINDS, "lora", "decoder"])
def test_vit_b_gets_the_published_number_of_parameters(kind: Any) -> None:
    sam = build_sam("vit_b", checkpoint="random")
    chosen = AdapterSettings(kind=kind, **({"rank": 10} if kind in ("augmodule", "regcl_lora") else {}))
    add_side_layers(sam, chosen, generator=generator())
    with attach(sam, chosen, generator=generator()) as adapter:
        count = sum(parameter.numel() for parameter in adapter.parameters())
    assert count == PUBLISHED.get(kind, count)
    (row,) = [line for line in ADAPTERS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{kind}` |")]
    assert f" {count:,} " in row
    if kind in ("augmodule", "regcl_lora"):
        blocks = tuple(f"image_encoder.blocks.{number}.attn" for number in range(7, 12))
        assert touched_layers(sam, chosen) == blocks
    if kind == "augmodule":
        merged = sum(sam.get_submodule(layer).weight.numel() for layer in target_layers(sam, chosen))
        assert merged == 46_580  # the published share that is merged by regression, 75.0 %


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_update_of_theirs_the_model_is_plain_sam(kind: Any) -> None:
    plain, sam = build_sam("tiny", checkpoint="random"), with_side(kind)
    images, prompts = some_images(), some_points()
    before = digest_tensors(sam.state_dict())
    assert torch.equal(logits(sam, images, prompts), logits(plain, images, prompts))
    with serving(sam, disturb(sam)):
        assert not torch.equal(logits(sam, images, prompts), logits(plain, images, prompts))
        with serving(sam, None):
            # The layers are still changed beneath, but off.
            assert torch.equal(logits(sam, images, prompts), logits(plain, images, prompts))
    assert torch.equal(logits(sam, images, prompts), logits(plain, images, prompts))
    assert digest_tensors(sam.state_dict()) == before


@pytest.mark.parametrize("kind", ["augmodule", "regcl_lora"])
def test_fresh_layers_beside_the_attention_change_nothing_yet(kind: Any) -> None:
    sam = with_side(kind)
    images, prompts = some_images(), some_points()
    plain = logits(sam, images, prompts)
    with attach(sam, settings(kind), generator=generator()):
        assert torch.equal(logits(sam, images, prompts), plain)


@pytest.mark.parametrize("kind", [*KINDS, "decoder"])
def test_an_update_is_what_training_changed_and_serves_it(kind: Any) -> None:
    sam = build_sam("tiny", checkpoint="random")
    add_side_layers(sam, settings(kind), generator=generator())
    images, prompts = some_images(), some_points()
    start: Update | None = None
    for seed in (5, 6):  # the second time it goes on from the first
        with attach(sam, settings(kind), generator=generator(), start=start) as adapter:
            with torch.no_grad():
                for parameter in adapter.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed)))
            trained, update = logits(sam, images, prompts), adapter.update()
        assert set(update.low_rank) == set(target_layers(sam, settings(kind)))
        assert set(weight_changes(update)) == set(trained_whole(sam, settings(kind)))
        assert all(f.rank == min(f.b.shape[0], f.a.shape[1]) for f in update.low_rank.values())
        with serving(sam, update):
            torch.testing.assert_close(logits(sam, images, prompts), trained, rtol=1e-4, atol=1e-4)
        start = update


@pytest.mark.parametrize("kind", [*KINDS, "decoder"])
def test_every_trained_parameter_gets_a_gradient(kind: Any) -> None:
    sam = build_sam("tiny", checkpoint="random")
    add_side_layers(sam, settings(kind), generator=generator())
    images, prompts = some_images(), some_points()
    with attach(sam, settings(kind), generator=generator()) as adapter:
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator()))
        masks = sam.decode(sam.encode(images, prompts), prompts)
        (masks.logits.square().mean() + masks.predicted_iou.sum()).backward()
        silent = [name for name, (p, _, _) in adapter.dense.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_weights_are_the_seeds_own(kind: Any) -> None:
    def drawn(seed: int) -> str:
        sam = build_sam("tiny", checkpoint="random")
        state = torch.random.get_rng_state()
        add_side_layers(sam, settings(kind), generator=generator(seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert sam.side is not None
        return digest_tensors(sam.side.state_dict())

    assert drawn(0) == drawn(0) != drawn(1)


def test_hq_masks_are_those_of_a_stock_decoder_with_a_fifth_mask_token() -> None:
    sam = with_side("hq")
    images, prompts = some_images(), some_points()
    side: Any = sam.side
    encoder: Any = sam.image_encoder
    seen: dict[str, Tensor] = {}
    first_global = next(block for block in encoder.blocks if block.window_size == 0)
    with serving(sam, disturb(sam, size=0.05)):
        ours = logits(sam, images, prompts)
        decoder: Any = build_sam("tiny", checkpoint="random").mask_decoder
        decoder.num_mask_tokens += 1
        decoder.mask_tokens.weight = nn.Parameter(torch.cat([decoder.mask_tokens.weight, side.token.weight]))
        decoder.output_hypernetworks_mlps.append(side.mlp)
        handles = [
            first_global.register_forward_hook(lambda _, __, out: seen.update(early=out)),
            side.mlp.register_forward_hook(lambda _, __, out: seen.update(kernel=out)),
            decoder.output_upscaling.register_forward_hook(lambda _, __, out: seen.update(upscaled=out)),
        ]
        labels = torch.ones(prompts.points.shape[:2])
        with torch.no_grad():
            for row in range(2):  # the stock decoder takes one image at a time
                embedding = encoder(images[row : row + 1])
                sparse, dense = sam.prompt_encoder(
                    points=(prompts.points[row : row + 1], labels[row : row + 1]), boxes=None, masks=None
                )
                decoder(
                    image_embeddings=embedding,
                    image_pe=sam.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                )
                fine = side.embedding_encoder(embedding) + side.early_compressor(seen["early"].permute(0, 3, 1, 2))
                features = side.mask_feature(seen["upscaled"]) + fine
                expected = torch.einsum("bc,bchw->bhw", seen["kernel"], features)
                torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-4, atol=1e-4)
        for handle in handles:
            handle.remove()


def test_the_early_map_is_that_of_the_first_global_block() -> None:
    tiny = build_sam("tiny", checkpoint="random")
    assert early_section(tiny.image_encoder) == 3  # section 0 embeds the patches
    everywhere = build_sam("tiny", checkpoint="random", global_attention=True)
    assert early_section(everywhere.image_encoder) == 1
    mobile = build_sam("mobile_sam", checkpoint="random")
    add_side_layers(mobile, AdapterSettings(kind="hq"), generator=generator())
    with torch.no_grad():
        features = mobile.prefix(torch.zeros(1, 3, 128, 128), depth=9)
    assert features.early is not None
    assert features.early.shape == (1, 8, 8, 160)


@pytest.mark.parametrize("kind", ["hq", "augmodule"])
def test_kept_features_give_the_masks_of_the_whole_pass(kind: Any, tmp_path: Path) -> None:
    sam = with_side(kind, **({"blocks": (3, 5)} if kind == "augmodule" else {}))
    chosen = settings(kind, **({"blocks": (3, 5)} if kind == "augmodule" else {}))
    depth = frozen_depth(sam.image_encoder, touched_layers(sam, chosen))
    assert depth == (7 if kind == "hq" else 3)
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=sam, depth=depth)
    images, prompts = some_images(), some_points()
    with torch.no_grad():
        for update in (None, disturb(sam, size=0.05)):
            with serving(sam, update):
                assert cache.serves(images)
                for _ in range(2):
                    found = sam.decode(encode(sam, images, cache, prompts=prompts), prompts).logits
                    torch.testing.assert_close(found, logits(sam, images, prompts), rtol=1e-3, atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 2
    assert cache.spared_seconds > 0


def blurred(points: list[tuple[int, int]], grid: int) -> NDArray[Any]:
    """The heat map by plain sums: x and y of cells, a Gaussian of deviation 1.7 on 9 x 9 cells, mirrored borders."""
    heat = np.zeros((grid, grid))
    for x, y in points:
        heat[y, x] = 255
    weights = np.exp(-0.5 * (np.arange(-4, 5) / 1.7) ** 2)
    weights /= weights.sum()
    padded = np.pad(heat, 4, mode="reflect")
    found = np.zeros_like(heat)
    for row in range(grid):
        for column in range(grid):
            patch = padded[row : row + 9, column : column + 9]
            found[row, column] = weights @ patch @ weights
    return found


def test_the_heat_map_marks_points_and_spreads_them() -> None:
    points = torch.tensor([[[0.0, 7.9], [100.0, 20.0], [127.9, 127.9]], [[64.0, 8.0], [64.0, 8.0], [71.9, 15.9]]])
    prompts = FramePrompts(("points", "points"), torch.zeros(2, 4), points, torch.zeros(2, 1, 64, 64))
    found = heatmap(prompts, grid=16, cell=8).double().numpy()
    np.testing.assert_allclose(found[0], blurred([(0, 0), (12, 2), (15, 15)], 16), atol=1e-3)
    np.testing.assert_allclose(found[1], blurred([(8, 1)], 16), atol=1e-3)
    assert found.max() == pytest.approx(
        255 * (1 / sum(math.exp(-0.5 * (k / 1.7) ** 2) for k in range(-4, 5))) ** 2, rel=1
    )


def test_a_box_is_marked_by_its_centre_and_a_mask_by_its_mean_position() -> None:
    masks = torch.full((3, 1, 64, 64), -10.0)
    masks[1, 0, 8:12, 40:44] = 10.0
    boxes = torch.tensor([[8.0, 40.0, 24.0, 72.0]]).expand(3, 4)
    prompts = FramePrompts(("box", "mask", "mask"), boxes, torch.zeros(3, 1, 2), masks)
    found = heatmap(prompts, grid=16, cell=8).double().numpy()
    np.testing.assert_allclose(found[0], blurred([(2, 7)], 16), atol=1e-3)
    np.testing.assert_allclose(found[1], blurred([(10, 2)], 16), atol=1e-3)
    assert found[2].max() == 0


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("number", [4, 5])  # windows of 8, and global
def test_augmodule_adds_its_formula_to_the_attention(number: int, is_whole: bool) -> None:
    sam = with_side("augmodule", whole_heatmap_in_windows=is_whole)
    prompts = some_points(1)
    side: Any = sam.side
    assert isinstance(side, AugModule)
    attention: Any = sam.get_submodule(f"image_encoder.blocks.{number}.attn")
    window = 8 if number == 4 else 16
    rows = torch.randn((16 // window) ** 2, window, window, 96, generator=generator(7))
    with torch.no_grad(), serving(sam, disturb(sam)):
        with side.enabled(False):
            plain = attention(rows)
        with side.conditioned_on(prompts):
            found = attention(rows) - plain
        heat = torch.from_numpy(blurred([tuple((xy // 8).long().tolist()) for xy in prompts.points[0]], 16)).float()
        name = str(number)
        for place in range(len(rows)):
            top, left = 8 * (place // 2), 8 * (place % 2)
            for row in range(window):
                for column in range(window):
                    here = heat[top + row, left + column]
                    if is_whole and window == 8:
                        here = heat[2 * row, 2 * column]
                    told = side.heat[1](side.heat[0](here.expand(3))).relu()
                    inner = side.norm_input[name](side.reduce(rows[place, row, column])) + side.norm_heat[name](told)
                    expected = side.expand[name](side.mix[name](inner))
                    torch.testing.assert_close(found[place, row, column], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_augmodule_adds_the_heat_map_around_the_neck(is_transposed: bool) -> None:
    sam = with_side("augmodule", transposed_heatmap=is_transposed)
    side, neck, prompts = sam.side, sam.get_submodule("image_encoder.neck"), some_points(1)
    assert isinstance(side, AugModule)
    maps = torch.randn(1, 96, 16, 16, generator=generator(8))
    with torch.no_grad(), serving(sam, disturb(sam)):
        with side.conditioned_on(prompts):
            found = neck(maps)
        channels = side.heat(heatmap(prompts, grid=16, cell=8)[..., None].expand(-1, -1, -1, 3))
        if is_transposed:
            channels = channels.transpose(1, 2)
        with side.enabled(False):
            expected = neck(maps + side.before_neck(channels).permute(0, 3, 1, 2))
        torch.testing.assert_close(found, expected + side.after_neck(channels).permute(0, 3, 1, 2))


def test_augmodule_must_be_shown_the_prompts() -> None:
    sam = with_side("augmodule")
    with serving(sam, disturb(sam)), pytest.raises(ValueError, match="needs the prompts"):
        sam.encode(some_images())


def test_the_shared_layer_of_vit_b_sees_the_published_number_of_rows() -> None:
    """22,892 an image: three times 25 windows of 14 x 14, their padding included, and twice 64 x 64."""
    sam = build_sam("vit_b", checkpoint="random")
    add_side_layers(sam, AdapterSettings(kind="augmodule", rank=10), generator=generator())
    sam = sam.to("meta")  # shapes alone
    seen: list[int] = []
    side: Any = sam.side
    encoder: Any = sam.image_encoder
    side._heat = torch.zeros(1, 64, 64, device="meta")
    with torch.no_grad(), side.enabled(True), layer_inputs(sam, ["side.reduce"], lambda _, x: seen.append(len(x))):
        for number in range(7, 12):
            encoder.blocks[number](torch.zeros(1, 64, 64, 768, device="meta"))
    assert sum(seen) == 22_892


def test_every_block_attends_to_the_whole_image_where_asked() -> None:
    plain, everywhere = (build_sam("tiny", checkpoint="random", global_attention=is_on) for is_on in (False, True))
    image = some_images(1)
    changed = image.clone()
    changed[..., 120:, 120:] += 3  # in the last window alone
    with torch.no_grad():
        for sam, is_reached in ((plain, False), (everywhere, True)):
            # Blocks 0 and 1 of the tiny ViT have windows of 8 x 8 cells.
            first, second = (sam.prefix(x, depth=2).maps[0, 0, 0] for x in (image, changed))
            assert torch.equal(first, second) != is_reached
    assert plain.digest == plain.checkpoint_digest == everywhere.checkpoint_digest != everywhere.digest
    with pytest.raises(CosamError, match="works only with plain ViTs"):
        build_sam("mobile_sam", checkpoint="random", global_attention=True)


def test_hq_layers_start_from_a_published_file(tmp_path: Path) -> None:
    donor = HQLayers(width=64, early_width=96)
    names = {
        "token": "hf_token",
        "mlp": "hf_mlp",
        "embedding_encoder": "embedding_encoder",
        "early_compressor": "compress_vit_feat",
        "mask_feature": "embedding_maskfeature",
    }
    published = {}
    for name, tensor in donor.state_dict().items():
        first, _, rest = name.partition(".")
        published[f"mask_decoder.{names[first]}.{rest}"] = tensor
    published["image_encoder.pos_embed"] = torch.zeros(1)
    torch.save(published, tmp_path / "sam_hq.pth")
    bare = {name.removeprefix("mask_decoder."): tensor for name, tensor in published.items()}
    save_file(bare, tmp_path / "decoder.safetensors")
    digests = set()
    for file in ("sam_hq.pth", "decoder.safetensors"):
        sam = with_side("hq", start=str(tmp_path / file))
        assert sam.side is not None
        assert digest_tensors(sam.side.state_dict()) == digest_tensors(donor.state_dict())
        digests.add(sam.digest)
    assert len(digests) == 1
    assert sam.digest != sam.checkpoint_digest


def test_a_wrong_file_of_first_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No file .*missing\.pth"):
        with_side("hq", start=str(tmp_path / "missing.pth"))
    save_file({"hf_token.weight": torch.zeros(1, 256)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CosamError, match=r"does not fit.* first token\.weight: wanted \(1, 64\), found torch\.float32 \(1, 256\)"
    ):
        with_side("hq", start=str(tmp_path / "other.safetensors"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CosamError, match=r"The checkpoint .* cannot be read: "):
        with_side("hq", start=str(tmp_path / "text.pth"))


@pytest.mark.parametrize("kind", ["augmodule", "regcl_lora"])
def test_what_stands_beside_a_plain_vits_attention_is_refused_elsewhere(kind: Any) -> None:
    with pytest.raises(CosamError, match="mobile_sam does not have"):
        add_side_layers(build_sam("mobile_sam", checkpoint="random"), settings(kind), generator=generator())
    with pytest.raises(CosamError, match="tiny has no block 6"):
        with_side(kind, blocks=(6,))


def test_settings_that_mean_nothing_to_a_kind_are_refused() -> None:
    for wrong in (
        {"kind": "hq", "rank": 4},
        {"kind": "decoder", "decoder": True},
        {"kind": "augmodule", "targets": ".*"},
        {"kind": "regcl_lora", "transposed_heatmap": True},
        {"kind": "lora", "start": "hq.pth"},
    ):
        with pytest.raises(ValueError, match=f"{list(wrong)[1]} means nothing to kind"):
            AdapterSettings(**wrong)
    for blocks in ((), (3, 3)):
        with pytest.raises(ValueError, match="at least one block, and each once"):
            AdapterSettings(kind="regcl_lora", blocks=blocks)
    with pytest.raises(ValueError, match=r"alpha means nothing to kind = 'hq'.* its default, 8\.0"):
        AdapterSettings(kind="hq", alpha=16.0)
    AdapterSettings(**AdapterSettings(kind="hq").model_dump())  # as a record's configuration repeats it


def test_a_whole_change_is_its_own_factors() -> None:
    for shape in ((2, 5), (5, 2), (3, 3)):
        change = torch.randn(shape, generator=generator())
        factors = as_factors(change)
        assert torch.equal(factors.dense(), change)
        assert factors.rank == min(shape)
