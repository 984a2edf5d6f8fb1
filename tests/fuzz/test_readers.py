"""Whatever a file or an option holds, the readers return something valid or raise a CosamError.

The quick part runs always; ``pytest -m long tests/fuzz`` runs the same with many more examples.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import read_toml
from cosam_bench.data.labelme import draw_shapes, read_shapes
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.options import RunOptions, resolve
from cosam_bench.experiments.protocol import Protocol, RunConfig, load_protocol, resolve_run
from cosam_bench.results.records import Record, read_cells
from cosam_bench.results.run_info import read_run_info
from cosam_bench.results.score_lines import read_score_lines

QUICK, LONG, LONG_SETTINGS = 40, 10_000, 2_000  # resolving a run takes longer than reading a file
REFERENCE = next((Path(__file__).parents[2] / "results/reference/records/mini/regcl").iterdir())
RUN: dict[str, Any] = json.loads((REFERENCE / "run.json").read_text())
MATRIX = (REFERENCE / "matrix.csv").read_text().splitlines()[:30]
SCORES = (REFERENCE / "scores.csv").read_text().splitlines()[:30]

TEXT = st.text(max_size=8) | st.sampled_from(["", "tiny", "mini", "random", "\x1b[2J", "=1+1", "../x", "ü", "\ud800"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 10**400, 1e300, True, False])
VALUES = st.recursive(
    NUMBERS | TEXT | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


def _keys(model: Any, prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        found.append(prefix + name)
        if hasattr(field.annotation, "model_fields"):
            found += _keys(field.annotation, f"{prefix}{name}.")
    return found


KEYS = st.sampled_from([*_keys(Protocol), *_keys(RunConfig), "method.ridge", "settings.space", "fit", ""]) | TEXT


def _in_toml(value: Any) -> str:
    try:
        return tomli_w.dumps({"x": value}).partition("= ")[2]
    except Exception:
        return repr(value)


@st.composite
def _changed(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value with one part exchanged, removed or added, at any depth."""
    if isinstance(whole, dict) and whole and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(whole)))
        if draw(st.integers(0, 5)) == 0:
            return {name: value for name, value in whole.items() if name != key}
        return whole | {key: draw(_changed(whole[key]))}
    if isinstance(whole, list) and whole and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(whole) - 1))
        return [*whole[:place], draw(_changed(whole[place])), *whole[place + 1 :]]
    return draw(VALUES)


@st.composite
def _damaged(draw: st.DrawFn, lines: list[str]) -> bytes:
    """A CSV file with cells, lines or bytes exchanged."""
    rows = [line.split(",") for line in lines]
    for _ in range(draw(st.integers(1, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        if row:
            row[draw(st.integers(0, len(row) - 1))] = draw(st.text(max_size=6) | NUMBERS.map(lambda x: repr(x)[:5000]))
    data = "\n".join(",".join(row) for row in rows).encode(
        errors="surrogateescape" if draw(st.booleans()) else "ignore"
    )
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 3)) :]


def _write(folder: str, name: str, content: str | bytes) -> Path:
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def _toml(data: bytes | str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(_write(folder, "a.toml", data))
        for read in (load_stream, load_protocol, lambda name: resolve_run(method="average", config=Path(name))):
            with suppress(CosamError):
                read(path)
        with suppress(CosamError):
            assert isinstance(read_toml(Path(path)), dict)


def _setting(pair: tuple[str, str]) -> None:
    with suppress(CosamError):
        (config,) = resolve(["regcl"], RunOptions(settings=("=".join(pair),)))
        assert isinstance(config.to_toml().encode(), bytes)


def _record(content: str) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(CosamError):
        info = read_run_info(_write(folder, "run.json", content))
        info.to_json().encode()


def _cells(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _write(folder, "matrix.csv", data)
        with suppress(CosamError):
            read_cells(path)
        with suppress(CosamError):
            Record(Path(folder), read_run_info(REFERENCE / "run.json").model_copy(update={"files": {}})).score_matrix()


def _scores(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(CosamError):
        _write(folder, "scores.csv", data)
        read_score_lines(Path(folder), read_run_info(REFERENCE / "run.json"))


def _labelme(content: str) -> None:
    with suppress(CosamError):
        draw_shapes(read_shapes(content.encode("utf-8", "surrogatepass"), name="a.json", size=(20, 30)), size=(20, 30))


STREAM = {
    "name": "s",
    "retention": ["b"],
    "domain": [
        {"name": name, "kind": "synthetic", "generator": "pill", "split": {"kind": "counts", "train": 1, "test": 1}}
        for name in ("a", "b")
    ],
}
PROTOCOL = {"name": "p", "stream": "mini", "fit": {"epochs": 1}, "methods": {"regcl": {"ridge": 1e-3}}}
SHAPES = {
    "shapes": [{"label": "a", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", "group_id": None}],
    "imageHeight": 20,
    "imageWidth": 30,
}


def _as_toml(tables: Any) -> str:
    try:
        return tomli_w.dumps(tables)
    except Exception:
        return json.dumps(tables, default=str)


TOML = (_changed(STREAM) | _changed(PROTOCOL) | _changed(STREAM | PROTOCOL)).map(_as_toml)
READERS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "TOML": (_toml, TOML | st.binary(max_size=40) | st.text(max_size=40)),
    "--set": (_setting, st.tuples(KEYS, VALUES.map(_in_toml) | st.text(max_size=12))),
    "run.json": (_record, _changed(RUN).map(json.dumps) | st.text(max_size=20)),
    "matrix.csv": (_cells, _damaged(MATRIX)),
    "scores.csv": (_scores, _damaged(SCORES)),
    "labelme": (_labelme, _changed(SHAPES).map(json.dumps) | st.text(max_size=20)),
}


def _fuzz(name: str, examples: int) -> None:
    read, strategy = READERS[name]
    checks = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    checks(given(strategy)(read))()


@pytest.mark.parametrize("name", READERS)
def test_only_clear_errors_come_out(name: str) -> None:
    _fuzz(name, QUICK)


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_only_clear_errors_come_out_of_many_examples(name: str) -> None:
    _fuzz(name, LONG_SETTINGS if name == "--set" else LONG)
