from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cosam_bench.batches import View
from cosam_bench.domains.prompts import Prompts, TrainPrompt, draw_prompts, tight_box
from cosam_bench.domains.samples import Sample, Split
from cosam_bench.errors import CosamError
from cosam_bench.fit import MIXED, FitSettings, Fitted, fit_adapter, mirror, mirror_prompts
from cosam_bench.sam.adapters import AdapterSettings, serving
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam
from cosam_bench.updates import Update, digest_tensors


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


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.1}, [1, 1, 0.1, 0.1]),
        ({"schedule": "step"}, [1, 1, 1, 1]),
        # (1 + cos(pi * e / 4)) / 2
        ({"schedule": "cosine"}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_the_schedules_by_hand(settings: dict[str, Any], factors: list[float]) -> None:
    fit = FitSettings(epochs=4, **settings)
    assert [fit.rate_factor(epoch) for epoch in range(4)] == pytest.approx(factors)


def test_the_schedules_are_torchs() -> None:
    for schedule in ("step", "cosine"):
        fit = FitSettings(epochs=24, schedule=schedule)
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        maker: Any = torch.optim.lr_scheduler
        theirs = maker.StepLR(optimiser, 10, 0.1) if schedule == "step" else maker.CosineAnnealingLR(optimiser, 24)
        for epoch in range(24):
            assert fit.rate_factor(epoch) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
            optimiser.step()
            theirs.step()


@pytest.mark.parametrize("wrong", [{"learning_rate": math.inf}, {"learning_rate": 0}, {"epochs": 0}, {"loss": "mse"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FitSettings(**wrong)


def test_a_mix_draws_every_kind(sam: Sam, squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    decode = Sam.decode

    def watched(self: Sam, embeddings: Tensor, given: Any) -> Any:
        seen.extend(given.kinds)
        return decode(self, embeddings, given)

    monkeypatch.setattr(Sam, "decode", watched)
    trained(sam, squares, prompts, prompt_kind="mix", epochs=4)
    assert set(seen) == set(MIXED)
    seen.clear()
    trained(sam, squares, prompts, prompt_kind="points")
    assert seen == ["points"] * 6
