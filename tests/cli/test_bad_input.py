"""Bad input of every kind ends with exit code 2 and one clear error, without a traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import Result

from cosam_bench.cli.main import app

REFERENCE = next((Path(__file__).parents[2] / "results/reference/records/mini/regcl").iterdir())
RECORDS = str(REFERENCE.parents[2])
DEEP = "[" * 500 + "]" * 500
DIGITS = "1" * 4301
COMMAND = get_command(app)
Cli = Callable[..., Result]

BAD_SETTINGS = [
    *(
        f"fit.epochs={value}"
        for value in ("true", "0", "-1", "1.5", "1e9", "inf", "nan", "[]", "{}", "''", DIGITS, DEEP)
    ),
    *(f"seed={value}" for value in ("true", "-1", "1.5", "9223372036854775808", "0x" + "f" * 40, DIGITS, "'a'")),
    *(
        f"device={value}"
        for value in ("cuda:99999999999", "cuda:-1", "tpu", "cuda:", "cuda:0:0", "0", "true", "\udcff")
    ),
    *(f"prefix_cache_gib={value}" for value in ("1e300", "-1", "inf", "nan", "true", "'x'")),
    *(f"adapter.rank={value}" for value in ("100000", "0", "-8", "true", "8.5", DIGITS)),
    *(f"prompts.points={value}" for value in ("1000000", "0", "true", "-3")),
    *(f"fit.batch_size={value}" for value in ("0", "true", "1e12", "100000000")),
    *(f"fit.learning_rate={value}" for value in ("0", "-1", "nan", "inf", "true", "'fast'")),
    *(f"score.batch_size={value}" for value in ("0", "true", "1.5", "1000000000", "'all'")),
    *(f"foreground={value}" for value in ("{above=-1}", "{above=70000}", "{values=[-1]}", "{colours=[[0,0,256]]}")),
    *(
        f"foreground={value}"
        for value in ("{above=true}", "{values=[true]}", "{rule='none'}", "{above=1,values=[1]}", "3")
    ),
    "fit.rates={a=true}",
    "fit.rates={a=-1}",
    "adapter.blocks=[true]",
    "adapter.blocks=[]",
    "adapter.alpha=nan",
    "adapter.targets='['",
    "method.ridge=1e-12",
    "method.ridge=-1",
    "method.ridge=nan",
    "method.ridge=true",
    f"method.ridge={DEEP}",
    f"model.name={DEEP}",
    "model.name=vit",
    "model.name=\udcff",
    "model.name=''",
    "stream=\udcff.toml",
    "stream=nothing",
    "order=['pill','\udcff']",
    "order=[true]",
    "order=3",
    "name='Ü b'",
    "version=0",
    "version=true",
    "score.size='half'",
    "nothing=1",
    "fit.nothing=1",
    "fit=3",
    "fit.epochs.more=1",
    "=1",
    "epochs",
    ".=1",
    "",
    "method=ties",
    "mode=clean",
]

BAD_OPTIONS = [
    ["run"],
    ["run", "-m", "regcll"],
    ["run", "-m", "regcl,,opcm"],
    ["run", "-m", "regcl,regcl"],
    ["run", "-m", "\udcff"],
    ["run", "-m", "no.module:Class"],
    ["run", "-m", "./no.py"],
    ["run", "-m", "regcl", "--order", "random:x"],
    ["run", "-m", "regcl", "--order", "random:" + DIGITS],
    ["run", "-m", "regcl", "--order", "pill"],
    ["run", "-m", "regcl", "--order", "\udcff"],
    ["run", "-m", "regcl", "--protocol", "no.toml"],
    ["run", "-m", "regcl", "--protocol", "no"],
    ["run", "-m", "regcl", "--protocol", "\udcff.toml"],
    ["run", "-m", "regcl", "--mode", "no"],
    ["run", "-m", "regcl", "--config", "no.toml"],
    ["run", "-m", "regcl", "--stream", "no.toml"],
    ["run", "-m", "regcl", "--model", "no"],
    ["run", "-m", "regcl", "--device", "cuda:12345678901234567890"],
    ["domains", "no"],
    ["domains", "no.toml"],
    ["data", "check", "no"],
    ["data", "prepare", "no", "--from", "."],
    ["leaderboard"],
    ["run", "-m", "regcl", "--seeds", "0-" + "9" * 30],
    ["run", "-m", "regcl", "--seeds", "0-" + DIGITS],
    ["leaderboard", "--results", RECORDS, "--seeds", DIGITS],
    ["leaderboard", "--results", RECORDS, "--orders", "random:" + DIGITS],
    ["leaderboard", "--results", "/dev/null"],
    ["leaderboard", "--results", "\udcff"],
    ["show", "no"],
    ["show", "\udcff"],
    ["verify", "no"],
    ["verify", "--all", "--results", "no"],
    ["report", "--results", "no"],
    ["methods", "no"],
    ["check", "no"],
    ["settings", "no"],
    ["settings", "--mode", "faithful"],
    ["models", "--fetch", "no"],
    ["export", "no", "--out", "x"],
    ["data", "init", "/"],
    ["data", "init", "//"],
]

SYNTHETIC = 'kind = "synthetic"\ngenerator = "pill"\n'
COUNTS = 'split = { kind = "counts", train = 2, test = 2 }\n'


def _stream(top: str = "", domain: str = SYNTHETIC + COUNTS) -> str:
    return f'name = "s"\n{top}\n[[domain]]\nname = "a"\n{domain}'


BAD_STREAMS = {
    "empty": "",
    "no TOML": "[[[",
    "a NUL": "x = '\0'",
    "deep": f"x = {DEEP}",
    "digits": f"x = {DIGITS}",
    "no domains": 'name = "s"',
    "domain is a number": 'name = "s"\ndomain = 3',
    "domain is a list of numbers": 'name = "s"\ndomain = [1]',
    "domains without names": 'name = "s"\n[[domain]]\n',
    "60,000 domains": 'name = "s"\n' + "[[domain]]\n" * 60_000,
    "a card that is a list": _stream(domain="card = []"),
    "a card that is not there": _stream(domain='card = "no"'),
    "a card file that is not there": _stream(domain='card = "no.toml"'),
    "a name with an escape": 'name = "\\u001b]0;x\\u0007"\n[[domain]]\nname = "a"\n' + SYNTHETIC + COUNTS,
    "retention is a number": _stream("retention = 3"),
    "retention is text": _stream('retention = "a"'),
    "retention of numbers": _stream("retention = [1]"),
    "retention unknown": _stream('retention = ["b"]'),
    "order unknown": _stream('order = ["b"]'),
    "order twice": _stream('order = ["a", "a"]'),
    "order empty": _stream("order = []"),
    "order is a number": _stream("order = 1"),
    "orders differ": _stream('orders = { x = ["b"] }'),
    "unknown key": _stream("nothing = 1"),
    "name is a number": 'name = 3\n[[domain]]\nname = "a"\n' + SYNTHETIC + COUNTS,
    **{
        f"domain: {text}": _stream(domain=text)
        for text in (
            'kind = "other"',
            'kind = "synthetic"\n' + COUNTS,
            SYNTHETIC,
            SYNTHETIC + COUNTS + "size = 15",
            SYNTHETIC + COUNTS + "size = 1e9",
            SYNTHETIC + COUNTS + "size = 100000",
            SYNTHETIC + COUNTS + "size = true",
            SYNTHETIC + 'split = { kind = "counts", train = 1000000000, test = 1 }',
            SYNTHETIC + 'split = { kind = "counts", train = 1000000, test = 1000000 }',
            SYNTHETIC + 'split = { kind = "counts", train = -1, test = 1 }',
            SYNTHETIC + 'split = { kind = "counts", train = true, test = 1 }',
            SYNTHETIC + 'split = { kind = "counts", train = 1 }',
            SYNTHETIC + 'split = { kind = "counts", train = 1, test = 1, seed = true }',
            SYNTHETIC + 'split = "counts"',
            "root = 3",
            'root = "."\nsplit = { test = 2 }',
            'root = "."\nsplit = { test = 0 }',
            'root = "."\nsplit = { test = true }',
            'root = "."\nforeground = { above = -1 }',
            'root = "."\nforeground = { values = [65536] }',
            'root = "."\nforeground = { colours = [[1, 2]] }',
            'root = "."\nforeground = "light"',
            'root = "."\nmin_pixels = 0',
            'root = "."\nmin_pixels = true',
            'root = "."\nlevels = 12',
            'root = "."\nlevels = 70000',
            'root = "."\nlabels = "crack"',
            'root = "."\nmasks = "masks/*"',
            'root = "."\nmasks = 3',
            'root = "."\nimages = [1]',
            'root = "."\npairing = "sorted"',
            'root = "."\nlayout = "x"',
            'root = "."\nsplit = { kind = "lists" }',
            'root = "."\nsplit = { kind = "folders", test = 3 }',
            'root = "."\nexpected = { train = 1 }',
            'root = "."\ndownloads = [{ url = "ftp://x", file = "x" }]',
            'root = "."\ndownloads = [{ url = "https://x", file = "../x" }]',
            'title = "no data"',
        )
    },
}

BAD_PROTOCOLS = {
    "empty": "",
    "no stream": 'name = "p"',
    "name with a slash": 'name = "../p"\nstream = "mini"',
    "mode": 'name = "p"\nstream = "mini"\nmode = "x"',
    "modes is a number": 'name = "p"\nstream = "mini"\nmodes = 3',
    "modes of numbers": 'name = "p"\nstream = "mini"\nmodes = { x = 3 }',
    "mode clean": 'name = "p"\nstream = "mini"\n[modes.clean]',
    "mode changes name": 'name = "p"\nstream = "mini"\n[modes.x]\nname = "q"',
    "fit is a list": 'name = "p"\nstream = "mini"\nfit = []',
    "deep method": f'name = "p"\nstream = "mini"\nmethods = {{ regcl = {{ ridge = {DEEP} }} }}',
    "unknown method": 'name = "p"\nstream = "mini"\nmethods = { regcll = {} }',
    "methods is a list": 'name = "p"\nstream = "mini"\nmethods = []',
    "a method is a number": 'name = "p"\nstream = "mini"\nmethods = { regcl = 3 }',
    "model is text": 'name = "p"\nstream = "mini"\nmodel = "tiny"',
    "version": 'name = "p"\nstream = "mini"\nversion = true',
    "resize": 'name = "p"\nstream = "mini"\nresize = "crop"',
    "direct": 'name = "p"\nstream = "mini"\nresize = "pad"\nscore = { upsampling = "direct" }',
    "stream is a list": 'name = "p"\nstream = []',
    "stream is not there": 'name = "p"\nstream = "no.toml"',
    "a TOML date": 'name = "p"\nstream = "mini"\nfit = { epochs = 2020-01-01 }',
}


@pytest.fixture(autouse=True)
def _one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is built once, not for each of several hundred calls."""
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)


