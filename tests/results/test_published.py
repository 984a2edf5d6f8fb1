"""Published numbers: the contents of the files, and the rows beside measured ones."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
from rich.console import Console
from segment_anything.modeling import ImageEncoderViT
from support.records import run_info
from typer.testing import CliRunner, Result

from cosam_bench.cli.leaderboard_table import render_leaderboard
from cosam_bench.cli.main import app
from cosam_bench.core.errors import CosamError
from cosam_bench.data.protocol_files import read_protocol
from cosam_bench.data.streams import load_stream
from cosam_bench.evaluation.figures import summary
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.method.source_reading import read_card
from cosam_bench.results.leaderboard import COLUMNS, leaderboard
from cosam_bench.results.leaderboard_formats import write_leaderboard
from cosam_bench.results.published import PublishedRow, all_published, leaderboard_rows, read_published
from cosam_bench.results.records import Record, RecordWriter, record_folder
from cosam_bench.results.run_info import Conditions, Cost
from cosam_bench.sam.adapters.augmodule import AugModule
from cosam_bench.sam.adapters.hq import HQLayers
from cosam_bench.sam.adapters.parallel_lora import ParallelLora

ROOT = Path(__file__).resolve().parents[2]
COSAM, REGCL = all_published()


def record(results: Path, method: str, *, protocol: str = "cosam", score: float = 0.5, seed: int = 0) -> Record:
    """A complete run over two domains whose every score is ``score``."""
    conditions = Conditions(data={"a": "00"}, checkpoint="11", config=protocol)
    facts = {"protocol": protocol, "method": method, "settings": {}, "seed": seed, "conditions": conditions}
    info = run_info(order=("a", "b"), retention=("c",), cost=Cost(), summary={}, **facts)
    folder = record_folder(results, protocol=protocol, method=method, digest=f"{seed:012x}")
    writer = RecordWriter(folder)
    writer.write_info(info)
    cells = [Cell(step, name, metric, score, 3) for step in range(3) for name in "abc" for metric in METRICS]
    writer.write_matrix(cells)
    return Record(folder, info)


def shown(frame: pandas.DataFrame, *, width: int) -> str:
    """The table as text; no line is longer than the terminal is wide."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    lines = console.render_lines(render_leaderboard(frame, width=width), console.options, pad=False)
    assert max(sum(segment.cell_length for segment in line) for line in lines) <= width
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


# The files


def test_the_logged_matrix_gives_the_figures_that_stand_beside_it() -> None:
    [row] = [row for row in COSAM.rows if row.name == "HQ-SAM, log"]
    iou, boundary = COSAM.matrices
    found = summary(iou.matrix())
    assert set(row.iou) == {"last", "avg", "ff", "ff_max", "diagonal", "retention"}
    for name, stated in row.iou.items():
        assert round(100 * found[name], 2) == stated.mean, name
    found = summary(boundary.matrix())
    assert [name for name, value in found.items() if not math.isnan(value)] == ["last", "retention"]
    for name in ("last", "retention"):
        assert round(100 * found[name], 2) == row.boundary_iou[name].mean, name
    assert (iou.metric, boundary.metric) == ("iou", "boundary_iou")
    assert iou.matrix().values[8, :3].tolist() == boundary.matrix().values[8, :3].tolist()  # D15


def test_the_log_has_the_domains_of_the_stream_in_its_order() -> None:
    ours = [name.partition("@")[0].replace("kvasir", "polyp") for name in load_stream("cosam").order]
    for matrix in COSAM.matrices:
        assert [name.lower() for name in matrix.domains] == ours


def test_every_published_method_is_one_of_ours_and_marked_alike() -> None:
    for row in COSAM.rows:
        if row.method:
            for mark in ("upper bound", "keeps images"):
                assert (mark in row.marks) == (mark in read_card(row.method).marks), f"{row.name}, {mark}"
        else:
            assert "no code was released" in row.note, row.name


def test_deviations_stand_wherever_several_seeds_ran_and_nowhere_else() -> None:
    for row in COSAM.rows:
        for name, stated in (row.iou | row.boundary_iou).items():
            assert (stated.deviation is not None) == (row.runs == 5), f"{row.name} {name}"


def test_disagreements_between_published_numbers_are_named() -> None:
    rows = {row.name: row for row in COSAM.rows}
    assert "72." in rows["LwF"].note
    assert "log" in rows["HQ-SAM"].note
    table, log = rows["HQ-SAM"], rows["HQ-SAM, log"]
    apart = log.iou["last"].mean - table.iou["last"].mean
    assert f"{apart:.1f} points" in log.note
    assert log.boundary_iou["ff"].mean / table.boundary_iou["ff"].mean == pytest.approx(0.5, abs=0.1)


