"""Runs that score each merge at several lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from support.quick_protocol import write_quick_protocol

import cosam_bench as cb
from cosam_bench.cli.scale_tables import render_scales
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.scales import CHOSEN_BY, HELD_OUT, ScaleScore
from cosam_bench.evaluation.scoring import domain_means, score_split
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.merging.updates import Update
from cosam_bench.results.cell_text import number
from cosam_bench.results.conditions import measured_runs
from cosam_bench.results.records import Record, read_scales
from cosam_bench.results.scale_table import last_by_scale, scale_table, scaled_matrix
from cosam_bench.results.verification import verify_record
from cosam_bench.sam.build import read_checkpoint

SCALES = (0.5, 1.0, 8.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scaled")


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_quick_protocol(tmp_path_factory.mktemp("protocol"))
    file.write_text(file.read_text().replace("fit = {", "fit = { learning_rate = 0.02,"))
    return file


def opened(protocol: Path, results: Path, method: str = "opcm", *, scales: str = "[0.5, 8]") -> Experiment:
    overrides = (f"scales={scales}",) if scales else ()
    return open_experiment(resolve_run(method=method, protocol=str(protocol), overrides=overrides), results)


@pytest.fixture(scope="module")
def experiment(protocol: Path, results: Path) -> Experiment:
    return opened(protocol, results)


@pytest.fixture(scope="module")
def record(experiment: Experiment, results: Path) -> Record:
    return Runner(experiment, results=results).run()


@pytest.fixture(scope="module")
def scores(record: Record) -> list[ScaleScore]:
    return read_scales(record.folder / "scales.csv")


def value(scores: list[ScaleScore], step: int, scale: float, part: str, domain: str) -> float:
    (found,) = [
        row.value
        for row in scores
        if (row.step, row.scale, row.part, row.domain, row.metric) == (step, scale, part, domain, "iou")
    ]
    return found


def test_a_tenth_is_held_out_of_training_and_known_to_the_conditions(
    experiment: Experiment, protocol: Path, results: Path
) -> None:
    plain = opened(protocol, results, scales="")
    assert not plain.held_out
    for domain, whole in zip(experiment.domains, plain.domains, strict=True):
        held, prompts = experiment.held_out[domain.name]
        assert sorted((*domain.train.keys, *held.keys)) == sorted(whole.train.keys)
        assert (len(held), len(prompts), len(experiment.train_prompts[domain.name])) == (1, 1, 3)
        assert domain.test.digest == whole.test.digest
    assert experiment.conditions.digest != plain.conditions.digest
    assert experiment.digest != opened(protocol, results, scales="[0.5, 4]").digest
    assert opened(protocol, results, scales="[0.5, 4]").conditions == experiment.conditions
    assert (HELD_OUT in experiment.marks, HELD_OUT in plain.marks) == (True, False)


def test_the_last_merge_is_scored_at_every_scale_as_by_hand(
    experiment: Experiment, record: Record, scores: list[ScaleScore]
) -> None:
    served = Update.from_tensors(read_checkpoint(record.folder / "update.safetensors"))
    held = {name: (split, prompts) for name, (split, prompts) in experiment.held_out.items()}
    tested = {domain.name: (domain.test, experiment.test_prompts[domain.name]) for domain in experiment.columns}
    score = experiment.config.protocol.score
    for scale in SCALES:
        for part, splits in (("held_out", held), ("test", tested)):
            for domain, (split, prompts) in splits.items():
                found = score_split(
                    lambda batch, scale=scale: experiment.bench.predict(served.scaled(scale), batch),
                    split,
                    prompts,
                    kind=experiment.config.protocol.prompts.test,
                    view=experiment.bench.view,
                    batch_size=experiment.bench.batch_size,
                    size=score.size,
                    upsampling=score.upsampling,
                )
                assert value(scores, 3, scale, part, domain) == domain_means(found)["iou"], (scale, part, domain)
    assert len({value(scores, 3, scale, "test", "polyp") for scale in SCALES}) > 1


def test_the_own_length_has_the_rows_of_the_matrix_and_others_are_scored_where_they_are_chosen(
    record: Record, scores: list[ScaleScore]
) -> None:
    matrix = record.score_matrix("iou")
    for step in (1, 2, 3):
        seen = list(record.order[:step])
        held = {(row.scale, row.domain) for row in scores if (row.step, row.part) == (step, "held_out")}
        assert held == {(scale, name) for scale in SCALES for name in seen}
        tested = {row.scale for row in scores if (row.step, row.part) == (step, "test")}
        means = {
            scale: [value(scores, step, scale, "held_out", name) for name in seen] for scale in SCALES
        }  # by hand: the mean of all, and the last alone
        best = {max(means, key=lambda scale: (sum(means[scale]), scale == 1))}
        best |= {max(means, key=lambda scale: (means[scale][-1], scale == 1))}
        assert tested == (set(SCALES) if step == 3 else best | {1.0})
        for column, name in enumerate(matrix.columns):
            assert value(scores, step, 1.0, "test", name) == matrix.values[step, column]


def test_the_table_follows_from_the_scores(record: Record, scores: list[ScaleScore]) -> None:
    (run,), _ = measured_runs([record], metric="iou")
    (row,) = scale_table([record]).to_dict("records")
    assert row["last"] == record.summary["iou"]["last"]
    for basis, domains in (("current", ["polyp"]), ("seen", list(record.order))):
        scaled = scaled_matrix(run, scores, basis=basis)
        means = {scale: sum(value(scores, 3, scale, "held_out", name) for name in domains) for scale in SCALES}
        assert means[scaled.scale] == max(means.values())
        last = sum(value(scores, 3, scaled.scale, "test", name) for name in record.order) / 3
        assert row[f"last_{basis}"] == pytest.approx(last, abs=1e-15)
        assert row[f"scale_{basis}"] == scaled.scale
        assert scaled.matrix.values[0].tolist() == run.matrix.values[0].tolist()
    curve = {scale: sum(value(scores, 3, scale, "test", name) for name in record.order) / 3 for scale in SCALES}
    assert last_by_scale(run, scores) == pytest.approx(curve, abs=1e-15)
    assert [row[f"last_at_{scale:g}"] for scale in SCALES] == pytest.approx(list(curve.values()), abs=1e-15)
    assert CHOSEN_BY == "iou"


def test_the_record_verifies_and_a_changed_scale_is_found(record: Record) -> None:
    assert not verify_record(record.folder).faults
    path = record.folder / "scales.csv"
    before = path.read_text()
    path.write_text(before.replace("held_out", "test", 1))
    try:
        assert any(fault.file == "scales.csv" for fault in verify_record(record.folder).faults)
        with pytest.raises(CosamError, match="was changed since the run wrote it"):
            record.scale_scores()
    finally:
        path.write_text(before)


def test_methods_without_one_served_update_run_without_scales(protocol: Path, results: Path, record: Record) -> None:
    frozen = cb.run("frozen", protocol=protocol, settings={"scales": [0.5, 8]}, results=results)
    assert not (frozen.folder / "scales.csv").exists()
    assert frozen.info.conditions == record.info.conditions
    rows = scale_table([frozen, record]).to_dict("records")
    assert {row["method"]: row["scale_seen"] != row["scale_seen"] for row in rows} == {"frozen": True, "opcm": False}


@pytest.mark.parametrize("scales", ["[0]", "[-1]", "[nan]", "['long']"])
def test_a_scale_that_is_no_length_is_refused(protocol: Path, scales: str) -> None:
    with pytest.raises(CosamError, match="scales"):
        resolve_run(method="opcm", protocol=str(protocol), overrides=(f"scales={scales}",))


def test_a_table_of_scales_needs_runs_with_scales(protocol: Path, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"No run here was scored at several lengths.*run --scales"):
        scale_table([])


def test_a_damaged_file_of_scales_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scales.csv"
    path.write_text("step,scale,part,domain,metric,value,count\n1,0.5,training,pill,iou,0.5,3\n")
    with pytest.raises(CosamError, match="line 2"):
        read_scales(path)
    path.write_text("step,scale\n")
    with pytest.raises(CosamError, match="expected the columns step, scale, part"):
        read_scales(path)


@pytest.mark.parametrize(("metric", "best_of"), [("iou", max), ("mae", min)])
def test_the_best_length_is_bold(record: Record, metric: str, best_of: Callable[[list[float]], float]) -> None:
    frame = scale_table([record], metric=metric)
    curve = next(part for part in reversed(render_scales(frame).renderables) if isinstance(part, Table))
    cells = [cell for column in curve.columns[1:] for cell in column.cells]
    bold = {str(cell) for cell in cells if isinstance(cell, Text) and cell.style == "bold"}
    values = [float(frame[name][0]) for name in frame.attrs["curve"]]
    assert len(set(values)) > 1
    assert bold == {number(best_of(values))}


def test_runs_that_are_not_the_protocol_have_a_table_of_their_own(record: Record) -> None:
    other = replace(record, info=record.info.model_copy(update={"image_counts": {"pill": (2, 800)}}))
    frame = scale_table([other, record])
    assert list(frame["differs"]) == ["", "pill 2 of 800 images"]
    titles = [str(part.title) for part in render_scales(frame).renderables if isinstance(part, Table)]
    assert [title for title in titles if "not the protocol (pill 2 of 800 images)" in title] == [titles[2]]
    assert len(titles) == 4
