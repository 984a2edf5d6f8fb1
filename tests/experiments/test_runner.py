"""The loop over the domains: what is recorded, shared and measured once, and whose failure a failure is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_runs import (
    Counter,
    Opener,
    contents,
    raising,
    status,
)
from torch import Tensor

from cosam_bench.data.samples import Sample, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.method_faults import FaultWatch, MethodFailed
from cosam_bench.experiments.progress import BarReporter, LineReporter, SilentReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.experiments.runner import Runner
from cosam_bench.isolation.payloads import bench_values
from cosam_bench.merging.updates import Update
from cosam_bench.method.interface import Method
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.sam import Features


def test_a_record_holds_its_files_and_nothing_more(whole: dict[str, bytes], small: Opener) -> None:
    assert set(whole) == {"config.toml", "examples.json", "matrix.csv", "run.json", "scores.csv", "state.safetensors"}
    lines = whole["matrix.csv"].decode().splitlines()
    assert lines[0] == "step,domain,metric,value,count"
    assert len(lines) == 1 + 3 * 3 * len(METRICS)
    assert len(whole["scores.csv"].decode().splitlines()) == 1 + 3 * 3 * 2
    info = json.loads(whole["run.json"])
    assert info["status"] == "complete"
    assert set(info["prompts"]) == {"pill/train", "polyp/train", "pill/test", "polyp/test", "natural/test"}


def test_a_complete_run_is_not_measured_again_unless_afresh(small: Opener, tmp_path: Path) -> None:
    first = Runner(small("Quick"), results=tmp_path).run()
    runner = Runner(small("Quick"), results=tmp_path)
    assert runner.finished() == first
    assert runner.run() == first
    (first.folder / "left over").mkdir()
    again = runner.run(fresh=True)
    assert again.folder == first.folder
    assert not (again.folder / "left over").exists()


def test_the_written_config_is_this_very_run(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("Quick"), results=tmp_path).run()
    config = resolve_run(config=record.folder / "config.toml")
    assert config == small("Quick").config
    runner = Runner(open_experiment(config, tmp_path / "other"), results=tmp_path)
    assert runner.folder == record.folder
    assert runner.finished() is not None


def test_joint_training_learns_once_and_has_two_rows(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("AtOnce"), results=tmp_path).run()
    matrix = record.score_matrix("iou")
    assert (~torch.from_numpy(matrix.values).isnan()).all(1).tolist() == [True, False, True]
    assert len(record.info.cost.state_bytes) == 1


def test_a_method_learns_with_as_many_images_at_once_as_scoring_found_to_fit(
    small: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("Quick")
    known: list[int] = []
    learn = experiment.method.learn

    def noted(method: Method, domain: TrainingDomain, *, step: int) -> None:
        assert method.bench.passes is not None
        known.append(method.bench.passes.current)
        assert bench_values(method.bench)["batch_size"] == known[-1]  # what an isolated method begins with
        learn(method, domain, step=step)

    def limited(self: Workbench, update: Update | None, batch: Batch) -> Tensor:
        return torch.zeros(len(batch), self.view.grid, self.view.grid) if len(batch) < 2 else full()

    def full() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(experiment.method, "learn", noted)
    monkeypatch.setattr(Workbench, "predict", limited)  # of frozen SAM's row
    Runner(experiment, results=tmp_path).run()
    assert experiment.bench.batch_size > 1
    assert known == [1, 1]
    assert experiment.bench.passes is None, "the next run begins with the configured size"


def test_frozen_learns_nothing(small: Opener, tmp_path: Path) -> None:
    record = Runner(small("frozen"), results=tmp_path).run()
    values = record.score_matrix("iou").values
    assert (values == values[0]).all()
    cost = record.info.cost
    assert set(cost.train_seconds) == {0.0}
    assert len(set(cost.state_bytes)) == 1
    assert cost.encoder_passes_per_image == 1.0


@pytest.mark.parametrize("act", ["learn", "predict", "state", "load", "__init__"])
def test_what_a_method_raises_is_its_own_runs_failure(act: str, small: Opener, tmp_path: Path) -> None:
    name = "RaisesInInit" if act == "__init__" else f"RaisesIn{act.title()}"
    runner = Runner(small(name), results=tmp_path)
    with pytest.raises(MethodFailed, match=rf"'methods:{name}' raised ZeroDivisionError in {act}\(\): one over not"):
        runner.run()
    failed, error = status(runner.folder)
    assert failed == "failed"
    assert error is not None
    assert f"in {act}()" in error
    assert "ZeroDivisionError: one over nothing" in (runner.folder / "error.txt").read_text()
    rows = (runner.folder / "matrix.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(METRICS), "the frozen model's row is kept"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ReturnsMasks", r"broke its contract: predict\(\) must return float logits"),
        ("Complains", r"failed in learn\(\): Training diverged"),
        ("HooksTheBase", r"left hooks, .* in the frozen base model in learn\(\)"),
        ("TrainsTheBase", r"parameters that require gradients in the frozen base model in learn\(\)"),
        ("ChangesTheBase", r"changed the frozen base model's weights in learn\(\)"),
        ("NeedsMoreMemory", r"failed in predict\(\): The device has too little memory to predict a single image"),
        ("NeedsMemoryToLearn", r"raised OutOfMemoryError in learn\(\): CUDA out of memory"),
        ("KeepsTheDomain", r"raised ClosedDomainError in state\(\): The domain 'pill' is closed"),
    ],
)
def test_a_broken_contract_is_the_methods_failure(name: str, message: str, small: Opener, tmp_path: Path) -> None:
    experiment = small(name)
    weights = {key: tensor.clone() for key, tensor in experiment.bench.sam.state_dict().items()}
    runner = Runner(experiment, results=tmp_path)
    with pytest.raises(MethodFailed, match=message):
        runner.run()
    assert status(runner.folder)[0] == "failed"
    experiment.bench.sam.load_state_dict(weights)


@pytest.mark.parametrize(
    "place", ["cosam_bench.evaluation.scoring.measure", "cosam_bench.evaluation.scoring.collate_inputs"]
)
def test_the_harness_own_fault_is_not_the_methods(
    place: str, small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(small("Quick"), results=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(place, raising(RuntimeError, "a defect"))
        with pytest.raises(RuntimeError, match="a defect"):
            runner.run()
    assert status(runner.folder) == ("interrupted", "RuntimeError: a defect")
    assert not (runner.folder / "error.txt").exists()
    assert contents(runner.run().folder) == whole


def test_a_failure_that_is_mended_leaves_no_trace(
    small: Opener, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("Quick")
    runner = Runner(experiment, results=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(experiment.method, "learn", raising(ValueError, "at first"))
        with pytest.raises(MethodFailed):
            runner.run()
    assert (runner.folder / "error.txt").exists()
    assert contents(Runner(experiment, results=tmp_path).run().folder) == whole


def test_a_run_whose_batches_do_not_fit_goes_on_in_smaller_ones(
    small: Opener, whole: dict[str, bytes], tmp_path: Path
) -> None:
    told = Counter()
    record = Runner(small("NeedsMemory"), results=tmp_path, reporter=told).run()
    found = contents(record.folder)
    assert {name: found[name] for name in ("scores.csv", "matrix.csv")} == {
        name: whole[name] for name in ("scores.csv", "matrix.csv")
    }
    notes = [text for text in told.said if "memory" in text]
    assert notes == ["The device's memory does not hold 2 images at once; continuing with 1."], (
        "said once, not each row"
    )
    assert record.info.cost.encoder_passes_per_image == 1.0, "what did not fit is no cost of the method"


def test_a_note_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for reporter in (LineReporter(), BarReporter()):
        with reporter:
            reporter.begin(100)
            reporter.say("Scoring")
            reporter.note("Going on with [4] :smile:")
            reporter.say("Scoring on")
        assert "Going on with [4] :smile:\n" in capsys.readouterr().err


def test_all_rows_and_methods_share_what_was_loaded(small: Opener, tmp_path: Path) -> None:
    experiment = replace(small("Quick"), loader=Loader(workers=1, cache_bytes=1 << 30))
    read: list[tuple[str, int]] = []
    own = Split.read

    def watched(split: Split, index: int) -> Sample:
        read.append((split.domain, index))
        return own(split, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Split, "read", watched)
        Runner(experiment, results=tmp_path).run()
        tested = [(name, row) for name in ("pill", "polyp", "natural") for row in range(2)]
        assert sorted(read) == sorted([*tested, *tested, ("pill", 0), ("polyp", 0)]), (
            "once for all rows, once for a thumbnail, and the training image the method looks at"
        )
        read.clear()
        again = experiment.with_method(small("frozen").config)
        assert again.loader is experiment.loader
        Runner(again, results=tmp_path / "other").run()
        assert sorted(read) == sorted(tested), "once for a thumbnail"


def test_a_row_is_scored_without_cached_features_if_the_memory_is_full(small: Opener) -> None:
    experiment, memory = small("Quick"), FeatureMemory(limit_bytes=2**20)
    memory.keep("another image", Kept(Features(torch.zeros(1)), seconds=1.0))
    cache = PrefixCache(memory, sam=experiment.bench.sam, depth=1)
    experiment = replace(experiment, bench=replace(experiment.bench, prefixes=cache))
    watch = FaultWatch("Quick", sam=experiment.bench.sam)
    scorer = RowScorer(experiment, watch=watch, reporter=SilentReporter())
    seen, grid = [], experiment.bench.view.grid

    def predict(batch: Batch) -> Tensor:
        seen.append(len(batch))
        if memory.used_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(len(batch), grid, grid)

    domain = experiment.domains[0]
    assert len(scorer.of_split(predict, domain.test, experiment.test_prompts[domain.name])) == len(domain.test)
    assert len(domain.test) > 1
    assert seen == [len(domain.test)] * 2
    assert scorer.is_batch_size_unchanged