def test_protocols_and_their_modes_are_ours() -> None:
    for one in (COSAM, REGCL):
        modes, _ = read_protocol(one.protocol)
        assert one.protocols == tuple(tables["name"] for tables in modes.values())
        assert one.method in ("moda", "regcl")


def test_parameters_are_those_that_were_published() -> None:
    with torch.device("meta"):
        encoder = ImageEncoderViT(depth=12, window_size=14, global_attn_indexes=(2, 5, 8, 11), use_rel_pos=True)
    blocks = {number: encoder.blocks[number] for number in range(7, 12)}
    draws = torch.Generator()
    augmodule = AugModule(
        encoder, blocks, rank=10, generator=draws, transposed_heatmap=False, whole_heatmap_in_windows=False
    )
    built = {
        "trainable parameters of the HQ layers": HQLayers(width=256, early_width=768),
        "trainable parameters of an AugModule": augmodule,
        "trainable parameters of the LoRA of layers 7 to 11": ParallelLora(blocks, width=768, rank=10, generator=draws),
    }
    anchors = {anchor.name: anchor.value for one in (COSAM, REGCL) for anchor in one.anchors}
    for name, module in built.items():
        assert sum(parameter.numel() for parameter in module.parameters()) == anchors[name], name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "log"\nruns = 1', 'source = "lgo"\nruns = 1', "has the source 'lgo', which is not described"),
        ("ff_max = 4.65", "ff_mx = 4.65", "has the figure 'ff_mx'; known are last, avg"),
        ("last = 71.62", 'last = "x"', "71|'row.14.iou.last.mean' is 'x'"),
        ("last = 71.62", "last = [1, 2, 3]", "row.14.iou.last"),
        ("last = 71.62", "last = inf", "finite"),
        ("after = [8]", "after = [8, 7]", "needs one row of 9 scores"),
        ("after = [8]", "after = [9]", "'after' must hold different numbers from 0 to 8"),
        ('evidence = "log"', 'evidence = "hearsay"', "'sources.log.evidence' is 'hearsay'"),
        ('name = "Joint"\n', 'name = "Joint"\nrank = 1\n', "no setting is called 'row.0.rank'"),
    ],
)
def test_a_file_that_does_not_fit_says_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "datasets" / "published" / "cosam.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "cosam.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(CosamError, match=re.escape(message).replace(r"\|", "|")):
        read_published(path)


# Beside measured ones


def test_published_rows_change_no_measured_row_and_no_order(tmp_path: Path) -> None:
    records = [record(tmp_path, "moda", seed=seed, score=0.1 * seed) for seed in range(3)]
    records += [record(tmp_path, "frozen", protocol=name, score=0.9) for name in ("cosam", "mini")]
    alone, both = leaderboard(records), leaderboard(records, published=(COSAM, REGCL))
    assert set(alone["origin"]) == {"measured"}
    measured = both[both["origin"] == "measured"]
    assert measured.to_csv(index=False) == alone.to_csv(index=False)
    assert both["origin"].tolist() == ["measured"] * len(alone) + ["published"] * len(COSAM.rows)
    assert both.attrs["notes"] == alone.attrs["notes"]
    joint = both[both["method"] == "Joint"].iloc[0]
    assert (joint["last"], joint["last_std"]) == (pytest.approx(0.763), pytest.approx(0.0031))
    assert joint["marks"] == "published, upper bound"
    assert math.isnan(joint["avg"])
    assert joint["protocol"] == "cosam"
    assert pandas.isna(joint["version"])
    published = both[both["origin"] == "published"]
    assert published["last"].is_monotonic_decreasing


def test_the_csv_says_of_each_row_where_it_comes_from(tmp_path: Path) -> None:
    frame = leaderboard([record(tmp_path, "moda")], metric="boundary_iou", published=(COSAM,))
    write_leaderboard(frame, tmp_path / "board.csv")
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["origin"] for row in rows] == ["measured"] + ["published"] * len(COSAM.rows)
    assert (rows[0]["runs"], rows[0]["version"]) == ("1", "1")
    [moda] = [row for row in rows if row["method"] == "HQ-SAM + MoDA"]
    assert float(moda["last"]) == 65.3 / 100
    assert (moda["runs"], moda["seeds"], moda["version"], moda["orders"], moda["retention"]) == ("5", "5", "", "", "")


