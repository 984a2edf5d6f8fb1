"""Rows that are not measured twice: frozen SAM's, and those of a state that did not change."""

from __future__ import annotations

import csv
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quick_protocol import write_quick_protocol
from torch import Tensor

from cosam_bench.evaluation import scoring as score
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.experiments import row_scorer as module
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_hosts import InProcess
from cosam_bench.experiments.progress import SilentReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.method.registry import is_built_in, load_method, method_names
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.methods.finetune import Finetune
from cosam_bench.results.records import Record


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each column was really scored."""
    counted: Counter[str] = Counter()
    own = module.score_split

    def count(predict: Any, split: Any, *args: Any, **kwargs: Any) -> Any:
        counted[split.domain] += 1
        return own(predict, split, *args, **kwargs)

    monkeypatch.setattr(module, "score_split", count)
    return counted


def experiment(protocol: Path, results: Path, method: str = "finetune", *overrides: str) -> Experiment:
    return open_experiment(resolve_run(method=method, protocol=str(protocol), overrides=overrides), results)


def rows(record: Record) -> dict[tuple[str, str, str], str]:
    with (record.folder / "matrix.csv").open() as file:
        return {(row["step"], row["domain"], row["metric"]): row["value"] for row in csv.DictReader(file)}


def test_frozen_sams_row_is_measured_once_for_all_methods(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str]
) -> None:
    first = Runner(experiment(quick_protocol, tmp_path), results=tmp_path).run()
    assert set(scored.values()) == {4}  # three domains, and row 0
    other = experiment(quick_protocol, tmp_path, "average", "order=['polyp', 'pill', 'pitting']")
    [kept] = (tmp_path / "_shared" / "rows").glob("*.json")
    os.utime(kept, (0, 0))
    second = Runner(other, results=tmp_path).run()
    assert set(scored.values()) == {7}
    assert time.time() - kept.stat().st_mtime < 600  # read, so used
    alone = Runner(experiment(quick_protocol, tmp_path / "alone", "average"), results=tmp_path / "alone").run()
    zero = [{key: value for key, value in rows(record).items() if key[0] == "0"} for record in (first, second, alone)]
    assert zero[0] == zero[1] == zero[2]
    lines = (second.folder / "matrix.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:] if line.startswith("0,") and ",iou," in line] == [
        "polyp",
        "pill",
        "pitting",
        "natural",
    ]


def test_where_the_memory_runs_out_no_pass_counts_twice_and_no_row_is_shared(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is full only once the metrics are computed, when the predictions are there already."""
    own = score.measure_batch

    def full(logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(logits) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(logits, *args, **kwargs)

    monkeypatch.setattr(score, "measure_batch", full)
    record = Runner(experiment(quick_protocol, tmp_path), results=tmp_path).run()
    assert record.info.cost.encoder_passes_per_image == 1
    assert not list((tmp_path / "_shared").glob("rows/*"))


@pytest.mark.parametrize("change", ["seed=1", "prompts.test='points'", "score.batch_size=3", "prefix_cache_gib=0"])
def test_another_experiment_has_another_frozen_row(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str], change: str
) -> None:
    blocks = "adapter.blocks=[5]"
    Runner(experiment(quick_protocol, tmp_path, "frozen", blocks), results=tmp_path).run()
    before = scored["pill"]
    Runner(experiment(quick_protocol, tmp_path, "frozen", blocks, change), results=tmp_path).run()
    # "prefix_cache_gib" is no part of a run's identity, so that run is known already unless its folder is forgotten.
    assert scored["pill"] == before + (0 if change.startswith("prefix") else 1)


@pytest.mark.parametrize(
    "change",
    ["fit.epochs=2", "fit.learning_rate=0.1", "adapter.rank=3", "prompts.train=points", "adapter.decoder=true"],
)
def test_training_and_adapter_do_not_change_the_frozen_row(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str], change: str
) -> None:
    Runner(experiment(quick_protocol, tmp_path, "frozen"), results=tmp_path).run()
    before = scored["pill"]
    other = experiment(quick_protocol, tmp_path, "frozen", change)
    Runner(replace(other, method=Stubborn), results=tmp_path).run()
    assert scored["pill"] == before + 2, "after the first and the second domain"


