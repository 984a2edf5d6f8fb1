"""The command line as a whole: errors, exit codes, listings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text
from support.command_line import method_file, words
from support.recorded import record
from support.records import run_info
from typer.testing import Result

from cosam_bench import __version__
from cosam_bench.cli.error_handling import guarded
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError, ran_out_of_memory


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "methods",
        "methods regcl",
        "models",
        "run --help",
        "predict --help",
        "settings --protocol cosam -m ewc",
    ],
)
def test_torch_is_not_imported_for_what_only_lists(arguments: str) -> None:
    code = (
        "import sys; from cosam_bench.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *arguments.split()], check=True, capture_output=True)


def test_what_trains_nothing_starts_without_the_large_libraries() -> None:
    code = (
        "import sys; from cosam_bench.cli.main import app\n"
        "try: app(['run', '--method', 'regcl', '--dry-run'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "import cosam_bench.experiments.predictor, cosam_bench.experiments.experiment\n"
        "found = {'peft', 'timm', 'torch._dynamo', 'torchvision', 'transformers'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_training_does_not_import_torchs_compiler(quick_protocol: Path) -> None:
    code = (
        "import sys; from cosam_bench.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    options = f"run --protocol {quick_protocol} --method average --results {quick_protocol.parent / 'results'}"
    subprocess.run([sys.executable, "-c", code, *options.split()], check=True, stdout=subprocess.DEVNULL)


def test_a_closed_pipe_ends_quietly() -> None:
    command = [sys.executable, "-m", "cosam_bench.cli.main", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "cosam_bench", "--version"]
    assert subprocess.check_output(command, text=True) == f"cosam-bench {__version__}\n"


def help_texts(command: Any, name: str = "cosam-bench") -> Iterator[tuple[str, str]]:
    """Every text that `--help` shows, after the name of its command."""
    yield name, command.help or ""
    yield from ((f"{name} {parameter.name}", getattr(parameter, "help", None) or "") for parameter in command.params)
    for short, inner in getattr(command, "commands", {}).items():
        yield from help_texts(inner, f"{name} {short}")


def test_no_word_of_help_is_taken_for_markup() -> None:
    texts = dict(help_texts(typer.main.get_command(app)))
    assert len(texts) > 100
    assert {name: Text.from_markup(text).plain for name, text in texts.items()} == texts


def test_version(cli: Callable[..., Result]) -> None:
    assert cli("--version").stdout == f"cosam-bench {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run --method regcll", "Did you mean 'regcl'?"),
        ("run --method RegCL", "Did you mean 'regcl'?"),
        ("run regcl", "'regcl' has no option. Did you mean --method regcl?"),
        ("run --method regcl --set epochs=1", "did you mean 'fit.epochs'?"),
        ("run --method ties --set density=0.3", "If it is a setting of the method, write method.density=VALUE."),
        ("run --method regcl --set device=gpu", "'device' is 'gpu': write auto, cpu, cuda or cuda:N."),
        ("run --method regcl --set adapter=3", "'protocol.adapter' is 3: write a table of settings with the keys kind"),
        ("run --method regcl --protocol minii", "Did you mean 'mini'?"),
        ("run --method regcl --protocol none.toml", "No file none.toml."),
        ("run --method regcl --set method.rigde=1", "did you mean 'ridge'?"),
        ("run --method regcl --set adapter.rnk=1", "did you mean 'rank'?"),
        ("run --method regcl --set adapter.rank=many", "'protocol.adapter.rank' is 'many'"),
        ("run --method regcl --set rank", "is not KEY=VALUE"),
        ("run --method regcl --model tini", "Did you mean 'tiny'?"),
        ("run --method regcl --stream mimi", "Did you mean 'mini'?"),
        ("run --method regcl --order pil,rim", "Did you mean 'pill'?"),
        ("run --method regcl --order random:x", "needs a number"),
        ("run --method regcl --device tpu", "'device' is 'tpu'"),
        ("run", "No method was given."),
        ("run --method regcl,opcmm", "Did you mean 'opcm'?"),
        ("run --method regcl,opcm,regcl", "The method 'regcl' is given twice"),
        ("run --method regcl,,opcm", "has an empty name"),
        (
            "run --method regcl,opcm --set method.ridge=1",
            "'method.ridge=1' is a setting of one method, but 2",
        ),
        ("run --method regcl,opcm --dry-run", "--dry-run prints the settings of one run, but 2 methods are given"),
        ("run --method average,lorm --protocol cosam", "'lorm' is a rule about LoRA's factors"),
        ("run --config a.toml --protocol mini", "A config holds a protocol already"),
        ("run --config a.toml", "No file a.toml."),
        ("methods regcll", "Did you mean 'regcl'?"),
        ("domains mimi", "Did you mean 'mini'?"),
        ("models --fetch tini", "Did you mean 'tiny'?"),
        ("models --fetch tiny", "nothing to fetch"),
        ("leaderboard", "No folder results."),
        ("leaderboard --results .", ". has no record of a run."),
        ("show regcl", "No folder results. Give another folder of results, or run a method first."),
        ("show regcl --results nope", "No folder nope."),
        ("verify regcl", "No folder results. Give another folder of results, or run a method first."),
        ("verify --all", "No folder results. Give another folder of results, or run a method first."),
        ("compare ties regcl", "No folder results. Give another folder of results, or run a method first."),
        ("compare ties regcl --protocol mini", "No folder results."),
        ("log regcl --to trackio", "No folder results. Give another folder of results, or run a method first."),
        ("export regcl", "No folder results. Give another folder of results, or run a method first."),
        ("predict a.png --record regcl --box 0,0,1,1", "No folder results."),
        ("records", "No folder results."),
        ("records --results .", ". has no record of a run."),
        ("check nope.py", "No file nope.py."),
        ("check regcl --set method.rigde=1", "did you mean 'ridge'?"),
        ("check regcl --set adapter.rank=1", "--set 'adapter.rank=1' is not a setting of the method"),
        ("check regcl --set ridge", "is not KEY=VALUE"),
        ("run --metod regcl", "--method"),
        ("leadrboard", "leaderboard"),
    ],
)
def test_what_is_asked_wrongly_gets_one_clear_error(cli: Callable[..., Result], arguments: str, said: str) -> None:
    result = cli(*arguments.split())
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_one_method_is_shown_with_its_settings(cli: Callable[..., Result]) -> None:
    shown = words(cli("methods", "regcl").stdout)
    assert "method.ridge = 1e-06 (float >= 0) added to each Gram sum's diagonal" in shown
    assert "0 in the released code" in shown  # where the default comes from
    assert "a float64 solve replace" in shown
    assert "It has no settings." in words(cli("methods", "frozen").stdout)


def test_a_broken_plugin_is_listed_with_its_fault(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from cosam_bench.method import registry, source_reading

    known, read = registry.method_names(), source_reading.read_card

    def fails(name: str) -> object:
        if name == "broken":
            raise CosamError("its card is torn")
        return read(name)

    monkeypatch.setattr(registry, "method_names", lambda: [*known, "broken"])
    monkeypatch.setattr(source_reading, "read_card", fails)
    result = cli("methods")
    assert result.exit_code == 0
    assert "broken: its card is torn" in result.stdout
    assert "regcl" in result.stdout


def test_check_passes_good_methods_and_names_what_a_bad_one_breaks(cli: Callable[..., Result], tmp_path: Path) -> None:
    good = cli("check", method_file(tmp_path, "pass"))
    assert good.exit_code == 0
    assert good.stdout.startswith("ok  ")
    bad = cli(
        "check", method_file(tmp_path, "import torch; torch.rand(1); next(self.bench.sam.parameters()).data += 1")
    )
    assert bad.exit_code == 1
    assert "breaks the contract in 2 ways:" in bad.stderr
    assert "2. learn() changed the frozen base model's weights" in words(bad.stderr)
    assert "breaks the contract" in bad.stderr
    assert "bench.generator" in bad.stderr


def test_domains_and_models_are_listed(cli: Callable[..., Result], quick_protocol: Path) -> None:
    shown = cli("domains", quick_protocol.with_name("quick-stream.toml")).stdout
    assert "7 drawn" in shown
    assert "retention" in shown
    assert "camouflage" in cli("domains").stdout
    listed = words(cli("models").stdout)
    assert "mobile_sam" in listed
    assert "358 MiB" in listed


def test_doctor_fails_only_for_what_the_default_needs(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosam_bench.sam.build import EMBEDDED_WEIGHTS

    monkeypatch.setenv("COSAM_BENCH_CACHE", "nothing-here")
    result = cli("doctor")
    shown = words(result.stdout)
    assert result.exit_code == (0 if EMBEDDED_WEIGHTS.is_file() else 1)
    assert "model vit_b missing to be fetched" in shown
    assert "protocol mini ok" in shown
    assert "method regcl ok" in shown
    monkeypatch.setattr("cosam_bench.method.registry.load_method", lambda name: 1 / 0)
    broken = cli("doctor")
    assert broken.exit_code == 1
    assert "method regcl broken" in words(broken.stdout)


def test_a_defect_is_named_as_one_and_its_traceback_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails() -> None:
        raise KeyError("lost")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(typer.Exit) as ended:
        guarded(fails)()
    assert ended.value.exit_code == 70
    assert "This is a defect in cosam-bench: KeyError: 'lost'." in words(capsys.readouterr().err)
    (kept,) = tmp_path.glob("cosam-bench-*.txt")
    assert "Traceback (most recent call last)" in kept.read_text()
    monkeypatch.setenv("COSAM_BENCH_DEBUG", "1")
    with pytest.raises(KeyError):
        guarded(fails)()


def test_a_file_that_cannot_be_opened_is_no_defect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fails() -> None:
        tmp_path.read_text()

    with pytest.raises(typer.Exit) as ended:
        guarded(fails)()
    assert ended.value.exit_code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_messages_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise CosamError("No file [red]a:smile:b[/red] " + "x" * 200)

    with pytest.raises(typer.Exit):
        guarded(fails)()
    assert capsys.readouterr().err == "Error: No file [red]a:smile:b[/red] " + "x" * 200 + "\n"


def test_memory_is_recognised_without_torch() -> None:
    assert ran_out_of_memory(MemoryError())
    assert ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not ran_out_of_memory(RuntimeError("shapes differ"))


def test_records_lists_all_records_and_show_tells_those_of_one_method_apart(
    cli: Callable[..., Result], tmp_path: Path
) -> None:
    files = {"0123": run_info().to_json(), "feed": run_info(seed=4).to_json(), "damaged": "{"}
    for name, text in files.items():
        folder = tmp_path / "mini" / "regcl" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(text)
    listed = cli("records", "--results", str(tmp_path))
    assert listed.exit_code == 0
    shown = words(listed.stdout)
    assert re.search(r"mini/regcl/0123 complete 3 pill, camo", shown)
    assert re.search(r"mini/regcl/feed complete 4", shown)
    assert "damaged" in shown
    several = cli("show", "regcl", "--results", str(tmp_path))
    assert several.exit_code == 2
    assert re.search(r"mini/regcl/feed seed 4; order pill,camo", words(several.stderr))
    assert "mini/regcl/damaged" in several.stderr


def test_show_tells_why_a_run_has_no_scores(cli: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "mini" / "regcl" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(run_info(status="failed", error="The disk is full.").to_json())
    shown = cli("show", "regcl", "--results", str(tmp_path))
    assert shown.exit_code == 0
    assert "status failed error The disk is full. order" in words(shown.stdout)
    assert "No scores yet" in shown.stdout
    assert str(folder) in words(shown.stdout)
    images = cli("show", "regcl", "--results", str(tmp_path), "--images", str(tmp_path / "images"))
    assert images.exit_code == 2
    (folder / "run.json").write_text(run_info().to_json())
    complete = cli("show", "regcl", "--results", str(tmp_path))
    assert complete.exit_code == 2
    assert "matrix.csv cannot be read" in words(complete.stderr)


def test_records_of_two_versions_of_a_method_are_told_apart(cli: Callable[..., Result], tmp_path: Path) -> None:
    for seed, rule in enumerate(("82eae6f5", "428dc7b1")):
        record(tmp_path, method="ed", seed=seed, rule=rule)
    listed = words(cli("records", "--results", str(tmp_path)).stdout)
    several = words(cli("show", "ed", "--results", str(tmp_path)).stderr)
    for seed, mark in enumerate(("code 82eae6", "code 428dc7")):
        assert f"complete {seed} pill, polyp, rim {mark}" in listed
        assert f"seed {seed}; order pill,polyp,rim; {mark}" in several
        assert mark in cli("leaderboard", "--results", str(tmp_path), "--no-intervals").stdout
    name = several.partition(" seed 0")[0].rpartition(" ")[2]
    assert "code 82eae6" in words(cli("show", name, "--results", str(tmp_path)).stdout)
