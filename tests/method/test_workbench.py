"""What the harness gives to methods: Gram matrices, shared experts, predictions by several updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosam_bench.core.arithmetic import tf32
from cosam_bench.core.errors import CosamError
from cosam_bench.core.precision_choices import Precision
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.samples import Split
from cosam_bench.merging.gram_matrices import EXACT_WIDTH, InputGrams
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method import interface as interface_module
from cosam_bench.method import workbench as workbench_module
from cosam_bench.method.card import MethodCard
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter
from cosam_bench.sam.batch_size import AdaptiveBatchSize, ImageDoesNotFit
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.inputs import RAW_MASK_LEVELS, Batch, View, collate
from cosam_bench.sam.sam import Features, Masks
from cosam_bench.sam.serving import layer_inputs, serving
from cosam_bench.training import fit as fit_module
from cosam_bench.training.batch_loss import training_loss
from cosam_bench.training.expert_store import ExpertStore, expert_name
from cosam_bench.training.fit import TrainingHooks
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.training_batch import TrainingBatch

LAYER = "image_encoder.blocks.1.attn.qkv"


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(fit=FitSettings(epochs=1, batch_size=3), batch_size=4)


@pytest.fixture
def domain(squares: Split) -> TrainingDomain:
    return trial_domain(squares)


def update(bench: Workbench, *, scale: float, layer: str = LAYER) -> Update:
    linear = bench.sam.get_submodule(layer)
    assert isinstance(linear, nn.Linear)
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(2, linear.in_features, generator=generator)
    b = torch.randn(linear.out_features, 2, generator=generator) * scale
    return Update({layer: LowRank(a, b)})


def test_gram_matrices_of_projected_inputs_are_the_projected_matrices(bench: Workbench, domain: TrainingDomain) -> None:
    whole = bench.input_grams(domain, None)
    draw = torch.Generator().manual_seed(4)
    projection = torch.randn(2, len(whole[LAYER]), generator=draw)
    found = bench.input_grams(domain, None, projections={LAYER: projection})
    wide = projection.double()
    torch.testing.assert_close(found[LAYER], wide @ whole[LAYER] @ wide.T, rtol=1e-5, atol=1e-6)
    for layer in whole.keys() - {LAYER}:
        assert torch.equal(found[layer], whole[layer])


def test_gram_matrices_are_the_mean_outer_product_of_what_the_changed_layer_sees(
    bench: Workbench, domain: TrainingDomain
) -> None:
    # Two layers, so that the second one's inputs depend on the first one's change.
    later = "image_encoder.blocks.3.attn.qkv"
    change = Update({**update(bench, scale=0.1).low_rank, **update(bench, scale=0.1, layer=later).low_rank})
    found = bench.input_grams(domain, change)
    seen: dict[str, list[Tensor]] = {LAYER: [], later: []}
    originals = {name: bench.sam.get_submodule(name).weight for name in seen}
    handles = [
        bench.sam.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen[name].append(inputs[0].reshape(-1, inputs[0].shape[-1]))
        )
        for name in seen
    ]
    for name, factors in change.low_rank.items():
        weight = (originals[name].double() + factors.b.double() @ factors.a.double()).float()
        bench.sam.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    for index in range(len(domain)):
        batch, _ = collate([domain[index]], domain.prompts.take([index]), kinds=["box"], view=bench.view)
        bench.sam.image_encoder(batch.images)
    for handle in handles:
        handle.remove()
    for name, weight in originals.items():
        bench.sam.get_submodule(name).weight = weight
        rows = torch.cat(seen[name]).double()
        slow = sum(torch.outer(row, row) for row in rows) / len(rows)
        torch.testing.assert_close(found[name], slow, rtol=1e-4, atol=1e-5)


def test_gram_matrices_keep_their_digits_where_the_model_computes_in_bf16(
    bench: Workbench, domain: TrainingDomain
) -> None:
    rough = replace(bench, view=replace(bench.view, precision="bf16"))
    gram = rough.input_grams(domain, update(bench, scale=0.1))[LAYER]
    eigenvalues = torch.linalg.eigvalsh(gram)
    assert gram.dtype == torch.float64
    assert eigenvalues.min() > -1e-5 * eigenvalues.max()  # a product in bf16 reaches -1e-3


def test_gram_matrices_of_the_base_are_those_of_all_adapted_layers(bench: Workbench, domain: TrainingDomain) -> None:
    nothing = Update({LAYER: LowRank(torch.zeros(1, 96), torch.zeros(288, 1))})
    found, same = bench.input_grams(domain, None), bench.input_grams(domain, nothing)
    assert tuple(found) == bench.layers == tuple(same)
    assert all(torch.equal(found[layer], same[layer]) for layer in bench.layers)


def test_gram_matrices_after_memory_ran_out_are_those_of_smaller_batches_bit_for_bit(
    bench: Workbench, domain: TrainingDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = update(bench, scale=0.1)
    said: list[str] = []
    units: list[float] = []
    tried: list[int] = []
    wanted = replace(bench, batch_size=2).input_grams(domain, change)
    encode = bench.sam.encode

    def limited(images: Tensor, prompts: FramePrompts | None = None) -> Features:
        tried.append(len(images))
        found = encode(images, prompts)  # all layers have added their inputs
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    monkeypatch.setattr(bench.sam, "encode", limited)
    passes = AdaptiveBatchSize(4, note=said.append)
    found = replace(bench, passes=passes, advance=units.append).input_grams(domain, change)
    assert tried == [4, 2, 2, 2]
    assert all(torch.equal(found[layer], wanted[layer]) for layer in bench.layers)
    assert units == [2, 2, 2]
    assert [text.split(";")[0] for text in said] == ["The device's memory does not hold 4 images at once"]
    tried.clear()
    replace(bench, passes=passes).input_grams(domain, change)
    assert tried == [2, 2, 2], "what is known of the memory is kept"
    monkeypatch.setattr(bench.sam, "encode", lambda *_: ran_out())
    with pytest.raises(ImageDoesNotFit, match="too little memory to take the inputs of a single image"):
        bench.input_grams(domain, change)


def ran_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_gram_matrices_are_those_of_whole_passes_bit_for_bit(bench: Workbench, domain: TrainingDomain) -> None:
    change = update(bench, scale=0.1)
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()

    def add(layer: str, rows: Tensor) -> None:
        exact = rows.double() if rows.shape[1] <= EXACT_WIDTH else rows
        sums[layer] = sums.get(layer, 0) + (exact.T @ exact).double()
        counts[layer] += len(rows)

    with torch.inference_mode(), serving(bench.sam, change), layer_inputs(bench.sam, bench.layers, add):
        for rows in ([0, 1, 2, 3], [4, 5]):
            bench.sam.encode(bench.labelled(domain, rows)[0].images)
    found = bench.input_grams(domain, change)
    assert all(torch.equal(found[layer], sums[layer] / counts[layer]) for layer in bench.layers)


def test_the_encoder_runs_only_as_far_as_the_last_layer_that_is_looked_at(
    bench: Workbench, domain: TrainingDomain
) -> None:
    ran: Counter[str] = Counter()
    names = ["blocks.1.attn.qkv", "blocks.1.mlp", "blocks.5.mlp", "neck"]
    handles = [
        bench.sam.get_submodule(f"image_encoder.{name}").register_forward_hook(lambda *_, name=name: ran.update([name]))
        for name in names
    ]
    passes = bench.sam.encoder_passes
    try:
        bench.input_grams(domain, None)  # two batches, of which the first shows where to stop
        assert ran == {"blocks.1.attn.qkv": 2, "blocks.1.mlp": 2, "blocks.5.mlp": 1, "neck": 1}
        ran.clear()
        replace(bench, adapter=AdapterSettings(rank=2, blocks=(0, 1))).input_grams(domain, None)
        assert ran == {"blocks.1.attn.qkv": 2, "blocks.1.mlp": 1, "blocks.5.mlp": 1, "neck": 1}
    finally:
        for handle in handles:
            handle.remove()
    assert bench.sam.encoder_passes == passes + 2 * len(domain)


def test_a_pass_ends_when_each_layer_was_used_as_often_as_in_the_first() -> None:
    grams = InputGrams(["a", "b"], ends_early=True)
    one, two = torch.ones(3, 2), 2 * torch.ones(1, 2)
    reached = []
    for number in range(3):
        with grams.one_pass():
            grams.add("a", one)
            grams.add("b", one)
            grams.add("a", two)
            reached.append(number)  # the first pass shows that nothing more comes; in the others this is too late
    assert reached == [0]
    found = grams.means()
    assert torch.equal(found["a"], torch.full((2, 2), (3 + 4) / 4, dtype=torch.float64))
    assert torch.equal(found["b"], torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_pass_may_use_layers_in_any_order_and_raise_what_it_likes(ends_early: bool) -> None:
    grams = InputGrams(["a", "b"], ends_early=ends_early)
    for order in ("ab", "ba", "ab"):
        with grams.one_pass():
            for layer in order:
                grams.add(layer, torch.eye(2))
    assert torch.equal(grams.means()["b"], torch.eye(2, dtype=torch.float64) / 2)
    with pytest.raises(ZeroDivisionError), grams.one_pass():
        _ = 1 / 0


def test_inputs_of_the_decoder_are_seen_and_those_of_unused_layers_refused_by_name(
    bench: Workbench, domain: TrainingDomain
) -> None:
    targets = r"mask_decoder\.transformer\.layers\.0\.self_attn\.q_proj"
    decoder = replace(bench, adapter=AdapterSettings(rank=2, alpha=2.0, targets=targets))
    (gram,) = decoder.input_grams(domain, None).values()
    tokens: list[Tensor] = []
    with layer_inputs(bench.sam, decoder.layers, lambda _, rows: tokens.append(rows)):
        for row in range(len(domain)):
            bench.predict(None, decoder.labelled(domain, [row])[0])
    rows = torch.cat(tokens).double()
    torch.testing.assert_close(gram, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)
    unused = r"mask_decoder\.output_hypernetworks_mlps\.1\.layers\.0"
    decoder = replace(bench, adapter=AdapterSettings(rank=2, alpha=2.0, targets=unused))
    with pytest.raises(CosamError, match=r"No prediction passes the layer 'mask_decoder.*mlps\.1"):
        decoder.input_grams(domain, None)


@pytest.mark.parametrize("labels", ["true", "sampled"])
def test_the_fisher_information_is_the_mean_squared_gradient_of_the_weights(
    bench: Workbench, domain: TrainingDomain, labels: Literal["true", "sampled"]
) -> None:
    change = update(bench, scale=0.1)
    found = bench.squared_gradients(domain, change, labels=labels, images=2)
    assert list(found) == [f"{LAYER}.weight"]
    layer = bench.sam.get_submodule(LAYER)
    base = layer.weight
    draws = bench.generator("fisher", domain.digest)
    slow = torch.zeros_like(base)
    for row in range(2):
        weight = (base.double() + change.low_rank[LAYER].dense().double()).float().requires_grad_()
        layer.weight = nn.Parameter(weight.detach().clone())
        batch, target = bench.labelled(domain, [row])
        logits = bench.loss(batch, target)[1].logits
        if labels == "sampled":
            target = torch.bernoulli(logits.detach().sigmoid(), generator=draws)
        functional.binary_cross_entropy_with_logits(logits, target).backward()
        slow += layer.weight.grad**2 / 2
    layer.weight = base
    torch.testing.assert_close(found[f"{LAYER}.weight"], slow, rtol=1e-3, atol=1e-4 * slow.max().item())
    assert found[f"{LAYER}.weight"].max() > 0


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """The flags at each gradient of a loss's masks, in a process that rounds to TF32, on the CPU as on a GPU."""
    seen: list[tuple[str, bool]] = []
    for module in (workbench_module, interface_module, fit_module):
        monkeypatch.setattr(module, "tf32_on", lambda device, *, is_tf32: tf32(is_tf32))

    def watched(*args: Any, **settings: Any) -> tuple[Tensor, Masks]:
        loss, masks = training_loss(*args, **settings)
        masks.logits.register_hook(lambda _: seen.append(flags()))
        return loss, masks

    monkeypatch.setattr(workbench_module, "training_loss", watched)
    monkeypatch.setattr(fit_module, "training_loss", watched)
    with tf32(is_tf32=True):
        yield seen


