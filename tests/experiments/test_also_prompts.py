"""Runs that are also scored under other prompts: what is recorded, what stays as it was, and what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.edited_record import with_last_field
from support.quick_protocol import write_quick_protocol
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.score_matrix import ScoreMatrix
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.options import RunOptions, resolve
from cosam_bench.experiments.protocol import RunConfig, load_protocol, resolve_run
from cosam_bench.experiments.rescoring import rescore
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.conditions import measured_runs
from cosam_bench.results.prompt_gaps import gap_text, prompt_gaps, prompt_notes
from cosam_bench.results.records import Record, read_prompt_scores
from cosam_bench.results.verification import verify_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("also")
    write_quick_protocol(folder, domains=("pitting", "pill"))
    return folder


def run(folder: Path, *overrides: str, results: Path | None = None) -> Record:
    config, results = config_of(folder, *overrides), results or folder / "results"
    return Runner(open_experiment(config, results), results=results).run()


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return resolve_run(method="finetune", protocol=str(folder / "quick.toml"), overrides=overrides)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Record:
    return run(folder)


@pytest.fixture(scope="module")
def also(folder: Path) -> Record:
    return run(folder, 'also_prompts=["image"]')


def matrix_of(record: Record) -> ScoreMatrix:
    found = [row for row in record.prompt_scores() if row.metric == "iou"]
    assert [(row.prompt, row.step, row.domain, row.count) for row in found] == [
        ("image", step, domain, 3) for step in (0, 2) for domain in ("pitting", "pill", "natural")
    ]
    values = [[row.value for row in found if row.step == step] for step in (0, 2)]
    return ScoreMatrix.from_values(
        [values[0], values[0], values[1]], domains=["pitting", "pill"], retention=["natural"]
    )


def test_the_matrix_and_its_conditions_are_those_without(plain: Record, also: Record) -> None:
    for name in ("matrix.csv", "scores.csv"):
        assert (plain.folder / name).read_bytes() == (also.folder / name).read_bytes()
    assert plain.info.conditions == also.info.conditions
    assert plain.info.summary == also.info.summary
    assert plain.folder != also.folder
    assert plain.prompt_scores() == []
    assert not (plain.folder / "prompts.csv").exists()
    assert "prompts.csv" in also.info.files
    assert verify_record(also.folder).faults == ()


def test_their_means_are_compared_if_the_model_is_scored_again(also: Record, tmp_path: Path) -> None:
    found = rescore(also)
    assert (found.is_exact, found.further_prompts, found.faults) == (True, ("image",), ())
    edited = with_last_field(also, "prompts.csv", "0.25", folder=tmp_path / "edited")
    assert verify_record(edited.folder).faults == ()
    [fault] = rescore(edited).faults
    last = also.prompt_scores()[-1]
    assert f"the mean {last.metric} of 'natural' under image prompts after step 2 is 0.25, scored again it is" in str(
        fault
    )
    assert fault.line == len(also.prompt_scores()) + 1


def test_the_hash_counts_them_only_if_there_are_some(folder: Path, plain: Record) -> None:
    experiment = open_experiment(
        resolve_run(method="finetune", protocol=str(folder / "quick.toml"), overrides=("also_prompts=[]",)),
        folder / "results",
    )
    assert plain.folder.name == experiment.digest[:12]


def test_frozen_scores_are_those_of_a_run_with_that_prompt(folder: Path, also: Record) -> None:
    other = run(folder, "prompts.test=image")
    assert matrix_of(also).values[0].tolist() == other.score_matrix().values[0].tolist()
    assert matrix_of(also).values[2].tolist() == other.score_matrix().values[2].tolist()


def test_the_gap_is_the_difference_of_the_last_rows(also: Record) -> None:
    own, image = prompt_gaps(also)
    lasts = also.score_matrix().values[2, :2].mean(), matrix_of(also).values[2, :2].mean()
    assert (own.last, image.last) == pytest.approx(lasts)
    assert image.gap == pytest.approx(lasts[0] - lasts[1])
    assert image.frozen == pytest.approx(matrix_of(also).values[0, :2].mean())
    assert own.gap == 0
    error = prompt_gaps(also, metric="pixel_error")
    assert error[1].gap == pytest.approx(error[1].last - error[0].last), "a loss is positive by any metric"


@pytest.mark.parametrize(("kind", "values"), [("grid", ("grid=2", "grid=3")), ("mask", ("masks=raw", "masks=logits"))])
def test_settings_of_a_further_prompt_change_its_scores_alone(
    kind: str, values: tuple[str, str], folder: Path, plain: Record, tmp_path: Path
) -> None:
    asked = [(f'also_prompts=["{kind}"]', f"prompts.{value}") for value in values]
    first, second = (run(folder, *overrides, results=tmp_path) for overrides in asked)
    for step in (0, 2):
        one, other = ([row.value for row in record.prompt_scores() if row.step == step] for record in (first, second))
        assert len(one) == len(other) > 0
        assert one != other
    for record in (first, second):
        assert (record.folder / "scores.csv").read_bytes() == (plain.folder / "scores.csv").read_bytes()


@pytest.mark.parametrize("unused", ["prompts.grid=4", "prompts.masks=raw", "prompts.published=true"])
def test_a_setting_that_no_prompt_uses_is_refused(unused: str, folder: Path, tmp_path: Path) -> None:
    key, _, value = unused.partition("=")
    with pytest.raises(CosamError, match=rf"The run's settings: {key}.* also_prompts\.$"):
        config_of(folder, unused, 'also_prompts=["image"]')
    alone = tmp_path / "alone.toml"
    value = value if value != "raw" else '"raw"'
    alone.write_text((folder / "quick.toml").read_text() + f"{key} = {value}\n")
    with pytest.raises(CosamError, match=rf"The protocol '.*alone\.toml': {key}.* also_prompts\.$"):
        load_protocol(str(alone))


@pytest.mark.parametrize("used", ["prompts.test=points", "prompts.train=mix", 'also_prompts=["points"]'])
def test_a_number_of_points_that_no_prompt_has_is_refused(used: str, folder: Path) -> None:
    with pytest.raises(CosamError, match=r"points is set.* trains with 'box' and tests with 'box'\. Leave it out, or"):
        config_of(folder, "prompts.points=5")
    assert config_of(folder, "prompts.points=5", used).protocol.prompts.points == 5


def test_show_and_leaderboard_print_it(folder: Path, plain: Record, also: Record) -> None:
    text = gap_text(prompt_gaps(also))
    assert text.startswith("oracle box ")
    assert ", whole image " in text
    assert prompt_notes(measured_runs([plain], metric="iou")[0]) == []
    environment = {"COLUMNS": "200"}
    shown = CliRunner().invoke(app, ["show", str(also.folder)], env=environment).output
    assert f"Last by prompt (IoU): {text}" in shown
    asked = ["leaderboard", "--results", str(folder / "results")]
    board = CliRunner().invoke(app, asked, env=environment).output
    assert f"finetune on quick, Last (IoU) by prompt: {text}." in " ".join(board.split())
    name = also.order[0]
    of_one = prompt_gaps(also, domains=[name])
    assert of_one[0].last == also.score_matrix().only([name]).values[-1].mean()
    (final,) = (row.value for row in also.prompt_scores() if (row.step, row.domain, row.metric) == (2, name, "iou"))
    assert of_one[1].last == final
    board = CliRunner().invoke(app, [*asked, "--domains", name], env=environment).output
    assert f"by prompt: {gap_text(of_one)}." in " ".join(board.split())


def test_the_option_names_the_kinds(folder: Path) -> None:
    [config] = resolve(["finetune"], RunOptions(protocol=str(folder / "quick.toml"), also_prompts="image, grid"))
    assert config.also_prompts == ("image", "grid")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ('["box"]', "without the protocol's own, 'box': 'box' again"),
        ('["image", "image"]', "'image' again"),
        ('["whole"]', "'also_prompts.0' is 'whole'"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(asked: str, said: str, folder: Path) -> None:
    with pytest.raises(CosamError, match=said):
        resolve_run(method="finetune", protocol=str(folder / "quick.toml"), overrides=(f"also_prompts={asked}",))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,step,domain,metric,value,count\nimage,0,pill,iou,much,3\n")
    with pytest.raises(CosamError, match="line 2: could not convert"):
        read_prompt_scores(path)
