from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from segment_anything.modeling import Sam as StockSam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.sam import frame_prompts
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_choices import Upsampling
from cosam_bench.sam.frame_prompts import FramePrompts, mask_to_grid, prompts_in_frame
from cosam_bench.sam.frames import Frame, fit_frame, normalise, prepare_image, resize_nearest, to_content, to_original
from cosam_bench.sam.inputs import RAW_MASK_LEVELS, View, collate

SHAPES = [(40, 40), (37, 64), (64, 23), (130, 200), (333, 512)]


class SeesItsInput(nn.Module):
    """An encoder that hands its input on, to compare preprocessing."""

    img_size = 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def stock_preprocessing() -> StockSam:
    return StockSam(SeesItsInput(), nn.Identity(), nn.Identity())


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([128, 1024]))
def test_padded_frames_round_as_segment_anything(height: int, width: int, size: int) -> None:
    theirs = ResizeLongestSide.get_preprocess_shape(height, width, size)
    ours = fit_frame((height, width), size=size, resize="pad").content
    assert ours == tuple(max(1, side) for side in theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_input_equals_the_stock_predictors(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8)
    resized = ResizeLongestSide(64).apply_image(image.permute(1, 2, 0).numpy())
    theirs = stock_preprocessing().preprocess(torch.from_numpy(resized.copy()).permute(2, 0, 1)[None])
    padded, frame = prepare_image(image, size=64, resize="pad")
    assert torch.equal(normalise(padded[None], [frame]), theirs)


def test_squashing_fills_the_square() -> None:
    image = torch.full((3, 20, 50), 200, dtype=torch.uint8)
    squashed, frame = prepare_image(image, size=32, resize="squash")
    assert frame == Frame((20, 50), (32, 32), 32)
    assert (squashed == 200).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_return_as_in_segment_anything(shape: tuple[int, int]) -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    frame = fit_frame(shape, size=64, resize="pad")
    theirs = stock_preprocessing().postprocess_masks(logits[None, None], frame.content, shape)[0, 0]
    assert torch.equal(to_original(logits, frame), theirs)


def test_half_precision_logits_return_in_float32() -> None:
    frame = fit_frame((10, 20), size=64, resize="pad")
    assert to_original(torch.zeros(16, 16, dtype=torch.bfloat16), frame).dtype == torch.float32


def test_boxes_and_points_scale_as_in_segment_anything() -> None:
    transform = ResizeLongestSide(64)
    boxes = torch.tensor([[3.0, 4.0, 30.0, 17.0], [0.0, 0.0, 23.0, 64.0]])
    points = torch.tensor([[[3.5, 9.5], [20.5, 4.5]], [[0.5, 0.5], [22.5, 63.5]]])
    shapes = [(37, 64), (64, 23)]
    prompts = Prompts(boxes, points, torch.zeros(2, 256, 256, dtype=torch.bool), digest="")
    frames = [fit_frame(shape, size=64, resize="pad") for shape in shapes]
    placed = prompts_in_frame(prompts, rows=[0, 1], frames=frames, kinds=["box", "points"], grid=16)
    for row, shape in enumerate(shapes):
        theirs = transform.apply_boxes(boxes[row : row + 1].numpy(), shape)[0]
        np.testing.assert_allclose(placed.boxes[row].numpy(), theirs, rtol=1e-6)
        theirs = transform.apply_coords(points[row].numpy(), shape)
        np.testing.assert_allclose(placed.points[row].numpy(), theirs, rtol=1e-6)


def test_the_prompt_that_nobody_draws_is_a_box_around_the_whole_image() -> None:
    shapes = [(37, 64), (64, 23)]
    boxes = torch.tensor([[0.0, 0.0, 64.0, 37.0], [0.0, 0.0, 23.0, 64.0]])
    drawn, whole = (Prompts(one, torch.zeros(2, 1, 2), torch.zeros(2, 1, 1), digest="") for one in (boxes, boxes / 2))
    frames = [fit_frame(shape, size=48, resize="pad") for shape in shapes]
    expected = prompts_in_frame(drawn, rows=[0, 1], frames=frames, kinds=["box", "box"], grid=16)
    placed = prompts_in_frame(whole, rows=[0, 1], frames=frames, kinds=["image", "image"], grid=16)
    assert placed.kinds == ("box", "box")
    torch.testing.assert_close(placed.boxes, expected.boxes)
    mixed = prompts_in_frame(whole, rows=[0, 1], frames=frames, kinds=["box", "image"], grid=16)
    assert torch.equal(mixed.boxes, torch.stack([expected.boxes[0] / 2, placed.boxes[1]]))


def test_rows_are_taken_in_the_order_asked_for() -> None:
    prompts = Prompts(torch.arange(12.0).view(3, 4), torch.zeros(3, 1, 2), torch.zeros(3, 256, 256), digest="")
    frames = [fit_frame((64, 64), size=64, resize="pad")] * 2
    placed = prompts_in_frame(prompts, rows=[2, 0], frames=frames, kinds=["box", "box"], grid=16)
    assert torch.equal(placed.boxes, prompts.boxes[[2, 0]])
    assert placed.groups() == [("box", [0, 1])]


def test_a_mask_prompt_lies_where_the_content_lies() -> None:
    """The upper half of a wide image is the upper quarter of the padded square."""
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[0, :128] = True
    prompts = Prompts(torch.zeros(1, 4), torch.zeros(1, 1, 2), masks, digest="")
    frame = fit_frame((32, 64), size=64, resize="pad")
    placed = prompts_in_frame(prompts, rows=[0], frames=[frame], kinds=["mask"], grid=16)
    wanted = -torch.ones(16, 16)
    wanted[:4] = 1
    assert torch.allclose(placed.masks[0, 0], wanted)


def test_targets_equal_a_mean_over_pixels_where_they_fit_the_grid() -> None:
    mask = torch.rand(32, 64, generator=torch.Generator().manual_seed(2)) > 0.6
    frame = fit_frame((32, 64), size=128, resize="pad")
    wanted = torch.zeros(16, 16)
    wanted[:8] = mask.view(8, 4, 16, 4).float().mean(dim=(1, 3))
    assert torch.allclose(mask_to_grid(mask, frame, size=16), wanted)


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["pad", "squash"]), st.integers(0, 9))
def test_targets_keep_the_masks_area(height: int, width: int, resize: str, seed: int) -> None:
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    frame = fit_frame((height, width), size=64, resize=resize)  # type: ignore[arg-type]
    target = mask_to_grid(mask, frame, size=16)
    filled = frame.content[0] * frame.content[1] / 64**2
    assert target.min() >= 0
    assert target.max() <= 1 + 1e-6
    assert target.mean().item() == pytest.approx(mask.float().mean().item() * filled, abs=1e-5)


