"""Scoring a recorded model again: the same bits here, and whatever was changed is found."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.quick_protocol import write_quick_protocol
from support.shifted_method import SHIFTED
from typer.testing import CliRunner

import cosam_bench as cb
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_file
from cosam_bench.evaluation.scoring import BadPrediction
from cosam_bench.experiments import rescoring
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.predictor import load_predictor
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.rescoring import MEAN_TOLERANCE, rescore
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.results_folder import load_record
from cosam_bench.results.verification import verify_record


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescoring")
    config = resolve_run(method="average", protocol=str(write_quick_protocol(folder)))
    return Runner(open_experiment(config, folder / "results"), results=folder / "results").run().folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "record"))


def with_last_score(folder: Path, value: str) -> None:
    path = folder / "scores.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[-1][3] = value
    path.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")


def test_the_update_and_the_state_give_the_recorded_bits(folder: Path) -> None:
    by_update = rescore(load_record(folder))
    assert (by_update.served, by_update.is_exact, by_update.images) == ("update.safetensors", True, 4 * 3)
    assert (by_update.differing, by_update.largest, by_update.faults) == (0, 0.0, ())
    (folder / "update.safetensors").unlink()
    by_state = rescore(load_record(folder))
    assert (by_state.served, by_state.differing) == ("state.safetensors", 0)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_method_that_predicts_by_code_of_its_own_serves_no_update(
    quick_protocol: Path, tmp_path: Path, isolated: bool
) -> None:
    (tmp_path / "shifted.py").write_text(SHIFTED)
    record = cb.run(tmp_path / "shifted.py", protocol=quick_protocol, results=tmp_path / "results", isolated=isolated)
    assert isinstance(record, cb.Record)
    assert not (record.folder / "update.safetensors").exists()
    found = rescore(record)
    assert (found.served, found.differing, found.faults) == ("state.safetensors", 0, ())


def test_a_changed_score_is_named_by_its_line(folder: Path) -> None:
    with_last_score(folder, "0.987")
    found = rescore(load_record(folder))
    [fault] = found.faults
    assert str(fault).startswith("scores.csv, line 49: iou of image ")
    assert "of 'natural' after step 3 is 0.987, scored again it is 0." in str(fault)
    assert found.differing == 1


def test_a_record_with_settings_that_had_no_effect_is_read_as_before(folder: Path, tmp_path: Path) -> None:
    """Earlier versions took ``fit.step_factor`` without ``schedule = "step"``."""
    config = (folder / "config.toml").read_text(encoding="utf-8")
    for old, new in (('schedule = "step"', 'schedule = "constant"'), ("step_factor = 0.1", "step_factor = 0.5")):
        assert old in config
        config = config.replace(old, new)
    (folder / "config.toml").write_text(config, encoding="utf-8")
    with pytest.raises(CosamError, match="step_factor needs schedule = 'step'"):
        resolve_run(config=folder / "config.toml")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["config"]["protocol"]["fit"] |= {"schedule": "constant", "step_factor": 0.5}
    record["files"]["config.toml"] = sha256_file(folder / "config.toml")
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert verify_record(folder).faults == ()
    assert rescore(load_record(folder)).faults == ()
    assert load_predictor(folder).needs_prompt
    shutil.copytree(folder, tmp_path / "results" / "quick" / "average" / "0123456789ab")
    for command in (["show", str(folder)], ["leaderboard", "--results", str(tmp_path / "results")]):
        shown = CliRunner().invoke(app, command)
        assert (shown.exit_code, "average" in shown.output) == (0, True), shown.output


def test_another_update_is_found(folder: Path) -> None:
    path = folder / "update.safetensors"
    tensors = load_file(path)
    save_file({name: 30 * tensor for name, tensor in tensors.items()}, path)
    assert rescore(load_record(folder)).faults


def test_on_another_machine_a_domains_mean_may_differ_a_little(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(device: object) -> dict[str, str]:
        return {"processor": "another"}

    monkeypatch.setattr(rescoring, "hardware", elsewhere)
    true = float((folder / "scores.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[3])
    with_last_score(folder, repr(true + 2 * MEAN_TOLERANCE))  # a third of it in the mean of three images
    found = rescore(load_record(folder))
    assert (found.is_exact, found.faults, found.differing) == (False, (), 1)
    assert found.largest_mean == pytest.approx(2 * MEAN_TOLERANCE / 3)
    with_last_score(folder, repr(true + 4 * MEAN_TOLERANCE))
    [fault] = rescore(load_record(folder)).faults
    assert "the mean iou of 'natural' after step 3 differs by 0.006667" in str(fault)


def test_a_record_without_a_model_says_so(folder: Path) -> None:
    for name in ("update.safetensors", "state.safetensors"):
        (folder / name).unlink()
    with pytest.raises(CosamError, match=r"neither update\.safetensors nor state\.safetensors"):
        rescore(load_record(folder))


def test_other_code_is_refused_where_it_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosam_bench.experiments.chosen_method.rule_digest", lambda method: "0" * 64)
    assert rescore(load_record(folder)).faults == ()  # the update predicts, whatever made it
    (folder / "update.safetensors").unlink()
    with pytest.raises(CosamError, match="the method's code, which predicts from its state"):
        rescore(load_record(folder))


def test_a_broken_prediction_is_the_methods_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise BadPrediction("nothing was predicted.")

    monkeypatch.setattr(rescoring.RowScorer, "columns", broken)
    with pytest.raises(MethodFailed, match="The method 'average' broke its contract: nothing was predicted"):
        rescore(load_record(folder))


def test_other_data_is_refused(folder: Path) -> None:
    path = folder / "run.json"
    info = load_record(folder).info
    data = info.conditions.data | {"pill": "0" * 64}
    conditions = type(info.conditions)(**info.conditions.model_dump(exclude={"data", "digest"}), data=data)
    path.write_text(info.model_copy(update={"conditions": conditions}).to_json(), encoding="utf-8")
    with pytest.raises(CosamError, match=r"Not as in the run: the images or masks of pill\. Get"):
        rescore(load_record(folder))
