"""Tuning on held-out training images, and runs with the settings that it finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.quick_protocol import QUICK_DOMAINS, write_quick_protocol
from typer.testing import CliRunner, Result

import cosam_bench as cb
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.data import opening
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.run_data import Validation, open_run_data
from cosam_bench.experiments.runner import Runner
from cosam_bench.experiments.tuned_file import read_tuned
from cosam_bench.tuning.space import space_of
from cosam_bench.tuning.tune import HELD_OUT_SHARE, Tuned

pytest.importorskip("optuna")
TRIALS = 2


def run_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_quick_protocol(tmp_path_factory.mktemp("protocol"))
    file.write_text(file.read_text().replace("fit = {", "fit = { learning_rate = 0.02,"))
    return file


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def tuned(protocol: Path, results: Path) -> list[Tuned]:
    """Two methods and one without settings; nothing may draw a test image or a retention domain meanwhile."""
    drawn = opening._drawn

    def only_training(card: Any, part: Any) -> Any:
        assert part == "train", f"{card.name}/{part} was opened"
        return drawn(card, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_drawn", only_training)
        return cb.tune(["ties", "average", "frozen"], trials=TRIALS, protocol=protocol, results=results)


def test_the_same_number_of_trials_for_all_with_experts_that_are_trained_once(
    tuned: list[Tuned], results: Path
) -> None:
    assert [(one.method, one.trials, len(one.failures)) for one in tuned] == [
        ("ties", TRIALS, 0),
        ("average", TRIALS, 0),
        ("frozen", 0, 0),
    ]
    assert len(list((results / "_shared" / "experts").glob("*.safetensors"))) == len(QUICK_DOMAINS)
    for one in tuned[:2]:
        assert one.default_score is not None
        assert one.best_score is not None
        assert one.best_score >= one.default_score


def test_the_score_is_last_of_a_run_on_the_images_held_out(
    tuned: list[Tuned], protocol: Path, results: Path, tmp_path: Path
) -> None:
    config = resolve_run(method="ties", protocol=str(protocol))
    experiment = open_experiment(config, results, validation=Validation(HELD_OUT_SHARE))
    whole = open_experiment(config, results)
    for domain, original in zip(experiment.domains, whole.domains, strict=True):
        kept, out = hold_out(original.train, share=HELD_OUT_SHARE)
        assert (domain.train.digest, domain.test.digest) == (kept.digest, out.digest)
        assert (len(kept), len(out)) == (3, 1)
    assert experiment.retention == ()
    for number, settings in ((tuned[0].default_score, config.settings), (tuned[0].best_score, tuned[0].settings)):
        run = experiment.with_method(config.model_copy(update={"settings": dict(settings)}))
        assert Runner(run, results=tmp_path).run().summary["iou"]["last"] == number


def test_the_same_call_again_repeats_nothing_and_more_trials_are_added(
    tuned: list[Tuned], protocol: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    from cosam_bench.tuning import tune as module

    real = module.last_scores
    monkeypatch.setattr(module, "last_scores", lambda *args, **keys: scored.append(1) or real(*args, **keys))
    again = cb.tune("average", trials=TRIALS, protocol=protocol, results=results)
    assert (again, scored) == ([tuned[1]], [])
    more = cb.tune("average", trials=TRIALS + 1, protocol=protocol, results=results)[0]
    assert (more.trials, len(scored)) == (TRIALS + 1, 1)
    with pytest.raises(CosamError, match="has the best of 3 trials, and 1 were asked for"):
        cb.tune("average", trials=1, protocol=protocol, results=results)
    fewer = cb.tune("average", trials=1, protocol=protocol, results=results, out=results / "fewer")[0]
    assert (fewer.trials, fewer.changed, fewer.best_score) == (1, {}, tuned[1].default_score)


def test_a_run_with_tuned_settings_records_their_budget(tuned: list[Tuned], protocol: Path, results: Path) -> None:
    folder = results / "_tune" / "quick"
    plain, record = (cb.run("ties", protocol=protocol, results=results, tuned=place) for place in (None, folder))
    assert record.info.settings == tuned[0].settings
    entry = record.info.tuning
    assert entry is not None
    assert (entry.trials, entry.held_out, entry.images, entry.domains) == (TRIALS, 0.25, 3, QUICK_DOMAINS)
    assert entry.file == read_tuned(folder, "ties").tuning.file  # type: ignore[union-attr]  # it was tuned
    assert (plain.info.tuning, plain.info.tuned, record.info.tuned) == (None, "", f"{TRIALS} trials")
    assert record.folder != plain.folder
    assert cb.run(config=record.folder / "config.toml", results=results).folder == record.folder
    changed = resolve_run(config=record.folder / "config.toml", overrides=("method.density=0.5",))
    assert changed.tuning is None
    assert resolve_run(method="opcm", config=record.folder / "config.toml").tuning is None

    frame = cb.leaderboard(results)
    assert set(frame["tuned"]) == {"", f"{TRIALS} trials"}
    assert [note for note in frame.attrs["notes"] if "tuned with different budgets" in note] == [
        f"quick, {frame['conditions'][0]}: settings were tuned with different budgets ({TRIALS} trials: ties; "
        "not tuned: ties). Compare methods within one budget; ranks do not tell them apart."
    ]
    assert any("different budgets" in note for note in cb.compare(plain, record, results=results).notes)
    shown = run_command("leaderboard", "--results", str(results))
    assert "tuned" in shown.stdout
    assert f"{TRIALS} trials" in shown.stdout
    page = cb.report(results).path.read_text()
    assert ">Tuned</button>" in page
    assert f"tuned by {TRIALS} trials" in page


def test_equal_settings_that_were_tuned_are_another_run(protocol: Path, results: Path, tmp_path: Path) -> None:
    (only,) = cb.tune("average", trials=1, protocol=protocol, results=results, out=tmp_path)
    plain = open_experiment(resolve_run(method="average", protocol=str(protocol)), results)
    config = resolve_run(method="average", protocol=str(protocol), tuned=only.file)
    assert (only.changed, config.settings) == ({}, plain.config.settings)
    assert plain.with_method(config).digest != plain.digest


def test_settings_that_were_tuned_for_something_else_are_kept_and_named(
    tuned: list[Tuned], protocol: Path, results: Path, tmp_path: Path
) -> None:
    file = tuned[0].file
    assert file is not None
    before = file.read_bytes()
    others: list[dict[str, Any]] = [
        {"settings": {"adapter.rank": 1}},
        {"settings": {"method.density": 0.3}},
        {"domains": ["pill"]},
        {"seed": 1},
    ]
    for other in others:
        with pytest.raises(CosamError, match="were tuned under other conditions"):
            cb.tune("ties", trials=TRIALS, protocol=protocol, results=results, **other)
    assert file.read_bytes() == before
    (at_rank_1,) = cb.tune("average", trials=1, protocol=protocol, results=results, out=tmp_path, **others[0])
    record = cb.run("average", protocol=protocol, results=results, tuned=at_rank_1.file)
    assert record.info.tuned == "1 trial under other conditions"


def test_a_method_with_nothing_to_tune_runs_as_without(tuned: list[Tuned], protocol: Path) -> None:
    configs = [resolve_run(method="frozen", protocol=str(protocol), tuned=place) for place in (None, tuned[2].file)]
    assert configs[0] == configs[1]


def test_some_of_the_domains_are_tuned_on(protocol: Path, results: Path, tmp_path: Path) -> None:
    two = QUICK_DOMAINS[:2]
    (found,) = cb.tune("average", trials=1, protocol=protocol, domains=two, results=results, out=tmp_path)
    assert found.file is not None
    entry = read_tuned(found.file, "average").tuning
    assert entry is not None
    assert (entry.domains, entry.images) == (two, 2)
    with pytest.raises(CosamError, match=r"No domain of this stream is called 'pil'\. Did you mean 'pill'"):
        cb.tune("average", trials=1, protocol=protocol, domains="pil", results=results)


def write_picky(folder: Path) -> Path:
    file = folder / "picky.py"
    file.write_text(
        '''
from typing import Literal

from cosam_bench import MergingMethod, MethodCard, Settings, setting


class PickySettings(Settings):
    """One value is not liked."""

    mood: Literal["good", "bad"] = setting("good", "how it feels", source="here")
    share: float = setting(0.5, "of nothing", source="here", ge=0, le=1)


class Picky(MergingMethod[PickySettings]):
    """Serves the last expert."""

    card = MethodCard(title="Picky")

    def merge(self, expert, domain, *, step):
        """The expert."""
        if self.settings.mood == "bad":
            raise RuntimeError("not like this")
        return expert
'''
    )
    return file


def test_a_trial_that_fails_is_counted_and_the_others_go_on(protocol: Path, results: Path, tmp_path: Path) -> None:
    file = write_picky(tmp_path)
    options: dict[str, Any] = {"protocol": protocol, "results": results, "isolated": False}
    (found,) = cb.tune(file, trials=2, space={"picky": {"mood": {"choices": ["bad"]}}}, **options)
    assert (found.trials, found.changed, found.best_score) == (2, {}, found.default_score)
    assert list(found.failures) == [1]
    assert "not like this" in found.failures[1]
    with pytest.raises(MethodFailed, match=r"Every trial of 'picky' failed, the first with: .*not like this"):
        cb.tune(file, trials=1, settings={"method.mood": "bad"}, out=tmp_path / "bad", **options)


def test_isolated_trials_do_not_take_those_in_process_for_their_own(protocol: Path, tmp_path: Path) -> None:
    file, scored = write_picky(tmp_path), []
    from cosam_bench.tuning import tune as module

    real = module.last_scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "last_scores", lambda *args, **keys: scored.append(args[0].is_isolated) or real(*args, **keys)
        )
        options: dict[str, Any] = {
            "trials": 1,
            "protocol": protocol,
            "results": tmp_path / "results",
            "domains": "pill",
        }
        (in_process,) = cb.tune(file, isolated=False, **options)
        with pytest.raises(CosamError, match=r"tuned under other conditions: .*isolation"):
            cb.tune(file, **options)
        (isolated,) = cb.tune(file, out=tmp_path / "isolated", **options)
    assert scored == [False, True]
    assert isolated.default_score == in_process.default_score


@pytest.mark.parametrize(("moment", "begun"), [("before", 1), ("during", 2)])
def test_a_trial_of_edited_code_is_not_counted(
    moment: str, begun: int, protocol: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, scored, proposed = write_picky(tmp_path), [], []
    from cosam_bench.tuning import tune as module

    def edit() -> None:
        file.write_text(file.read_text().replace("return expert", "return expert * 0.5"))

    def scores(*_: object, **__: object) -> dict[str, float]:
        scored.append(1)
        if moment == "during" and len(scored) == 2:
            edit()
        return {"pill": 0.5}

    propose = module.Study.propose

    def proposal(study: Any) -> tuple[int, dict[str, Any]]:
        proposed.append(1)
        if moment == "before" and len(proposed) == 2:
            edit()
        return propose(study)

    monkeypatch.setattr(module, "last_scores", scores)
    monkeypatch.setattr(module.Study, "propose", proposal)
    options: dict[str, Any] = {"trials": 3, "protocol": protocol, "results": results, "out": tmp_path}
    with pytest.raises(CosamError, match=r"'picky' was edited while it was tuned; .*Give the same command again"):
        cb.tune(file, isolated=False, **options)
    assert len(scored) == begun
    assert not (tmp_path / "picky.toml").exists()


def test_states_that_a_killed_trial_left_are_removed(tuned: list[Tuned], protocol: Path, results: Path) -> None:
    [log] = (results / "_tune" / "quick" / "ties").glob("*/trials.log")
    (log.parent / "states-abc").mkdir()
    (log.parent / "states-abc" / "001.safetensors").write_bytes(b"left")
    cb.tune("ties", trials=TRIALS, protocol=protocol, results=results)
    assert not list(log.parent.glob("states-*"))


def test_given_settings_of_a_method_with_nothing_to_tune_are_not_replaced(
    protocol: Path, results: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"trials": 1, "protocol": protocol, "results": results, "out": tmp_path}
    given = [f"method.{name}" for name in space_of(resolve_run(method="average"), isolated=False)]
    assert given == ["method.scale"]
    for _ in range(2):
        (found,) = cb.tune("average", settings={"method.scale": 0.5}, **options)
    assert found.file is not None
    before = found.file.read_bytes()
    with pytest.raises(CosamError, match="were tuned under other conditions"):
        cb.tune("average", settings={"method.scale": 0.75}, **options)
    assert found.file.read_bytes() == before


def test_the_command_names_the_trials_of_the_method_that_failed(protocol: Path, results: Path, tmp_path: Path) -> None:
    file = write_picky(tmp_path)
    done = run_command(
        "tune", str(file), "--in-process", "--trials", "1", "--domains", "pill", "--set", "method.mood='bad'",
        "--protocol", str(protocol), "--results", str(results), "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.exit_code == 1
    assert f"delete {results / '_tune' / 'quick' / 'picky'}." in done.stderr.replace("\n", "")


def folder_stream(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(4):
            for kind in ("images", "masks"):
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
            image = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            mask = np.zeros((32, 32), np.uint8)
            mask[4 : 10 + number, 6:20] = 255
            Image.fromarray(image).save(folder / part / "images" / f"{part}{number}.png")
            Image.fromarray(mask).save(folder / part / "masks" / f"{part}{number}.png")
    file = folder / "stream.toml"
    file.write_text(
        """
