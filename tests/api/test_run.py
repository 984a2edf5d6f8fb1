"""``cosam_bench.run`` and ``leaderboard``: as the command line, but as functions of a script or a notebook."""

from __future__ import annotations

import importlib
import math
import tomllib
from pathlib import Path
from typing import Any

import pandas
import pytest
from support import recorded

import cosam_bench as cb
from cosam_bench.api.arguments import method_reference
from cosam_bench.evaluation.metrics import METRICS

FAILING = """
from cosam_bench import MethodCard, Method, State

class Failing(Method):
    card = MethodCard(title="Failing")

    def learn(self, domain, *, step):
        {learn}

    def predict(self, batch):
        return self.bench.predict(None, batch)

    def state(self):
        return State()

    def load(self, state):
        pass
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results that the module's runs share."""
    return tmp_path_factory.mktemp("results")


def failing(folder: Path, learn: str = "1 / 0") -> Path:
    path = folder / "failing.py"
    path.write_text(FAILING.format(learn=learn), encoding="utf-8")
    return path


def test_a_first_try_at_several_lengths_and_under_another_prompt(quick_protocol: Path, quick: Path) -> None:
    record = cb.run(
        "average", protocol=quick_protocol, limit=2, scales=True, also_prompts=["image"], results=quick, progress=False
    )
    assert record.score_matrix().count.max() == 2
    assert {row.prompt for row in record.prompt_scores()} == {"image"}
    assert len({row.scale for row in record.scale_scores()}) == 9
    assert record == cb.run(
        "average", protocol=quick_protocol, limit=2, scales=True, also_prompts="image", results=quick, progress=False
    )


def test_a_run_gives_a_record_with_its_matrix_and_figures(quick_protocol: Path, quick: Path) -> None:
    record = cb.run("finetune", protocol=quick_protocol, seed=1, order="reverse", results=quick, progress=False)
    assert (record.method, record.protocol, record.seed, record.status) == ("finetune", "quick", 1, "complete")
    assert record.order == ("polyp", "pill", "pitting")
    assert record.settings == {}
    assert record.folder.parent == quick / "quick" / "finetune"
    table = record.matrix("dice")
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [*record.order, "natural"]
    assert table.index.get_level_values("step").tolist() == [0, 1, 2, 3]
    cells = pandas.read_csv(record.folder / "matrix.csv").query("metric == 'dice' and domain == 'pill'")
    assert table["pill"].tolist() == pytest.approx(cells["value"].tolist(), rel=0, abs=1e-15)
    assert set(record.summary) == set(METRICS)
    last = record.matrix("iou").iloc[-1][list(record.order)].mean()
    assert record.summary["iou"]["last"] == pytest.approx(last, abs=1e-12)
    assert record.cost.state_bytes
    assert len(repr(record)) < 200
    assert cb.load_record(record.name, results=quick) == record == cb.load_record(record.folder)
    assert cb.run(config=record.folder / "config.toml", results=str(quick)) == record


def test_options_reach_the_configuration(quick_protocol: Path, quick: Path) -> None:
    record = cb.run(
        "regcl",
        protocol=str(quick_protocol),
        stream=quick_protocol.with_name("quick-stream.toml"),
        order=["pill", "polyp", "pitting"],
        device="cpu",
        model="tiny",
        checkpoint="random",
        settings={"adapter": {"rank": 3}, "adapter.blocks": [1], "method": {"ridge": 0.5}},
        results=quick,
    )
    config = tomllib.loads((record.folder / "config.toml").read_text())
    adapter = config["protocol"]["adapter"]
    assert (adapter["rank"], adapter["blocks"]) == (3, [1])
    assert (config["device"], config["order"]) == ("cpu", ["pill", "polyp", "pitting"])
    assert record.settings["ridge"] == 0.5


