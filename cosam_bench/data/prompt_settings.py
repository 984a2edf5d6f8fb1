"""Which prompts a protocol trains and tests with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import field_validator

from cosam_bench.core.settings import Settings, setting

PromptKind = Literal["box", "points", "mask", "grid"]
"""What a model is given."""

TestPrompt = Literal["box", "points", "mask", "image", "grid"]
TrainPrompt = Literal["box", "points", "mask", "image", "mix"]

WHOLE: Final = "image"
"""The prompt that nobody has to draw: the whole image as the box."""

GRID: Final = "grid"
"""A regular grid of points, whose masks are pooled: nobody has to draw it either."""

GRID_SIDE: Final = 8
"""How many points a grid has along each side unless a protocol says otherwise."""

UNDRAWN: Final = (WHOLE, GRID)
"""The prompts that are not taken from the true mask."""


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
        "prompt in testing; box, points and mask are taken from the true mask, image is the whole image as the box, "
        "grid pools the masks of a regular grid of points",
        source="CoSAM's released code",
    )
    points: int = setting(
        3, "points per point prompt, all on the foreground", source="RegCL's released code; CoSAM has 10", ge=1, le=1024
    )
    grid: int = setting(GRID_SIDE, "points along each side of the grid", source="this project", ge=2, le=32)
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

    @field_validator("train", mode="before")
    @classmethod
    def _grid_is_for_testing(cls, value: Any) -> Any:
        if value == GRID:
            raise ValueError(
                "a grid of points is for testing alone, where its masks are pooled; train with box, points or image"
            )
        return value

    def unused(self, further: Sequence[TestPrompt] = ()) -> str:
        """Which setting no prompt has a use for, and what it needs; empty if all have an effect.

        Args:
            further: prompts under which a run is scored as well.
        """
        tested = (self.test, *further)
        faults = {
            "prompts.published = true needs points as prompts.train or prompts.test, or among also_prompts": (
                self.published and not self.has_points(further)
            ),
            "prompts.grid is the side of the prompt 'grid'; give that as prompts.test or among also_prompts": (
                self.grid != GRID_SIDE and GRID not in tested
            ),
            "prompts.masks = 'raw' needs mask as prompts.train or prompts.test, or among also_prompts": (
                self.masks != "logits" and self.train not in ("mask", "mix") and "mask" not in tested
            ),
        }
        return next((fault for fault, is_there in faults.items() if is_there), "")

    def has_points(self, further: Sequence[TestPrompt] = ()) -> bool:
        """Whether any prompt is of points, in training or testing; ``further`` is that of ``unused``."""
        return self.train in ("points", "mix") or "points" in (self.test, *further)