@pytest.mark.parametrize("width", [80, 140])
def test_published_rows_stand_apart_in_each_table_of_their_protocol(tmp_path: Path, width: int) -> None:
    records = [record(tmp_path, "moda", protocol=name) for name in ("cosam", "cosam-faithful", "mini")]
    text = shown(leaderboard(records, published=(COSAM,)), width=width)
    tables = re.split(r"\n(?=\S+ \(version)", text)
    assert [table.split()[0] for table in tables] == ["cosam", "cosam-faithful", "mini"]
    for table in tables[:2]:
        lines = table.splitlines()
        ours = next(number for number, line in enumerate(lines) if line.startswith(" moda"))
        theirs = [number for number, line in enumerate(lines) if line.startswith(" HQ-SAM + MoDA*")]
        assert theirs
        assert theirs[0] > ours
        assert not lines[ours + 1].strip()
        assert lines[ours + 2].startswith(" Joint*")
        assert "* published" in table
        assert "0.752 ±0.004" in table
        assert "† upper bound" in table
        assert "alone" not in table
    assert "published" not in tables[2]


def test_a_column_of_nothing_gets_room_last(tmp_path: Path) -> None:
    frame = leaderboard([record(tmp_path, "moda")])
    heads = [next(line for line in shown(frame, width=width).splitlines() if " method" in line) for width in (60, 140)]
    # No experts ran and no cost was measured: Retention and FWT come before lost plasticity and seconds.
    assert heads[0].split()[:7] == ["method", "runs", "Last", "Avg", "FF", "FWT", "Retention"]
    assert "Plast. loss" not in heads[0]
    assert "Plast. loss" in heads[1]


def test_the_best_is_marked_among_measured_rows_alone(tmp_path: Path) -> None:
    records = [record(tmp_path, name, score=score) for name, score in (("moda", 0.55), ("frozen", 0.25))]
    screen = io.StringIO()
    console = Console(width=140, file=screen, force_terminal=True, color_system="standard")
    console.print(render_leaderboard(leaderboard(records, published=(COSAM,)), width=140))
    lines = screen.getvalue().splitlines()
    bold = re.compile(r"\x1b\[1m +0\.")
    assert [line.split()[0] for line in lines if bold.search(line)] == ["moda", "frozen"]  # both forget nothing
    assert re.search(r"\x1b\[1m +0\.550\x1b\[0m", next(line for line in lines if line.startswith(" moda")))
    assert sum("*" in line for line in lines) > len(COSAM.rows)


def test_without_a_measured_run_published_rows_have_a_table_of_their_own() -> None:
    text = shown(leaderboard([], published=(COSAM,)), width=80)
    assert text.startswith("cosam: IoU, published numbers alone")
    assert re.search(r"^ SAM\* +- +0\.690", text, re.MULTILINE)  # over how many runs is not stated
    assert "state KiB" not in text
    assert "FWT" not in text


def test_the_command_line_shows_published_numbers_without_any_record(cli: Callable[..., Result]) -> None:
    for arguments in ((), ("--protocol", "cosam"), ("--protocol", "cosam-faithful")):
        result = cli("leaderboard", "--with-published", *arguments)
        assert result.exit_code == 0
        assert "HQ-SAM + MoDA*" in result.stdout
        assert (
            "cosam: no run of this protocol is recorded here. Make one: cosam-bench run --protocol cosam --method moda."
            in result.stdout
        )
    assert cli("leaderboard", "--protocol", "cosam").exit_code == 2


def test_the_command_line_says_what_is_not_at_hand(cli: Callable[..., Result], tmp_path: Path) -> None:
    record(tmp_path / "results", "regcl", protocol="regcl")
    result = cli("leaderboard", "--with-published", "--protocol", "regcl")
    said = " ".join(result.stdout.split())
    assert "RegCL's tables of results were not at hand, so no row of them stands here." in said
    assert "forgetting, AAAI-26 version: 0.19 % (unverified)" in said
    assert "Make one" not in said
    assert "HQ-SAM" not in said


def test_nothing_published_is_said_so(cli: Callable[..., Result], tmp_path: Path) -> None:
    record(tmp_path / "results", "moda", protocol="mini")
    assert (
        "no published numbers belong to this protocol"
        in cli("leaderboard", "--with-published", "--protocol", "mini").stdout
    )
    assert "Did you mean 'mini'?" in cli("leaderboard", "--with-published", "--protocol", "minii").stderr
    assert "cosam: nothing was published in dice." in cli("leaderboard", "--with-published", "--metric", "dice").stdout
    written = cli("leaderboard", "--with-published", "--csv", "board.csv")
    assert f"({1 + len(COSAM.rows)} rows)" in written.stdout
    assert pandas.read_csv("board.csv")["origin"].tolist().count("published") == len(COSAM.rows)
    cli("leaderboard", "--csv", "plain.csv")
    assert pandas.read_csv("plain.csv")["origin"].tolist() == ["measured"]


def test_a_metric_without_published_numbers_gives_no_row() -> None:
    assert leaderboard_rows((COSAM,), metric="dice") == []
    assert PublishedRow(name="x", source="y").scores("name") == {}
