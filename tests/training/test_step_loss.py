"""Training steps that do not fit into memory at once: their parts add up to the whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.adapters.lora_linear import LoraLinear
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.batch_size import ImageDoesNotFit
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import Batch, View
from cosam_bench.sam.sam import Features, Masks, Sam
from cosam_bench.training import fit as fit_module
from cosam_bench.training.batch_loss import training_loss
from cosam_bench.training.epoch_losses import EpochLosses
from cosam_bench.training.fit import Fitted, fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.step_division import RepeatableGenerator, StepDivision
from cosam_bench.training.step_loss import StepLoss
from cosam_bench.training.training_batch import HostBatch, draw_batch


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("tiny", checkpoint="random", seed=0)


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


def view_of(sam: Sam) -> View:
    return View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"))


def full(*args: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory.")


LORA = AdapterSettings(rank=2, alpha=4.0, decoder=True)


class Memory:
    """Holds at most so many images in the model at once; ``tried`` has the size of each pass of the decoder."""

    def __init__(self, sam: Sam, monkeypatch: pytest.MonkeyPatch, *, holds: Callable[[list[int]], bool]) -> None:
        self.tried: list[int] = []
        decode = sam.decode

        def limited(features: Features, *args: Any, **settings: Any) -> Masks:
            self.tried.append(len(features.maps))
            return decode(features, *args, **settings) if holds(self.tried) else full()

        monkeypatch.setattr(sam, "decode", limited)


def at_most(images: int) -> Callable[[list[int]], bool]:
    return lambda tried: tried[-1] <= images


@dataclass
class Step:
    """What a step of five images came to."""

    loss: float
    gradients: list[Tensor]
    tried: list[int]


def stepped(
    sam: Sam,
    squares: Split,
    prompts: Prompts,
    *,
    settings: dict[str, Any],
    holds: Callable[[list[int]], bool] = lambda tried: True,
    own: Callable[[Tensor, Masks], Tensor] = lambda loss, masks: loss,
    adapter: AdapterSettings = LORA,
    drawn: RepeatableGenerator | None = None,
) -> Step:
    """Loss and gradients of a step; ``drawn`` is remembered."""
    fit, view = FitSettings(**settings), view_of(sam)
    order = torch.Generator().manual_seed(1)
    batch, target = draw_batch(squares, prompts, [0, 1, 2, 3, 4], fit=fit, prompt_kind="mix", view=view, order=order)
    division = StepDivision()
    if drawn is not None:
        division.remembered(drawn)
    with attach(sam, adapter, generator=order) as attached, pytest.MonkeyPatch.context() as patched:
        memory = Memory(sam, patched, holds=holds)
        for parameter in attached.parameters():
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=order))

        def loss_of(batch: Batch, target: Tensor) -> Tensor:
            loss, masks = training_loss(sam, batch, target, fit=fit, view=view, images=division.images)
            return own(loss, masks)

        parameters = [parameter for parameter in attached.parameters() if parameter.requires_grad]
        optimiser = torch.optim.SGD(parameters, lr=0.0)
        found = StepLoss(loss_of, division=division).backward(optimiser, batch, target)
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        return Step(found.item(), gradients, memory.tried)


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    """The relative distance of all gradients together."""
    flat, wanted = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (one, other))
    return ((flat - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(
    ("settings", "adapter"),
    [
        ({}, LORA),
        ({"jitter": True, "loss_points": 64}, LORA),
        ({"loss": "focal_dice_iou", "loss_grid": "model", "sum_over_batch": True}, LORA),
        ({"sum_over_batch": True}, AdapterSettings(kind="augmodule", rank=2)),
        ({}, AdapterSettings(kind="hq")),
    ],
)
def test_parts_give_the_loss_and_the_gradient_of_the_batch(
    squares: Split, prompts: Prompts, settings: dict[str, Any], adapter: AdapterSettings
) -> None:
    sam = build_sam("tiny", checkpoint="random", seed=0)
    add_side_layers(sam, adapter, generator=torch.Generator().manual_seed(0))
    whole = stepped(sam, squares, prompts, settings=settings, adapter=adapter)
    assert whole.tried == [5]
    divided = stepped(sam, squares, prompts, settings=settings, adapter=adapter, holds=at_most(2))
    assert divided.tried == [5, 3, 2, 2, 1, 1, 2, 2]  # for the gradients, the last part comes first
    assert divided.loss == pytest.approx(whole.loss, rel=1e-6)
    assert len(divided.gradients) == len(whole.gradients) > 20
    assert apart(divided.gradients, whole.gradients) < 1e-5
    assert max(gradient.abs().max() for gradient in whole.gradients) > 1e-4


def test_a_loss_that_is_no_mean_over_rows_is_that_of_the_whole_batch(
    sam: Sam, squares: Split, prompts: Prompts
) -> None:
    def own(loss: Tensor, masks: Masks) -> Tensor:
        return loss + masks.logits.std() * masks.predicted_iou.max()

    whole = stepped(sam, squares, prompts, settings={}, own=own)
    divided = stepped(sam, squares, prompts, settings={}, own=own, holds=at_most(1))
    assert divided.loss == pytest.approx(whole.loss, rel=1e-6)
    assert apart(divided.gradients, whole.gradients) < 1e-5


def test_what_an_attempt_left_that_failed_counts_for_nothing(sam: Sam, squares: Split, prompts: Prompts) -> None:
    draws: list[Tensor] = []

    def own(loss: Tensor, masks: Masks) -> Tensor:
        draws.append(torch.rand(3, generator=generator))
        return loss * draws[-1].sum()

    def holds(tried: list[int]) -> bool:
        return tried not in ([5], [5, 3, 2, 2, 3])  # once in the forward pass, once after a part's gradient

    generator = RepeatableGenerator()
    generator.manual_seed(0)
    whole = stepped(sam, squares, prompts, settings={}, own=own)
    generator.manual_seed(0)
    divided = stepped(sam, squares, prompts, settings={}, own=own, holds=holds, drawn=generator)
    assert divided.tried == [5, 3, 2, 2, 3, 2, 2, 1, 1, 2, 2]
    assert len(draws) == 3  # of the whole step, of the attempt that failed and of the one that did not
    assert all(torch.equal(draw, draws[0]) for draw in draws)
    assert apart(divided.gradients, whole.gradients) < 1e-5


def test_generators_of_an_attempt_that_failed_begin_again() -> None:
    division = StepDivision()
    known = division.remembered(RepeatableGenerator())
    torch.rand(2, generator=known)
    set_back = division.repeatable()
    made = division.remembered(RepeatableGenerator())  # by a hook, when it first needs one
    made.manual_seed(2)
    drawn = [[torch.rand(3, generator=each).tolist() for each in (known, made)]]
    set_back()
    drawn.append([torch.rand(3, generator=each).tolist() for each in (known, made)])
    assert drawn[0] == drawn[1]


def test_a_step_is_not_divided_if_somebody_watches_the_models_layers(
    sam: Sam, squares: Split, prompts: Prompts
) -> None:
    handle = sam.image_encoder.register_forward_hook(lambda *_: None)
    try:
        assert stepped(sam, squares, prompts, settings={}).tried == [5]
        with pytest.raises(CosamError, match=r"a hook on the model's 'image_encoder' .* smaller --set fit\.batch_size"):
            stepped(sam, squares, prompts, settings={}, holds=at_most(2))
    finally:
        handle.remove()


def test_a_part_is_not_computed_again_with_other_weights(sam: Sam, squares: Split, prompts: Prompts) -> None:
    other = nn.Parameter(sam.mask_decoder.iou_token.weight.detach() + 1, requires_grad=False)

    def own(loss: Tensor, masks: Masks) -> Tensor:
        sam.mask_decoder.iou_token.weight = other  # and so when the gradient is taken
        return loss

    before = sam.mask_decoder.iou_token.weight
    try:
        with pytest.raises(CosamError, match=r"weights changed between a loss and its gradient.* fit\.batch_size"):
            stepped(sam, squares, prompts, settings={}, own=own, holds=at_most(2), adapter=AdapterSettings(rank=2))
    finally:
        sam.mask_decoder.iou_token.weight = before


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
    said: list[str] = []
    memory = Memory(sam, monkeypatch, holds=at_most(2))
    fitted = trained(sam, squares, prompts, note=said.append)
    assert memory.tried == [5, 3, *[2, 2, 1, 1, 2, 2], 1, *[2, 2, 1, 1, 2, 2], 1]
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


@pytest.mark.parametrize("fits", [False, True])
def test_cached_features_make_room_for_a_steps_input(
    sam: Sam, squares: Split, prompts: Prompts, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cache, memory = with_features(sam)
    placed = HostBatch.placed

    def limited(batch: HostBatch, *, view: View) -> tuple[Batch, Tensor]:
        return placed(batch, view=view) if fits and memory.read("another image") is None else full()

    monkeypatch.setattr(HostBatch, "placed", limited)
    if fits:
        trained(sam, squares, prompts, note=said.append, prefixes=cache)
        [note] = said
        assert "features cached in it were dropped" in note
    else:
        with pytest.raises(ImageDoesNotFit, match="the input of a training step of 5 images"):
            trained(sam, squares, prompts, note=said.append, prefixes=cache)


def test_a_step_that_does_not_fit_without_features_is_divided(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cache, memory = with_features(sam)
    decoder = Memory(sam, monkeypatch, holds=at_most(3))
    trained(sam, squares, prompts, note=said.append, prefixes=cache)
    assert decoder.tried[:4] == [5, 5, 3, 2]
    assert max(decoder.tried[2:]) == 3
    [note] = said
    assert note.startswith("The device's memory does not hold a training step of 5 images at once; continuing")
    assert memory.limit_bytes == 2**30, "dropping features has not helped"
    assert memory.read("another image") is None


def test_a_single_image_that_does_not_fit_ends_training(
    sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(sam, monkeypatch, holds=at_most(0))
    with pytest.raises(
        ImageDoesNotFit, match=r"single image of a step of 5 at a time\. Use a smaller --set fit\.batch_size or --model"
    ) as caught:
        trained(sam, squares, prompts)
    assert memory.tried == [5, 3, 2, 1]
    assert caught.value.__cause__ is caught.value.__context__ is None, "the command line explains a cause otherwise"
    assert not any(isinstance(module, LoraLinear) for module in sam.modules())


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
