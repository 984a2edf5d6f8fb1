"""Training steps that do not fit into memory at once: their parts add up to the whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.batch_size import ImageDoesNotFit
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Features, Sam
from cosam_bench.training import fit as fit_module
from cosam_bench.training.batch_loss import training_loss
from cosam_bench.training.epoch_losses import EpochLosses
from cosam_bench.training.fit import Fitted, fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.step_loss import Part, StepLoss
from cosam_bench.training.training_batch import draw_batch


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("tiny", checkpoint="random", seed=0)


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


def view_of(sam: Sam) -> View:
    return View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"))


def full(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def stepped(
    sam: Sam, squares: Split, prompts: Prompts, *, settings: dict[str, Any], refuses: Callable[[Part], bool]
) -> tuple[Tensor, list[Tensor], list[int]]:
    """Loss and gradients of a step of five images, and the sizes of the parts that were tried."""
    fit, view, sizes = FitSettings(**settings), view_of(sam), []
    order = torch.Generator().manual_seed(1)
    batch, target = draw_batch(squares, prompts, [0, 1, 2, 3, 4], fit=fit, prompt_kind="mix", view=view, order=order)
    with attach(sam, AdapterSettings(rank=2, alpha=4.0, decoder=True), generator=order) as adapter:
        for _, b, _ in adapter.factors.values():
            torch.nn.init.normal_(b, std=0.1, generator=order)

        def loss(part: Part) -> Tensor:
            sizes.append(len(part.batch))
            own, _ = training_loss(sam, part.batch, part.target, fit=fit, view=view, masks_in_sum=part.of)
            if refuses(part):
                full()
            return own + sum(b.square().sum() for _, b, _ in adapter.factors.values())  # counts once per step

        parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
        optimiser = torch.optim.SGD(parameters, lr=0.0)
        found = StepLoss(loss).backward(optimiser, batch, target)
        return found, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None], sizes


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    """The relative distance of all gradients together."""
    flat, wanted = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (one, other))
    return ((flat - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"jitter": True, "loss_points": 64},
        {"loss": "focal_dice_iou", "loss_grid": "model", "sum_over_batch": True},
        {"sum_over_batch": True},
    ],
)
def test_parts_give_the_loss_and_the_gradient_of_the_batch(
    sam: Sam, squares: Split, prompts: Prompts, settings: dict[str, Any]
) -> None:
    whole, gradients, sizes = stepped(sam, squares, prompts, settings=settings, refuses=lambda part: False)
    assert sizes == [5]
    loss, found, sizes = stepped(sam, squares, prompts, settings=settings, refuses=lambda part: len(part.batch) > 2)
    assert sizes == [5, 3, 2, 2, 1]
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    assert len(found) == len(gradients) > 20
    assert apart(found, gradients) < 1e-5
    assert gradients[0].abs().max() > 1e-4


def test_what_a_part_left_that_failed_later_counts_for_nothing(sam: Sam, squares: Split, prompts: Prompts) -> None:
    seen: list[int] = []

    def refuses(part: Part) -> bool:
        seen.append(len(part.batch))
        return seen in ([5], [5, 3, 2])  # the second part of the second attempt

    _, gradients, _ = stepped(sam, squares, prompts, settings={}, refuses=lambda part: False)
    _, found, sizes = stepped(sam, squares, prompts, settings={}, refuses=refuses)
    assert sizes == [5, 3, 2, 2, 2, 1]
    assert apart(found, gradients) < 1e-5


def trained(sam: Sam, squares: Split, prompts: Prompts, **more: Any) -> Fitted:
    return fit_adapter(
        sam,
        squares,
        prompts,
        adapter=AdapterSettings(rank=2, alpha=4.0),
        fit=FitSettings(epochs=2, batch_size=5, learning_rate=1e-3, schedule="constant"),
        prompt_kind="box",
        view=view_of(sam),
        start=None,
        initialisation=torch.Generator().manual_seed(0),
        order=torch.Generator().manual_seed(0),
        **more,
    )


def test_training_goes_on_in_parts_and_says_so(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, whole = digest_tensors(sam.state_dict()), trained(sam, squares, prompts)
    sizes, said, own = [], [], training_loss

    def limited(sam: Sam, batch: Any, target: Tensor, **settings: Any) -> Any:
        sizes.append(len(batch))
        return own(sam, batch, target, **settings) if len(batch) < 3 else full()

    monkeypatch.setattr(fit_module, "training_loss", limited)
    fitted = trained(sam, squares, prompts, note=said.append)
    assert sizes == [5, 3, 2, 2, 1, 1, 2, 2, 1, 1]
    assert [text.split(";")[0] for text in said] == [
        f"The device's memory does not hold a training step of {images} images at once" for images in (5, 3)
    ]
    assert fitted.epoch_losses == pytest.approx(whole.epoch_losses, rel=1e-4)
    assert digest_tensors(sam.state_dict()) == before


def with_features(sam: Sam) -> tuple[PrefixCache, FeatureMemory]:
    """A cache in memory, as a GPU has it, with the features of some other image."""
    memory = FeatureMemory(limit_bytes=2**30)
    memory.keep("another image", Kept(Features(torch.zeros(1, 1024)), seconds=1.0))
    return PrefixCache(memory, sam=sam, depth=2), memory


def test_cached_features_make_room_before_a_step_is_divided(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(sam, squares, prompts, prefixes=with_features(sam)[0])
    sizes, said, own = [], [], training_loss
    cache, memory = with_features(sam)

    def limited(sam: Sam, batch: Any, target: Tensor, **settings: Any) -> Any:
        sizes.append(len(batch))
        found = own(sam, batch, target, **settings)
        return full() if "another image" in memory._tested.kept else found

    monkeypatch.setattr(fit_module, "training_loss", limited)
    fitted = trained(sam, squares, prompts, note=said.append, prefixes=cache)
    assert sizes == [5, 5, 1, 5, 1]
    assert fitted.epoch_losses == whole.epoch_losses
    assert digest_tensors(fitted.update.tensors()) == digest_tensors(whole.update.tensors())
    [note] = said
    assert "features cached in it were dropped" in note


def test_a_step_that_does_not_fit_without_features_is_divided(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, said, own = [], [], training_loss
    cache, memory = with_features(sam)

    def limited(sam: Sam, batch: Any, target: Tensor, **settings: Any) -> Any:
        sizes.append(len(batch))
        return own(sam, batch, target, **settings) if len(batch) < 4 else full()

    monkeypatch.setattr(fit_module, "training_loss", limited)
    trained(sam, squares, prompts, note=said.append, prefixes=cache)
    assert sizes == [5, 5, 3, 2, 1, 3, 2, 1]
    [note] = said
    assert note.startswith("The device's memory does not hold a training step of 5 images at once; continuing")
    assert memory.limit_bytes == 2**30, "dropping features has not helped"
    assert memory.read("another image") is None


def test_a_single_image_that_does_not_fit_ends_training(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "training_loss", lambda *args, **settings: full())
    with pytest.raises(ImageDoesNotFit, match=r"to train on a single image\. Use a smaller --model") as caught:
        trained(sam, squares, prompts)
    assert caught.value.__cause__ is caught.value.__context__ is None, "the command line explains a cause otherwise"
    assert not hasattr(sam, "peft_config")


def test_losses_that_are_read_later_have_the_same_means() -> None:
    numbers = torch.rand(12, generator=torch.Generator().manual_seed(0))
    at_once, later = EpochLosses(3, is_deferred=False), EpochLosses(3, is_deferred=True)
    for step, loss in enumerate(numbers):
        epoch, images = step // 4, 1 + step % 3
        assert at_once.add(loss, epoch=epoch, images=images) == loss.item()
        assert later.add(loss, epoch=epoch, images=images) is None
    assert later.means() == at_once.means()
    sizes = [1 + step % 3 for step in range(12)]
    weighted = [loss * size for loss, size in zip(numbers.tolist(), sizes, strict=True)]
    expected = [math.fsum(weighted[first : first + 4]) / sum(sizes[first : first + 4]) for first in (0, 4, 8)]
    assert later.means() == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_is_read_later_is_refused_when_its_epoch_is_over() -> None:
    losses = EpochLosses(2, is_deferred=True)
    losses.add(torch.tensor(1.0), epoch=0, images=4)
    losses.add(torch.tensor(math.nan), epoch=0, images=4)
    with pytest.raises(CosamError, match=r"diverged in epoch 1: the loss is nan\. Lower fit\.learning_rate"):
        losses.add(torch.tensor(math.nan), epoch=1, images=4)
    losses = EpochLosses(1, is_deferred=True)
    losses.add(torch.tensor(math.inf), epoch=0, images=4)
    with pytest.raises(CosamError, match=r"the loss is inf"):
        losses.means()
    losses = EpochLosses(1, is_deferred=False)
    with pytest.raises(CosamError, match=r"the loss is inf"):
        losses.add(torch.tensor(math.inf), epoch=0, images=4)
