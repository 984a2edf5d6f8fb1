"""Experience replay and L2P: what is kept of a domain, and what is chosen for an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.core.settings import validate
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Sample, Split
from cosam_bench.merging.updates import Update
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import State
from cosam_bench.method.training_domain import ClosedDomainError, TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.er import (
    ER,
    ERSettings,
    MixedDomain,
    Replay,
    pack_bits,
    samples_to_tensors,
    tensors_to_samples,
    unpack_bits,
)
from cosam_bench.methods.finetune import Finetune
from cosam_bench.methods.l2p import L2P, L2PSettings, choose_prompts, image_query
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.inputs import Batch, collate
from cosam_bench.sam.sam import Features, Masks
from cosam_bench.training.fit import fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import bce_dice
from cosam_bench.training.step_division import StepDivision

NO_ADAPTER = Adapter({}, {}, Update())


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(
        build_sam("tiny"),
        adapter=AdapterSettings(rank=2, alpha=4.0, blocks=(3,)),
        fit=FitSettings(epochs=4, batch_size=3, learning_rate=1e-2, schedule="constant"),
    )


@pytest.fixture(scope="module")
def wide() -> Split:
    """Five images of another size, with a dark strip to be found."""
    masks = [torch.zeros(30, 70, dtype=torch.bool) for _ in range(5)]
    images = []
    for index, mask in enumerate(masks):
        mask[5 + 3 * index : 13 + 3 * index, 6:61] = True
        images.append(torch.where(mask, 30, 150 + 10 * index).to(torch.uint8).expand(3, -1, -1).contiguous())
    entries = tuple(Entry(f"strip {index}", str(index), str(index)) for index in range(5))
    return Split("wide", part="train", manifest=Manifest(entries), source=Pixels(tuple(images), tuple(masks)))


# Experience replay


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_packed_masks_come_back(height: int, width: int, seed: int) -> None:
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    bits = pack_bits(mask)
    assert bits.nbytes == height * -(-width // 8)
    assert torch.equal(unpack_bits(bits, width=width), mask)


@pytest.mark.parametrize("noisy_masks", [True, False])
def test_kept_samples_come_back_with_the_prompts_that_training_uses(squares: Split, noisy_masks: bool) -> None:
    prompts = draw_prompts(squares, points=3, seed=0)
    tensors = samples_to_tensors(list(squares), prompts, noisy_masks=noisy_masks)
    samples, again = tensors_to_samples({f"1/{name}": tensor for name, tensor in tensors.items()}, prefix="1/")
    for sample, own in zip(samples, squares, strict=True):
        assert torch.equal(sample.image, own.image)
        assert torch.equal(sample.mask, own.mask)
    assert torch.equal(again.boxes, prompts.boxes)
    assert torch.equal(again.points, prompts.points)
    assert torch.equal(again.masks, prompts.masks) == noisy_masks
    assert len(again.masks) == len(samples)


@pytest.mark.parametrize("kind", ["box", "mix"])
def test_the_memory_is_in_the_state_and_nowhere_else(
    bench: Workbench, squares: Split, wide: Split, tmp_path: Path, kind: TrainPrompt
) -> None:
    bench = replace(bench, prompt_kind=kind)
    method = ER(ERSettings(memory=4), bench)
    for step, split in enumerate((squares, wide), start=1):
        method.merge(Update(), trial_domain(split), step=step)
    size_bytes = method.state().save(tmp_path / "state")
    again = ER(ERSettings(memory=4), bench)
    again.load(State.read(tmp_path / "state"))
    samples, prompts = again.remembered()
    assert len(samples) == len(prompts) == 8
    for rows, split in ((range(4), squares), (range(4, 8), wide)):
        drawn = draw_prompts(split, points=3, seed=0)
        places = []
        for row in rows:
            (place,) = (
                place
                for place, own in enumerate(split)
                if torch.equal(own.image, samples[row].image) and torch.equal(own.mask, samples[row].mask)
            )
            places.append(place)
            assert torch.equal(prompts.boxes[row], drawn.boxes[place])
            assert torch.equal(prompts.points[row], drawn.points[place])
            assert kind == "box" or torch.equal(prompts.masks[row], drawn.masks[place])
        assert len(set(places)) == 4
    pixels = sum(sample.image.numel() for sample in samples)
    assert pixels < size_bytes < pixels + 12_000 + (8 * 256 * 256 // 8 if kind == "mix" else 0)


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(CosamError, match="'memory' is 0"):
        validate(ERSettings, {"memory": 0}, source="test")


def test_the_loss_is_that_of_both_batches_joined(bench: Workbench, squares: Split, wide: Split) -> None:
    domain, old = trial_domain(squares), trial_domain(wide)
    batch, target = bench.labelled(domain, [0, 1, 2])
    loss, masks = bench.loss(batch, target)
    replay = Replay(bench, list(wide), old.prompts, order=torch.Generator().manual_seed(5))
    found = replay.loss(loss, batch=batch, target=target, masks=masks, adapter=NO_ADAPTER)
    again, again_target = Replay(bench, list(wide), old.prompts, order=torch.Generator().manual_seed(5)).batch(3)
    logits = torch.cat([masks.logits, bench.loss(again, again_target)[1].logits])
    joined = bce_dice(logits, torch.cat([target, again_target]), torch.zeros(6))
    assert found.item() == pytest.approx(joined.item(), rel=1e-5)
    assert found.item() != pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.parametrize("sum_over_batch", [False, True])
@pytest.mark.parametrize(("holds", "also_fails"), [(2, 0), (2, 4), (1, 0)])  # the 4th pass is the replay's first
def test_a_step_with_replay_that_does_not_fit_has_the_whole_steps_gradient(
    bench: Workbench,
    squares: Split,
    wide: Split,
    sum_over_batch: bool,
    holds: int,
    also_fails: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = bench.fit.model_copy(update={"epochs": 2, "batch_size": 4, "sum_over_batch": sum_over_batch, "flip": True})
    domain, old = trial_domain(squares), trial_domain(wide)

    def gradients() -> list[Tensor]:
        own = replace(bench, fit=fit, prompt_kind="mix", division=StepDivision())
        found: list[Tensor] = []

        class Watched(Replay):
            def after_backward(self, adapter: Adapter) -> None:
                found.append(torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()]))

            def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
                with torch.no_grad():  # rounding must not grow from step to step
                    for parameter, first in zip(adapter.parameters(), self.first, strict=True):
                        parameter.copy_(first)

            def attached(self, adapter: Adapter) -> None:
                with torch.no_grad():
                    for parameter in adapter.parameters():
                        parameter.add_(0.05 * torch.randn(parameter.shape, generator=own.generator("test")))
                self.first = [parameter.detach().clone() for parameter in adapter.parameters()]

        own.train(domain, hooks=Watched(own, list(wide), old.prompts, order=own.generator("er", "replay")))
        return found

    whole, decode = gradients(), bench.sam.decode
    tried: list[int] = []

    def limited(features: Features, *args: Any, **settings: Any) -> Masks:
        tried.append(len(features.maps))
        if tried[-1] > holds or len(tried) == also_fails:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(features, *args, **settings)

    monkeypatch.setattr(bench.sam, "decode", limited)
    divided = gradients()
    assert len(divided) == len(whole) == 4
    for one, other in zip(divided, whole, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_no_sample_is_replayed_twice_in_a_batch(bench: Workbench, squares: Split) -> None:
    plain = replace(bench, fit=bench.fit.model_copy(update={"flip": False}))
    prompts = draw_prompts(squares, points=3, seed=0)
    own = collate(list(squares), prompts, kinds=["box"] * 6, view=bench.view)[0].images
    replay = Replay(plain, list(squares), prompts, order=torch.Generator().manual_seed(0))
    seen = []
    for size, expected in ((4, 4), (5, 5), (9, 6)):
        batch, target = replay.batch(size)
        rows = [next(row for row in range(6) if torch.equal(own[row], image)) for image in batch.images]
        assert len(set(rows)) == len(rows) == len(target) == expected
        seen.append(rows[:4])
    assert seen[0] != seen[1]


def test_the_second_domain_is_trained_with_the_first_ones_memory_also_after_a_stop(
    bench: Workbench, squares: Split, wide: Split
) -> None:
    bench = replace(bench, fit=bench.fit.model_copy(update={"epochs": 1}))
    first, second = trial_domain(squares), trial_domain(wide)
    method, plain = ER(ERSettings(memory=4), bench), Finetune(Finetune.Settings(), bench)
    for each in (method, plain):
        each.learn(first, step=1)
    start = method.served
    assert start is not None
    assert plain.served is not None
    assert start.digest() == plain.served.digest()
    resumed = ER(ERSettings(memory=4), bench)
    resumed.load(method.state())
    order = bench.generator("er", "replay", second.digest)
    replay = Replay(bench, *method.remembered(), order=order)
    expected = bench.train(second, start=start, hooks=replay).update.digest()
    for each in (method, resumed, plain):
        each.learn(second, step=2)
        assert each.served is not None
        assert (each.served.digest() == expected) == (each is not plain)


@pytest.mark.parametrize("kind", ["box", "mix"])
def test_a_shuffled_memory_is_trained_on_as_part_of_the_new_domain(
    bench: Workbench, squares: Split, wide: Split, kind: TrainPrompt
) -> None:
    """Against fitting an adapter on one list of samples; each epoch sees each of them once."""
    bench = replace(bench, fit=bench.fit.model_copy(update={"epochs": 2}), prompt_kind=kind, meter=Meter())
    method = ER(ERSettings(memory=4, mixing="shuffled"), bench)
    method.learn(trial_domain(squares), step=1)
    start, domain = method.served, trial_domain(wide)
    assert start is not None
    assert start.digest() == bench.train(trial_domain(squares)).update.digest()
    samples, prompts = method.remembered()
    own = draw_prompts(wide, points=3, seed=0)
    masks = torch.cat([own.masks, prompts.masks]) if kind == "mix" else torch.zeros(9, 1, 1, dtype=torch.bool)
    joined = Prompts(torch.cat([own.boxes, prompts.boxes]), torch.cat([own.points, prompts.points]), masks, "")
    seen = 0

    def count(images: float) -> None:
        nonlocal seen
        seen += int(images)

    expected = fit_adapter(
        bench.sam,
        [*wide, *samples],
        joined,
        adapter=bench.adapter,
        fit=bench.fit,
        prompt_kind=kind,
        view=bench.training_view,
        start=start,
        initialisation=bench.generator("adapter"),
        order=bench.generator("order", domain.digest),
        advance=count,
    )
    resumed = ER(ERSettings(memory=4, mixing="shuffled"), bench)
    resumed.load(method.state())
    resumed.learn(domain, step=2)
    assert resumed.served is not None
    assert resumed.served.digest() == expected.update.digest()
    assert seen == 2 * (5 + 4)
    half = ER(ERSettings(memory=4), bench)
    half.load(method.state())
    half.learn(trial_domain(wide), step=2)
    assert half.served is not None
    assert half.served.digest() != resumed.served.digest()
    assert half.memory.keys() == resumed.memory.keys()


def test_a_mixed_domain_is_the_domain_and_then_the_memory(squares: Split, wide: Split) -> None:
    domain, old = trial_domain(wide), trial_domain(squares)
    mixed = MixedDomain(domain, list(squares), old.prompts)
    assert (mixed.name, mixed.digest, len(mixed)) == ("wide", domain.digest, 11)
    assert [sample.key for sample in mixed] == [sample.key for sample in [*wide, *squares]]
    assert [sample.key for sample in mixed[4:6]] == [wide[4].key, squares[0].key]
    assert mixed[-1].key == squares[5].key
    assert torch.equal(mixed.prompts.boxes, torch.cat([domain.prompts.boxes, old.prompts.boxes]))
    domain.close()
    with pytest.raises(ClosedDomainError):
        mixed[0]


# L2P


@given(st.integers(1, 4), st.integers(1, 6), st.data())
@settings(max_examples=30, deadline=None)
def test_the_chosen_prompts_are_those_a_loop_finds(images: int, pool: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, pool))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    queries = torch.randn(images, 5, generator=generator, dtype=torch.float64)
    keys = torch.randn(pool, 5, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(pool)[:, None]
    shares = (
        torch.rand(pool, generator=generator, dtype=torch.float64) if data.draw(st.booleans()) else torch.ones(pool)
    )
    numbers, similarities = choose_prompts(queries, keys, count=count, shares=shares)
    if (shares == 1).all():
        assert torch.equal(numbers, choose_prompts(queries, keys, count=count)[0])
    for row in range(images):
        cosines = {
            number: (queries[row] @ keys[number] / (queries[row].norm() * keys[number].norm())).item()
            for number in range(pool)
        }
        distances = {number: (1 - cosine) * shares[number].item() for number, cosine in cosines.items()}
        best = sorted(distances, key=lambda number: distances[number])[:count]
        assert numbers[row].tolist() == best
        assert similarities[row].tolist() == pytest.approx([cosines[number] for number in best])


def l2p(bench: Workbench, **values: float) -> L2P:
    return L2P(L2PSettings.model_validate({"pool": 5, "length": 2, "chosen": 2} | values), bench)


def mixed_batch(bench: Workbench, samples: list[Sample], prompts: Prompts) -> Batch:
    return collate(samples, prompts, kinds=["points", "box", "mask", "box"], view=bench.view)[0]


def test_each_image_is_decoded_with_its_own_prompts(bench: Workbench, squares: Split, wide: Split) -> None:
    """Against one image at a time, whose tokens a loop picks; keys are made so that the images differ."""
    method = l2p(bench)
    both = [draw_prompts(split, points=3, seed=0).take([0, 1]) for split in (squares, wide)]
    joined = Prompts(*(torch.cat([getattr(p, f) for p in both]) for f in ("boxes", "points", "masks")), digest="")
    batch = mixed_batch(bench, [squares[0], squares[1], wide[0], wide[1]], joined)
    with torch.no_grad():
        queries = image_query(bench.sam.encode(batch.images).maps)
    generator = torch.Generator().manual_seed(0)
    method.keys[:4] = (queries - queries.mean(0)) + 0.01 * torch.randn(queries.shape, generator=generator)
    method.prompts = torch.randn(method.prompts.shape, generator=generator)
    found, picked = method.predict(batch), set()
    for row in range(4):
        alone = batch.select([row])
        with torch.no_grad():
            embedding = bench.sam.encode(alone.images)
            mean = torch.stack([plane.mean() for plane in embedding.maps[0]])
            cosines = torch.stack([torch.cosine_similarity(mean, key, dim=0) for key in method.keys])
            order = cosines.argsort(descending=True).tolist()[:2]
            tokens = torch.cat([method.prompts[number] for number in order])[None]
            expected = bench.sam.decode(embedding, alone.prompts, extra=tokens).logits
        picked.add(tuple(order))
        torch.testing.assert_close(found[row], expected[0], rtol=0, atol=1e-4)
        assert (found[row] - bench.predict(None, alone)[0]).abs().max() > 0.01
    assert len(picked) > 1


def test_no_extra_tokens_change_nothing(bench: Workbench, squares: Split) -> None:
    batch = mixed_batch(bench, list(squares[:4]), draw_prompts(squares, points=3, seed=0).take(range(4)))
    assert isinstance(batch.prompts, FramePrompts)
    with torch.no_grad():
        embeddings = bench.sam.encode(batch.images)
        plain = bench.sam.decode(embeddings, batch.prompts)
        empty = bench.sam.decode(embeddings, batch.prompts, extra=torch.zeros(4, 0, embeddings.maps.shape[1]))
    assert torch.equal(plain.logits, empty.logits)


def similarity(method: L2P, domain: TrainingDomain) -> Tensor:
    batch, _ = method.bench.labelled(domain, range(len(domain)))
    with torch.no_grad():
        return (
            choose_prompts(image_query(method.bench.sam.encode(batch.images).maps), method.keys, count=2)[1]
            .sum(1)
            .mean()
        )


def test_training_moves_the_pool_alone_and_is_counted(bench: Workbench, squares: Split) -> None:
    domain, before = trial_domain(squares), digest_tensors(bench.sam.state_dict())
    method = l2p(replace(bench, meter=Meter()))
    began = method.state()
    nearer = similarity(method, domain)
    batch, target = bench.labelled(domain, range(6))
    before_loss = bce_dice(method.predict(batch), target, torch.zeros(6)).item()
    method.learn(domain, step=1)
    assert bce_dice(method.predict(batch), target, torch.zeros(6)).item() < before_loss - 0.02
    assert similarity(method, domain) > nearer + 0.1
    moved = (method.prompts - began.tensors["prompts"]).abs().amax(dim=(1, 2)) > 0
    assert 2 <= int(moved.sum()) < 5
    assert torch.equal((method.keys - began.tensors["keys"]).abs().amax(dim=1) > 0, moved)
    assert digest_tensors(bench.sam.state_dict()) == before
    assert method.bench.meter.training_seconds == method.bench.meter.elapsed_training_seconds > 0
    assert method.bench.meter.trainable_parameters == method.prompts.numel() + method.keys.numel()


def test_keys_are_moved_by_the_pull_alone(bench: Workbench, squares: Split) -> None:
    short = replace(bench, fit=bench.fit.model_copy(update={"epochs": 1}))
    free = l2p(short, pull=0.0)
    keys, prompts = free.keys.clone(), free.prompts.clone()
    free.learn(trial_domain(squares), step=1)
    assert torch.equal(free.keys, keys)
    assert not torch.equal(free.prompts, prompts)


@pytest.mark.parametrize("diversify", [True, False])
def test_a_new_domain_turns_to_prompts_that_nobody_chose(
    bench: Workbench, squares: Split, wide: Split, diversify: bool
) -> None:
    short = replace(bench, fit=bench.fit.model_copy(update={"epochs": 1, "batch_size": 6}))
    method = l2p(short, diversify=diversify)
    method.learn(trial_domain(squares), step=1)
    first = method.choices.clone()
    assert first.sum() == 2 * len(squares)
    again = l2p(short, diversify=diversify)
    again.load(method.state())
    again.learn(trial_domain(wide), step=2)
    second = again.choices - first
    assert second.sum() == 2 * len(wide)
    assert bool(((first > 0) & (second > 0)).any()) != diversify


def test_the_pool_begins_uniform_between_its_bounds(bench: Workbench) -> None:
    own, wide = l2p(bench), l2p(bench, init_low=-1.0, init_high=1.0)
    draws = bench.generator("l2p", "pool")
    assert torch.equal(own.prompts, 0.01 * torch.rand(own.prompts.shape, generator=draws))
    assert torch.equal(own.keys, 0.01 * torch.rand(own.keys.shape, generator=draws))
    for tensor, narrow in ((wide.prompts, own.prompts), (wide.keys, own.keys)):
        torch.testing.assert_close(tensor, 200 * narrow - 1)
        assert tensor.min() < -0.9
        assert tensor.max() > 0.9
    with pytest.raises(CosamError, match=r"init_low = 0\.5 is not below init_high = 0\.5"):
        validate(L2PSettings, {"init_low": 0.5, "init_high": 0.5}, source="test")


def test_more_prompts_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(CosamError, match="3 prompts cannot be chosen from a pool of 2"):
        validate(L2PSettings, {"pool": 2, "chosen": 3}, source="test")
