"""Runs that change what a built-in protocol fixes: named wherever its name heads something, and set apart."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from support import imitations
from support.quick_protocol import write_quick_protocol
from support.records import run_info
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.data.image_counts import count_differences
from cosam_bench.data.protocol_files import built_in_protocols, read_protocol
from cosam_bench.data.streams import load_stream
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.experiments.protocol import load_protocol, resolve_run
from cosam_bench.results.conditions import comparison_key, measured_runs
from cosam_bench.results.export.model_card import write_model_card
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.leaderboard_formats import FORMATS
from cosam_bench.results.protocol_match import (
    differences,
    is_another_experiment,
    protocol_differences,
    protocol_title,
)
from cosam_bench.results.published import all_published
from cosam_bench.results.records import Record, RecordWriter, record_folder
from cosam_bench.results.report.boards import Board
from cosam_bench.results.run_info import Conditions, read_run_info
from cosam_bench.results.trackers import tracked_run
from cosam_bench.sam.models import MODELS

COSAM, _ = all_published()
VIT_B = str(MODELS["vit_b"].sha256)
OWN = "stream mine.toml, model tiny, kvasir 2 of 1000 images, fit.epochs 1"


def found(protocol: str, *changes: str, mode: str = "clean", sha256: str = "", counts: Mapping[str, Any] = {}) -> str:
    """What differs in a run with some settings changed."""
    config = resolve_run(method="frozen", protocol=protocol, mode=mode, overrides=changes)
    resolved = config.protocol.model_dump(mode="json")
    return protocol_differences(resolved, image_counts=counts, weights_sha256=sha256)


@pytest.mark.parametrize("name", built_in_protocols())
def test_no_protocol_differs_from_itself_in_any_mode(name: str) -> None:
    for mode in read_protocol(name)[0]:
        protocol = load_protocol(name, mode=mode)
        assert protocol_differences(protocol.model_dump(mode="json"), image_counts={}, weights_sha256="") == ""
        assert found(name, mode=mode) == ""


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        (("seed=3", "device=cpu", "prefix_cache_gib=0"), ""),
        (("title=mine", "score.batch_size=1", "adapter.start=/x/hq.pth", "methods.moda.tokens=3"), ""),
        (("model.name=vit_l",), "with vit_l"),
        (("model.name=tiny",), "model tiny"),
        (("stream=/x/mine.toml",), "stream mine.toml"),
        (("stream=/x/mine.toml", "model.name=vit_l"), "stream mine.toml, model vit_l"),
        (("stream=union",), "stream union"),
        (("version=3",), "version 3"),
        (("model.checkpoint=random",), "weights random"),
        (("model.checkpoint=/x/own.pth",), "weights own.pth"),
        (("model.global_attention=true",), "model.global_attention true"),
        (("adapter.kind=lora",), "adapter.kind lora"),
        (("prompts.test=points", "fit.epochs=1"), "fit.epochs 1, prompts.test points"),
        (("fit.rates.kvasir=0.1",), 'fit.rates {"kvasir":0.1}'),
        (("foreground=auto",), "foreground stated"),
        (("foreground.values=[255]",), "foreground stated, foreground.rule values, foreground.values [255]"),
        (("resize=pad", "score.upsampling=bilinear"), "resize pad, score.upsampling bilinear"),
    ],
)
def test_whatever_the_file_fixes_is_named(changes: tuple[str, ...], differing: str) -> None:
    assert found("cosam", *changes) == differing


def test_a_mode_is_compared_with_itself(tmp_path: Path) -> None:
    assert found("regcl", "fit.ranks=1", mode="faithful") == "fit.ranks 1"
    own = tmp_path / "own.toml"  # a file that takes the name of a built-in protocol's mode
    own.write_text('name = "cosam-faithful"\nstream = "cosam"\n')
    assert found(str(own)).startswith("adapter.kind lora, fit.")
    own.write_text('name = "bench"\nstream = "cosam"\n')
    assert found(str(own)) == ""


def test_the_published_weights_are_the_models_wherever_the_file_is() -> None:
    path = "model.checkpoint=/x/sam_vit_b_01ec64.pth"
    assert found("cosam", path, sha256=VIT_B) == ""
    assert found("cosam", path, "model.name=vit_l", sha256=str(MODELS["vit_l"].sha256)) == "with vit_l"
    assert found("cosam", path, "model.name=vit_l", sha256=VIT_B) == "model vit_l, weights sam_vit_b_01ec64.pth"
    assert found("cosam", path, sha256="") == "weights sam_vit_b_01ec64.pth"


def test_domains_that_are_not_complete_are_named_in_own_protocols_too(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('name = "bench"\nstream = "cosam"\n')
    for name in ("cosam", str(own)):
        assert found(name, counts={"kvasir@cosam": (2, 1000)}) == "kvasir@cosam 2 of 1000 images"
    assert found("cosam", "model.name=vit_l", counts={"camo": (3, 4)}) == "model vit_l, camo 3 of 4 images", (
        "more than another model"
    )


def test_a_long_value_and_a_long_list_are_cut_in_titles() -> None:
    assert found("union", f"adapter.targets='{'qkv|' * 30}proj'").endswith("qkv|...")
    title = protocol_title("cosam", 1, "a 1, b 2, c 3, d 4, e 5, f 6")
    assert title == "cosam (version 1), not the protocol (a 1, b 2, c 3, d 4 and 2 more)"
    assert [is_another_experiment(text) for text in ("", "with vit_b", "model tiny")] == [False, False, True]


# Records


def record(results: Path, method: str, *changes: str, protocol: str = "cosam", **facts: Any) -> Record:
    """A complete run of a protocol with some settings changed."""
    config = resolve_run(method="frozen", protocol=protocol, overrides=changes)
    info = run_info(
        protocol=config.protocol.name,
        protocol_version=config.protocol.version,
        config={"protocol": config.protocol.model_dump(mode="json")},
        conditions=Conditions(data={"a": str(len(changes))}, checkpoint="11", config="22"),
        method=method,
        **({"summary": {}, "order": ("a", "b"), "retention": (), "settings": {}} | facts),
    )
    folder = record_folder(results, protocol="cosam", method=method, digest=f"{len(list(results.rglob('*'))):012x}")
    writer = RecordWriter(folder)
    writer.write_info(info)
    writer.write_matrix(Cell(step, name, metric, 0.5, 3) for step in range(3) for name in "ab" for metric in METRICS)
    return Record(folder, info)


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """One of another experiment, one of another model, and one of the protocol."""
    counts = {"image_counts": {"kvasir": (2, 1000)}}
    return [
        record(tmp_path, "regcl", "stream=/x/mine.toml", "model.name=tiny", "fit.epochs=1", **counts),
        record(tmp_path, "opcm", "model.name=vit_l"),
        record(tmp_path, "moda"),
    ]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "220")
    return lambda *words: CliRunner().invoke(app, [*map(str, words), "--results", str(tmp_path)])


def test_published_rows_stand_beside_the_protocols_own_runs_alone(records: list[Record]) -> None:
    frame = leaderboard(records, published=(COSAM,))
    measured = frame[frame["origin"] == "measured"]
    assert measured[["method", "differs"]].to_numpy().tolist() == [["moda", ""], ["regcl", OWN], ["opcm", "with vit_l"]]
    assert set(frame["differs"][frame["origin"] == "published"]) == {""}
    text = FORMATS["markdown"](frame)
    boards = [part for part in text.split("\n\n") if part.startswith("|")]
    titles = [line for line in text.splitlines() if line.startswith("**")]
    assert ["HQ-SAM + MoDA" in board for board in boards] == [True, False, False]
    assert [title.partition(", cond")[0] for title in titles] == [
        "**cosam (version 1)",
        "**cosam (version 1), not the protocol (stream mine.toml, model tiny, kvasir 2 of 1000 images, fit.epochs 1)",
        r"**cosam (version 1) with vit\_l",
    ]
    assert len({comparison_key(one.info) for one in records}) == 3


def test_without_a_run_of_the_protocol_published_rows_have_a_table_of_their_own(
    records: list[Record], cli: Callable[..., Result]
) -> None:
    text = FORMATS["markdown"](leaderboard(records[:2], published=(COSAM,)))
    assert text.count("HQ-SAM + MoDA") == 1
    assert "**cosam: IoU, published numbers alone" in text
    assert "cosam: no run of this protocol is recorded here" not in cli("leaderboard", "--with-published").stdout
    (records[2].folder / "run.json").unlink()
    assert "cosam: no run of this protocol is recorded here" in cli("leaderboard", "--with-published").stdout


def test_every_output_names_what_differs(records: list[Record], cli: Callable[..., Result], tmp_path: Path) -> None:
    strange, _, own = records
    headings = (f"not the protocol ({OWN})", "cosam (version 1) with vit_l", "cosam (version 1), seed 3")
    for one, text in zip(records, headings, strict=True):
        assert text in " ".join(cli("show", one.folder).stdout.split())
    board = " ".join(cli("leaderboard").stdout.split())
    assert f"cosam (version 1), not the protocol ({OWN}), conditions" in board
    assert "cosam (version 1) with vit_l, conditions" in board
    for name in ("csv", "tidy"):
        table = pandas.read_csv(io.StringIO(cli("leaderboard", "--format", name).stdout))
        assert set(table["differs"].fillna("")) == {"", OWN, "with vit_l"}
    assert f'"differs": "{OWN}"' in cli("leaderboard", "--format", "json").stdout
    for name in ("markdown", "latex"):
        assert "not the protocol (stream mine.toml" in cli("leaderboard", "--format", name).stdout
    assert OWN in cli("compare", "regcl", "moda").stderr.replace("\n", " ")
    assert tracked_run(strange).config["differs"] == OWN
    assert (strange.differs, own.differs) == (OWN, "")
    shown = Board("b1", "cosam", 1, "abc", OWN, "iou", ())
    assert shown.title == f"cosam, version 1, not the protocol ({OWN}), conditions abc"
    assert (shown.file_stem, replace(shown, differs="").file_stem) == ("cosam-abc", "cosam")
    (tmp_path / "card").mkdir()
    write_model_card(strange, tmp_path / "card", format_name="safetensors", notes=(), served=None)
    card = " ".join((tmp_path / "card" / "README.md").read_text().split())
    assert card.count(f"not the protocol ({OWN})") >= 3
    [run], _ = measured_runs([strange], metric="iou")
    assert run.experiment == f"cosam (version 1), not the protocol ({OWN})", "what compare prints first"


def test_an_older_record_says_it_too(tmp_path: Path, records: list[Record]) -> None:
    """Before there were counts and hashes of weights: its protocol tells the difference."""
    path = records[0].folder / "run.json"
    text = path.read_text()
    for name in ("image_counts", "weights_sha256"):
        assert f'"{name}"' in text
    old = read_run_info(path).model_copy(update={"image_counts": {}, "weights_sha256": ""})
    data = old.model_dump(mode="json", by_alias=True, exclude={"image_counts", "weights_sha256"})
    path.write_text(json.dumps(data))
    assert differences(read_run_info(path)) == "stream mine.toml, model tiny, fit.epochs 1"
    assert differences(old.model_copy(update={"config": {}})) == "settings not recorded"


def test_a_run_with_its_own_stream_says_so_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, in seconds: the stream, the model and the epochs are others than the protocol's."""
    monkeypatch.setenv("COLUMNS", "200")
    write_quick_protocol(tmp_path, domains=("pill",))
    own = ("--stream", tmp_path / "quick-stream.toml", "--model", "tiny", "--set", "fit.epochs=1")
    words = ("run", "--protocol", "union", "--method", "frozen", *own, "--results", tmp_path / "results")
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    differing = "stream quick-stream.toml, model tiny, fit.epochs 1"
    assert f"This run is not the protocol 'union': {differing}." in " ".join(result.stderr.split())
    assert f"frozen on union (version 1), not the protocol ({differing}), seed 0" in " ".join(result.stdout.split())
    assert pandas.read_csv(tmp_path / "results" / "leaderboard.csv")["differs"].tolist() == [differing]


def test_images_are_counted_against_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The imitation has 10 images where Kvasir-SEG has 1000; a stream without its card states nothing."""
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    folder = imitations.build("kvasir@cosam", tmp_path / "source", "source")
    assert CliRunner().invoke(app, ["data", "prepare", "kvasir@cosam", "--from", str(folder)]).exit_code == 0
    stream = tmp_path / "mine.toml"
    stream.write_text('name = "mine"\n[[domain]]\ncard = "kvasir@cosam"\n')
    assert count_differences(load_stream(str(stream))) == {"kvasir@cosam": (10, 1000)}
    stream.write_text('name = "mine"\n[[domain]]\ncard = "kvasir@cosam"\nexpected = { train = 8, test = 2 }\n')
    assert count_differences(load_stream(str(stream))) == {}
    assert count_differences(load_stream("mini")) == {}