def flags() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_the_gradients_of_the_fisher_information_are_without_tf32(
    bench: Workbench, domain: TrainingDomain, rounding: list[tuple[str, bool]]
) -> None:
    bench.squared_gradients(domain, update(bench, scale=0.1), labels="true", images=2)
    assert rounding == [("highest", False)] * 2
    assert flags() == ("high", True)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_merge_computes_without_tf32_and_trains_as_the_protocol_says(
    bench: Workbench, domain: TrainingDomain, rounding: list[tuple[str, bool]], precision: Precision
) -> None:
    merges: list[tuple[str, bool]] = []
    fit = bench.fit.model_copy(update={"precision": precision, "batch_size": 6})

    class Again(MergingMethod):
        card = MethodCard(title="Trains in its merge")

        def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
            merges.append(flags())
            return self.bench.train(domain).update

    Again(Again.Settings(), replace(bench, fit=fit)).learn(domain, step=1)
    assert merges == [("highest", False)]
    assert rounding == [("high", True) if precision == "tf32" else ("highest", False)] * 2


def test_pixels_that_do_not_count_have_no_part_in_the_fisher_information(
    bench: Workbench, domain: TrainingDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled, change = Workbench.labelled, update(bench, scale=0.1)

    def half(of: Workbench, domain: TrainingDomain, rows: list[int], *, flipped: bool) -> tuple[Batch, Tensor]:
        batch, target = labelled(of, domain, rows)
        weights, left = torch.ones_like(target), target[..., : target.shape[-1] // 2]
        weights[..., : left.shape[-1]] = 0
        left.copy_(1 - left if flipped else left)
        return TrainingBatch(**vars(batch), target=target, weights=weights), target

    found = []
    for flipped in (False, True):
        monkeypatch.setattr(Workbench, "labelled", partialmethod(half, flipped=flipped))
        found.append(bench.squared_gradients(domain, change, labels="true", images=2)[f"{LAYER}.weight"])
    monkeypatch.undo()
    assert torch.equal(*found)
    assert not torch.equal(
        found[0], bench.squared_gradients(domain, change, labels="true", images=2)[f"{LAYER}.weight"]
    )


def test_the_model_is_left_without_gradients_after_the_fisher_information(
    bench: Workbench, domain: TrainingDomain
) -> None:
    bench.squared_gradients(domain, update(bench, scale=0.1), labels="true", images=1)
    assert not any(parameter.requires_grad for parameter in bench.sam.parameters())


def test_training_from_scratch_leaves_the_start_beneath(bench: Workbench, domain: TrainingDomain) -> None:
    start = bench.train(domain).update
    fresh = bench.train(domain, start=start, from_scratch=True).update
    continued = bench.train(domain, start=start).update
    for layer in bench.layers:
        assert continued.low_rank[layer].rank == 2
        assert torch.equal(fresh.low_rank[layer].a[:2], start.low_rank[layer].a)
        assert torch.equal(fresh.low_rank[layer].b[:, :2], start.low_rank[layer].b)
        assert fresh.low_rank[layer].b[:, 2:].abs().max() > 0


class Recording(TrainingHooks):
    """Notes the order of the hooks, and freezes A."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def attached(self, adapter: Adapter) -> None:
        self.seen.append("attached")
        for a, _, _ in adapter.factors.values():
            a.requires_grad_(False)

    def before_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        self.seen.append(f"before {step} of {steps}")

    def loss(self, loss: Tensor, **parts: object) -> Tensor:
        self.seen.append("loss")
        return loss * 2

    def after_backward(self, adapter: Adapter) -> None:
        self.seen.append("backward")

    def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        self.seen.append(f"after {step}")


def test_hooks_step_into_the_training_in_order_and_are_never_read_back(
    bench: Workbench, domain: TrainingDomain, tmp_path: Path
) -> None:
    hooks = Recording()
    shared = replace(bench, experts=ExpertStore(tmp_path))
    plain = bench.train(domain)
    fitted = shared.train(domain, hooks=hooks)
    assert not list(tmp_path.iterdir())
    steps = -(-len(domain) // 3)
    expected = ["attached"]
    for step in range(steps):
        expected += [f"before {step} of {steps}", "loss", "backward", f"after {step}"]
    assert hooks.seen == expected
    layer = bench.layers[0]
    assert torch.equal(fitted.update.low_rank[layer].a, bench.train(domain, hooks=Recording()).update.low_rank[layer].a)
    assert not torch.equal(fitted.update.low_rank[layer].a, plain.update.low_rank[layer].a)  # A was trained there
    assert fitted.epoch_losses[0] > plain.epoch_losses[0]
    assert fitted.trainable_parameters < plain.trainable_parameters


def test_an_expert_is_trained_once_and_read_back_the_same_at_its_recorded_cost(
    bench: Workbench, domain: TrainingDomain, tmp_path: Path
) -> None:
    first = replace(bench, experts=ExpertStore(tmp_path), meter=Meter())
    second = replace(bench, experts=ExpertStore(tmp_path), meter=Meter())
    trained, read = first.train(domain), second.train(domain)
    assert read.update.digest() == trained.update.digest()
    assert len(list(tmp_path.iterdir())) == 1
    assert second.meter.training_seconds == first.meter.training_seconds == trained.seconds
    assert second.meter.elapsed_training_seconds < first.meter.elapsed_training_seconds
    assert bench.train(domain).update.digest() == trained.update.digest()  # without a folder, too


def test_another_seed_start_or_setting_is_another_expert(
    bench: Workbench, domain: TrainingDomain, tmp_path: Path
) -> None:
    shared = replace(bench, experts=ExpertStore(tmp_path))
    shared.train(domain)
    replace(shared, seed=1).train(domain)
    replace(shared, adapter=AdapterSettings(rank=1, alpha=2.0)).train(domain)
    start = update(bench, scale=0.1)
    shared.train(domain, start=start)
    shared.train(domain, start=start, from_scratch=True)
    assert len(list(tmp_path.iterdir())) == 5
    shared.train(domain, from_scratch=True)  # without a start there is nothing to leave beneath
    assert len(list(tmp_path.iterdir())) == 5


class LaterFit(FitSettings):
    """The settings of training after somebody added one."""

    warmup_steps: int = 0


def test_all_that_decides_an_expert_is_in_its_files_name(bench: Workbench) -> None:
    def name(
        prompt_kind: TrainPrompt = "box",
        view: View = bench.view,
        model: type[FitSettings] = FitSettings,
        adapter: AdapterSettings = bench.adapter,
        has_kept_features: bool = True,
        **fit: Any,
    ) -> str:
        return expert_name(
            "data",
            sam=bench.sam,
            adapter=adapter,
            fit=model.model_validate(fit),
            prompt_kind=prompt_kind,
            view=view,
            seed=0,
            start=None,
            from_scratch=False,
            has_kept_features=has_kept_features,
        )

    changes: list[dict[str, Any]] = [
        {"ranks": 2},
        {"drop_last": True},
        {"sum_over_batch": True},
        {"loss_points": 16},
        {"loss_grid": "model"},
        {"loss": "focal_dice_iou"},
        {"loss": "focal_dice_iou", "iou_threshold": 0.5},
        {"schedule": "cosine"},
        {"schedule": "cosine", "rate_floor": 1e-7},
        {"jitter": True},
        {"jitter": True, "empty_crops": "keep"},
        {"precision": "bf16"},
    ]
    views = [
        replace(bench.view, **{field: value})
        for field, value in (("resize", "squash"), ("resampling", "torch"), ("mask_levels", RAW_MASK_LEVELS))
    ]
    names = [name(), name("mix"), *(name(view=view) for view in views), *(name(**change) for change in changes)]
    assert len(set(names)) == len(names)
    assert name(view=replace(bench.view, precision="bf16")) == name()  # of the scores alone
    assert name(flip=True) == name(model=LaterFit) == name()  # at their defaults
    assert name(model=LaterFit, warmup_steps=5) != name()
    later = AdapterSettings(rank=2, blocks=(3,))
    assert name(adapter=later, has_kept_features=False) != name(adapter=later)
    first = AdapterSettings(rank=2, blocks=(0,))
    assert name(adapter=first, has_kept_features=False) == name(adapter=first)  # there are none before


def test_a_domain_may_have_a_learning_rate_of_its_own(bench: Workbench, domain: TrainingDomain) -> None:
    faster = bench.fit.model_copy(update={"learning_rate": 0.05})
    wanted = replace(bench, fit=faster).train(domain).update.digest()
    named = bench.fit.model_copy(update={"rates": {domain.name: 0.05, "other": 0.5}})
    assert replace(bench, fit=named).train(domain).update.digest() == wanted
    assert bench.train(domain).update.digest() != wanted


def test_statistics_come_from_the_shard_that_training_sees(bench: Workbench, domain: TrainingDomain) -> None:
    sharded = replace(bench, fit=bench.fit.model_copy(update={"ranks": 2}))
    seen: list[Tensor] = []
    with layer_inputs(bench.sam, [LAYER], lambda _, rows: seen.append(rows)):
        found = sharded.input_grams(domain, None)[LAYER]
        assert sum(map(len, seen)) == (len(domain) + 1) // 2 * 16 * 16
    rows = torch.cat(seen).double()
    torch.testing.assert_close(found, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-4)


def test_each_row_is_predicted_by_its_own_update(bench: Workbench, domain: TrainingDomain) -> None:
    strong, weak = update(bench, scale=0.5), update(bench, scale=0.1)
    rows = list(range(4))
    batch, _ = collate([domain[row] for row in rows], domain.prompts.take(rows), kinds=["box"] * 4, view=bench.view)
    chosen = [strong, None, weak, strong]
    together = bench.predict_each(chosen, batch)
    for row, own in enumerate(chosen):
        torch.testing.assert_close(together[row], bench.predict(own, batch.select([row]))[0], atol=1e-4, rtol=1e-4)
    assert (together[0] - bench.predict(None, batch)[0]).abs().max() > 1e-2
