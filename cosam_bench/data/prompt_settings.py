"""Which prompts a protocol trains and tests with."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import model_validator

from cosam_bench.core.settings import Settings, setting

PromptKind = Literal["box", "points", "mask"]
"""What a model is given."""

TestPrompt = Literal["box", "points", "mask", "image"]
TrainPrompt = Literal["box", "points", "mask", "image", "mix"]

WHOLE: Final = "image"
"""The prompt that nobody has to draw: the whole image as the box."""


class PromptSettings(Settings):
    """The prompt that accompanies each image."""

    train: TrainPrompt = setting(
        "box",
        "prompt in training: box, points or mask of the object, image for the whole image as the box, or mix, which "
        "draws one of the first three for each sample",
        source="this project: as in testing",
    )
    test: TestPrompt = setting(
        "box",
        "prompt in testing; all but image, which is the whole image as the box, are taken from the true mask",
        source="CoSAM's released code",
    )
    points: int = setting(
        3, "points per point prompt, all on the foreground", source="RegCL's released code; CoSAM has 10", ge=1, le=1024
    )
    published: bool = setting(
        False,
        "use the points of the domain's published file, in training and testing, instead of drawing them",
        source="this project: only RegCL's domains have such files",
    )
    masks: Literal["logits", "raw"] = setting(
        "logits",
        "values that a mask prompt has in SAM's mask encoder: logits of the model's own scale, or the raw grey levels "
        "0 and 255",
        source="segment-anything, whose mask prompts are logits; CoSAM's released code has raw",
    )

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> Self:
        if self.published and self.train not in ("points", "mix") and self.test != "points":
            raise ValueError("published = true needs a prompt of points, in train or test")
        if self.masks != "logits" and self.train not in ("mask", "mix") and self.test != "mask":
            raise ValueError("masks = 'raw' needs a prompt that is a mask, in train or test")
        return self
