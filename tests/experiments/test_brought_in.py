"""Runs with experts that were trained elsewhere: the bits of the run that trained them, and never mistaken for it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.quick_protocol import write_quick_protocol
from typer.testing import CliRunner

import cosam_bench as cb
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.run_notes import run_notes
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.results.conditions import comparison_key, differing_conditions
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import BROUGHT_IN

DOMAINS = ("pitting", "pill")
METHODS = ("experts", "average", "ties", "opcm", "regcl")
FILES = ("matrix.csv", "scores.csv", "state.safetensors", "update.safetensors")


class Runs:
    """Trained runs, their experts as files, and runs that use these.

    Attributes:
        folder: holds protocol, experts and records.
        protocol: the protocol's file.
        experts: the folder of experts.
        trained: the records of the runs that trained, by method.
        brought: those of the runs that did not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.experts = folder, folder / "experts"
        self.protocol = write_quick_protocol(folder, domains=DOMAINS)
        self.trained = {record.method: record for record in self.run(METHODS)}
        self.experts.mkdir()
        state = load_file(self.trained["experts"].folder / "state.safetensors")
        for name in DOMAINS:
            own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
            save_file(own, self.experts / f"{name}.safetensors")
        self.brought = {record.method: record for record in self.run(METHODS, experts=self.experts)}

    def run(self, method: Any, **options: Any) -> Any:
        return cb.run(method, protocol=self.protocol, results=self.folder / "results", **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("brought"))


@pytest.mark.parametrize("method", METHODS)
def test_own_experts_give_the_same_bits(method: str, runs: Runs) -> None:
    for name in FILES:
        one, other = (found[method].folder / name for found in (runs.trained, runs.brought))
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("method", ["average", "ties", "opcm"])
def test_merging_alone_ends_where_the_run_ends(method: str, runs: Runs, tmp_path: Path) -> None:
    paths = [runs.experts / f"{name}.safetensors" for name in DOMAINS]
    merged = cb.merge(paths, method=method, out=tmp_path / "out", model="tiny")
    known = runs.trained[method].folder / "update.safetensors"
    assert (merged.folder / "update.safetensors").read_bytes() == known.read_bytes()


def test_the_record_says_so_and_claims_no_training(runs: Runs) -> None:
    info = runs.brought["average"].info
    assert info.marks == (BROUGHT_IN,)
    assert list(info.experts) == sorted(DOMAINS)
    assert info.cost.train_seconds == ()
    assert info.cost.trainable_parameters is None
    assert len(info.cost.merge_seconds) == len(DOMAINS)
    assert info.config["experts"] == str(runs.experts)
    trained = runs.trained["average"].info
    assert (trained.experts, trained.conditions.experts, trained.marks) == ({}, "", ())
    assert json.loads((runs.trained["average"].folder / "run.json").read_text())["config"]["experts"] is None


def test_they_are_another_row_in_another_table(runs: Runs) -> None:
    trained, brought = runs.trained["opcm"], runs.brought["opcm"]
    assert trained.folder != brought.folder
    assert comparison_key(trained.info) != comparison_key(brought.info)
    assert differing_conditions(trained.info, brought.info) == ["the experts (brought in or trained)"]
    board = cb.leaderboard(runs.folder / "results", intervals=True)
    rows = board[board["method"] == "opcm"]
    assert sorted(rows["marks"]) == ["", BROUGHT_IN]
    assert rows["conditions"].nunique() == 2
    assert rows["train_seconds"].isna().sum() == 1
    ranked = board[board["method"].isin(["average", "opcm", "regcl", "ties"])]
    assert not (ranked["rank_best"].astype(str) == "").any()  # among those with the same experts
    assert any("they differ in the experts" in note for note in board.attrs["notes"])


