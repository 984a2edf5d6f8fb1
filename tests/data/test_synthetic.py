"""The synthetic domains, and the embedded weights that were trained on the generic scenes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
from cosam_bench.data.synthetic import GENERATORS, elementary
from cosam_bench.data.synthetic.scenes import MIN_FOREGROUND, scene

DOMAINS = ("pitting", "rail_i", "rail_ii", "texture", "pill", "rim", "camouflage", "polyp")
WEIGHTS = files("cosam_bench.sam") / "weights"
RECORDS = Path(__file__).resolve().parents[2] / "results" / "reference" / "records"
PRINTED_DIGESTS = """
import json
from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
opened = open_stream(load_stream("mini"))
print(json.dumps({domain.name: domain.digest for domain in (*opened.domains, *opened.retention)}))
"""


def digests_of_mini() -> dict[str, str]:
    opened = open_stream(load_stream("mini"))
    return {domain.name: domain.digest for domain in (*opened.domains, *opened.retention)}


def published_digests() -> dict[str, str]:
    [path] = RECORDS.glob("mini/*/*/run.json")
    digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["conditions"]["data"]
    return digests


def test_the_eight_domains_the_retention_domain_and_the_training_scenes_are_offered() -> None:
    assert set(GENERATORS) == {*DOMAINS, "natural", "scenes"}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_draws_the_same_bytes(name: str) -> None:
    first, second = (GENERATORS[name](np.random.default_rng(7), 64) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


class OtherLastBits:
    """numpy as another processor computes it: elementary functions are up to 4 units in the last place away."""

    def __init__(self) -> None:
        self.calls = 0
        self._rng = np.random.default_rng(0)

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("sin", "cos", "exp", "power", "arctan2", "hypot"):
            return function

        def moved(*values: Any, dtype: Any) -> Any:
            self.calls += 1
            exact = function(*values, dtype=dtype)
            return exact + np.spacing(exact) * self._rng.integers(-4, 5, exact.shape)

        return moved


def test_the_images_of_mini_do_not_depend_on_the_last_bits_of_a_processors_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = OtherLastBits()
    monkeypatch.setattr(elementary, "np", other)
    assert digests_of_mini() == published_digests()
    assert other.calls > 1000


def test_the_images_of_mini_are_the_published_ones_without_vector_instructions() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    command = [sys.executable, "-c", PRINTED_DIGESTS]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=300)
    assert json.loads(run.stdout) == published_digests()


@pytest.mark.parametrize("name", GENERATORS)
def test_another_seed_draws_another_picture_and_mask(name: str) -> None:
    first, second = (GENERATORS[name](np.random.default_rng(seed), 64) for seed in (1, 2))
    assert (first[0] != second[0]).mean() > 0.3
    assert (first[1] != second[1]).any()


@pytest.mark.parametrize("size", [96, 128])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_sample_is_a_picture_with_a_mask_that_can_be_a_target(name: str, size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(12):
        picture, mask = GENERATORS[name](rng, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert mask.shape == (size, size)
        assert mask.dtype == np.bool_
        assert MIN_FOREGROUND <= mask.sum() <= 0.9 * size * size
        assert picture.std() > 5


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_draws_nothing_from_numpys_global_state(name: str) -> None:
    before = np.random.get_state()[1].tobytes()
    GENERATORS[name](np.random.default_rng(0), 64)
    assert np.random.get_state()[1].tobytes() == before


def test_a_shape_lies_at_the_same_place_at_every_size() -> None:
    """A scene is drawn in image widths, so a mask's share of the picture hardly depends on the pixels."""
    shares = [
        np.mean([GENERATORS["rim"](np.random.default_rng(seed), size)[1].mean() for seed in range(8)])
        for size in (64, 256)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=0.35)


def test_a_scene_gives_the_visible_masks_of_all_its_things() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(20):
        _, masks = scene(rng, 64)
        assert all(mask.sum() >= MIN_FOREGROUND for mask in masks)
        counts.append(len(masks))
    assert min(counts) >= 1
    assert max(counts) > 3


def test_the_embedded_weights_are_those_that_their_facts_describe() -> None:
    content = (WEIGHTS / "tiny.safetensors").read_bytes()
    facts = json.loads((WEIGHTS / "tiny.json").read_text(encoding="utf-8"))
    assert hashlib.sha256(content).hexdigest() == facts["sha256"]
    assert len(content) == facts["bytes"] <= 8_000_000


def test_the_training_log_ends_with_the_last_step_and_a_lower_loss() -> None:
    facts = json.loads((WEIGHTS / "tiny.json").read_text(encoding="utf-8"))
    with (WEIGHTS / "tiny-training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == facts["training"]["steps"]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