def _edited(**changes: object) -> str:
    return json.dumps(json.loads((REFERENCE / "run.json").read_text()) | changes)


BAD_RECORDS: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "digits": '{"schema": ' + DIGITS + "}",
    "a list": "[]",
    "null": "null",
    "not UTF-8": b"\xff\xfe\x00",
    "schema missing": "{}",
    "schema newer": _edited(schema=99),
    "schema text": _edited(schema="2"),
    "schema true": _edited(schema=True),
    "schema list": _edited(schema=[2]),
    "seed true": _edited(seed=True),
    "seed text": _edited(seed="zero"),
    "order empty": _edited(order=[]),
    "order of numbers": _edited(order=[1]),
    "status": _edited(status="done"),
    "cost": _edited(cost={"train_seconds": "x"}),
    "cost of truth values": _edited(cost={"train_seconds": [True]}),
    "summary": _edited(summary=[]),
    "conditions": _edited(conditions={}),
    "conditions edited": _edited(conditions={"data": {}, "checkpoint": "", "config": "", "digest": "x"}),
    "files": _edited(files={"matrix.csv": "x"}),
    "unknown key": _edited(nothing=1),
    "half a surrogate pair": _edited(config={"method": "\ud800"}),
}

BAD_MATRICES = {
    "empty": "",
    "other columns": "a,b\n",
    "one column more": "step,domain,metric,value,count,\n0,pill,iou,0.5,3,\n",
    "too few values": "step,domain,metric,value,count\n0,pill\n",
    "too many values": "step,domain,metric,value,count\n0,pill,iou,0.5,3,4\n",
    "step is text": "step,domain,metric,value,count\nx,pill,iou,0.5,3\n",
    "digits": f"step,domain,metric,value,count\n{DIGITS},pill,iou,0.5,3\n",
    "an open quote": 'step,domain,metric,value,count\n0,"pill,iou,0.5,3\n',
    "a NUL": "step,domain,metric,value,count\n0,pi\0ll,iou,0.5,3\n",
    "a huge cell": "step,domain,metric,value,count\n0," + "x" * 200_000 + ",iou,0.5,3\n",
    "unknown domain": "step,domain,metric,value,count\n0,nothing,iou,0.5,3\n",
    "more images than there are": "step,domain,metric,value,count\n0,pill,iou,0.5,9223372036854775808\n",
    "a value above 1": "step,domain,metric,value,count\n0,pill,iou,1.5,3\n",
    "a value that is none": "step,domain,metric,value,count\n0,pill,iou,nan,3\n",
    "an infinite value": "step,domain,metric,value,count\n0,pill,iou,-inf,3\n",
    "step beyond": "step,domain,metric,value,count\n99,pill,iou,0.5,3\n",
}