def test_other_experts_are_other_runs(runs: Runs, tmp_path: Path) -> None:
    for name in DOMAINS:
        tensors = load_file(runs.experts / f"{name}.safetensors")
        save_file({key: 2 * value for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
    other = runs.run("average", experts=tmp_path)
    known = runs.brought["average"]
    assert other.folder != known.folder
    assert differing_conditions(known.info, other.info) == ["the experts"]


def test_the_order_of_domains_does_not_change_which_experts_they_are(runs: Runs) -> None:
    turned = runs.run("average", experts=runs.experts, order="reverse")
    assert comparison_key(turned.info) == comparison_key(runs.brought["average"].info)


def test_a_table_in_the_stream_is_the_same_as_the_folder(runs: Runs, tmp_path: Path) -> None:
    table = "".join(f'{name} = "{runs.experts / name}.safetensors"\n' for name in DOMAINS)
    stream = tmp_path / "stream.toml"
    text = (runs.folder / "quick-stream.toml").read_text()
    head, rest = text.split("\n", 1)
    stream.write_text(f"{head}\n{rest}\n[experts]\n{table}")
    record = runs.run("average", experts=stream, stream=stream)
    known = runs.brought["average"]
    assert record.info.conditions.digest == known.info.conditions.digest
    assert (record.folder / "matrix.csv").read_bytes() == (known.folder / "matrix.csv").read_bytes()
    stream.write_text(f"{head}\n{rest}\n[experts]\npil = 'a'\n")
    with pytest.raises(CosamError, match=r"no domain of this stream is called 'pil'. Did you mean 'pill'"):
        runs.run("average", stream=stream)


def test_the_config_repeats_the_run(runs: Runs) -> None:
    known = runs.brought["average"]
    again = cb.run(config=known.folder / "config.toml", results=runs.folder / "again")
    assert again.folder.name == known.folder.name
    assert (again.folder / "matrix.csv").read_bytes() == (known.folder / "matrix.csv").read_bytes()


NEEDS_TRAINING = {
    "became": "continues training",
    "cofima": "continues training",
    "coma": "continues training",
    "er": "continues training",
    "ewc": "continues training",
    "finetune": "continues training",
    "frozen": "learns nothing",
    "joint": "trains on all domains at once",
    "l2p": "trains prompts",
    "lorm": "steps of its own within the training",
    "lwf": "continues training",
    "magmax": "unless method.start=base",
    "moda": "trains a router",
    "perturb_merge": "continues training",
    "slao": "starts each training",
    "trm": "continues training",
}


def test_methods_that_need_training_are_refused_before_anything_runs(runs: Runs, tmp_path: Path) -> None:
    for name in method_names():
        config = resolve_run(method=name, protocol=str(runs.protocol))
        found = load_method(name)
        reason = found.needs_training(found.Settings(**config.settings))
        assert NEEDS_TRAINING.get(name, "") in reason, name
        assert bool(reason) == (name in NEEDS_TRAINING), name
    with pytest.raises(CosamError, match="'trm' continues training from its served update, so it cannot use experts"):
        cb.run(["average", "trm"], protocol=runs.protocol, experts=runs.experts, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()
    for name, option in (("regcl", "method.start=previous"), ("task_arithmetic", "method.first_factors=osrm")):
        key, value = option.split("=")
        with pytest.raises(CosamError, match=f"unless {key}="):
            runs.run(name, experts=runs.experts, settings={key: value})


def test_magmax_merges_experts_that_start_from_the_base(runs: Runs) -> None:
    record: Record = runs.run("magmax", experts=runs.experts, settings={"method.start": "base"})
    assert record.status == "complete"


def test_experts_of_no_domain_are_named(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    shutil.copytree(runs.experts, folder)
    (folder / "foreign").mkdir()
    (folder / "notes.txt").write_text("no expert")
    table = tmp_path / "table.toml"
    lines = [f"{name} = '{runs.experts / name}.safetensors'" for name in DOMAINS]
    table.write_text("\n".join(["[experts]", *lines, "foreign = 'x'"]))
    for place in (folder, table):
        config = resolve_run(method="average", protocol=str(runs.protocol), overrides=(f"experts={place}",))
        opened = open_experiment(config, tmp_path / "results")
        assert f"{place}: no domain is called foreign, so they are not used." in run_notes(opened)


def test_one_expert_for_two_domains_is_named(runs: Runs, tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text(
        "\n".join(["[experts]", *(f"{name} = '{runs.experts / DOMAINS[0]}.safetensors'" for name in DOMAINS)])
    )
    config = resolve_run(method="average", protocol=str(runs.protocol), overrides=(f"experts={table}",))
    notes = run_notes(open_experiment(config, tmp_path / "results"))
    assert f"The experts of {', '.join(DOMAINS)} have the same tensors. Is each of them meant?" in notes


def test_missing_and_foreign_experts_are_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="is not a folder of experts"):
        runs.run("average", experts=tmp_path / "none")
    save_file(load_file(runs.experts / "pill.safetensors"), tmp_path / "pill.safetensors")
    with pytest.raises(CosamError, match=r"has no expert for pitting. It holds pill.safetensors"):
        runs.run("average", experts=tmp_path)
    (tmp_path / "pitting.safetensors").write_bytes(b"damaged")
    with pytest.raises(CosamError, match=r"pitting.safetensors cannot be read"):
        runs.run("average", experts=tmp_path)
    with pytest.raises(CosamError, match=r"the protocol's adapter is 'hq'. Set adapter.kind=lora"):
        runs.run("average", experts=runs.experts, settings={"adapter": {"kind": "hq", "rank": 8, "alpha": 8.0}})


PLUGIN = """
from cosam_bench import LowRank, MergingMethod, MethodCard, TrainingHooks, Update
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.updates import lazy_weight_changes


class Mine(MergingMethod):
    card = MethodCard(title="Mine")
{body}
    def merge(self, expert, domain, *, step):
        mean = self.served.dense if self.served else None
        return Update(dense=add_task_vector(mean, lazy_weight_changes(expert), scale="1/t", step=step))
"""
LEARN = """
    def learn(self, domain, *, step):
        expert = self.bench.train(domain{options})
        self.served = self.merge(expert.update, domain, step=step)
"""


def plugin(folder: Path, body: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(body=body))
    return path


def test_an_isolated_method_gets_its_expert_from_the_parent(runs: Runs, tmp_path: Path) -> None:
    record = runs.run(plugin(tmp_path), experts=runs.experts)
    assert record.info.isolated
    assert record.info.marks == (BROUGHT_IN,)
    known = runs.brought["average"]
    assert (record.folder / "matrix.csv").read_bytes() == (known.folder / "matrix.csv").read_bytes()
    assert (record.folder / "update.safetensors").read_bytes() == (known.folder / "update.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('    start = "served"\n', "continues training from its served update, so it cannot use"),
        ("    def hooks(self, domain, *, step):\n        return None\n", "steps of its own within the training"),
        (LEARN.format(options=", hooks=TrainingHooks()"), "takes part in it. Run it without --experts"),
        (LEARN.format(options=", start=self.served or Update()"), "starts a training from its own update"),
        (
            "    def learn(self, domain, *, step):\n        with self.bench.training(trainable_parameters=1): pass\n",
            "else",
        ),
    ],
)
def test_an_isolated_method_cannot_train(body: str, message: str, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=message):
        runs.run(plugin(tmp_path, body), experts=runs.experts)


def test_from_the_command_line(runs: Runs, cli: Callable[..., Any]) -> None:
    results = runs.folder / "results"
    found = cli("run", "--protocol", runs.protocol, "-m", "average", "--experts", runs.experts, "--results", results)
    assert found.exit_code == 0
    assert "experts brought in" in found.stdout
    verified = cli("verify", runs.brought["average"].folder, "--rescore")
    assert verified.exit_code == 0, verified.output
    refused = cli("run", "--protocol", runs.protocol, "-m", "coma", "--experts", runs.experts)
    assert refused.exit_code == 2
    assert math.isnan(runs.brought["average"].cost.total_train_seconds)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
