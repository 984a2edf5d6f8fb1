"""Modes of a protocol, the settings it gives to methods, and how both come to a run and into its identity."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.records import run_info
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.protocol_files import SECTIONS, read_protocol
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import Protocol, resolve_run
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.records import Record, RecordWriter
from cosam_bench.results.run_info import Cost

MODES = """
[methods.ewc]
strength = 3.0
images = 7

[methods.l2p]
pool = 12

[modes.faithful]
resize = "squash"
title = "with all its faults"
foreground = { values = [255] }

[modes.faithful.fit]
learning_rate = 0.5

[modes.faithful.methods.ewc]
images = 9

[modes.faithful.methods.regcl]
ridge = 0.0

[modes.slow.fit]
epochs = 2
"""


@pytest.fixture
def protocol(quick_protocol: Path) -> str:
    """The quick protocol with two modes and settings for methods."""
    text = quick_protocol.read_text().replace('stream = "', 'foreground = { above = 127 }\nstream = "')
    quick_protocol.write_text(text + MODES)
    return str(quick_protocol)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_mode_changes_what_it_names_and_nothing_else(protocol: str) -> None:
    clean = resolve_run(method="ewc", protocol=protocol).protocol
    faithful = resolve_run(method="ewc", protocol=protocol, mode="faithful").protocol
    assert (clean.name, clean.mode, clean.resize, clean.fit.learning_rate) == ("quick", "clean", "pad", 1e-3)
    assert (faithful.name, faithful.mode, faithful.resize) == ("quick-faithful", "faithful", "squash")
    assert faithful.fit == clean.fit.model_copy(update={"learning_rate": 0.5})
    assert faithful.foreground == Foreground(values=(255,), rule="values")  # replaced, not laid over above = 127
    assert clean.foreground is not None
    assert clean.foreground.above == 127
    assert faithful.title == "with all its faults"
    same = {"name", "mode", "title", "resize", "fit", "foreground", "methods"}
    assert faithful.model_dump(exclude=same) == clean.model_dump(exclude=same)
    assert resolve_run(method="ewc", protocol=protocol, mode="clean").protocol == clean
    assert resolve_run(method="ewc", protocol=protocol, mode="slow").protocol.fit.epochs == 2


@pytest.mark.parametrize(
    ("mode", "overrides", "strength", "images"),
    [
        ("clean", (), 3.0, 7),
        ("faithful", (), 3.0, 9),
        ("faithful", ("method.images=2",), 3.0, 2),
        ("slow", ("method.strength=0.5", "methods.ewc.images=4"), 0.5, 4),
    ],
)
def test_a_method_gets_the_protocols_settings_and_set_wins(
    protocol: str, mode: str, overrides: tuple[str, ...], strength: float, images: int
) -> None:
    run = resolve_run(method="ewc", protocol=protocol, mode=mode, overrides=overrides)
    assert (run.settings["strength"], run.settings["images"]) == (strength, images)
    assert run.settings["decay"] == 0.95  # the method's own default, which nobody touches
    assert resolve_run(method="lwf", protocol=protocol, mode=mode).settings == {
        "weight": 1.0,
        "temperature": 2.0,
        "distance": "cross_entropy",
    }


def test_a_written_config_repeats_mode_and_settings_and_serves_another_method(protocol: str, tmp_path: Path) -> None:
    run = resolve_run(method="ewc", protocol=protocol, mode="faithful", overrides=("method.images=2",))
    path = tmp_path / "config.toml"
    path.write_text(run.to_toml(), encoding="utf-8")
    assert resolve_run(config=path) == run
    assert "modes" not in tomllib.loads(run.to_toml())["protocol"]
    assert resolve_run(config=path, method="regcl").settings["ridge"] == 0.0
    assert resolve_run(config=path, method="ewc", overrides=("method.images=5",)).settings["images"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[modes.faithful.fitt]\nepochs = 1", r"in mode 'faithful': no setting is called 'fitt', did you mean 'fit'"),
        ("[modes.faithful.fit]\nepochs = 0", r"in mode 'faithful': 'fit\.epochs' is 0"),
        ('[modes.faithful]\nname = "other"', r"a mode cannot change 'name'"),
        ("[modes.faithful]\nversion = 2", r"a mode cannot change 'version'"),
        ("[modes.faithful.modes.x]", r"a mode cannot change 'modes'"),
        ("[modes.clean.fit]\nepochs = 1", r"'clean' is the protocol itself"),
        ("[modes]\nfaithful = 3", r"'modes' must have one table per mode"),
        ("[modes.Faithful]\n", r"'name' is 'quick-Faithful'"),
        ('[modes.faithful]\nfit = "none"', r"'fit' is 'none'"),
        ("[methods]\newc = 3", r"'methods\.ewc' is 3"),
        ("[methods.ewc2]\nstrength = 1.0", r"No method in the protocol 'quick' is called 'ewc2'\. Did you mean 'ewc'"),
        ("[methods.regcl]\nrigde = 1.0", r"\(with \[methods\.regcl\] of the protocol 'quick'\): no setting is called"),
    ],
)
def test_what_is_wrong_in_modes_and_methods_is_named(quick_protocol: Path, change: str, message: str) -> None:
    quick_protocol.write_text(f"{quick_protocol.read_text()}\n{change}\n")
    with pytest.raises(CosamError, match=message):
        resolve_run(method="regcl", protocol=str(quick_protocol))


def test_a_file_chooses_no_mode(quick_protocol: Path) -> None:
    quick_protocol.write_text('mode = "faithful"\n' + quick_protocol.read_text())
    with pytest.raises(CosamError, match=r"'mode' is not a key of a protocol file\..*choose it by --mode"):
        resolve_run(method="regcl", protocol=str(quick_protocol))


def test_settings_of_a_method_that_does_not_run_are_not_looked_at(quick_protocol: Path) -> None:
    quick_protocol.write_text(quick_protocol.read_text() + "\n[methods.ewc]\nrigde = 1.0\n")
    assert resolve_run(method="frozen", protocol=str(quick_protocol)).settings == {}


def test_a_file_named_as_a_method_is_not_that_method(protocol: str, tmp_path: Path) -> None:
    text = "from cosam_bench.methods.ewc import EWC\nclass Mine(EWC):\n    pass\n"
    (tmp_path / "ewc.py").write_text(text)
    assert resolve_run(method=f"{tmp_path / 'ewc.py'}:Mine", protocol=protocol).settings["images"] == 256


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mode", "faithfull"), "Did you mean 'faithful'? Offered: clean, faithful, slow."),
        (("--mode", "faithful", "--config", "x.toml"), "A config holds a protocol in its mode already"),
        (("--set", "mode=faithful"), "cannot choose the mode. Give --mode NAME"),
        (("--set", "protocol.mode=faithful"), "cannot choose the mode. Give --mode NAME"),
        (("--set", "modes.faithful.fit.epochs=1"), "no setting is called 'protocol.modes'"),
        (("--set", "methods.ewcc.images=1"), "is called 'ewcc'. Did you mean 'ewc'?"),
    ],
)
def test_a_mode_that_is_asked_wrongly(
    cli: Callable[..., Result], protocol: str, arguments: tuple[str, ...], said: str
) -> None:
    given = () if "--config" in arguments else ("--protocol", protocol)
    result = cli("run", "--method", "ewc", *given, *arguments, "--dry-run")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_protocol_without_modes_says_so(cli: Callable[..., Result]) -> None:
    result = cli("run", "--method", "ewc", "--mode", "faithful", "--dry-run")
    assert result.exit_code == 2
    assert "The protocol 'mini' has no modes, so 'faithful' cannot be chosen. Leave out --mode." in result.stderr
    assert cli("run", "--method", "ewc", "--mode", "clean", "--dry-run").exit_code == 0


def test_the_command_line_passes_the_mode_on(cli: Callable[..., Result], protocol: str) -> None:
    result = cli("run", "--method", "ewc", "--protocol", protocol, "--mode", "faithful", "--dry-run")
    config = tomllib.loads(result.stdout)
    assert (config["protocol"]["name"], config["protocol"]["mode"]) == ("quick-faithful", "faithful")
    assert config["settings"]["images"] == 9


def test_paths_in_a_mode_start_at_the_protocols_file(quick_protocol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '\n[modes.other]\nstream = "other.toml"\n[modes.other.adapter]\nkind = "hq"\nstart = "start.pth"\n'
    kept = quick_protocol.read_text().replace("adapter = { rank = 2, alpha = 2.0 }", "")
    quick_protocol.write_text(kept + text)
    monkeypatch.chdir("/")
    run = resolve_run(method="frozen", protocol=str(quick_protocol), mode="other")
    assert run.protocol.stream == str(quick_protocol.with_name("other.toml"))
    assert run.protocol.adapter.start == str(quick_protocol.with_name("start.pth"))


def test_every_table_of_a_protocol_can_be_changed_key_by_key() -> None:
    tables = {
        name
        for name, field in Protocol.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    assert tables == set(SECTIONS)


def test_reading_leaves_the_clean_protocol_as_the_file_has_it(protocol: str) -> None:
    modes, folder = read_protocol(protocol)
    data = tomllib.loads(Path(protocol).read_text())
    assert list(modes) == ["clean", "faithful", "slow"]
    assert modes["clean"] == {key: value for key, value in data.items() if key != "modes"}
    assert folder == Path(protocol).parent


def recorded(experiment: Experiment, protocol: str, results: Path) -> Record:
    """A complete record of an experiment, every score one half."""
    names = tuple(domain.name for domain in experiment.domains)
    facts = {"method": experiment.method_name, "settings": {}, "conditions": experiment.conditions, "cost": Cost()}
    info = run_info(protocol=protocol, order=names, retention=(), summary={}, **facts)
    folder = results / protocol / info.method / experiment.digest[:12]
    cells = [Cell(step, name, metric, 0.5, 3) for step in range(4) for name in names for metric in METRICS]
    RecordWriter(folder).write_matrix(cells)
    return Record(folder, info)


def test_two_modes_of_one_protocol_never_stand_in_one_ranking(quick_protocol: Path, tmp_path: Path) -> None:
    # A mode that changes nothing but the settings of one method: the strictest case.
    quick_protocol.write_text(quick_protocol.read_text() + "\n[modes.faithful.methods.ewc]\nimages = 3\n")
    found = [
        open_experiment(resolve_run(method="frozen", protocol=str(quick_protocol), mode=mode), tmp_path / "results")
        for mode in ("clean", "faithful")
    ]
    assert [experiment.config.protocol.name for experiment in found] == ["quick", "quick-faithful"]
    assert len({experiment.digest for experiment in found}) == 2
    assert len({experiment.conditions.config for experiment in found}) == 2
    frame = leaderboard([recorded(experiment, experiment.config.protocol.name, tmp_path) for experiment in found])
    assert frame["runs"].tolist() == [1, 1]
    # Even under one name the hashes keep them apart.
    frame = leaderboard([recorded(experiment, "quick", tmp_path) for experiment in found])
    assert frame["runs"].tolist() == [1, 1]
    assert "not comparable" in frame.attrs["notes"][0]


def test_settings_of_other_methods_are_no_condition_of_a_run(protocol: str, tmp_path: Path) -> None:
    def digests(*overrides: str) -> tuple[str, str]:
        found = open_experiment(resolve_run(method="lwf", protocol=protocol, overrides=overrides), tmp_path / "results")
        return found.conditions.digest, found.digest

    assert digests() == digests("methods.ewc.images=100")
    conditions, run = digests("methods.lwf.weight=5.0")
    assert conditions == digests()[0]
    assert run != digests()[1]


def test_pixels_that_a_protocol_calls_foreground_are_a_condition(quick_protocol: Path, tmp_path: Path) -> None:
    def conditions(*overrides: str) -> str:
        run = resolve_run(method="frozen", protocol=str(quick_protocol), overrides=overrides)
        return open_experiment(run, tmp_path / "results").conditions.digest

    found = {conditions(), conditions("foreground=nonzero"), conditions("foreground={ values = [255] }")}
    found |= {conditions("resampling=torch"), conditions("resize=squash")}
    assert len(found) == 5
