"""Settings of training: schedules, rates by domain, the batches of an epoch, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DistributedSampler

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.protocol import Protocol
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.sampling import epoch_batches


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


def test_the_cosine_stops_at_its_floor_as_torchs_does() -> None:
    """RegCL's: from .00125 to 1e-7 in 20 epochs."""
    fit = FitSettings(epochs=20, schedule="cosine", learning_rate=0.00125, rate_floor=1e-7)
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.00125)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=1e-7)
    rates = []
    for epoch in range(20):
        rates.append(fit.learning_rate * fit.rate_factor(epoch))
        assert rates[-1] == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        theirs.step()
    assert rates[0] == pytest.approx(0.00125)
    assert rates[-1] > 1e-7


def test_a_domain_has_its_own_rate_where_it_is_named() -> None:
    fit = FitSettings(learning_rate=1e-3, rates={"polyp": 3e-2}, schedule="cosine", epochs=2)
    assert fit.for_domain("polyp").learning_rate == 3e-2
    assert fit.for_domain("rail") is fit
    assert fit.for_domain("polyp").model_copy(update={"learning_rate": 1e-3}) == fit


@pytest.mark.parametrize("ranks", [1, 3, 4, 12])
@pytest.mark.parametrize("count", [10, 12])
def test_a_rank_sees_what_torchs_sampler_deals_it(ranks: int, count: int) -> None:
    sampler: Any = DistributedSampler(range(count), num_replicas=ranks, rank=0, shuffle=True, seed=7)  # type: ignore[arg-type]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(7)).tolist()
    fit = FitSettings(ranks=ranks, batch_size=2)
    assert [row for rows in epoch_batches(order, fit) for row in rows] == list(sampler)


def test_batches_of_an_epoch_by_hand() -> None:
    rows = list(range(7))
    assert epoch_batches(rows, FitSettings(batch_size=3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert epoch_batches(rows, FitSettings(batch_size=3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert epoch_batches(rows, FitSettings(batch_size=7, drop_last=True)) == [rows]
    assert epoch_batches(rows, FitSettings(batch_size=3, ranks=2)) == [[0, 2, 4], [6]]
    assert epoch_batches(rows, FitSettings(batch_size=3, ranks=2, drop_last=True)) == [[0, 2, 4]]
    with pytest.raises(CosamError, match=r"2 samples do not fill a batch of 3\. Lower fit\.batch_size"):
        epoch_batches(rows, FitSettings(batch_size=3, ranks=4, drop_last=True))


@pytest.mark.parametrize(
    ("settings", "right", "message"),
    [
        ({"rate_floor": 1e-7, "schedule": "step"}, {"schedule": "cosine"}, "schedule = 'cosine'"),
        ({"rate_floor": 1e-3, "schedule": "cosine"}, {"rate_floor": 1e-4}, "below every learning rate"),
        (
            {"rate_floor": 1e-4, "schedule": "cosine", "rates": {"a": 1e-5}},
            {"rates": {"a": 1e-3}},
            "below every learning rate, 1e-05",
        ),
        ({"step_factor": 0.5, "schedule": "cosine"}, {"schedule": "step"}, "step_factor needs schedule = 'step'"),
        ({"step_epochs": 2, "schedule": "constant"}, {"schedule": "step"}, "step_epochs needs schedule = 'step'"),
        ({"empty_crops": "keep"}, {"jitter": True}, "jitter = true"),
        ({"loss_points": 9, "loss": "focal_dice_iou"}, {"loss": "bce_dice"}, "loss_points needs"),
        ({"loss_points": 9, "loss_grid": "model"}, {"loss_points": 0}, "leave loss_grid"),
        ({"iou_threshold": 0.5}, {"loss": "focal_dice_iou"}, "iou_threshold needs"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], right: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FitSettings.model_validate(settings)
    FitSettings.model_validate(settings | right)


@pytest.mark.parametrize(
    ("settings", "right", "message"),
    [
        ({"score": {"upsampling": "direct"}}, {"resize": "squash"}, "needs resize = 'squash'"),
        (
            {"fit": {"jitter": True, "empty_crops": "keep"}, "prompts": {"train": "points"}},
            {"prompts": {"train": "mix"}},
            "an empty crop has no points",
        ),
        (
            {"fit": {"jitter": True}, "prompts": {"train": "points", "published": True}},
            {"fit": {"jitter": False}},
            "prompts.published must be false",
        ),
    ],
)
def test_a_protocol_whose_settings_disagree_is_refused(
    settings: dict[str, Any], right: dict[str, Any], message: str
) -> None:
    facts = {"name": "p", "stream": "mini"}
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate(facts | settings)
    Protocol.model_validate(facts | settings | right)


def test_the_settings_of_a_run_can_be_read_again() -> None:
    for fit in (FitSettings(), FitSettings(jitter=True, loss_points=12544, rates={"a": 0.1})):
        assert FitSettings.model_validate(fit.model_dump(mode="json")) == fit


@pytest.mark.parametrize("wrong", [{"learning_rate": math.inf}, {"learning_rate": 0}, {"epochs": 0}, {"loss": "mse"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FitSettings(**wrong)
