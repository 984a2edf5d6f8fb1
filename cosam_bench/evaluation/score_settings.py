"""How test images are scored, as a protocol states it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PlainValidator, model_validator

from cosam_bench.core.settings import Settings
from cosam_bench.sam.frames import Upsampling

ScoreSize = Literal["original", "model"]


def _images_or_auto(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and value >= 1 and value is not True:
        return value
    raise ValueError("it should be a whole number from 1 on, or auto")


class ScoreSettings(Settings):
    """How test images are scored.

    Attributes:
        batch_size: images a forward pass; ``auto``: as many as suit the device's memory. It decides the last bits
            of a score, so ``auto`` may move them from one machine to another.
        precision: the type the model computes in.
        size: where masks are compared: ``original`` at each image's own size, ``model`` at the size that the
            image has in the model's input, the true mask brought there by nearest neighbour.
        upsampling: how logits get there. ``bilinear`` goes by way of the model's input size, as SAM does;
            ``direct`` is one bilinear step from the decoder's grid to the image's own size, as CoSAM's code does
            (only where images are squashed); ``nearest`` repeats cells, as RegCL's code does.
    """

    batch_size: Annotated[int | Literal["auto"], PlainValidator(_images_or_auto)] = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    size: ScoreSize = "original"
    upsampling: Upsampling = "bilinear"

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> ScoreSettings:
        if self.size == "model" and self.upsampling == "direct":
            raise ValueError("upsampling = 'direct' needs size = 'original'; to the model's size, bilinear is direct")
        return self
