from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation import scoring as module
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import METRICS, boundary_iou, iou, measure
from cosam_bench.evaluation.score_settings import ScoreSettings, ScoreSize
from cosam_bench.evaluation.scoring import (
    BadPrediction,
    ImageScore,
    MeasuredBatch,
    checked_logits,
    domain_means,
    measure_batch,
    measure_in,
    score_split,
)
from cosam_bench.sam.batch_size import AdaptiveBatchSize
from cosam_bench.sam.frame_choices import Resize
from cosam_bench.sam.frame_prompts import mask_to_grid
from cosam_bench.sam.frames import Frame, fit_frame, resize_nearest, to_original
from cosam_bench.sam.inputs import Batch, View


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
        self._answers = [40 * mask_to_grid(mask, frame, size=120) - 20 for mask in masks]

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
        assert list(score.values) == list(METRICS)
        assert [score.values[name] for name in ("iou", "boundary_iou", "dice")] == [1.0, 1.0, 1.0]
        assert score.values["mae"] < 0.05  # soft only along the edges
    assert sum(done) == 6


def test_each_image_goes_with_its_own_prompt(squares: Split, prompts: Prompts) -> None:
    perfect = Perfect(squares)
    score_split(perfect, squares, prompts, kind="points", view=view(), batch_size=4)
    assert torch.equal(torch.cat([batch.prompts.boxes for batch in perfect.seen]), 2 * prompts.boxes)
    assert torch.equal(torch.cat([batch.prompts.points for batch in perfect.seen]), 2 * prompts.points)


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
        assert {"images", "prompts", "domains", "inputs"} == set(vars(perfect.seen[0]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: torch.zeros(len(batch), 60, 60), r"shape \(4, 120, 120\), but returned torch.float32 \(4, 60"),
        (lambda batch: torch.zeros(len(batch), 120, 120) > 0, "must return float logits .* returned torch.bool"),
        (lambda batch: torch.full((len(batch), 120, 120), float("nan")), "not finite"),
        (lambda batch: torch.zeros(len(batch), 120, 120).index_fill_(2, torch.tensor(7), float("inf")), "not finite"),
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
    found = measure_in(frame, logits[None], mask[None], size="model", upsampling=upsampling)
    wanted = mask.repeat_interleave(3 if resize == "squash" else 2, 0).repeat_interleave(2, 1)
    if upsampling == "nearest":
        full = logits.repeat_interleave(4, 0).repeat_interleave(4, 1)
    else:
        full = functional.interpolate(logits[None, None], (120, 120), mode="bilinear")[0, 0]
    expected = measure(full[: wanted.shape[0]][None], wanted[None])
    assert found == expected
    if upsampling == "bilinear":
        assert (
            found["mae"] != measure_in(frame, logits[None], mask[None], size="original", upsampling=upsampling)["mae"]
        )


def test_the_direct_way_is_one_step_and_the_other_two() -> None:
    frame = fit_frame((37, 53), size=120, resize="squash")
    logits = torch.randn(30, 30, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(37, 53, generator=torch.Generator().manual_seed(3)) > 0.5
    once = functional.interpolate(logits[None, None], (37, 53), mode="bilinear", align_corners=False)[0]
    found = measure_in(frame, logits[None], mask[None], size="original", upsampling="direct")
    assert found == measure(once, mask[None])
    assert found["mae"] != measure_in(frame, logits[None], mask[None], size="original", upsampling="bilinear")["mae"]
    with pytest.raises(ValueError, match="padded"):
        to_original(logits, fit_frame((37, 53), size=120, resize="pad"), upsampling="direct")


def test_nearest_at_the_original_size_repeats_cells_twice() -> None:
    frame = fit_frame((37, 53), size=120, resize="pad")
    logits = torch.randn(30, 30, generator=torch.Generator().manual_seed(4))
    full = logits.repeat_interleave(4, 0).repeat_interleave(4, 1)[: frame.content[0], : frame.content[1]]
    assert torch.equal(to_original(logits, frame, upsampling="nearest"), resize_nearest(full, (37, 53)))


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


def mixed_batch() -> tuple[Tensor, list[Frame], list[Tensor]]:
    """Seven images of three sizes, odd ones among them, their frames interleaved."""
    shapes = [(37, 53), (40, 60), (37, 53), (120, 120), (37, 53), (40, 60), (37, 53)]
    generator = torch.Generator().manual_seed(5)
    logits = functional.interpolate(torch.randn(7, 1, 9, 9, generator=generator), (30, 30), mode="bicubic")[:, 0]
    masks = [torch.rand(shape, generator=generator) > 0.4 for shape in shapes]
    return logits, [fit_frame(shape, size=120, resize="pad") for shape in shapes], masks


@pytest.mark.parametrize("pixels", [1, 2 * 120**2, 1 << 22])
@pytest.mark.parametrize(
    ("size", "upsampling"), [("original", "bilinear"), ("original", "nearest"), ("model", "bilinear")]
)
def test_a_batch_is_measured_bit_for_bit_as_its_images_are(
    monkeypatch: pytest.MonkeyPatch, pixels: int, size: Any, upsampling: Any
) -> None:
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE_CPU", pixels)
    logits, frames, masks = mixed_batch()
    groups = list(module._groups(frames, pixels=pixels))
    assert sorted(row for group in groups for row in group) == list(range(7))
    assert max(len(group) for group in groups) == {1: 1, 2 * 120**2: 2, 1 << 22: 4}[pixels]
    keys = list("abcdefg")
    scores = measure_batch(logits, frames, masks, keys=keys, size=size, upsampling=upsampling).read()
    for key, score, frame, mask, own in zip(keys, scores, frames, masks, logits, strict=True):
        if size == "original":
            alone = measure(to_original(own, frame, upsampling=upsampling)[None], mask[None])
        else:
            full = functional.interpolate(own[None, None], (120, 120), mode="bilinear")[0, 0]
            cut = full[: frame.content[0], : frame.content[1]]
            alone = measure(cut[None], resize_nearest(mask, frame.content)[None])
        assert score == ImageScore(key, {name: value.item() for name, value in alone.items()})


def test_measuring_waits_for_no_device_until_it_is_read(squares: Split, prompts: Prompts) -> None:
    """On torch's meta device, which has shapes and no numbers, whatever asks for a number fails."""
    meta = View(120, 120, "pad", torch.device("meta"))
    read: list[MeasuredBatch] = []

    def put_off(batch: MeasuredBatch) -> list[ImageScore]:
        read.append(batch)
        return []

    sizes: tuple[ScoreSize, ...] = ("original", "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeasuredBatch, "read", put_off)
        for size in sizes:
            score_split(
                lambda batch: torch.zeros(len(batch), 120, 120, device="meta"),
                squares,
                prompts,
                kind="mask",
                view=meta,
                batch_size=4,
                size=size,
            )
    assert [len(batch) for batch in read] == [4, 2, 4, 2]
    assert [tuple(batch.numbers.shape) for batch in read] == [(4 * len(METRICS) + 1,), (2 * len(METRICS) + 1,)] * 2
    with pytest.raises((RuntimeError, NotImplementedError)):
        read[0].read()


@pytest.mark.parametrize("lag", [0, 1])
def test_numbers_are_waited_for_after_the_next_batch_is_on_its_way(
    squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    happened: list[str] = []
    own, perfect = MeasuredBatch.read, Perfect(squares)

    def read(batch: MeasuredBatch) -> list[ImageScore]:
        happened.append("read")
        return own(batch)

    def predict(batch: Batch) -> Tensor:
        happened.append("predict")
        return perfect(batch)

    monkeypatch.setattr(module, "_lag", lambda device: lag)
    monkeypatch.setattr(MeasuredBatch, "read", read)
    scores = score_split(predict, squares, prompts, kind="box", view=view(), batch_size=2)
    wanted = ["predict", "read"] * 3 if lag == 0 else ["predict", "predict", "read", "predict", "read", "read"]
    assert happened == wanted
    assert scores == score_split(Perfect(squares), squares, prompts, kind="box", view=view(), batch_size=6)


def test_the_program_runs_ahead_of_a_gpu_alone() -> None:
    assert [module._lag(torch.device(name)) for name in ("cpu", "cuda:1")] == [0, 1]


def score_dark(
    squares: Split, prompts: Prompts, *, most: int = 99, **settings: Any
) -> tuple[list[ImageScore], list[int]]:
    """Scores of a prediction that looks at the images alone, and the sizes of the batches it saw."""
    seen: list[int] = []

    def predict(batch: Batch) -> Tensor:
        seen.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch.images.mean(dim=1) * torch.linspace(0, 1, 120)

    return score_split(predict, squares, prompts, kind="box", view=view(), **settings), seen


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_scores_are_the_same_however_images_are_loaded_and_kept(squares: Split, prompts: Prompts, workers: int) -> None:
    plain, _ = score_dark(squares, prompts, batch_size=4)
    assert len({score.values["mae"] for score in plain}) == 6
    loader = Loader(workers=workers, cache_bytes=3 * (3 * 120**2 + 40 * 60))
    for _ in range(2):
        assert score_dark(squares, prompts, batch_size=4, loader=loader) == (plain, [4, 2])


def test_a_split_goes_on_in_smaller_batches_where_the_memory_is_full(squares: Split, prompts: Prompts) -> None:
    plain, _ = score_dark(squares, prompts, batch_size=1)
    done: list[float] = []
    size = AdaptiveBatchSize(6)
    assert score_dark(squares, prompts, most=2, batch_size=size, advance=done.append) == (
        plain,
        [6, 3, 1, 1, 1, 1, 1, 1],
    )
    assert done == [1] * 6
    assert score_dark(squares, prompts, most=2, batch_size=size)[1] == [1] * 6, "later columns start small"


def test_a_full_memory_while_measuring_is_met_in_the_same_way(
    squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = score_dark(squares, prompts, batch_size=6)

    def small_batches_only(logits: Tensor, *args: Any, **kwargs: Any) -> MeasuredBatch:
        if len(logits) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return measure_batch(logits, *args, **kwargs)

    monkeypatch.setattr(module, "measure_batch", small_batches_only)
    assert score_dark(squares, prompts, batch_size=6) == (plain, [6, 3, 3])
