from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import Prompts, draw_prompts, tight_box
from cosam_bench.data.samples import Sample, Split
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter
from cosam_bench.sam.batch_size import ImageDoesNotFit
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.inputs import Batch, View
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import serving
from cosam_bench.training import feeding
from cosam_bench.training.adam import Adam
from cosam_bench.training.augmentation import mirror, mirror_prompts
from cosam_bench.training.draws import MIXED
from cosam_bench.training.fit import Fitted, TrainingHooks, fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.training_batch import HostBatch


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("tiny", checkpoint="random", seed=0)


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


def trained(
    sam: Sam,
    samples: Split | list[Sample],
    prompts: Prompts,
    *,
    prompt_kind: TrainPrompt = "box",
    start: Update | None = None,
    decoder: bool = False,
    seed: int = 0,
    advance: Callable[[float], None] = lambda images: None,
    **fit: Any,
) -> Fitted:
    facts = {"epochs": 1, "batch_size": 3, "learning_rate": 5e-3, "schedule": "constant"} | fit
    return fit_adapter(
        sam,
        samples,
        prompts,
        adapter=AdapterSettings(rank=2, alpha=4.0, decoder=decoder),
        fit=FitSettings(**facts),
        prompt_kind=prompt_kind,
        view=View(sam.image_size, sam.logits_size, "pad", torch.device("cpu")),
        start=start,
        initialisation=torch.Generator().manual_seed(seed),
        order=torch.Generator().manual_seed(seed),
        advance=advance,
    )


def test_the_loss_falls_and_the_model_is_left_as_it_was(sam: Sam, squares: Split, prompts: Prompts) -> None:
    before = digest_tensors(sam.state_dict())
    names = [name for name, _ in sam.named_modules()]
    steps: list[float] = []
    fitted = trained(sam, squares, prompts, epochs=5, decoder=True, advance=steps.append)
    assert fitted.epoch_losses[-1] < fitted.epoch_losses[0] - 0.1
    assert digest_tensors(sam.state_dict()) == before
    assert [name for name, _ in sam.named_modules()] == names
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    assert steps == [3, 3] * 5
    sizes = [tensor.numel() for tensor in fitted.update.tensors().values()]
    assert fitted.trainable_parameters == sum(sizes)
    with serving(sam, fitted.update):
        assert digest_tensors(sam.state_dict()) != before


