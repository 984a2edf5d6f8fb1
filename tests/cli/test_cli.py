from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from cosam_bench import __version__
from cosam_bench.cli.error_handling import guarded
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.experiments import progress
from cosam_bench.experiments.options import domain_order

METHOD = """
from pathlib import Path
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import Method, State

class Mine(Method):
    '''Serves the base model, whatever it learns.'''

    card = MethodCard(title="Mine", order_dependent=False)

    def learn(self, domain, *, step):
        {learn}

    def predict(self, batch):
        return self.bench.predict(None, batch)

    def state(self):
        return State({{}})

    def load(self, state):
        pass
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in an empty folder, 120 characters wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("COSAM_BENCH_DEBUG", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def method_file(folder: Path, learn: str) -> Path:
    path = folder / "mine.py"
    path.write_text(METHOD.format(learn=learn))
    return path


def words(text: str) -> str:
    """The text with every run of blanks, line breaks and frames made one blank."""
    return " ".join(text.replace("│", " ").split())


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


def test_a_closed_pipe_ends_quietly() -> None:
    command = [sys.executable, "-m", "cosam_bench.cli.main", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_version(cli: Callable[..., Result]) -> None:
    assert cli("--version").stdout == f"cosam-bench {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run --method regcll", "Did you mean 'regcl'?"),
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
        ("show regcl", "No record in results fits 'regcl'."),
        ("check nope.py", "No file nope.py."),
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


def test_dry_run_prints_a_configuration_that_gives_the_same_again(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    asked = ["--protocol", quick_protocol, "--order", "reverse", "--seed", "3", "--set", "adapter.rank=3"]
    first = cli("run", "--method", "regcl", *asked, "--dry-run")
    assert first.exit_code == 0
    config = tomllib.loads(first.stdout)
    assert config["seed"] == 3
    assert config["order"] == ["polyp", "pill", "pitting"]
    assert config["settings"] == {"space": "factors", "start": "base", "ridge": 1e-6}
    assert config["protocol"]["adapter"]["rank"] == 3
    assert Path(config["protocol"]["stream"]).is_absolute()
    (tmp_path / "config.toml").write_text(first.stdout)
    again = cli("run", "--config", "config.toml", "--dry-run")
    assert again.stdout == first.stdout
    assert not (tmp_path / "results").exists()


def test_shortcuts_reach_the_configuration_and_set_wins(cli: Callable[..., Result], quick_protocol: Path) -> None:
    shortcuts = ["--model", "vit_b", "--checkpoint", "b.pth", "--device", "cpu", "--seed", "1", "--set", "seed=2"]
    result = cli("run", "-m", "finetune", "--protocol", quick_protocol, *shortcuts, "--dry-run")
    config = tomllib.loads(result.stdout)
    model = {"name": "vit_b", "checkpoint": str(Path.cwd() / "b.pth"), "global_attention": False}
    assert config["protocol"]["model"] == model
    assert (config["device"], config["seed"]) == ("cpu", 2)


def test_a_run_is_shown_recorded_then_known(cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path) -> None:
    run = ["run", "--method", "finetune", "--protocol", quick_protocol]
    first = cli(*run)
    assert first.exit_code == 0
    shown = words(first.stdout)
    assert "0 frozen" in shown
    assert "3 polyp" in shown
    assert "Leaderboard: results/leaderboard.csv (1 row)" in shown
    record = tmp_path / words(first.stdout.partition("Record: ")[2]).split()[0]
    assert (record / "matrix.csv").is_file()
    assert "Learning pill (step 2 of 3)" in first.stderr
    assert "%" in first.stderr
    assert "%" not in first.stdout

    second = cli(*run, "--csv", "out/board.csv")
    assert second.exit_code == 0
    assert "--fresh" in second.stderr
    assert second.stdout.partition("Leaderboard")[0] == first.stdout.partition("Leaderboard")[0]
    board = pandas.read_csv("out/board.csv")
    assert board["method"].tolist() == ["finetune"]

    assert "Learning" not in second.stderr
    assert "Learning" in cli(*run, "--fresh").stderr
    assert "MAE" in cli("show", "finetune", "--metric", "mae").stdout
    assert "Did you mean 'dice'?" in cli("show", "finetune", "--metric", "dise").stderr
    table = cli("leaderboard", "--protocol", "quick", "--metric", "dice", "--csv", "dice.csv")
    assert "finetune" in table.stdout
    assert pandas.read_csv("dice.csv")["metric"].tolist() == ["dice"]
    assert cli("leaderboard", "--protocol", "quik").exit_code == 2


def test_a_stopped_run_goes_on_where_it_was(cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path) -> None:
    stop = "if step == 2 and not Path('go').exists(): raise KeyboardInterrupt"
    run = ["run", "--method", method_file(tmp_path, stop), "--protocol", quick_protocol]
    stopped = cli(*run)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith("Stopped: To continue, give the same command again.\n")
    assert "without --fresh" in cli(*run, "--fresh").stderr
    Path("go").touch()
    resumed = cli(*run)
    assert resumed.exit_code == 0
    assert "Learning pill" in resumed.stderr
    assert "Learning pitting" not in resumed.stderr
    assert len(list(Path("results/quick").glob("*/*/run.json"))) == 1


@pytest.mark.parametrize(
    ("learn", "said"),
    [
        ("1 / 0", "ZeroDivisionError in learn(): division by zero"),
        ("raise MemoryError('no room')", "Lower score.batch_size"),
    ],
)
def test_a_failing_method_ends_with_1_and_its_reason(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path, learn: str, said: str
) -> None:
    result = cli("run", "--method", method_file(tmp_path, learn), "--protocol", quick_protocol)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback (most" not in result.stderr
    assert result.stdout == ""


def test_several_methods_run_on_one_protocol_and_are_compared(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    """Each record is, but for the clock, what the method gives alone; one that fails does not stop the others."""
    broken = method_file(tmp_path, "1 / 0")
    several = cli("run", "--method", f"finetune,{broken},average", "--protocol", quick_protocol)
    assert several.exit_code == 1
    assert "ZeroDivisionError in learn(): division by zero" in several.stderr
    assert several.stderr.endswith("1 of 3 methods failed: mine.\n")
    assert several.stderr.count("Opening data and model") == 3
    shown = words(several.stdout)
    assert "Leaderboard: results/leaderboard.csv (2 rows)" in shown
    assert re.search(r"finetune .* average|average .* finetune", shown.partition("Leaderboard:")[2])
    for method in ("finetune", "average"):
        assert cli("run", "--method", method, "--protocol", quick_protocol, "--results", "alone").exit_code == 0
        (one,), (other,) = (Path(folder).glob(f"quick/{method}/*/scores.csv") for folder in ("results", "alone"))
        assert one.parent.name == other.parent.name
        assert one.read_bytes() == other.read_bytes()


def test_what_is_measured_reaches_the_leaderboard_where_a_later_method_stops(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    stop = "if not Path('go').exists(): raise KeyboardInterrupt"
    run = ["run", "--method", f"finetune,{method_file(tmp_path, stop)}", "--protocol", quick_protocol]
    stopped = cli(*run)
    assert stopped.exit_code == 130
    assert pandas.read_csv("results/leaderboard.csv")["method"].tolist() == ["finetune"]
    assert "then those after it with --fresh" in words(cli(*run, "--fresh").stderr)
    Path("go").touch()
    assert cli(*run).exit_code == 0
    assert sorted(pandas.read_csv("results/leaderboard.csv")["method"]) == ["finetune", "mine"]


def test_a_device_that_holds_not_one_image_ends_with_1(
    cli: Callable[..., Result], quick_protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("cosam_bench.evaluation.scoring.measure_batch", full)
    result = cli("run", "--method", "frozen", "--protocol", quick_protocol)
    assert result.exit_code == 1
    assert "too little memory for a prediction for a single image" in words(result.stderr)


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
    bad = cli("check", method_file(tmp_path, "import torch; torch.rand(1)"))
    assert bad.exit_code == 1
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


def test_plain_progress_is_a_line_for_each_activity_and_one_every_20_seconds() -> None:
    now = 100.0
    stream = io.StringIO()
    with progress.LineReporter(stream, clock=lambda: now) as reporter:
        reporter.say("Opening")
        reporter.begin(100)
        reporter.say("Learning pill")
        for _ in range(50):
            now += 1
            reporter.advance(1)
        reporter.advance(1000)
        reporter.say("Scoring")
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["0:00", "0:00", "0:20", "0:40", "0:50"]
    assert [words(line) for line in stream.getvalue().splitlines()] == [
        "0:00 0% Opening",
        "0:00 0% Learning pill",
        "0:20 20% 1:20 left Learning pill",
        "0:40 40% 1:00 left Learning pill",
        "0:50 99% 0:01 left Scoring",
    ]


def test_the_bar_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(progress, "notes_console", lambda: console)
    with progress.BarReporter() as reporter:
        reporter.say("Opening [data]")
        reporter.begin(4)
        reporter.advance(1)
    text = stream.getvalue()
    assert "Opening [data]" in text
    assert "25%" in text
    assert text.endswith("\x1b[2K")


def test_orders() -> None:
    names = ("a", "b", "c", "d", "e")
    assert domain_order("e, d,c,b,a", names) == ["e", "d", "c", "b", "a"] == domain_order("reverse", names)
    assert sorted(domain_order("random:1", names)) == sorted(names)
    assert domain_order("random:1", names) == domain_order("random:1", tuple(reversed(names)))
    assert len({tuple(domain_order(f"random:{number}", names)) for number in range(20)}) > 10
    with pytest.raises(CosamError, match="each domain once"):
        domain_order("a,a,b,c,d", names)