def _is_one_error(result: Result) -> bool:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "defect" not in result.output
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1, result.stderr
    assert len(result.stderr) < 3000, result.stderr
    return True


@pytest.mark.parametrize("setting", BAD_SETTINGS, ids=lambda text: ascii(text[:40]))
def test_settings(cli: Cli, setting: str) -> None:
    assert _is_one_error(cli("run", "-m", "regcl", "--dry-run", "--set", setting))


@pytest.mark.parametrize("arguments", BAD_OPTIONS, ids=lambda words: ascii(" ".join(words)[:40]))
def test_options(cli: Cli, arguments: list[str]) -> None:
    assert _is_one_error(cli(*arguments))


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_streams(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "s.toml").write_text(BAD_STREAMS[name])
    assert _is_one_error(cli("domains", "s.toml"))


@pytest.mark.parametrize("name", BAD_PROTOCOLS)
def test_protocols(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "p.toml").write_text(BAD_PROTOCOLS[name])
    assert _is_one_error(cli("run", "-m", "average", "--protocol", "p.toml", "--dry-run"))


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_records(cli: Cli, tmp_path: Path, name: str) -> None:
    content = BAD_RECORDS[name]
    path = tmp_path / "results/mini/regcl/abc/run.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _is_one_error(cli("show", "abc"))
    assert _is_one_error(cli("leaderboard"))