def test_the_same_seed_gives_the_same_adapter_whatever_ran_before(sam: Sam, squares: Split, prompts: Prompts) -> None:
    first = trained(sam, squares, prompts, prompt_kind="mix")
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = trained(sam, squares, prompts, prompt_kind="mix")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.update.digest() == again.update.digest()
    assert first.update.digest() != trained(sam, squares, prompts, prompt_kind="mix", seed=1).update.digest()


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("settings", [{"schedule": "cosine"}, {"jitter": True, "loss_points": 16}])
def test_batches_drawn_ahead_by_threads_give_the_same_bits(
    sam: Sam, squares: Split, prompts: Prompts, settings: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = trained(sam, squares, prompts, prompt_kind="mix", epochs=2, **settings)
    drawing, preparing = set(), set()
    draw, prepare = feeding.draw_choices, feeding.prepare_drawn

    def watched_draw(*args: Any, **kwargs: Any) -> Any:
        drawing.add(threading.get_ident())
        return draw(*args, **kwargs)

    def watched_prepare(*args: Any, **kwargs: Any) -> Any:
        preparing.add(threading.get_ident())
        return prepare(*args, **kwargs)

    monkeypatch.setattr(feeding, "draw_choices", watched_draw)
    monkeypatch.setattr(feeding, "prepare_drawn", watched_prepare)
    feed_ahead(monkeypatch, workers=workers)
    ahead = trained(sam, squares, prompts, prompt_kind="mix", epochs=2, **settings)
    assert ahead.update.digest() == inline.update.digest()
    assert ahead.epoch_losses == inline.epoch_losses
    assert len(drawing) == 1
    assert threading.get_ident() not in drawing | preparing
    assert preparing == drawing if workers == 0 else preparing.isdisjoint(drawing)
    assert threading.active_count() == 1 + sum(thread.daemon for thread in threading.enumerate())


def feed_ahead(monkeypatch: pytest.MonkeyPatch, *, workers: int) -> None:
    """Draw and prepare batches in threads, as for a GPU."""
    monkeypatch.setattr(feeding, "prefetch_depth", lambda device: 2)
    monkeypatch.setattr(feeding, "preparing_threads", lambda device: workers)


@pytest.mark.parametrize("failures", [1, 2])
def test_memory_that_is_full_when_a_batch_is_put_on_the_device_is_released_and_it_is_put_there_again(
    sam: Sam, squares: Split, prompts: Prompts, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = trained(sam, squares, prompts, epochs=2), digest_tensors(sam.state_dict())
    placed, released, calls = HostBatch.placed, [], []

    def full_at_the_second_step(self: HostBatch, *, view: View) -> tuple[Batch, Tensor]:
        calls.append(threading.current_thread())
        if 2 <= len(calls) < 2 + failures:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return placed(self, view=view)

    monkeypatch.setattr(HostBatch, "placed", full_at_the_second_step)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(len(calls)))
    feed_ahead(monkeypatch, workers=2)
    if failures == 1:
        assert trained(sam, squares, prompts, epochs=2).update.digest() == plain.update.digest()
        assert len(calls) == 5
    else:
        with pytest.raises(ImageDoesNotFit, match=r"the input of a training step of 3 images\. Lower fit\.batch_size"):
            trained(sam, squares, prompts, epochs=2)
    assert released == [2]
    assert set(calls) == {threading.current_thread()}, "nothing is put on the device while a step fills it"
    assert digest_tensors(sam.state_dict()) == before


@pytest.mark.parametrize("ahead", [0, 2])
def test_each_step_has_its_own_epochs_rate_however_far_ahead_batches_are_drawn(
    sam: Sam, squares: Split, prompts: Prompts, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    own = Adam.step

    def watched(self: Adam) -> None:
        rates.append(self.learning_rate)
        own(self)

    monkeypatch.setattr(Adam, "step", watched)
    monkeypatch.setattr(feeding, "prefetch_depth", lambda device: ahead)
    trained(sam, squares, prompts, epochs=3, schedule="step", step_epochs=1, step_factor=0.1)
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


def test_training_goes_on_from_where_it_starts(sam: Sam, squares: Split, prompts: Prompts) -> None:
    first = trained(sam, squares, prompts, epochs=4, decoder=True)
    second = trained(sam, squares, prompts, start=first.update, decoder=True, seed=1)
    assert second.epoch_losses[0] < first.epoch_losses[0] - 0.1
    assert {name: both.rank for name, both in second.update.low_rank.items()} == dict.fromkeys(first.update.low_rank, 2)


def test_one_step_of_adam_worked_by_hand(sam: Sam, squares: Split, prompts: Prompts) -> None:
    """Adam's first step moves each number by the learning rate against its gradient's sign; A's gradient is 0."""
    fitted = trained(sam, squares, prompts, batch_size=6, learning_rate=1e-3, flip=False)
    for factors in fitted.update.low_rank.values():
        moved = (factors.b / (4.0 / 2)).abs()
        assert torch.quantile(moved, 0.5).item() == pytest.approx(1e-3, rel=1e-2)
        assert moved.max().item() <= 1e-3 * (1 + 1e-5)


def test_a_diverging_rate_ends_with_a_message_and_the_model_as_it_was(
    sam: Sam, squares: Split, prompts: Prompts
) -> None:
    before = digest_tensors(sam.state_dict())
    with pytest.raises(CosamError, match=r"diverged in epoch 1: .*Lower fit\.learning_rate"):
        trained(sam, squares, prompts, learning_rate=1e30, decoder=True)
    assert digest_tensors(sam.state_dict()) == before


def test_nothing_to_train_on_is_refused(sam: Sam, prompts: Prompts) -> None:
    with pytest.raises(CosamError, match="no training samples"):
        trained(sam, [], prompts.take([]))


def test_mirrored_prompts_are_those_of_the_mirrored_mask(squares: Split, prompts: Prompts) -> None:
    flips = torch.tensor([True, False, True, True, False, True])
    rows = mirror_prompts(prompts, widths=[60] * 6, flips=flips)
    for index, flip in enumerate(flips.tolist()):
        sample = mirror(squares[index]) if flip else squares[index]
        assert rows.boxes[index].tolist() == tight_box(sample.mask).tolist()
        columns, lines = (rows.points[index] - 0.5).long().unbind(1)
        assert torch.equal(rows.points[index] % 1, torch.full((3, 2), 0.5))
        assert sample.mask[lines, columns].all()
        expected = prompts.masks[index].flip(-1) if flip else prompts.masks[index]
        assert torch.equal(rows.masks[index], expected)
        assert (sample.image[:, sample.mask] == 200).all()


def test_mirroring_twice_changes_nothing(prompts: Prompts) -> None:
    flips = torch.ones(6, dtype=torch.bool)
    twice = mirror_prompts(mirror_prompts(prompts, widths=[60] * 6, flips=flips), widths=[60] * 6, flips=flips)
    for name in ("boxes", "points", "masks"):
        assert torch.equal(getattr(twice, name), getattr(prompts, name))


def test_dropped_and_unseen_samples_are_not_trained_on(sam: Sam, squares: Split, prompts: Prompts) -> None:
    """Six squares: of batches of four one is whole; of two ranks one sees three."""
    steps: list[float] = []
    dropped = trained(sam, squares, prompts, batch_size=4, epochs=2, drop_last=True, advance=steps.append)
    assert steps == [4, 4]
    steps.clear()
    trained(sam, squares, prompts, batch_size=4, epochs=2, ranks=2, advance=steps.append)
    assert steps == [3, 3]
    whole = trained(sam, squares, prompts, batch_size=4, epochs=2)
    # The first batch of the first epoch is the same; the mean loss is that of the samples that were seen.
    assert dropped.epoch_losses[0] == pytest.approx(whole.epoch_losses[0], rel=0.2)
    with pytest.raises(CosamError, match="do not fill a batch of 7"):
        trained(sam, squares, prompts, batch_size=7, drop_last=True)


class Counts(TrainingHooks):
    """Notes what it is told of the training's length."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def before_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        self.seen.append((step, steps))


@pytest.mark.parametrize(("settings", "steps"), [({}, 4), ({"drop_last": True}, 2), ({"ranks": 2}, 2)])
def test_hooks_are_told_how_many_steps_there_will_be(
    sam: Sam, squares: Split, prompts: Prompts, settings: dict[str, Any], steps: int
) -> None:
    counts = Counts()
    fit_adapter(
        sam,
        squares,
        prompts,
        adapter=AdapterSettings(rank=2),
        fit=FitSettings(epochs=2, batch_size=4, **settings),
        prompt_kind="box",
        view=View(sam.image_size, sam.logits_size, "pad", torch.device("cpu")),
        start=None,
        initialisation=torch.Generator().manual_seed(0),
        order=torch.Generator().manual_seed(0),
        hooks=counts,
    )
    assert counts.seen == [(step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    "fit",
    [
        {"loss_points": 128},
        {"loss": "focal_dice_iou", "loss_grid": "model", "iou_threshold": 0.5, "sum_over_batch": True},
        {"loss_points": 128, "jitter": True},
    ],
)
def test_the_published_losses_fall(sam: Sam, squares: Split, prompts: Prompts, fit: dict[str, Any]) -> None:
    fitted = trained(sam, squares, prompts, epochs=5, decoder=True, **fit)
    assert fitted.epoch_losses[-1] < fitted.epoch_losses[0] - 0.1
    first, again = (trained(sam, squares, prompts, **fit) for _ in range(2))
    assert again.update.digest() == first.update.digest()


def test_a_mix_draws_every_kind(sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    decode = Sam.decode

    def watched(self: Sam, features: Any, given: Any) -> Any:
        seen.extend(given.kinds)
        return decode(self, features, given)

    monkeypatch.setattr(Sam, "decode", watched)
    trained(sam, squares, prompts, prompt_kind="mix", epochs=4)
    assert set(seen) == set(MIXED)
    seen.clear()
    trained(sam, squares, prompts, prompt_kind="points")
    assert seen == ["points"] * 6
