"""How an adapter is trained: the settings, and which of them go together."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosam_bench.core.settings import Settings

LossName = Literal["bce_dice", "focal_dice_iou"]
EmptyCrops = Literal["redraw", "keep"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FitSettings(Settings):
    """How an adapter is trained; the defaults are CoSAM's, without its jitter and its sampling of points.

    Attributes:
        learning_rate: of every domain that ``rates`` does not name.
        rates: learning rate by the domain's name; joint training has ``learning_rate``.
        schedule: ``step`` multiplies the rate by ``step_factor`` every ``step_epochs``; ``cosine`` falls to
            ``rate_floor`` over the epochs, epoch by epoch.
        rate_floor: the rate that ``cosine`` would reach after the last epoch.
        drop_last: leave out an epoch's last batch where it is not whole.
        ranks: train on the first of so many equal shares of each epoch's order, anew in each epoch: what one
            of ``ranks`` processes sees that do not exchange gradients.
        loss: a name in ``losses.LOSSES``.
        loss_points: points of a mask that the loss is taken on, most of them where the model is unsure; 0: all
            cells of ``loss_grid``.
        loss_grid: ``logits`` compares on the decoder's grid; ``model`` at the model's input size, to which the
            logits are brought by nearest neighbour.
        iou_threshold: the logit above which a pixel is foreground for the true IoU that the decoder's estimate
            is compared with; it has no part in the scores.
        sum_over_batch: add the masks' losses up instead of taking their mean; the error of the estimated IoU
            stays a mean.
        flip: mirror each sample left to right with probability one half.
        jitter: bring each sample to 0.1 to 2.0 times the model's size, crop and pad it to that size, and draw
            its prompts anew from what is left of its mask.
        empty_crops: where a crop holds no foreground, ``redraw`` draws another and ``keep`` trains on it.
        precision: the forward pass's type; parameters and optimiser stay in fp32.
    """

    epochs: Annotated[int, Field(ge=1)] = 24
    batch_size: Annotated[int, Field(ge=1)] = 4
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: Rate = 1e-3
    rates: dict[str, Rate] = Field(default_factory=dict)
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: Literal["constant", "step", "cosine"] = "step"
    step_epochs: Annotated[int, Field(ge=1)] = 10
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    rate_floor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    drop_last: bool = False
    ranks: Annotated[int, Field(ge=1)] = 1
    loss: LossName = "bce_dice"
    loss_points: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    loss_grid: Literal["logits", "model"] = "logits"
    iou_threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    sum_over_batch: bool = False
    flip: bool = True
    jitter: bool = False
    empty_crops: EmptyCrops = "redraw"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> FitSettings:
        lowest = min([self.learning_rate, *self.rates.values()])
        faults = {
            "rate_floor needs schedule = 'cosine'": self.rate_floor > 0 and self.schedule != "cosine",
            f"rate_floor must be below every learning rate, {lowest:g}": self.rate_floor >= lowest,
            "empty_crops = 'keep' needs jitter = true": self.empty_crops != "redraw" and not self.jitter,
            "loss_points needs loss = 'bce_dice'": self.loss_points > 0 and self.loss != "bce_dice",
            "loss_points samples the masks at the model's size already: leave loss_grid = 'logits'": (
                self.loss_points > 0 and self.loss_grid != "logits"
            ),
            "iou_threshold needs loss = 'focal_dice_iou'": self.iou_threshold != 0 and self.loss != "focal_dice_iou",
        }
        if any(faults.values()):
            raise ValueError(next(fault for fault, is_there in faults.items() if is_there))
        return self

    @property
    def needs_model_size(self) -> bool:
        """Whether the loss looks at masks at the model's input size, not only on the logits' grid."""
        return self.loss_points > 0 or self.loss_grid == "model"

    def rate_factor(self, epoch: int) -> float:
        """The learning rate of ``epoch`` (from 0) as a share of ``learning_rate``."""
        if self.schedule == "step":
            return self.step_factor ** (epoch // self.step_epochs)
        if self.schedule == "cosine":
            floor = self.rate_floor / self.learning_rate
            return floor + (1 - floor) * ((1 + math.cos(math.pi * epoch / self.epochs)) / 2)
        return 1.0

    def for_domain(self, name: str) -> FitSettings:
        """The same training at the learning rate of a domain; it stays as it is where ``rates`` names none."""
        rate = self.rates.get(name)
        return self if rate is None else self.model_copy(update={"learning_rate": rate})
