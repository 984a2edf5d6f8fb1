from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from cosam_bench.batches import Batch, View
from cosam_bench.domains.prompts import Prompts, draw_prompts
from cosam_bench.domains.samples import Split
from cosam_bench.metrics import METRICS, boundary_iou, iou, measure
from cosam_bench.sam.frames import Resize, fit_frame, mask_to_frame, nearest, to_original
from cosam_bench.score import (
    BadPrediction,
    ImageScore,
    ScoreSettings,
    checked_logits,
    domain_means,
    measure_in,
    score_split,
)


def view(resize: Resize = "pad") -> View:
    return View(120, 120, resize, torch.device("cpu"))  # squares are 40 x 60: pad enlarges by exactly two


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


class Perfect:
    """Answers with the true masks, in the order in which the split is scored."""

    def __init__(self, split: Split, *, resize: Resize = "pad", shift: int = 0) -> None:
        self.seen: list[Batch] = []
        frame = fit_frame((40, 60), size=120, resize=resize)
        masks = [split.mask(index).roll(shift, dims=1) for index in range(len(split))]
        self._answers = [40 * mask_to_frame(mask, frame, size=120) - 20 for mask in masks]

    def __call__(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        first = sum(len(earlier) for earlier in self.seen[:-1])
        return torch.stack(self._answers[first : first + len(batch)])


@pytest.mark.parametrize("resize", ["pad", "squash"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_perfect_masks_score_one(squares: Split, prompts: Prompts, resize: Resize, batch_size: int) -> None:
    done: list[float] = []
    scores = score_split(
        Perfect(squares, resize=resize),
        squares,
        prompts,
        kind="box",
        view=view(resize),
        batch_size=batch_size,
        advance=done.append,
    )
    assert [score.key for score in scores] == list(squares.keys)
    for score in scores:
        assert tuple(score.values) == METRICS
        assert [score.values[name] for name in ("iou", "boundary_iou", "dice")] == [1.0, 1.0, 1.0]
        assert score.values["mae"] < 0.05  # soft only along the edges
    assert sum(done) == 6


def test_shifted_masks_score_their_hand_made_overlap(squares: Split, prompts: Prompts) -> None:
    scores = score_split(Perfect(squares, shift=6), squares, prompts, kind="box", view=view(), batch_size=4)
    # 18 columns moved by 6: 12 in both, 24 in either. None of the six leaves the image.
    assert [score.values["iou"] for score in scores] == [0.5] * 6
    shifted = torch.stack([squares.mask(index).roll(6, dims=1) for index in range(6)])
    masks = torch.stack([squares.mask(index) for index in range(6)])
    assert [score.values["iou"] for score in scores] == iou(shifted, masks).tolist()
    assert domain_means(scores)["iou"] == 0.5


def test_a_prediction_sees_neither_masks_nor_the_domain_unless_told(squares: Split, prompts: Prompts) -> None:
    for told, expected in ((False, None), (True, ("squares",) * 4)):
        perfect = Perfect(squares)
        score_split(perfect, squares, prompts, kind="points", view=view(), batch_size=4, tell_domain=told)
        assert perfect.seen[0].domains == expected
        assert perfect.seen[0].prompts.kinds == ("points",) * 4
        assert not perfect.seen[0].prompts.masks.any()
        assert {"images", "prompts", "domains"} == set(vars(perfect.seen[0]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: torch.zeros(len(batch), 60, 60), r"shape \(4, 120, 120\), but returned torch.float32 \(4, 60"),
        (lambda batch: torch.zeros(len(batch), 120, 120) > 0, "must return float logits .* returned torch.bool"),
        (lambda batch: torch.full((len(batch), 120, 120), float("nan")), "not finite"),
        (lambda batch: None, "returned NoneType"),
    ],
)
def test_what_is_no_set_of_logits_is_refused(squares: Split, prompts: Prompts, answer: Any, message: str) -> None:
    with pytest.raises(BadPrediction, match=message):
        score_split(answer, squares, prompts, kind="box", view=view(), batch_size=4)


def test_half_precision_logits_are_taken_as_they_are(squares: Split, prompts: Prompts) -> None:
    perfect = Perfect(squares)
    batch_of = Batch(torch.zeros(6, 3, 120, 120), None)  # type: ignore[arg-type]
    assert checked_logits(perfect(batch_of).bfloat16(), batch_of, view()).dtype == torch.float32


def test_the_mean_of_no_scores_is_empty_and_of_two_is_by_hand() -> None:
    assert domain_means([]) == {}
    assert domain_means([ImageScore("a", {"iou": 0.25}), ImageScore("b", {"iou": 0.75})]) == {"iou": 0.5}


@pytest.mark.parametrize("resize", ["pad", "squash"])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_scores_at_the_models_size_leave_out_the_padding(resize: Resize, upsampling: Any) -> None:
    """A mask of 40 x 60 at 120 pixels: doubled in a frame of 80 x 120, or threefold and double in the square."""
    mask = torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) > 0.5
    frame = fit_frame((40, 60), size=120, resize=resize)
    logits = torch.randn(30, 30, generator=torch.Generator().manual_seed(1))
    found = measure_in(frame, logits, mask, size="model", upsampling=upsampling)
    wanted = mask.repeat_interleave(3 if resize == "squash" else 2, 0).repeat_interleave(2, 1)
    if upsampling == "nearest":
        full = logits.repeat_interleave(4, 0).repeat_interleave(4, 1)
    else:
        full = functional.interpolate(logits[None, None], (120, 120), mode="bilinear")[0, 0]
    expected = measure(full[: wanted.shape[0]][None], wanted[None])
    assert found == expected
    if upsampling == "bilinear":
        assert found["mae"] != measure_in(frame, logits, mask, size="original", upsampling=upsampling)["mae"]


def test_the_direct_way_is_one_step_and_the_other_two() -> None:
    frame = fit_frame((37, 53), size=120, resize="squash")
    logits = torch.randn(30, 30, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(37, 53, generator=torch.Generator().manual_seed(3)) > 0.5
    once = functional.interpolate(logits[None, None], (37, 53), mode="bilinear", align_corners=False)[0]
    found = measure_in(frame, logits, mask, size="original", upsampling="direct")
    assert found == measure(once, mask[None])
    assert found["mae"] != measure_in(frame, logits, mask, size="original", upsampling="bilinear")["mae"]
    with pytest.raises(ValueError, match="padded"):
        to_original(logits, fit_frame((37, 53), size=120, resize="pad"), upsampling="direct")


def test_nearest_at_the_original_size_repeats_cells_twice() -> None:
    frame = fit_frame((37, 53), size=120, resize="pad")
    logits = torch.randn(30, 30, generator=torch.Generator().manual_seed(4))
    full = logits.repeat_interleave(4, 0).repeat_interleave(4, 1)[: frame.content[0], : frame.content[1]]
    assert torch.equal(to_original(logits, frame, upsampling="nearest"), nearest(full, (37, 53)))


def test_a_split_is_scored_where_the_protocol_says(squares: Split, prompts: Prompts) -> None:
    """Squares moved by one column: at double size by two, which is the same share of either."""
    for size, upsampling in (("model", "nearest"), ("model", "bilinear"), ("original", "nearest")):
        scores = score_split(
            Perfect(squares, shift=1),
            squares,
            prompts,
            kind="box",
            view=view(),
            batch_size=4,
            size=size,  # type: ignore[arg-type]
            upsampling=upsampling,  # type: ignore[arg-type]
        )
        assert [score.values["iou"] for score in scores] == pytest.approx([17 / 19] * 6)
        assert [score.values["pixel_error"] for score in scores] == pytest.approx([2 * 16 / 2400] * 6)
        # The band is 2 % of the diagonal, rounded: one pixel of 72, three of 144.
        times = 2 if size == "model" else 1
        bands = []
        for row in range(6):
            mask = squares.mask(row).repeat_interleave(times, 0).repeat_interleave(times, 1)[None]
            bands.append(boundary_iou(mask.roll(times, dims=2), mask).item())
        assert [score.values["boundary_iou"] for score in scores] == pytest.approx(bands)


def test_settings_that_would_change_nothing_are_refused() -> None:
    assert ScoreSettings() == ScoreSettings(batch_size=8, precision="fp32", size="original", upsampling="bilinear")
    with pytest.raises(ValidationError, match="to the model's size, bilinear is direct"):
        ScoreSettings(size="model", upsampling="direct")