def test_several_methods_give_a_list_and_a_failure_keeps_the_other_records(
    quick_protocol: Path, quick: Path, tmp_path: Path
) -> None:
    records = cb.run(["finetune", "average"], protocol=quick_protocol, results=quick)
    assert [record.method for record in records] == ["finetune", "average"]
    assert cb.run(["average"], protocol=quick_protocol, results=quick) == records[1:]
    with pytest.raises(cb.MethodFailed, match=r"1 of 3 runs failed: .* ZeroDivisionError") as caught:
        cb.run(["finetune", failing(tmp_path), "average"], protocol=quick_protocol, results=quick)
    assert caught.value.records == records
    with pytest.raises(cb.MethodFailed, match=r"ZeroDivisionError in learn\(\)") as caught:
        cb.run(failing(tmp_path), protocol=quick_protocol, results=quick)
    assert caught.value.records == []


def test_several_seeds_and_orders_give_a_list(quick_protocol: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"protocol": quick_protocol, "results": tmp_path, "isolated": False}
    records = cb.run("frozen", seeds=[0, 1], orders=["reverse"], **options)
    assert [(record.seed, record.order[0]) for record in records] == [(0, "polyp"), (1, "polyp")]
    assert [one.folder for one in cb.run("frozen", seeds=[1], order="reverse", **options)] == [records[1].folder]
    assert cb.run("frozen", seeds=2, orders=[["polyp", "pill", "pitting"]], **options) == records
    own = cb.run("frozen", orders=["stream"], **options)
    assert cb.run("frozen", orders=1, **options) == own == [cb.run("frozen", **options)]
    for given, said in (
        ({"seed": 1, "seeds": [1]}, "Give seed or seeds, not both"),
        ({"orders": []}, "The list of orders is empty"),
        ({"orders": 0}, "0 orders were asked for"),
        ({"orders": "reverse"}, "orders is 'reverse'. Give how many, such as 3, or a list"),
        ({"seeds": [1, 1]}, "The seed 1 is given twice"),
        ({"seeds": 0}, "seeds is 0, which is none"),
        ({"seeds": "12"}, "seeds is '12'. Give how many"),
        ({"seeds": [0.5]}, "seeds is .0.5.. Give how many"),
        ({"orders": 7}, "7 orders were asked for; 3 domains have 6"),
    ):
        with pytest.raises(cb.CosamError, match=said):
            cb.run("frozen", **given, **options)


