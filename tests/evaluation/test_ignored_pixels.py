"""Ignored pixels in scores: every metric against the pixels that are left, and against other predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from support.fake_gpu import pretend_device
from torch import Tensor

from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import _mae_of_counted, measure
from cosam_bench.evaluation.scoring import measure_batch, measure_in, score_split
from cosam_bench.sam.frames import fit_frame, to_original
from cosam_bench.sam.inputs import Batch, View

SHAPES = st.tuples(st.integers(1, 12), st.integers(2, 12))
TRIPLES = SHAPES.flatmap(lambda shape: st.tuples(*(arrays.arrays(bool, (1, *shape)) for _ in range(3))))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    return ndimage.binary_erosion(mask, structure=np.ones((3, 3)), iterations=distance, border_value=0)


def share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def slow(logits: np.ndarray, target: np.ndarray, ignored: np.ndarray) -> dict[str, float]:
    """Every metric from a list of the pixels that count."""
    p, m = (logits > 0) & ~ignored, target & ~ignored
    pixels = [(row, column) for row, column in np.ndindex(*m.shape) if not ignored[row, column]]
    both, either = sum(p[at] and m[at] for at in pixels), sum(p[at] or m[at] for at in pixels)
    distance = max(1, round(0.02 * math.hypot(*m.shape)))
    bands = [mask & ~eroded(mask, distance) for mask in (p, m)]
    errors = [abs(1 / (1 + math.exp(-logits[at])) - m[at]) for at in pixels]
    return {
        "iou": share(both, either),
        "boundary_iou": share(int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum())),
        "dice": share(2 * both, int(p.sum() + m.sum())),
        "mae": sum(errors) / len(errors),
        "pixel_error": sum(p[at] != m[at] for at in pixels) / len(pixels),
    }


@given(TRIPLES, st.integers(0, 99))
def test_every_metric_is_that_of_the_pixels_that_count(masks: tuple[Any, ...], seed: int) -> None:
    predicted, target, ignored = masks
    ignored[0, 0, 0] = False
    logits = np.where(predicted, 1.0, -1.0) * np.random.default_rng(seed).uniform(0.1, 4, predicted.shape)
    found = measure(torch.from_numpy(logits).float(), torch.from_numpy(target), ignored=torch.from_numpy(ignored))
    expected = slow(logits[0], target[0], ignored[0])
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, abs=1e-6)


def test_on_a_gpu_no_pixel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=draw)
    target, ignored = (torch.rand(3, 5, 7, generator=draw) < share for share in (0.5, 0.2))
    found = _mae_of_counted(logits, target, ignored)
    torch.testing.assert_close(found, measure(logits, target, ignored=ignored)["mae"])
    pretend = pretend_device(monkeypatch)
    logits, target, ignored = map(pretend.of, (logits, target, ignored))
    with pretend.active():  # what waits for a tensor's numbers raises an error
        assert measure(logits, target, ignored=ignored)["mae"].device == pretend.device


@given(TRIPLES)
def test_a_prediction_may_be_anything_on_ignored_pixels(masks: tuple[Any, ...]) -> None:
    predicted, target, ignored = (torch.from_numpy(mask) for mask in masks)
    ignored[0, 0, 0] = False
    logits = torch.randn(predicted.shape, generator=seeded(0))
    other = torch.where(ignored, torch.where(predicted, 7.0, math.nan), logits)
    assert measure(logits, target, ignored=ignored) == measure(other, target, ignored=ignored)


def test_three_pixels_worked_by_hand() -> None:
    """Predicted #?#, true ##., the middle one ignored: one pixel of two is wrong."""
    logits = torch.tensor([[[math.log(3), -50.0, math.log(3)]]])  # a probability of 3/4
    target = torch.tensor([[[True, True, False]]])
    found = measure(logits, target, ignored=torch.tensor([[[False, True, False]]]))
    assert found["iou"].item() == 0.5
    assert found["dice"].item() == pytest.approx(2 / 3)
    assert found["pixel_error"].item() == 0.5
    assert found["mae"].item() == pytest.approx((0.25 + 0.75) / 2)


