"""Encoding in two parts, and keeping what the first part gives."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.core.files import CannotWrite
from cosam_bench.data.samples import Split
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import RunConfig, resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam import cache_backends
from cosam_bench.sam import feature_cache as prefix_cache
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.targets import target_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.encoder_sections import encoder_sections, frozen_depth, parts
from cosam_bench.sam.feature_cache import PrefixCache, encode, first_blocks, uncached_clock
from cosam_bench.sam.inputs import collate
from cosam_bench.sam.mobile_sam import TinyViTEncoder
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import layer_inputs, serving
from cosam_bench.training.augmentation import mirror
from cosam_bench.training.expert_store import ExpertStore
from cosam_bench.training.fit_settings import FitSettings

DEPTH = 3
LATER = "image_encoder.blocks.4.attn.qkv"
EARLIER = "image_encoder.blocks.1.attn.qkv"


@pytest.fixture(scope="module")
def tiny() -> Sam:
    sam = build_sam("tiny", checkpoint="random")
    with torch.no_grad():  # positions start at nought, and would hide their absence
        sam.image_encoder.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
    return sam


@pytest.fixture(scope="module")
def small_mobile() -> Sam:
    """MobileSAM, whose encoder takes any square that its windows and strides divide or pad."""
    return build_sam("mobile_sam", checkpoint="random")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefix"


@pytest.fixture
def cache(tiny: Sam, folder: Path) -> PrefixCache:
    return PrefixCache(FeatureFiles(folder, limit_bytes=2**30), sam=tiny, depth=DEPTH)


def some_images(count: int, *, seed: int = 0, side: int = 128) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def an_update(sam: Sam, layer: str, *, scale: float = 0.3) -> Update:
    linear = sam.get_submodule(layer)
    assert isinstance(linear, nn.Linear)
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(2, linear.in_features, generator=generator)
    return Update({layer: LowRank(a, torch.randn(linear.out_features, 2, generator=generator) * scale)})


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


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


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None])
def test_an_entry_that_cannot_be_read_is_computed_anew(
    tiny: Sam, cache: PrefixCache, folder: Path, damage: bytes | None
) -> None:
    image = some_images(1)
    with torch.inference_mode():
        first = cache.features(image).maps
        (path,) = files(folder)
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
        assert torch.equal(cache.features(image).maps, first)
        assert cache.spared_seconds == 0
        assert torch.equal(cache.features(image).maps, first)
    assert cache.spared_seconds > 0


def test_a_folder_that_cannot_be_written_costs_only_time(
    tiny: Sam, cache: PrefixCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def refuse(path: Path, tensors: object, metadata: object) -> int:
        tried.append(path)
        raise CannotWrite("full")

    monkeypatch.setattr(cache_backends, "write_sealed", refuse)
    with torch.inference_mode():
        found = cache.features(some_images(2)).maps
        expected = [tiny.prefix(image[None], depth=DEPTH).maps[0] for image in some_images(2)]
    assert all(map(torch.equal, found, expected))
    assert len(tried) == 1


def test_the_least_recently_used_go_where_the_limit_is_reached(tiny: Sam, tmp_path: Path) -> None:
    size_bytes = 16 * 16 * 96 * 4 + 200  # an entry and its header
    cache = PrefixCache(FeatureFiles(tmp_path, limit_bytes=8 * size_bytes), sam=tiny, depth=DEPTH)
    images = some_images(12)
    names: list[Path] = []
    with torch.inference_mode():
        for row in range(12):
            cache.features(images[row : row + 1])
            for path in files(tmp_path):
                if path not in names:
                    names.append(path)
                    os.utime(path, ns=(row, row))  # as if long ago, in this order
            if row == 5:
                cache.features(images[:1])  # now the most recent
            assert sum(path.stat().st_size for path in files(tmp_path)) <= 8 * size_bytes
    kept = [names.index(path) for path in names if path.exists()]
    assert 0 in kept
    assert len(kept) >= 6
    assert sorted(kept)[1:] == list(range(13 - len(kept), 12))


def test_files_left_half_written_by_a_killed_process_are_removed(tiny: Sam, tmp_path: Path) -> None:
    old, young = tmp_path / ".a.safetensors.0123abcd", tmp_path / ".b.safetensors.0123abcd"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    with torch.inference_mode():
        PrefixCache(FeatureFiles(tmp_path, limit_bytes=2**30), sam=tiny, depth=DEPTH).features(some_images(1))
    assert not old.exists()
    assert young.exists()


def use_a_small_folder(folder: str, seed: int) -> None:
    """Features of eight images in random order where six have room; on its own, so that it can be a program."""
    from pathlib import Path

    import torch

    from cosam_bench.sam.build import build_sam
    from cosam_bench.sam.cache_backends import FeatureFiles
    from cosam_bench.sam.feature_cache import PrefixCache

    sam = build_sam("tiny", checkpoint="random")
    cache = PrefixCache(FeatureFiles(Path(folder), limit_bytes=6 * 98_600), sam=sam, depth=3)
    images = torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed)) % 8
    with torch.inference_mode():
        alone = [sam.prefix(image[None], depth=3).maps for image in images]
        for row in order.tolist():
            assert torch.equal(cache.features(images[row : row + 1]).maps, alone[row])


def test_processes_may_share_a_folder_that_is_too_small(tmp_path: Path) -> None:
    program = f"{inspect.getsource(use_a_small_folder)}\nuse_a_small_folder({str(tmp_path)!r}, 1)"
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        while other.poll() is None:  # this process, as long as the other takes
            use_a_small_folder(str(tmp_path), 0)
    assert other.returncode == 0
    assert 1 <= len(files(tmp_path)) <= 7
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))


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


@pytest.fixture
def domain(squares: Split) -> TrainingDomain:
    return trial_domain(squares)


def bench_with(tiny: Sam, cache: PrefixCache | None) -> Workbench:
    return trial_workbench(
        tiny,
        adapter=AdapterSettings(rank=2, alpha=2.0, blocks=(3, 4, 5)),
        fit=FitSettings(epochs=2, batch_size=3, learning_rate=1e-4),
        prompt_kind="mix",
        batch_size=4,
        prefixes=cache,
    )


def test_training_statistics_and_predictions_are_the_same_with_kept_features(
    tiny: Sam, cache: PrefixCache, folder: Path, domain: TrainingDomain
) -> None:
    plain, kept = bench_with(tiny, None), bench_with(tiny, cache)
    expected, found = plain.train(domain), kept.train(domain)
    assert found.epoch_losses == pytest.approx(expected.epoch_losses, rel=1e-3)
    assert set(found.update.tensors()) == set(expected.update.tensors())
    # Each image and each mirrored one at most, however many epochs.
    assert 6 <= len(files(folder)) <= 12
    update = an_update(tiny, LATER)
    grams = plain.input_grams(domain, update)
    for layer, gram in kept.input_grams(domain, update).items():
        torch.testing.assert_close(gram, grams[layer], rtol=1e-3, atol=1e-4)
    batch, _ = collate([domain[0], domain[1]], domain.prompts.take([0, 1]), kinds=["box"] * 2, view=plain.view)
    torch.testing.assert_close(kept.predict(update, batch), plain.predict(update, batch), rtol=1e-3, atol=1e-3)
    spared = cache.spared_seconds
    kept.predict(an_update(tiny, LATER, scale=0.1), batch)
    assert cache.spared_seconds > spared


def test_training_gives_the_same_bits_whether_features_are_found_or_computed(
    tiny: Sam, cache: PrefixCache, domain: TrainingDomain
) -> None:
    bench = bench_with(tiny, cache)
    assert bench.train(domain).update.digest() == bench.train(domain).update.digest()


def test_a_mirrored_sample_has_an_entry_of_its_own(
    tiny: Sam, cache: PrefixCache, folder: Path, domain: TrainingDomain
) -> None:
    view = bench_with(tiny, None).view
    for sample in (domain[0], mirror(domain[0]), mirror(mirror(domain[0]))):
        batch, _ = collate([sample], domain.prompts.take([0]), kinds=["box"], view=view)
        with torch.inference_mode():
            encode(tiny, batch.images, cache)
    assert len(files(folder)) == 2


def configured(protocol: Path, *overrides: str, method: str = "finetune") -> RunConfig:
    return resolve_run(method=method, protocol=str(protocol), overrides=overrides)


def test_a_protocol_that_adapts_every_block_has_no_cache(quick_protocol: Path, tmp_path: Path) -> None:
    assert open_experiment(configured(quick_protocol), tmp_path).bench.prefixes is None


def test_the_cache_can_be_switched_off_and_is_no_part_of_a_runs_identity(quick_protocol: Path, tmp_path: Path) -> None:
    late = "adapter.blocks=[4, 5]"
    default = open_experiment(configured(quick_protocol, late), tmp_path)
    off = open_experiment(configured(quick_protocol, late, "prefix_cache_gib=0"), tmp_path)
    assert default.bench.prefixes is not None
    assert default.bench.prefixes.depth == 4
    assert off.bench.prefixes is None
    assert off.digest == default.digest
    assert off.conditions == default.conditions


def test_a_whole_run_with_the_cache_scores_as_one_without(quick_protocol: Path, tmp_path: Path) -> None:
    late = "adapter.blocks=[4, 5]"
    matrices, costs = [], []
    for results, option in ((tmp_path / "with", "prefix_cache_gib=8"), (tmp_path / "without", "prefix_cache_gib=0")):
        experiment = open_experiment(configured(quick_protocol, late, option, method="regcl"), results)
        record = Runner(experiment, results=results).run()
        matrices.append(record.score_matrix())
        costs.append(record.info.cost)
    assert len(files(tmp_path / "with" / "_shared" / "prefix")) >= 4 * 3 + 3 * 3
    assert not (tmp_path / "without" / "_shared" / "prefix").exists()
    assert matrices[0].columns == ("pitting", "pill", "polyp", "natural")
    assert matrices[0].values == pytest.approx(matrices[1].values, abs=0.02)
    assert costs[0].encoder_passes_per_image == costs[1].encoder_passes_per_image == 1
    assert all(seconds >= 0 for seconds in costs[0].merge_seconds)


def test_the_workbench_without_a_cache_writes_nothing(tiny: Sam, domain: TrainingDomain, tmp_path: Path) -> None:
    bench = replace(bench_with(tiny, None), experts=ExpertStore(tmp_path))
    bench.train(domain)
    assert [path.name for path in files(tmp_path)] == [path.name for path in tmp_path.glob("*.safetensors")]