SIDES = st.one_of(st.integers(1, 300), st.sampled_from([333, 512, 683, 1000, 1024, 1536]))


@settings(deadline=None)  # the products of whole matrices take longer on a busy machine
@given(SIDES, SIDES, st.sampled_from(["pad", "squash"]), st.sampled_from([(64, 16), (1024, 256)]), st.data())
def test_targets_have_the_bits_of_the_products_of_whole_matrices(
    height: int, width: int, resize: str, sides: tuple[int, int], data: st.DataObject
) -> None:
    size, grid = sides
    density, seed = data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])), data.draw(st.integers(0, 9))
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < density
    if data.draw(st.booleans()):  # an object rather than noise
        mask[: height // 3] = False
        mask[height // 3 :, : width // 2] = True
    frame = fit_frame((height, width), size=size, resize=resize)  # type: ignore[arg-type]
    found = mask_to_grid(mask, frame, size=grid)
    assert found.is_contiguous()
    assert torch.equal(found, by_whole_matrices(mask, frame, size=grid))


def by_whole_matrices(mask: Tensor, frame: Frame, *, size: int) -> Tensor:
    """The definition: a matrix of shares for each side, of all cells and all pixels."""

    def shares(pixels: int, share: float) -> Tensor:
        edges = torch.arange(pixels + 1, dtype=torch.float64) * (share * size / pixels)
        starts = torch.arange(size, dtype=torch.float64)[:, None]
        return (edges[1:].minimum(starts + 1) - edges[:-1].maximum(starts)).clamp_min(0)

    rows, columns = (
        shares(pixels, content / frame.size) for pixels, content in zip(mask.shape, frame.content, strict=True)
    )
    return (rows @ mask.double() @ columns.T).float()


def test_a_share_midway_between_two_numbers_is_left_to_the_products_of_whole_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8191/8192 of 4095/4096 takes 25 bits: which of its two neighbours float32 takes is decided by the last bits."""
    asked: list[Tensor] = []
    own = frame_prompts._by_whole_matrices

    def watched(mask: Tensor, frame: Frame, *, size: int) -> Tensor:
        asked.append(mask)
        return own(mask, frame, size=size)

    monkeypatch.setattr(frame_prompts, "_by_whole_matrices", watched)
    mask, frame = torch.tensor([[True, False], [False, False]]), Frame((2, 2), (8191, 8190), 8192)
    assert torch.equal(mask_to_grid(mask, frame, size=2), by_whole_matrices(mask, frame, size=2))
    assert asked == [mask]
    mask_to_grid(mask, Frame((2, 2), (8192, 8192), 8192), size=2)
    assert asked == [mask]


def slow_bilinear(levels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Between the four nearest pixels, edges repeated, one loop a pixel."""
    out = np.zeros(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y = min(max((row + 0.5) * levels.shape[0] / shape[0] - 0.5, 0), levels.shape[0] - 1)
            x = min(max((column + 0.5) * levels.shape[1] / shape[1] - 0.5, 0), levels.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, levels.shape[0] - 1), min(x0 + 1, levels.shape[1] - 1)
            above = levels[y0, x0] * (1 - (x - x0)) + levels[y0, x1] * (x - x0)
            below = levels[y1, x0] * (1 - (x - x0)) + levels[y1, x1] * (x - x0)
            out[row, column] = above * (1 - (y - y0)) + below * (y - y0)
    return out


@pytest.mark.parametrize("shape", [(7, 9), (60, 45), (90, 30)])
@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_plain_resampling_has_no_antialiasing(shape: tuple[int, int], resize: str) -> None:
    image = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found, frame = prepare_image(image, size=20, resize=resize, resampling="torch")  # type: ignore[arg-type]
    height, width = frame.content
    for channel in range(3):
        wanted = slow_bilinear(image[channel].numpy().astype(float), frame.content)
        assert np.abs(found[channel, :height, :width].numpy() - wanted).max() <= 0.5 + 1e-4
    assert not found[:, height:].any()
    assert not found[:, :, width:].any()
    smooth, same_frame = prepare_image(image, size=20, resize=resize)  # type: ignore[arg-type]
    assert same_frame == frame
    if min(shape) > 20:
        assert (smooth.int() - found.int()).abs().max() > 20


@pytest.mark.parametrize("new", [(64, 64), (5, 17), (41, 29), (1, 1)])
@pytest.mark.parametrize("old", [(32, 32), (7, 50), (96, 128)])
def test_the_nearest_pixel_is_pillows(old: tuple[int, int], new: tuple[int, int]) -> None:
    levels = torch.randint(256, old, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = Image.fromarray(levels.numpy()).resize((new[1], new[0]), Image.Resampling.NEAREST)
    assert torch.equal(resize_nearest(levels, new), torch.from_numpy(np.array(theirs)))


def test_a_mask_prompt_enters_at_the_levels_asked_for() -> None:
    shares = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    given = FramePrompts(("mask",), torch.zeros(1, 4), torch.zeros(1, 1, 2), shares)
    assert given.mask_input(mask_logit=30.0).flatten().tolist() == [-30, 0, 30]
    raw = FramePrompts(("mask",), torch.zeros(1, 4), torch.zeros(1, 1, 2), shares, RAW_MASK_LEVELS)
    for again in (raw, raw.to("cpu"), raw.select([0])):
        assert again.mask_input(mask_logit=30.0).flatten().tolist() == [0, 127.5, 255]


def test_raw_masks_are_grey_levels_and_the_padding_is_black() -> None:
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[0, :128] = True
    prompts = Prompts(torch.zeros(1, 4), torch.zeros(1, 1, 2), masks, digest="")
    frame = fit_frame((32, 64), size=64, resize="pad")
    placed = prompts_in_frame(prompts, rows=[0], frames=[frame], kinds=["mask"], grid=16, mask_levels=RAW_MASK_LEVELS)
    wanted = torch.zeros(16, 16)
    wanted[:4] = 255
    found: Tensor = placed.mask_input(mask_logit=30.0)[0, 0]
    assert torch.allclose(found, wanted, atol=1e-3)


def test_a_view_hands_its_resampling_and_levels_on(squares: Split) -> None:
    view = View(24, 16, "squash", torch.device("cpu"), resampling="torch", mask_levels=RAW_MASK_LEVELS)
    batch, frames = collate([squares[0]], draw_prompts(squares, points=1, seed=0).take([0]), kinds=["mask"], view=view)
    plain, frame = prepare_image(squares[0].image, size=24, resize="squash", resampling="torch")
    assert frames == (frame,)
    assert torch.equal(batch.images, normalise(plain[None], [frame]))
    assert batch.prompts.mask_levels == RAW_MASK_LEVELS
    smooth, _ = View(24, 16, "squash", torch.device("cpu")).frame([squares[0].image])
    assert not torch.equal(batch.images, smooth)


def test_levels_decide_what_the_decoder_makes_of_a_mask_prompt(squares: Split) -> None:
    """Stating the model's own levels changes nothing; grey levels do."""
    sam = build_sam("tiny", checkpoint="random", seed=0)
    logits = []
    for levels in (None, (-sam.mask_logit, sam.mask_logit), RAW_MASK_LEVELS):
        view = View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"), mask_levels=levels)
        rows = draw_prompts(squares, points=1, seed=0).take([0])
        batch, _ = collate([squares[0]], rows, kinds=["mask"], view=view)
        with torch.no_grad():
            logits.append(sam.decode(sam.encode(batch.images), batch.prompts).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest", "direct"])
def test_logits_of_one_frame_return_together_as_one_by_one(upsampling: Upsampling) -> None:
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(6))
    frame = fit_frame((37, 53), size=64, resize="squash")
    together = to_original(logits, frame, upsampling=upsampling)
    assert torch.equal(together, torch.stack([to_original(one, frame, upsampling=upsampling) for one in logits]))
    if upsampling != "direct":
        padded = fit_frame((37, 53), size=64, resize="pad")
        content = to_content(logits, padded, upsampling=upsampling)
        assert torch.equal(content, torch.stack([to_content(one, padded, upsampling=upsampling) for one in logits]))
        assert content.shape == (5, *padded.content)
