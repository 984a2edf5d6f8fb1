"""How an adapter is trained: the settings, and which of them fit together."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosam_bench.core.precision_choices import Precision
from cosam_bench.core.settings import Settings, setting

LossName = Literal["bce_dice", "focal_dice_iou"]
EmptyCrops = Literal["redraw", "keep"]
_COSAM = "CoSAM's released code"
STEP_EPOCHS, STEP_FACTOR = 10, 0.1  # unless a protocol says otherwise
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FitSettings(Settings):
    """How an adapter is trained; the defaults are CoSAM's, without its jitter and its sampling of points."""

    epochs: int = setting(24, "passes over a domain's training data", source=_COSAM, ge=1, le=100_000)
    batch_size: int = setting(4, "images per training step", source=_COSAM, ge=1, le=65_536)
    optimiser: Literal["adam", "adamw"] = setting(
        "adam", "optimiser, created again for each domain", source="CoSAM's and RegCL's released code"
    )
    learning_rate: float = setting(
        1e-3, "learning rate of every domain that fit.rates does not name", source=_COSAM, gt=0
    )
    rates: dict[str, Rate] = setting(
        {},
        "learning rate by the domain's name; joint training uses fit.learning_rate",
        source="CoSAM's released code, where its list of rates is off",
    )
    weight_decay: float = setting(
        0.0, "weight decay of the optimiser", source="CoSAM's and RegCL's released code", ge=0
    )
    schedule: Literal["constant", "step", "cosine"] = setting(
        "step",
        "step multiplies the rate by fit.step_factor every fit.step_epochs; cosine falls to fit.rate_floor over the "
        "epochs, epoch by epoch",
        source=_COSAM,
    )
    step_epochs: int = setting(STEP_EPOCHS, "epochs between two steps of the schedule", source=_COSAM, ge=1, le=100_000)
    step_factor: float = setting(
        STEP_FACTOR, "what each step of the schedule multiplies the rate by", source=_COSAM, gt=0, le=1
    )
    rate_floor: float = setting(
        0.0, "rate that cosine would reach after the last epoch", source="this project; RegCL's code has 1e-7", ge=0
    )
    drop_last: bool = setting(
        False,
        "leave out an epoch's last batch if it is smaller than the others",
        source="this project: no sample is left out; CoSAM's code drops it",
    )
    ranks: int = setting(
        1,
        "train on the first of this many equal shares of each epoch's order, shared out again in each epoch: what one "
        "of several processes sees that do not exchange gradients",
        source="this project: one process sees all samples; RegCL's code has 4",
        ge=1,
        le=1024,
    )
    loss: LossName = setting(
        "bce_dice",
        "bce_dice: cross-entropy and Dice; focal_dice_iou: focal, Dice and the error of the predicted IoU",
        source=_COSAM,
    )
    loss_points: int = setting(
        0,
        "points per mask on which the loss is taken, most of them where the model is unsure; 0: all cells of "
        "fit.loss_grid",
        source="this project; CoSAM's code has 12544",
        ge=0,
        le=1_000_000,
    )
    loss_grid: Literal["logits", "model"] = setting(
        "logits",
        "logits compares on the decoder's grid; model at the model's input size, to which the logits are brought by "
        "nearest neighbour",
        source="this project; RegCL's code has model",
    )
    iou_threshold: float = setting(
        0.0,
        "logit above which a pixel is foreground in the true IoU that the decoder's estimate is compared with; scores "
        "do not use it",
        source="segment-anything's mask threshold; RegCL's code has 0.5",
    )
    sum_over_batch: bool = setting(
        False,
        "add the masks' losses up instead of taking their mean; the error of the estimated IoU stays a mean",
        source="this project; RegCL's code has true",
    )
    flip: bool = setting(True, "mirror each sample left to right with probability one half", source=_COSAM)
    jitter: bool = setting(
        False,
        "bring each sample to 0.1 to 2.0 times the model's size, crop and pad it to that size, and draw its prompts "
        "again from what is left of its mask",
        source="this project; CoSAM's code has true",
    )
    empty_crops: EmptyCrops = setting(
        "redraw",
        "if a crop holds no foreground, redraw draws another and keep trains on it",
        source="CoSAM's evident intention; its released code has keep",
    )
    precision: Precision = setting(
        "fp32",
        "type of the forward pass; parameters and optimiser stay in fp32. tf32 is fp32 with the products of an NVIDIA "
        "GPU's tensor cores, auto is bf16 on a GPU that has it (NVIDIA's from Ampere on) or a CPU that computes it "
        "faster than fp32, else fp32",
        source="CoSAM's and RegCL's released code",
    )

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> FitSettings:
        lowest = min([self.learning_rate, *self.rates.values()])
        faults = {
            "step_epochs needs schedule = 'step'": self.step_epochs != STEP_EPOCHS and self.schedule != "step",
            "step_factor needs schedule = 'step'": self.step_factor != STEP_FACTOR and self.schedule != "step",
            "rate_floor needs schedule = 'cosine'": self.rate_floor > 0 and self.schedule != "cosine",
            f"rate_floor must be below every learning rate, {lowest:g}": self.rate_floor >= lowest,
            "empty_crops = 'keep' needs jitter = true": self.empty_crops != "redraw" and not self.jitter,
            "loss_points needs loss = 'bce_dice'": self.loss_points > 0 and self.loss != "bce_dice",
            "loss_points already samples the masks at the model's size; leave loss_grid = 'logits'": (
                self.loss_points > 0 and self.loss_grid != "logits"
            ),
            "iou_threshold needs loss = 'focal_dice_iou'": self.iou_threshold != 0 and self.loss != "focal_dice_iou",
        }
        if any(faults.values()):
            raise ValueError(next(fault for fault, is_there in faults.items() if is_there))
        return self

    @property
    def needs_model_size(self) -> bool:
        """Whether the loss uses masks at the model's input size, not only on the logits' grid."""
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
        """The same training at a domain's learning rate, which ``rates`` may name."""
        rate = self.rates.get(name)
        return self if rate is None else self.model_copy(update={"learning_rate": rate})
