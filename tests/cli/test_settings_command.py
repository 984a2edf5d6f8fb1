from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.cli.settings_command import setting_groups
from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.protocol import resolve_run

Shown = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What ``cosam-bench settings`` prints on 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["settings", *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return run


def all_keys(method: str | None = None) -> list[str]:
    return [key.name for group in setting_groups(method) for key in group.keys]


def test_every_key_is_shown_whole_at_80_columns(shown: Shown) -> None:
    lines = shown("--method", "regcl", "--protocol", "cosam").splitlines()
    assert max(map(len, lines)) <= 80
    for key in all_keys("regcl"):
        assert any(line.startswith(f"{key} = ") for line in lines), key


@pytest.mark.parametrize("key", all_keys("regcl"))
def test_set_accepts_every_key_that_is_shown(key: str) -> None:
    """Each refuses a table of nonsense for its value or for what is in it, and none as a key that does not exist."""
    with pytest.raises(CosamError) as refused:
        resolve_run(method="regcl", overrides=(f"{key}={{ no = [] }}",))
    assert key.removeprefix("method.") in str(refused.value)
    assert "no setting is called" not in str(refused.value) or f"{key}.no" in str(refused.value)


def test_every_key_of_a_run_and_a_protocol_is_shown() -> None:
    config = resolve_run(method="regcl").model_dump()
    tables = {key.partition(".")[0] for key in all_keys("regcl")}
    assert set(config) - tables == {"settings", "protocol", "tuning"}  # the last is `run --tuned`, not a key of --set
    assert set(config["protocol"]) - tables == {"mode", "methods"}
    assert {f"method.{key}" for key in config["settings"]} <= set(all_keys("regcl"))


def test_the_values_are_the_protocols_and_a_default_that_differs_is_shown_with_them(shown: Shown) -> None:
    text = "\n".join(line.rstrip() for line in shown("fit", "--protocol", "regcl", "--mode", "faithful").splitlines())
    assert "fit.batch_size = 2  (default 4; int >= 1 <= 65536)\n    images per training step" in text
    assert "default from: CoSAM's released code" in text
    assert "adapter." not in text
    assert "fit.batch_size = 4  (int >= 1 <= 65536)" in shown("fit.batch_size")
    assert 'foreground.channel = "red"' in shown("foreground", "--protocol", "regcl", "--mode", "faithful")
    assert "method.strength = 20.0  (default 0.02;" in shown("method", "-m", "ewc", "--protocol", "cosam")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["learning_rates"], "Did you mean fit.learning_rate?"),
        (["fit.epoch_s"], "Did you mean fit.epochs"),
        (["zzz"], "Known: seed, order, device"),
        (["method.ridge"], "Give --method NAME"),
        (["method.rige", "-m", "regcl"], "Did you mean method.ridge or method.ridge_to?"),
        (["--mode", "faithful"], "Give --protocol as well"),
        (["--protocol", "cosan"], "Did you mean 'cosam'?"),
        (["--protocol", "cosam", "--mode", "faithfull"], "Did you mean 'faithful'?"),
        (["--method", "regcll"], "Did you mean 'regcl'?"),
    ],
)
def test_a_name_nobody_knows_is_answered_by_what_is_near(arguments: list[str], answer: str) -> None:
    result = CliRunner().invoke(app, ["settings", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert answer in " ".join(result.stderr.split())
