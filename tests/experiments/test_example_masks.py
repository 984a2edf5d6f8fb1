"""Example masks of a run: those that were scored, at the right step, also after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosam_bench.experiments import runner as runner_module
from cosam_bench.experiments.example_masks import ExampleMasks
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.examples import Example, decode_mask, read_examples
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.records import Record


def run(protocol: Path, results: Path, *, method: str = "finetune", overrides: tuple[str, ...] = ()) -> Record:
    config = resolve_run(method=method, protocol=str(protocol), overrides=overrides)
    return Runner(open_experiment(config, results), results=results).run()


def examples(record: Record) -> tuple[Example, ...]:
    found = read_examples(record)
    assert found is not None
    return found.examples


def iou(one: str, other: str) -> float:
    first, second = decode_mask(one), decode_mask(other)
    return float((first & second).sum() / max(1, (first | second).sum()))


def test_the_masks_are_those_that_were_scored(quick_protocol: Path, tmp_path: Path) -> None:
    record = run(quick_protocol, tmp_path / "r")
    scores = read_image_scores(record)
    order = record.info.order
    found = examples(record)
    assert [example.domain for example in found] == [name for name in (*order, "natural") for _ in range(3)]
    for example in found:  # the images have 64 pixels, so thumbnails are as large as they
        row = scores.keys[example.domain].index(example.key)
        column = scores.values[example.domain][:, row]
        assert example.score_after == column[-1]
        assert iou(example.after, example.truth) == pytest.approx(column[-1], abs=1e-12)
        if example.domain == "natural":
            assert example.before is None
        else:
            assert example.before is not None
            learned = column[order.index(example.domain) + 1]
            assert example.score_before == learned
            assert iou(example.before, example.truth) == pytest.approx(learned, abs=1e-12)


def test_best_and_worst_are_the_domains_extremes(quick_protocol: Path, tmp_path: Path) -> None:
    record = run(quick_protocol, tmp_path / "r")
    scores = read_image_scores(record)
    for example in examples(record):
        final = scores.values[example.domain][-1]
        wanted = {"best": final.max(), "worst": final.min(), "median": np.median(final)}
        assert example.score_after == wanted[example.place]


@pytest.mark.parametrize("kind", ["box", "points", "mask"])
def test_the_prompt_is_the_one_that_was_given(quick_protocol: Path, tmp_path: Path, kind: str) -> None:
    record = run(quick_protocol, tmp_path / "r", overrides=(f"prompts.test={kind}",))
    for example in examples(record):
        truth = decode_mask(example.truth)
        assert example.prompt.kind == kind
        if kind == "points":
            assert example.prompt.points
            assert all(truth[int(y), int(x)] for x, y in example.prompt.points)
        elif kind == "box":
            rows, columns = truth.any(axis=1).nonzero()[0], truth.any(axis=0).nonzero()[0]
            assert example.prompt.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        else:
            assert example.prompt.mask is not None
            assert iou(example.prompt.mask, example.truth) > 0.4


def test_a_method_without_state_has_masks_before_too(quick_protocol: Path, tmp_path: Path) -> None:
    found = examples(run(quick_protocol, tmp_path / "r", method="frozen"))
    learned = [example for example in found if example.domain != "natural"]
    assert learned
    assert all(example.before == example.after for example in learned)


def test_learning_all_at_once_has_no_earlier_masks(quick_protocol: Path, tmp_path: Path) -> None:
    assert all(example.before is None for example in examples(run(quick_protocol, tmp_path / "r", method="joint")))


def test_a_stopped_run_ends_with_the_same_examples(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(quick_protocol, tmp_path / "whole")
    save, saved = ExampleMasks.save, []

    def stopping(self: ExampleMasks, step: int) -> None:
        save(self, step)
        saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner_module.ExampleMasks, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(quick_protocol, tmp_path / "r")
    assert examples(run(quick_protocol, tmp_path / "r")) == examples(whole)


def test_lost_masks_leave_a_complete_record_without_them(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: ExampleMasks, step: int) -> None:
        self._path(step).parent.mkdir(exist_ok=True)
        self._path(step).write_bytes(b"half a file")

    monkeypatch.setattr(ExampleMasks, "save", lost)
    record = run(quick_protocol, tmp_path / "r")
    assert record.info.status == "complete"
    assert read_examples(record) is None


def test_no_score_depends_on_them(quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = run(quick_protocol, tmp_path / "kept")
    monkeypatch.setattr(ExampleMasks, "_wanted", lambda self, step: set())
    without = run(quick_protocol, tmp_path / "without")
    assert not (without.folder / "examples.json").exists()
    assert (kept.folder / "scores.csv").read_bytes() == (without.folder / "scores.csv").read_bytes()
    assert (kept.folder / "state.safetensors").read_bytes() == (without.folder / "state.safetensors").read_bytes()