def test_an_interrupt_is_passed_on_and_the_next_run_continues(quick_protocol: Path, tmp_path: Path) -> None:
    stop = f"import os\n        if step == 2 and not os.path.exists({str(tmp_path / 'go')!r}): raise KeyboardInterrupt"
    path = failing(tmp_path, stop)
    with pytest.raises(KeyboardInterrupt):
        cb.run(path, protocol=quick_protocol, results=tmp_path, isolated=False)
    assert cb.load_record("failing", results=tmp_path).status == "interrupted"
    (tmp_path / "go").touch()
    record = cb.run(path, protocol=quick_protocol, results=tmp_path, isolated=False)
    assert record.status == "complete"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cb.run("regcll"), "Did you mean 'regcl'"),
        (lambda: cb.run(), "No method was given"),
        (lambda: cb.run([]), "list of methods is empty"),
        (lambda: cb.run(["regcl", "regcl"]), "'regcl' is given twice"),
        (lambda: cb.run("regcl", protocol="minii"), "Did you mean 'mini'"),
        (lambda: cb.run("regcl", settings={"method.rigde": 1}), "did you mean 'ridge'"),
        (lambda: cb.run("regcl", settings={"adapter.blocks": None}), "'adapter.blocks' is None"),
        (lambda: cb.run("regcl", settings={"adapter.blocks": [None]}), r"'adapter.blocks' is \[None\]"),
        (lambda: cb.run("regcl", order="pil,rim"), "Did you mean 'pill'"),
        (lambda: cb.run("regcl", device="tpu"), "'device' is 'tpu'"),
        (lambda: cb.run(["regcl", "opcm"], settings={"method.ridge": 1}), "a setting of one method"),
        (lambda: cb.run(config="none.toml"), "No file none.toml"),
        (lambda: cb.run("regcl", on_step="print"), "on_step is of type str. Give a function"),  # type: ignore[call-overload]
        (lambda: cb.leaderboard("nowhere"), "No folder nowhere"),
        (lambda: cb.report("nowhere"), "No folder nowhere"),
        (lambda: cb.report(metric="iuo"), "Did you mean 'iou'"),
        (lambda: cb.report(methods=[]), "methods is empty"),
        (lambda: cb.leaderboard(orders="reverse"), "Give a list of orders"),
        (lambda: cb.leaderboard(seeds=1), "Give a list of whole numbers"),  # type: ignore[arg-type]
        (lambda: cb.load_record("regcl", results="nowhere"), "No folder nowhere. Give another folder"),
    ],
)
def test_bad_input_raises_one_clear_error(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(cb.CosamError, match=said):
        call()


def test_a_class_is_named_by_where_it_is_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cosam_bench.methods.regcl import RegCL  # type: ignore[import-not-found,unused-ignore]

    assert method_reference(RegCL) == "regcl"
    failing(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("failing").Failing
    assert method_reference(own) == "failing:Failing"
    monkeypatch.setattr(own, "__module__", "__main__")
    with pytest.raises(cb.CosamError, match=r"'Failing' is defined in a notebook, .* file of its own"):
        cb.run(own)


def test_a_class_from_a_file_can_be_run_again(quick_protocol: Path, tmp_path: Path) -> None:
    from cosam_bench.method.registry import load_method

    path = failing(tmp_path, "pass")
    record = cb.run(load_method(str(path)), protocol=quick_protocol, results=tmp_path)
    assert record.info.config["method"] == f"{path}:Failing"
    assert cb.run(config=record.folder / "config.toml", results=tmp_path) == record


def test_the_leaderboard_is_a_table_and_warns_of_what_it_leaves_out(quick_protocol: Path, tmp_path: Path) -> None:
    record = cb.run("frozen", protocol=quick_protocol, results=tmp_path)
    table = cb.leaderboard(tmp_path, metric="dice", protocol="quick")
    assert table["method"].tolist() == ["frozen"]
    assert table["last"].item() == record.summary["dice"]["last"]
    assert math.isnan(table["last_std"].item())
    damaged = tmp_path / "quick" / "frozen" / "0123456789ab"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="Left out: .*0123456789ab"):
        assert len(cb.leaderboard(tmp_path)) == 1
    with pytest.raises(cb.CosamError, match="Did you mean 'dice'"):
        cb.leaderboard(tmp_path, metric="dise")
    with pytest.raises(cb.CosamError, match="Did you mean 'quick'"):
        cb.leaderboard(tmp_path, protocol="quik")


def test_on_step_sees_every_training_step_and_changes_no_bit(quick_protocol: Path, quick: Path, tmp_path: Path) -> None:
    plain = cb.run("finetune", protocol=quick_protocol, results=quick)
    seen: list[cb.TrainingStep] = []
    watched = cb.run("finetune", protocol=quick_protocol, results=tmp_path, on_step=seen.append)
    assert [step.domain for step in seen] == sorted((step.domain for step in seen), key=watched.order.index)
    assert {step.domain for step in seen} == set(watched.order)
    assert {step.method for step in seen} == {"finetune"}
    for domain in watched.order:
        own = [step for step in seen if step.domain == domain]
        assert [step.step for step in own] == list(range(1, own[0].steps + 1))
        assert own[-1].epoch == watched.info.config["protocol"]["fit"]["epochs"]  # type: ignore[index, call-overload]
    assert all(0 < step.loss < 10 for step in seen)
    for name in ("matrix.csv", "scores.csv", "state.safetensors", "update.safetensors"):
        assert (watched.folder / name).read_bytes() == (plain.folder / name).read_bytes()


def test_on_step_has_nothing_to_see_where_experts_are_read_back(quick_protocol: Path, tmp_path: Path) -> None:
    seen: list[cb.TrainingStep] = []
    cb.run("average", protocol=quick_protocol, results=tmp_path, on_step=seen.append)
    trained = len(seen)
    cb.run("task_arithmetic", protocol=quick_protocol, results=tmp_path, on_step=seen.append)
    assert 0 < trained == len(seen)


def test_an_error_of_on_step_ends_the_run_by_its_name_and_the_next_call_continues(
    quick_protocol: Path, quick: Path, tmp_path: Path
) -> None:
    def fails(step: cb.TrainingStep) -> None:
        if step.domain == "polyp":
            raise ValueError("no space in the tracker")

    order = ["pill", "polyp", "pitting"]
    options: dict[str, Any] = {"protocol": quick_protocol, "results": tmp_path, "order": order}
    said = r"on_step raised ValueError at step 1 of \d+ on polyp: no space in the tracker\. Correct on_step"
    with pytest.raises(cb.CosamError, match=said) as caught:
        cb.run(["finetune", "average"], **options, on_step=fails)
    assert not isinstance(caught.value, cb.MethodFailed)
    assert isinstance(caught.value.__cause__, ValueError)
    stopped = cb.load_record("finetune", results=tmp_path)
    assert stopped.status == "interrupted"
    seen: list[cb.TrainingStep] = []
    record = cb.run("finetune", **options, on_step=seen.append)
    assert (record.status, {step.domain for step in seen}) == ("complete", {"polyp", "pitting"})
    plain = cb.run("finetune", protocol=quick_protocol, results=quick, order=order)
    assert (record.folder / "scores.csv").read_bytes() == (plain.folder / "scores.csv").read_bytes()


def test_a_report_of_the_records_is_one_page(tmp_path: Path) -> None:
    made = [recorded.record(tmp_path, method=name, side=16) for name in ("regcl", "opcm")]
    recorded.record(tmp_path, method="moda", status="interrupted")
    (tmp_path / "made" / "broken" / "0").mkdir(parents=True)
    (tmp_path / "made" / "broken" / "0" / "run.json").write_text("{")
    written = cb.report(tmp_path)
    assert written.path == tmp_path / "report.html"
    page = written.path.read_text(encoding="utf-8")
    assert written.size_bytes == written.path.stat().st_size == len(page.encode())
    assert (written.methods, written.incomplete, len(written.unreadable)) == (2, 1, 1)
    assert all(record.name in page for record in made)
    assert "data:image/" in page
    other = cb.report(str(tmp_path), out=str(tmp_path / "page.html"), protocol="made", metric="dice", images=False)
    assert other.path == tmp_path / "page.html"
    assert "data:image/" not in other.path.read_text(encoding="utf-8")


def test_a_table_and_a_report_of_chosen_runs(tmp_path: Path) -> None:
    for name, seed in (("regcl", 0), ("regcl", 1), ("opcm", 0)):
        recorded.record(tmp_path, method=name, seed=seed)
    assert list(cb.leaderboard(tmp_path, methods="regcl")["runs"]) == [2]
    assert list(cb.leaderboard(tmp_path, seeds=[0], protocol="made")["runs"]) == [1, 1]
    assert list(cb.leaderboard(tmp_path, orders=["stream"], seeds=[1])["method"]) == ["regcl"]
    assert cb.report(tmp_path, methods=["opcm"]).methods == 1
    with pytest.raises(cb.CosamError, match="Did you mean 'regcl'"):
        cb.report(tmp_path, methods=["regcll"])
    with pytest.raises(cb.CosamError, match=r"No record here has the setting 'adapter.ranc'"):
        cb.leaderboard(tmp_path, settings={"adapter.ranc": 4})


def test_progress_is_silent_in_a_script_unless_asked_for(
    quick_protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cb.run("frozen", protocol=quick_protocol, results=tmp_path)
    cb.run("frozen", protocol=quick_protocol, results=tmp_path, fresh=True, progress=False)
    assert capsys.readouterr() == ("", "")
    cb.run("frozen", protocol=quick_protocol, results=tmp_path, fresh=True, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Learning pill (step 2 of 3)" in err
