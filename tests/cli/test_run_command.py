"""``cosam-bench run``: recorded, shown, stopped, continued, and compared."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
from support.command_line import method_file, words
from support.method_settings import REGCL
from typer.testing import Result


def test_dry_run_prints_a_configuration_that_gives_the_same_again(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    asked = ["--protocol", quick_protocol, "--order", "reverse", "--seed", "3", "--set", "adapter.rank=3"]
    first = cli("run", "--method", "regcl", *asked, "--dry-run")
    assert first.exit_code == 0
    config = tomllib.loads(first.stdout)
    assert config["seed"] == 3
    assert config["order"] == ["polyp", "pill", "pitting"]
    assert config["settings"] == REGCL
    assert config["protocol"]["adapter"]["rank"] == 3
    assert Path(config["protocol"]["stream"]).is_absolute()
    (tmp_path / "config.toml").write_text(first.stdout)
    again = cli("run", "--config", "config.toml", "--dry-run")
    assert again.stdout == first.stdout
    assert not (tmp_path / "results").exists()


def test_shortcuts_reach_the_configuration(cli: Callable[..., Result], quick_protocol: Path) -> None:
    shortcuts = ["--model", "vit_b", "--checkpoint", "b.pth", "--device", "cpu", "--seed", "1"]
    result = cli("run", "-m", "finetune", "--protocol", quick_protocol, *shortcuts, "--dry-run")
    config = tomllib.loads(result.stdout)
    model = {"name": "vit_b", "checkpoint": str(Path.cwd() / "b.pth"), "global_attention": False}
    assert config["protocol"]["model"] == model
    assert (config["device"], config["seed"]) == ("cpu", 1)


def test_example_images_are_saved_by_method_and_again_by_show(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    run = ["run", "--method", "finetune,average", "--protocol", quick_protocol, "--images", "masks"]
    assert cli(*run).exit_code == 0
    saved = {path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png")}
    assert {name.partition("/")[0] for name in saved} == {"finetune", "average"}
    assert cli("show", "finetune", "--images", "again").exit_code == 0
    again = {f"finetune/{path.name}" for path in (tmp_path / "again").glob("*.png")}
    assert again == {name for name in saved if name.startswith("finetune/")}
    (tmp_path / "file").write_text("")
    assert cli("show", "finetune", "--images", "file/masks").exit_code == 2


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


def test_several_seeds_are_run_and_compared_without_their_matrices(
    cli: Callable[..., Result], quick_protocol: Path
) -> None:
    run = ["run", "--method", "frozen", "--protocol", quick_protocol, "--limit", "1"]
    both = cli(*run, "--seeds", "0-1")
    assert both.exit_code == 0
    assert both.stdout.count("Record: ") == 2
    assert "Run: seed 1" in both.stderr
    assert "best Last first" in both.stdout
    assert "right after learning" not in both.stdout
    assert "right after learning" in cli(*run, "--seed", "0", "--seed", "1", "--matrices").stdout
    quiet = cli(*run, "--seeds", "0,1", "--quiet")
    assert quiet.stderr == ""
    assert [Path(line).parent.name for line in quiet.stdout.splitlines()] == ["frozen", "frozen"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seed 1 --seeds 2,3", "Both --seed and --seeds are given"),
        ("--order reverse --orders 2", "Both --order and --orders are given"),
        ("--seed 1 --seed 1", "The seed 1 is given twice"),
        ("--seeds 0-1000", "more than 1000 seeds"),
        ("--seeds 0,x", "'x' is not a seed"),
        ("--seeds 3", "Write --seed 3, or a list"),
        ("--orders 7", "3 domains have 6"),
        ("--seeds 0,1 --dry-run", "Ask for one"),
    ],
)
def test_seeds_and_orders_that_do_not_fit_are_refused(
    options: str, said: str, cli: Callable[..., Result], quick_protocol: Path
) -> None:
    refused = cli("run", "--method", "frozen", "--protocol", quick_protocol, *options.split())
    assert refused.exit_code == 2
    assert said in words(refused.stderr)


def test_a_stopped_run_goes_on_where_it_was(cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path) -> None:
    stop = "if step == 2 and not Path('go').exists(): raise KeyboardInterrupt"
    run = ["run", "--method", method_file(tmp_path, stop), "--protocol", quick_protocol, "--in-process"]
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
    run = ["run", "--method", f"finetune,{method_file(tmp_path, stop)}", "--protocol", quick_protocol, "--in-process"]
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
    assert "too little memory to predict a single image" in words(result.stderr)