def test_ignoring_no_pixel_changes_no_bit() -> None:
    logits, target = torch.randn(3, 9, 11, generator=seeded(0)), torch.rand(3, 9, 11, generator=seeded(1)) > 0.5
    nothing = torch.zeros_like(target)
    assert {k: v.tolist() for k, v in measure(logits, target, ignored=nothing).items()} == {
        k: v.tolist() for k, v in measure(logits, target).items()
    }


@pytest.mark.parametrize("size", ["original", "model"])
def test_a_batch_of_images_with_and_without_is_measured_as_each_alone(size: Any) -> None:
    frames = [fit_frame(shape, size=24, resize="pad") for shape in [(10, 20), (10, 20), (18, 12), (10, 20)]]
    masks = [torch.rand(frame.original, generator=seeded(row)) > 0.5 for row, frame in enumerate(frames)]
    ignored: list[Tensor | None] = [torch.rand(mask.shape, generator=seeded(9)) > 0.7 for mask in masks]
    ignored[1] = None
    masks = [mask if void is None else mask & ~void for mask, void in zip(masks, ignored, strict=True)]
    logits = torch.randn(4, 8, 8, generator=seeded(4))
    scores = measure_batch(
        logits, frames, masks, ignored=ignored, keys=list("abcd"), size=size, upsampling="bilinear"
    ).read()
    for row, score in enumerate(scores):
        void = ignored[row]
        alone = measure_in(
            frames[row],
            logits[row : row + 1],
            masks[row][None],
            size=size,
            upsampling="bilinear",
            ignored=None if void is None else void[None],
        )
        assert score.values == {name: value.item() for name, value in alone.items()}
    with_it = measure(to_original(logits[:1], frames[0]), masks[0][None], ignored=ignored[0][None])  # type: ignore[index]
    if size == "original":
        assert scores[0].values == {name: value.item() for name, value in with_it.items()}


def test_an_object_that_shrinking_keeps_is_not_ignored() -> None:
    """One pixel of foreground among ignored ones: no new pixel's centre is in it, yet it stays an object."""
    mask, ignored = torch.zeros(1, 30, 30, dtype=torch.bool), torch.ones(1, 30, 30, dtype=torch.bool)
    mask[0, 0, 0], ignored[0, 0, 0] = True, False
    frame = fit_frame((30, 30), size=6, resize="pad")
    for level, iou in ((5.0, 1.0), (-5.0, 0.0)):
        found = measure_in(
            frame, torch.full((1, 6, 6), level), mask, size="model", upsampling="nearest", ignored=ignored
        )
        assert found["iou"].item() == iou
        assert found["pixel_error"].item() == 1 - iou


class _Half:
    """Images whose lower half is ignored; the upper one is foreground on the left."""

    def image(self, index: int) -> Tensor:
        return torch.full((3, 16, 16), index, dtype=torch.uint8)

    def mask(self, index: int) -> Tensor:
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[:8, :8] = True
        return mask

    def ignored(self, index: int) -> Tensor:
        ignored = torch.zeros(16, 16, dtype=torch.bool)
        ignored[8:] = True
        return ignored


@pytest.mark.parametrize("has_ignored", [True, False])
def test_a_split_is_scored_without_its_ignored_pixels(has_ignored: bool) -> None:
    """A prediction that is right above and wrong below is perfect only if the lower half is ignored."""
    manifest = Manifest(tuple(Entry(str(row), str(row), "m") for row in range(3)), has_ignored=has_ignored)
    split = Split("half", part="test", manifest=manifest, source=_Half())
    view = View(16, 16, "pad", torch.device("cpu"))

    def predict(batch: Batch) -> Tensor:
        logits = torch.full((len(batch), 16, 16), -9.0)
        logits[:, :, :8] = 9.0
        return logits

    prompts = draw_prompts(split, points=1, seed=0)
    loader = Loader(workers=0, cache_bytes=1 << 20)
    for _ in range(2):  # the second time from the cache
        scores = score_split(predict, split, prompts, kind="box", view=view, batch_size=2, loader=loader)
        assert [score.values["iou"] for score in scores] == 3 * [1.0 if has_ignored else 0.5]
        assert [score.values["pixel_error"] for score in scores] == 3 * [0.0 if has_ignored else 0.25]