@pytest.fixture(scope="module")
def frozen_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By the kind of adapter, the row that each measures for itself, and the name of its file."""
    folder, found = tmp_path_factory.mktemp("rows"), {}
    protocol = write_quick_protocol(folder)
    for kind in ("lora", "hq", "decoder", "augmodule", "regcl_lora"):
        blank = [] if kind in ("lora", "augmodule", "regcl_lora") else ["adapter.rank=8"]
        alpha = [] if kind == "lora" else ["adapter.alpha=8.0"]
        run = experiment(
            protocol, folder / kind, "frozen", f"adapter.kind={kind}", "prefix_cache_gib=0", *blank, *alpha
        )
        zero = [row for row in rows(Runner(run, results=folder / kind).run()).items() if row[0][0] == "0"]
        found[kind] = zero, [path.name for path in (folder / kind / "_shared" / "rows").iterdir()]
    return found


@pytest.mark.parametrize("kind", ["hq", "decoder", "augmodule", "regcl_lora"])
def test_an_adapter_that_nothing_has_trained_leaves_the_model_as_it_is(frozen_rows: dict[str, Any], kind: str) -> None:
    """Some kinds start at random layers, which are no identity: they are not there until an update is served."""
    assert frozen_rows[kind] == frozen_rows["lora"]
    assert len(frozen_rows["lora"][0]) == 4 * len(METRICS)


def test_frozen_sam_is_measured_once_even_if_its_row_is_known(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str]
) -> None:
    alone = Runner(experiment(quick_protocol, tmp_path / "alone", "frozen"), results=tmp_path / "alone").run()
    Runner(experiment(quick_protocol, tmp_path, "finetune"), results=tmp_path).run()
    before = scored["pill"]
    second = Runner(experiment(quick_protocol, tmp_path, "frozen"), results=tmp_path).run()
    assert scored["pill"] == before + 1, "for the masks of its examples"
    for name in ("matrix.csv", "scores.csv", "examples.json"):
        assert (second.folder / name).read_bytes() == (alone.folder / name).read_bytes()


def test_a_built_in_method_that_keeps_nothing_predicts_as_the_base() -> None:
    """What ``is_base_model`` relies on: such a method has no row of its own."""
    assert [name for name in method_names() if is_built_in(name) and load_method(name).card.state == "none"] == [
        "frozen"
    ]


class Meter(SilentReporter):
    """Adds up what it is told."""

    total = done = 0.0

    def begin(self, total: float) -> None:
        self.total = total

    def advance(self, units: float) -> None:
        self.done += units


def test_progress_counts_the_rows_that_are_measured(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, training = 4 * 3, 3 * 3 * 4  # columns of 3 images; 3 domains of 4, each worth 3 passes

    def metered(run: Experiment, results: Path) -> Meter:
        meter = Meter()
        Runner(run, results=results, reporter=meter).run()
        return meter

    for method, expected in (("frozen", images), ("finetune", 3 * images + training)):
        meter = metered(experiment(quick_protocol, tmp_path, method), tmp_path)
        assert meter.total == meter.done == expected, method
    late = experiment(quick_protocol, tmp_path / "late", "frozen")
    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "learn", stop)
        with pytest.raises(KeyboardInterrupt):
            metered(late, tmp_path / "late")
    meter = metered(late, tmp_path / "late")
    assert (meter.total, meter.done) == (0, 0), "row 0 is final, and all others are like it"


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["", "{}", "[1, 2]", None])
def test_a_damaged_frozen_row_is_measured_again(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str], damage: str | None
) -> None:
    first = Runner(experiment(quick_protocol, tmp_path, "frozen"), results=tmp_path).run()
    (path,) = (tmp_path / "_shared" / "rows").iterdir()
    text = path.read_text()
    path.write_text(text.replace("test-0000", "test-9999") if damage is None else damage)
    before = scored["pill"]
    other = experiment(quick_protocol, tmp_path, "frozen", "order=['polyp', 'pill', 'pitting']")
    again = Runner(other, results=tmp_path).run()
    assert scored["pill"] == before + 1
    zero = [{key: value for key, value in rows(record).items() if key[0] == "0"} for record in (first, again)]
    assert zero[0] == zero[1]
    assert path.read_text() != damage


def test_a_state_that_did_not_change_is_scored_once(quick_protocol: Path, tmp_path: Path, scored: Counter[str]) -> None:
    record = Runner(experiment(quick_protocol, tmp_path, "frozen"), results=tmp_path).run()
    assert set(scored.values()) == {1}, "row 0 is the method's own, too"
    found = rows(record)
    assert len({step for step, _, _ in found}) == 4
    assert all(value == found["0", *key[1:]] for key, value in found.items())
    assert record.info.cost.encoder_passes_per_image == 1


class Stubborn(Finetune):
    """Learns the second domain alone."""

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        if step == 2:
            super().learn(domain, step=step)


def test_a_row_is_measured_wherever_the_state_did_change(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(experiment(quick_protocol, tmp_path), method=Stubborn)
    record = Runner(run, results=tmp_path).run()
    assert set(scored.values()) == {3}  # row 0, after the first domain, after the second
    found = rows(record)
    one, two, three = ([found[key] for key in sorted(found) if key[0] == str(step)] for step in (1, 2, 3))
    assert one != two == three


def test_a_row_of_other_conditions_under_this_name_is_measured_again(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str]
) -> None:
    """Two rows of the same images: their keys alone do not tell them apart."""
    for results, seed in ((tmp_path / "one", "seed=0"), (tmp_path / "two", "seed=1")):
        Runner(experiment(quick_protocol, results, "frozen", seed), results=results).run()
    (mine,), (other,) = ((tmp_path / name / "_shared" / "rows").iterdir() for name in ("one", "two"))
    mine.write_bytes(other.read_bytes())
    before = scored["pill"]
    Runner(experiment(quick_protocol, tmp_path / "one", "finetune"), results=tmp_path / "one").run()
    assert scored["pill"] == before + 4


def test_a_fresh_run_reads_no_row_that_another_run_left(
    quick_protocol: Path, tmp_path: Path, scored: Counter[str]
) -> None:
    Runner(experiment(quick_protocol, tmp_path, "frozen"), results=tmp_path).run()
    before = scored["pill"]
    config = resolve_run(method="finetune", protocol=str(quick_protocol))
    fresh = open_experiment(config, tmp_path, fresh=True)
    Runner(fresh, results=tmp_path).run(fresh=True)
    assert scored["pill"] == before + 4
    other = fresh.with_method(resolve_run(method="average", protocol=str(quick_protocol)))
    Runner(other, results=tmp_path).run(fresh=True)
    assert scored["pill"] == before + 4 + 3, "its own row, though, it reads"