@pytest.mark.parametrize("name", BAD_MATRICES)
def test_matrices(cli: Cli, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results/mini/regcl/abc"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(_edited(files={}))
    (folder / "matrix.csv").write_text(BAD_MATRICES[name])
    assert _is_one_error(cli("show", "abc"))
    board = cli("leaderboard")
    assert _is_one_error(board), "no record is left"
    assert "Left out" in board.output


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "dangling", "huge"])
def test_files_that_are_none(cli: Cli, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.toml"
    record = tmp_path / "results/mini/regcl/abc/run.json"
    record.parent.mkdir(parents=True)
    for one in (path, record):
        if kind == "pipe":
            os.mkfifo(one)
        elif kind == "folder":
            one.mkdir()
        elif kind == "huge":
            with one.open("wb") as file:
                file.truncate(75_000_000)
        else:
            one.symlink_to({"device": "/dev/zero", "loop": one.name, "dangling": "nothing"}[kind])
    for arguments in (
        ["domains", "x.toml"],
        ["data", "check", "x.toml"],
        ["run", "-m", "average", "--dry-run", "--protocol", "x.toml"],
        ["run", "-m", "average", "--dry-run", "--stream", "x.toml"],
        ["run", "--dry-run", "--config", "x.toml"],
        ["leaderboard"],
    ):
        assert _is_one_error(cli(*arguments))


def test_a_record_that_never_ends_does_not_keep_the_others_from_the_leaderboard(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "results/mini/regcl"
    folder.mkdir(parents=True)
    shutil.copytree(REFERENCE, folder / REFERENCE.name)
    for name in ("pipe", "deep", "zero"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe/run.json")
    (folder / "zero/run.json").symlink_to("/dev/zero")
    (folder / "deep/run.json").write_text("[" * 100_000)
    board = cli("leaderboard")
    assert board.exit_code == 0
    assert board.stderr.count("Left out") == 3
    assert "regcl" in board.stdout