name = "folders"
[[domain]]
name = "leaf"
root = "."
masks = "{part}/masks/*.png"
pairing = "sorted"
split = { kind = "folders", train = "train/images/*.png", test = "test/images/*.png" }
"""
    )
    return file


def patients(folder: Path, *, count: int, split: str) -> Path:
    """A stream of so many patients with four slices each."""
    mask = np.zeros((32, 32), np.uint8)
    mask[4:20, 6:20] = 255
    for name in (f"p{patient}_{number}" for patient in range(count) for number in range(4)):
        pixels = np.random.default_rng(int(name[1:].replace("_", ""))).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        for kind, picture in (("images", pixels), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{name}.png")
    file = folder / "stream.toml"
    file.write_text(f'name = "slices"\n[[domain]]\nname = "lung"\nroot = "."\ngroup = "{{group}}_*"\nsplit = {split}\n')
    return file


@pytest.mark.parametrize(
    "split",
    ['{ kind = "ratio", test = 0.2 }', '{ kind = "folders", test = "images/p0_*.png", train = "images/p[1-9]_*.png" }'],
)
def test_the_images_of_a_group_are_not_divided(split: str, protocol: Path, tmp_path: Path) -> None:
    stream = patients(tmp_path, count=5, split=split)
    base = resolve_run(method="opcm", protocol=str(protocol), overrides=(f"stream={str(stream)!r}",))
    tuned = open_run_data(base, load_stream(str(stream)), validation=Validation(HELD_OUT_SHARE)).domains[0]
    scaled = open_run_data(base.model_copy(update={"scales": (0.5, 1.0)}), load_stream(str(stream)))
    for kept, out in ((tuned.train, tuned.test), (scaled.domains[0].train, scaled.held_out["lung"])):
        trained, held = ({key.partition("_")[0] for key in part.keys} for part in (kept, out))
        assert (len(trained), len(held), len(kept), len(out)) == (3, 1, 12, 4)
        assert not trained & held


def test_a_training_part_of_one_group_is_refused(protocol: Path, tmp_path: Path) -> None:
    stream = patients(tmp_path, count=2, split='{ kind = "ratio", test = 0.2 }')
    with pytest.raises(CosamError, match="The training part of 'lung' has 4 images of one group"):
        cb.tune("ties", trials=1, protocol=protocol, stream=stream, results=tmp_path / "results")


def test_files_of_test_images_may_be_rubbish(protocol: Path, tmp_path: Path) -> None:
    stream = folder_stream(tmp_path)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(b"rubbish")
    (found,) = cb.tune("average", trials=1, protocol=protocol, stream=stream, results=tmp_path / "results")
    assert found.default_score is not None
    with pytest.raises(CosamError, match=r"test0\.png"):
        cb.run("average", protocol=protocol, stream=stream, results=tmp_path / "results")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ties", "--trials", "0"], "0 trials were asked for. Ask for 1 or more"),
        (["tise"], "No method is called 'tise'. Did you mean 'ties'?"),
        (["ties", "--sampler", "grid"], "No sampler is called 'grid'. Offered: random, tpe"),
        (["ties", "--domains", "pill,pill"], "The domain pill is given twice. Name each domain once."),
        (["ties", "--set", "scales=[0.5]"], "Leave out scales"),
        (["ties", "--set", "experts=here"], "Leave out experts"),
        (["ties,opcm", "--set", "method.scale=1"], "is a setting of one method, but 2 methods are given"),
        (["ties", "--space", "none.toml"], "No file none.toml"),
    ],
)
def test_bad_options_of_the_command(arguments: list[str], message: str, protocol: Path, tmp_path: Path) -> None:
    done = run_command("tune", *arguments, "--protocol", str(protocol), "--results", str(tmp_path))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_table_of_80_columns(tuned: list[Tuned], protocol: Path, results: Path) -> None:
    done = run_command(
        "tune", "ties,frozen", "--trials", str(TRIALS), "--protocol", str(protocol), "--results", str(results)
    )
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[:3]] == ["method", "ties", "frozen"]
    assert "frozen: it has no settings to tune." in done.stdout
    assert all(len(line) <= 80 or str(results) in line for line in done.stdout.splitlines())
    quiet = run_command(
        "tune", "ties", "--trials", str(TRIALS), "--protocol", str(protocol), "--results", str(results), "--quiet"
    )
    assert quiet.stdout == f"{tuned[0].file}\n"


def test_optuna_must_be_installed(protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CosamError, match=r'pip install "cosam-bench\[tune\]"'):
        cb.tune("ties", protocol=protocol, results=tmp_path)


def test_a_training_part_of_one_image_cannot_be_divided(tmp_path: Path) -> None:
    file = write_quick_protocol(tmp_path)
    stream = tmp_path / "quick-stream.toml"
    stream.write_text(stream.read_text().replace("train = 4", "train = 1", 1))
    with pytest.raises(CosamError, match="The training part of 'pitting' has 1 image, so none can be held out"):
        cb.tune("ties", trials=1, protocol=file, results=tmp_path / "results")


def test_tuned_files_of_other_methods_are_refused(tuned: list[Tuned], protocol: Path, results: Path) -> None:
    with pytest.raises(CosamError, match="has the tuned settings of 'ties', not of 'opcm'"):
        cb.run("opcm", protocol=protocol, results=results, tuned=tuned[0].file)
    with pytest.raises(CosamError, match=r"has no tuned settings of 'opcm'\. Tune it with the same budget"):
        cb.run("opcm", protocol=protocol, results=results, tuned=results / "_tune" / "quick")
    with pytest.raises(CosamError, match=r"holds all settings of the method, so method\.scale cannot be set as well"):
        cb.run("ties", protocol=protocol, results=results, tuned=tuned[0].file, settings={"method.scale": 1.0})
