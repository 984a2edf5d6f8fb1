"""Encoding in two parts, and keeping what the first part gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cached_features import DEPTH, LATER, an_update, files, some_images
from torch import Tensor, nn

from cosam_bench.core.arithmetic import tf32
from cosam_bench.merging.updates import Update
from cosam_bench.sam import feature_cache as prefix_cache
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.targets import target_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.encoder_sections import encoder_sections, frozen_depth, parts
from cosam_bench.sam.feature_cache import PrefixCache, encode, first_blocks, uncached_clock
from cosam_bench.sam.mobile_sam import TinyViTEncoder
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import layer_inputs, serving

EARLIER = "image_encoder.blocks.1.attn.qkv"


@pytest.fixture(scope="module")
def small_mobile() -> Sam:
    """MobileSAM, whose encoder takes any square that its windows and strides divide or pad."""
    return build_sam("mobile_sam", checkpoint="random")


@pytest.mark.parametrize("bf16", [False, True])
def test_two_parts_are_the_whole_vit_bit_for_bit_at_every_depth(tiny: Sam, bf16: bool) -> None:
    images = some_images(2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole = tiny.encode(images).maps
        for depth in range(8):
            assert torch.equal(tiny.suffix(tiny.prefix(images, depth=depth), depth=depth).maps, whole)
        assert torch.equal(tiny.prefix(images, depth=7).maps, whole)


@pytest.mark.parametrize("bf16", [False, True])
def test_two_parts_are_the_whole_tiny_vit_bit_for_bit_at_every_depth(small_mobile: Sam, bf16: bool) -> None:
    images = some_images(2, side=96)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole = small_mobile.encode(images).maps
        for depth in range(12):
            features = small_mobile.prefix(images, depth=depth)
            assert torch.equal(small_mobile.suffix(features, depth=depth).maps, whole)
        assert torch.equal(features.maps, whole)


def test_only_the_second_part_counts_as_an_encoder_pass(tiny: Sam) -> None:
    before = tiny.encoder_passes
    features = tiny.prefix(some_images(3), depth=2)
    assert tiny.encoder_passes == before
    tiny.suffix(features, depth=2)
    assert tiny.encoder_passes == before + 3


@pytest.mark.parametrize("name", ["tiny", "mobile_sam"])
def test_the_sections_are_made_of_all_weights_of_the_encoder(name: str, tiny: Sam, small_mobile: Sam) -> None:
    encoder = (tiny if name == "tiny" else small_mobile).image_encoder
    found: list[Tensor] = []
    for part in parts(encoder, encoder_sections(encoder)):
        found += part.parameters() if isinstance(part, nn.Module) else [part]
    assert sorted(map(id, found)) == sorted(map(id, encoder.parameters()))


@pytest.mark.parametrize("name", ["tiny", "mobile_sam"])
def test_a_weight_changes_the_features_from_its_own_depth_on(name: str, tiny: Sam, small_mobile: Sam) -> None:
    # Turn a weight to NaN and see after which section it shows.
    sam, side = (tiny, 128) if name == "tiny" else (small_mobile, 32)
    names = [name for name, _ in sam.named_parameters() if name.startswith("image_encoder.")]
    for weight in names[:: max(1, len(names) // 20)]:
        lost = nn.Parameter(torch.full_like(sam.get_parameter(weight), torch.nan), requires_grad=False)
        module, leaf = sam.get_submodule(weight.rpartition(".")[0]), weight.rpartition(".")[2]
        own = getattr(module, leaf)
        setattr(module, leaf, lost)
        try:
            clean = _clean_sections(sam, some_images(1, side=side))
        finally:
            setattr(module, leaf, own)
        least = 2 if name == "tiny" else 1  # of the ViT's first section nothing is kept
        assert frozen_depth(sam.image_encoder, [weight]) == (clean - 1 if clean >= least else None), weight


@torch.inference_mode()
def _clean_sections(sam: Sam, maps: Tensor) -> int:
    sections = encoder_sections(sam.image_encoder)
    for number, section in enumerate(sections):
        maps = section.run(maps)
        if not maps.isfinite().all():
            return number
    return len(sections)


def test_the_cut_lies_before_the_first_adapted_block(tiny: Sam, small_mobile: Sam) -> None:
    def cut(sam: Sam, **adapter: object) -> int | None:
        return frozen_depth(sam.image_encoder, target_layers(sam, AdapterSettings(**adapter)))  # type: ignore[arg-type]

    assert cut(tiny) is None
    assert cut(tiny, blocks=(5, 4)) == 4
    assert cut(tiny, blocks=(0, 5)) is None
    assert cut(tiny, targets=r"mask_decoder\.transformer\..*_proj") == 7
    assert cut(small_mobile) == 2
    assert cut(small_mobile, blocks=(8,)) == 8
    assert cut(small_mobile, targets=r".*\.qkv", blocks=(0,)) == 0
    assert isinstance(small_mobile.image_encoder, TinyViTEncoder)
    with pytest.raises(ValueError, match=r"no layer 'blocks\.9'"):
        frozen_depth(small_mobile.image_encoder, ["image_encoder.blocks.9"])


def test_first_blocks_are_kept_only_at_the_caches_own_depth(tiny: Sam, cache: PrefixCache, folder: Path) -> None:
    images = some_images(2)
    with torch.inference_mode():
        for depth, kept in ((2, 0), (DEPTH, 2)):
            found = first_blocks(tiny, images, depth=depth, cache=cache)
            torch.testing.assert_close(found, tiny.prefix(images, depth=depth).maps, rtol=1e-4, atol=1e-4)
            assert len(files(folder)) == kept
        with serving(tiny, an_update(tiny, EARLIER)):
            changed = first_blocks(tiny, images, depth=DEPTH, cache=cache)
        assert (changed - found).abs().max() > 1e-2


def test_kept_features_give_the_embeddings_without_the_first_blocks_being_run(
    tiny: Sam, cache: PrefixCache, folder: Path
) -> None:
    images = some_images(3)
    with torch.inference_mode():
        plain = tiny.encode(images).maps
        torch.testing.assert_close(encode(tiny, images, cache).maps, plain, rtol=1e-4, atol=1e-4)
        assert len(files(folder)) == 3
        ran: list[object] = []
        own = Sam.prefix
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sam, "prefix", lambda *args, **kwargs: ran.append(args) or own(*args, **kwargs))
            again = encode(tiny, images[[2, 0]], cache).maps
            assert not ran
            torch.testing.assert_close(again, plain[[2, 0]], rtol=1e-4, atol=1e-4)
            encode(tiny, some_images(1, seed=9), cache)
            assert len(ran) == 1


def test_a_gpus_features_in_tf32_are_others_than_in_fp32(tiny: Sam, tmp_path: Path) -> None:
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=tiny, depth=DEPTH)

    def key(device: str, *, is_tf32: bool) -> list[str]:
        images: Any = SimpleNamespace(device=torch.device(device), dtype=torch.float32, shape=(1, 3, 128, 128))
        inputs: Any = SimpleNamespace(digests_of=lambda images: ["digest"])
        with tf32(is_tf32):
            return cache._keys(images, inputs)

    assert key("cuda", is_tf32=True) != key("cuda", is_tf32=False)
    assert key("cpu", is_tf32=True) == key("cpu", is_tf32=False)  # which has none


@settings(max_examples=8, deadline=None)
@given(
    order=st.lists(st.integers(0, 4), min_size=1, max_size=8), sizes=st.lists(st.integers(1, 3), min_size=8, max_size=8)
)
def test_bits_depend_on_no_batch_and_no_order_of_first_use(
    tiny: Sam, tmp_path_factory: pytest.TempPathFactory, order: list[int], sizes: list[int]
) -> None:
    images = some_images(5)
    cache = PrefixCache(FeatureFiles(tmp_path_factory.mktemp("prefix"), limit_bytes=2**30), sam=tiny, depth=DEPTH)
    with torch.inference_mode():
        alone = [tiny.prefix(image[None], depth=DEPTH).maps[0] for image in images]
        while order:
            rows, order = order[: sizes[0]], order[sizes[0] :]
            sizes = sizes[1:]
            found = cache.features(images[rows]).maps
            assert found.is_contiguous()
            assert all(torch.equal(found[place], alone[row]) for place, row in enumerate(rows))


def test_cached_passes_are_counted_as_passes(tiny: Sam, cache: PrefixCache) -> None:
    before = tiny.encoder_passes
    with torch.inference_mode():
        encode(tiny, some_images(2), cache)
        encode(tiny, some_images(2), cache)
    assert tiny.encoder_passes == before + 4


def test_gradients_of_later_layers_are_those_of_the_whole_pass(tiny: Sam, cache: PrefixCache, folder: Path) -> None:
    images = some_images(2)
    with torch.inference_mode():
        encode(tiny, images[:1], cache)  # one kept, the other computed within training

    weights = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(5))

    def gradients(cache: PrefixCache | None) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        adapter = AdapterSettings(blocks=(3, 4, 5))
        with attach(tiny, adapter, generator=generator, start=an_update(tiny, LATER)) as attached:
            (encode(tiny, images, cache).maps * weights).sum().backward()
            return [parameter.grad.clone() for parameter in attached.parameters() if parameter.grad is not None]

    plain, kept = gradients(None), gradients(cache)
    assert len(files(folder)) == 2
    assert len(plain) == len(kept) == 12
    for one, other in zip(plain, kept, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
    assert any(gradient.abs().max() > 1 for gradient in plain)


def test_a_later_update_is_served_with_kept_features_and_an_earlier_one_without(
    tiny: Sam, cache: PrefixCache, folder: Path
) -> None:
    images = some_images(2)
    with torch.inference_mode():
        for layer, kept in ((LATER, 2), (EARLIER, 2)):
            with serving(tiny, an_update(tiny, layer)):
                assert cache.serves(images) == (layer == LATER)
                kept_maps, maps = encode(tiny, images, cache).maps, tiny.encode(images).maps
                torch.testing.assert_close(kept_maps, maps, rtol=1e-4, atol=1e-4)
            assert len(files(folder)) == kept
        dense = Update(dense={"image_encoder.pos_embed": torch.ones_like(tiny.image_encoder.pos_embed)})
        with serving(tiny, dense):
            assert not cache.serves(images)
        assert cache.serves(images)


def change_in_place(sam: Sam) -> Callable[[], object]:
    bias = sam.get_parameter("image_encoder.blocks.0.attn.qkv.bias")
    with torch.no_grad():
        bias += 0
    return lambda: None


def watch_an_early_block(sam: Sam) -> Callable[[], object]:
    return sam.get_submodule("image_encoder.blocks.0").register_forward_hook(lambda *_: None).remove


def watch_the_whole(sam: Sam) -> Callable[[], object]:
    return sam.image_encoder.register_forward_pre_hook(lambda *_: None).remove


def train_an_early_weight(sam: Sam) -> Callable[[], object]:
    weight = sam.get_parameter(f"{EARLIER}.weight").requires_grad_()
    return lambda: weight.requires_grad_(False)


def adapt_an_early_block(sam: Sam) -> Callable[[], object]:
    context = attach(sam, AdapterSettings(blocks=(1,)), generator=torch.Generator())
    context.__enter__()
    return lambda: context.__exit__(None, None, None)


@pytest.mark.parametrize(
    "disturb", [change_in_place, watch_an_early_block, watch_the_whole, train_an_early_weight, adapt_an_early_block]
)
def test_a_model_whose_first_blocks_are_touched_or_watched_is_run_whole(
    tiny: Sam, cache: PrefixCache, folder: Path, disturb: Callable[[Sam], Callable[[], object]]
) -> None:
    assert cache.serves(some_images(1))
    restore = disturb(tiny)
    try:
        assert not cache.serves(some_images(1))
        encode(tiny, some_images(1), cache)
    finally:
        restore()
    assert not files(folder)
    assert cache.serves(some_images(1)) == (disturb is not change_in_place)


def test_input_that_is_differentiated_passes_the_whole_encoder(tiny: Sam, cache: PrefixCache) -> None:
    images = some_images(1).requires_grad_()
    encode(tiny, images, cache).maps.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_inputs_of_later_layers_are_still_seen(tiny: Sam, cache: PrefixCache, folder: Path) -> None:
    seen: list[Tensor] = []
    with torch.inference_mode(), layer_inputs(tiny, [LATER], lambda _, rows: seen.append(rows)):
        encode(tiny, some_images(1), cache)
        encode(tiny, some_images(1), None)
    assert len(files(folder)) == 1
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)


def test_other_precision_depth_weights_and_images_have_entries_of_their_own(tiny: Sam, tmp_path: Path) -> None:
    other = build_sam("tiny", checkpoint="random", seed=1)

    def cache(sam: Sam = tiny, depth: int = DEPTH) -> PrefixCache:
        return PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=sam, depth=depth)

    image = some_images(1)
    with torch.inference_mode():
        fine = cache().features(image).maps
        assert len(files(tmp_path)) == 1
        with torch.autocast("cpu", torch.bfloat16):
            rough = cache().features(image).maps
        assert len(files(tmp_path)) == 2
        assert not torch.equal(fine, rough)
        cache(depth=2).features(image)
        cache(other).features(image)
        cache().features(image.flip(-1))
        assert len(files(tmp_path)) == 5
        assert torch.equal(cache().features(image).maps, fine)  # read by another object
        assert len(files(tmp_path)) == 5


def test_bf16_features_are_kept_as_they_are(small_mobile: Sam, tmp_path: Path) -> None:
    image = some_images(1, side=64)
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=small_mobile, depth=2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        computed, read = cache.features(image).maps, cache.features(image).maps
    assert computed.dtype == read.dtype == torch.bfloat16
    assert torch.equal(computed, read)
    assert read.shape == (1, 4, 4, 160)


def test_the_clock_goes_on_as_if_nothing_were_kept(
    tiny: Sam, cache: PrefixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(prefix_cache.time, "perf_counter", lambda: now[0])
    own = Sam.prefix

    def slowly(self: Sam, images: Tensor, *, depth: int) -> Tensor:
        now[0] += 5
        return own(self, images, depth=depth)

    monkeypatch.setattr(Sam, "prefix", slowly)
    with torch.inference_mode():
        for _ in range(2):
            began = uncached_clock(cache)
            encode(tiny, some_images(2), cache)
            assert uncached_clock(cache) - began == 10
    assert now[0] == 10
    assert uncached_clock(None) == 10
