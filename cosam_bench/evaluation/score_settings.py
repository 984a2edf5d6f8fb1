"""How test images are scored, as a protocol states it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PlainValidator, model_validator

from cosam_bench.core.precision_choices import Precision
from cosam_bench.core.settings import Settings, setting
from cosam_bench.sam.frame_choices import Upsampling

_MOST_IMAGES = 65_536  # per forward pass
ScoreSize = Literal["original", "model"]


def _images_or_auto(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and 1 <= value <= _MOST_IMAGES and value is not True:
        return value
    raise ValueError(f"give a whole number from 1 to {_MOST_IMAGES}, or auto")


class ScoreSettings(Settings):
    """How test images are scored."""

    batch_size: Annotated[int | Literal["auto"], PlainValidator(_images_or_auto)] = setting(
        8,
        "images per forward pass; auto: as many as suit the device's memory. It decides the last bits of a score, so "
        "auto may move them from one machine to another",
        source="this project; the papers' code has 1",
    )
    precision: Precision = setting(
        "fp32",
        "type that the model computes in, as for fit.precision",
        source="CoSAM's and RegCL's released code",
    )
    size: ScoreSize = setting(
        "original",
        "where masks are compared: original at each image's own size, model at the size that the image has in the "
        "model's input, the true mask brought there by nearest neighbour",
        source="CoSAM's released code; RegCL's has model",
    )
    upsampling: Upsampling = setting(
        "bilinear",
        "how logits get there: bilinear by way of the model's input size; direct in one bilinear step from the "
        "decoder's grid to the image's own size, for squashed images; nearest repeats cells",
        source="segment-anything; CoSAM's released code has direct, RegCL's nearest",
    )

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> ScoreSettings:
        if self.size == "model" and self.upsampling == "direct":
            raise ValueError("upsampling = 'direct' needs size = 'original'; to the model's size, bilinear is direct")
        return self
