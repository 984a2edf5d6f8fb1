"""A grid of points as the prompt: where its points are, how their masks are pooled, and whole runs with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.quick_protocol import write_quick_protocol

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import validate
from cosam_bench.data.prompt_settings import PromptSettings
from cosam_bench.data.prompts import blank_prompts
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.predictor import load_predictor
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frame_prompts import FramePrompts, prompts_in_frame
from cosam_bench.sam.frames import Frame
from cosam_bench.sam.point_grid import MaskPool, grid_points
from cosam_bench.sam.sam import Sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("tiny", checkpoint="random")


def placed(sam: Sam, *contents: tuple[int, int], side: int = 3) -> FramePrompts:
    frames = [Frame(original=content, content=content, size=sam.image_size) for content in contents]
    kinds = ["grid"] * len(frames)
    blank = blank_prompts(len(frames), points=2)
    return prompts_in_frame(
        blank,
        rows=range(len(frames)),
        frames=frames,
        kinds=kinds,  # type: ignore[arg-type]
        grid=sam.logits_size,
        grid_side=side,
    )


def pool(*masks: tuple[torch.Tensor, float], content: tuple[int, int] = (4, 4)) -> MaskPool:
    found = MaskPool(grid_points(content, side=2), image_size=4, grid=4)
    for logits, estimate in masks:
        found.add(logits[None], torch.tensor([estimate]))
    return found


def mask(rows: slice, columns: slice, *, logit: float = 5.0) -> torch.Tensor:
    logits = torch.full((4, 4), -5.0)
    logits[rows, columns] = logit
    return logits


EVERYWHERE = mask(slice(None), slice(None))
SMALL = mask(slice(0, 2), slice(0, 2))


def test_the_points_are_the_centres_of_equal_cells(sam: Sam) -> None:
    prompts = placed(sam, (60, 120), (128, 64), side=2)
    assert prompts.points[0].tolist() == [[30, 15], [90, 15], [30, 45], [90, 45]]
    assert prompts.points[1].tolist() == [[16, 32], [48, 32], [16, 96], [48, 96]]
    assert prompts.boxes.tolist() == [[0, 0, 120, 60], [0, 0, 64, 128]]
    assert prompts.kinds == ("grid", "grid")


def test_the_foreground_is_what_good_masks_cover_that_are_not_the_background() -> None:
    other = mask(slice(3, 4), slice(0, 2))
    assert (pool((SMALL, 0.75), (EVERYWHERE, 0.9)).logits() > 0).equal(SMALL > 0)
    assert (pool((SMALL, 0.75), (other, 0.6)).logits() > 0).equal((SMALL > 0) | (other > 0))
    assert not (pool((SMALL, 0.5), (EVERYWHERE, 0.9)).logits() > 0).any()


def test_the_probability_is_the_largest_predicted_iou() -> None:
    found = pool((SMALL, 0.25), (SMALL, 0.75), (EVERYWHERE, 0.9))
    assert found.logits().sigmoid()[0, 0].item() == pytest.approx(0.75)
    assert found.logits().sigmoid()[3, 3].item() == pytest.approx(0, abs=1e-3)
    assert found.predicted_iou().item() == pytest.approx((0.75**2 + 0.25**2) / 1)


def test_exactly_half_of_the_image_is_no_background() -> None:
    half = mask(slice(0, 2), slice(None))
    assert (pool((half, 1.0)).logits() > 0).equal(half > 0)


def test_nothing_is_found_where_no_mask_is_and_in_the_padding() -> None:
    nothing = pool((mask(slice(0), slice(0)), 0.9))
    assert not (nothing.logits() > 0).any()
    assert nothing.predicted_iou().isfinite()
    left = pool((mask(slice(None), slice(0, 2)), 0.9), content=(4, 2))  # all of an image that fills half of the input
    assert not (left.logits() > 0).any()


def test_decoding_pools_the_masks_of_single_points(sam: Sam) -> None:
    features = sam.encode(torch.randn(2, 3, sam.image_size, sam.image_size, generator=torch.Generator().manual_seed(1)))
    prompts = placed(sam, (128, 128), (64, 128))
    pooled = sam.decode(features, prompts)
    assert pooled.logits.shape == (2, sam.logits_size, sam.logits_size)
    for row in range(2):
        slow = MaskPool(prompts.points[row], image_size=sam.image_size, grid=sam.logits_size)
        alone = prompts.select([row])
        for point in prompts.points[row]:
            masks = sam.decode(features.select([row]), replace(alone, kinds=("points",), points=point[None, None]))
            slow.add(masks.logits, masks.predicted_iou)
        torch.testing.assert_close(pooled.logits[row], slow.logits(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(pooled.predicted_iou[row], slow.predicted_iou())
        assert sam.decode(features.select([row]), alone).logits[0].equal(pooled.logits[row])


def test_an_image_is_encoded_once(sam: Sam) -> None:
    before = sam.encoder_passes
    images = torch.zeros(1, 3, sam.image_size, sam.image_size)
    sam.decode(sam.encode(images), placed(sam, (128, 128), side=12))  # more points than are decoded at once
    assert sam.encoder_passes == before + 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": "grid"}, "a grid of points is for testing alone"),
        ({"test": "grid", "grid": 1}, "greater than or equal to 2"),
        ({"test": "grid", "grid": 33}, "less than or equal to 32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(CosamError, match=said):
        validate(PromptSettings, given, source="prompts")


@pytest.mark.parametrize("method", ["finetune", "l2p"])
def test_a_run_and_its_predictions(method: str, tmp_path: Path) -> None:
    """Methods that serve an update, and add prompt tokens."""
    protocol = str(write_quick_protocol(tmp_path, domains=("pitting",)))
    overrides = ("prompts.test=grid", "prompts.grid=2", "prompts.train=image")
    config = resolve_run(method=method, protocol=protocol, overrides=overrides)
    experiment = open_experiment(config, tmp_path / "results")
    record = Runner(experiment, results=tmp_path / "results").run()
    assert record.status == "complete"
    predictor = load_predictor(record)
    assert not predictor.needs_prompt
    sample = experiment.domains[0].test[0]
    predicted = torch.from_numpy(predictor.predict(sample.image.permute(1, 2, 0).numpy()))
    both, either = (predicted & sample.mask).sum(), (predicted | sample.mask).sum()
    recorded = (record.folder / "scores.csv").read_text().splitlines()
    [line] = [line for line in recorded if line.startswith(f"1,pitting,{sample.key},")]
    assert float(line.split(",")[3]) == pytest.approx((both / either).item(), abs=0.02)
