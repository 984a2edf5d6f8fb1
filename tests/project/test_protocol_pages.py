"""The published protocols, and that docs/protocols.md says of each setting and switch what the TOML files say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core.settings import validate
from cosam_bench.data.protocol_files import built_in_protocols, read_protocol
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.protocol import Protocol, protocol_names, resolve_run
from cosam_bench.method.registry import load_method
from cosam_bench.training.fit import fit_adapter

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
NAMED = ("name", "version", "title", "mode", "modes")
WITH_MODES = ("cosam", "regcl")
SECTION = {
    "cosam": ("## CoSAM\n", "## Defects of CoSAM's code\n"),
    "regcl": ("## RegCL\n", "## Defects of RegCL's code, and SAMCL's\n"),
}


def section(head: str) -> str:
    """The page from a heading to the next."""
    assert PAGE.count(f"\n{head}") == 1
    return PAGE.partition(f"\n{head}")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of the rows below each table's head."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return [row for place, row in enumerate(cells[1:], start=1) if not set(row[0]) <= set("-") and place > 1]


def flat(tables: dict[str, Any], *, within: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, down to what is no table of settings."""
    for key, value in tables.items():
        if isinstance(value, dict) and key != "foreground":
            yield from flat(value, within=f"{within}{key}.")
        elif within or key not in NAMED:
            yield f"{within}{key}", value


def value_of(cell: str) -> Any:
    """The TOML value in a cell's code span."""
    [span] = re.findall(r"`([^`]*)`", cell)
    return tomllib.loads(f"value = {span}")["value"]


@pytest.mark.parametrize("name", WITH_MODES)
def test_the_page_lists_every_setting_with_its_values(name: str) -> None:
    modes, _ = read_protocol(name)
    clean, faithful = dict(flat(modes["clean"])), dict(flat(modes["faithful"]))
    rows = {value_of(f"`'{row[0].strip('`')}'`"): row for row in table(section(SECTION[name][0]))}
    compared = resolve_run(method="frozen", protocol=name).protocol.model_dump(mode="json")
    defaults = dict(flat({key: value for key, value in compared.items() if key != "methods"}))
    assert set(rows) == set(clean) | set(faithful)
    for key, (_, stated, changed, _, evidence) in rows.items():
        found = clean.get(key, defaults.get(key))
        assert found == (None if stated == "\N{EN DASH}" else value_of(stated)), key
        assert faithful[key] == (value_of(changed) if changed else found), key
        assert bool(changed) == (faithful[key] != found), key
        assert set(evidence.split(", ")) <= {"code", "log", "figure", "timing", "unverified"}, key


@pytest.mark.parametrize("name", WITH_MODES)
def test_the_page_names_every_switch_of_faithful_mode_and_no_other(name: str) -> None:
    modes = tomllib.loads(built_in_protocols()[name].read_text(encoding="utf-8"))["modes"]
    switched = {(key, str(value)) for key, value in flat(modes["faithful"])}
    named = set()
    for row in table(section(SECTION[name][1])):
        for key, text in re.findall(r"`([a-z0-9_.]+) = ([^`]+)`", row[3]):
            named.add((key, str(tomllib.loads(f"value = {text}")["value"])))
    assert named == switched


@pytest.mark.parametrize("name", WITH_MODES)
def test_a_switch_stands_with_the_defects_that_its_protocol_names_beside_it(name: str) -> None:
    text = built_in_protocols()[name].read_text(encoding="utf-8")
    said, head = set(), ""
    for line in text[text.index("[modes.faithful]") :].splitlines():
        if line.startswith("["):
            head = line.strip("[]").removeprefix("modes.faithful").lstrip(".")
        elif "#" in line:
            key = f"{head}.{line.partition(' = ')[0]}".lstrip(".")
            said |= {(defect, key) for defect in re.findall(r"\b[DR]\d+\b", line.partition("#")[2])}
    rows = table(section(SECTION[name][1]))
    listed = {(row[0], key) for row in rows for key in re.findall(r"`([a-z0-9_.]+) = [^`]+`", row[3])}
    assert said == {(defect, key) for defect, key in listed if re.fullmatch(r"[DR]\d+", defect)}


def test_the_page_has_every_defect_once_with_its_effect_and_what_is_done() -> None:
    rows = [row for name in WITH_MODES for row in table(section(SECTION[name][1]))]
    numbered = [row[0] for row in rows if re.fullmatch(r"[DRS]\d+", row[0])]
    expected = [
        f"{letter}{number}" for letter, last in (("D", 16), ("R", 18), ("S", 4)) for number in range(1, last + 1)
    ]
    assert sorted(numbered) == sorted(expected)
    for row in rows:
        assert len(row) == 4, row[0]
        assert all(row), row[0]
        assert re.match(r"`[a-z0-9_.]+ = |no switch: |no part of faithful|needs none", row[3]), row[0]


@pytest.mark.parametrize("name", protocol_names())
def test_every_built_in_protocol_holds_in_each_mode_with_its_stream_and_methods(name: str) -> None:
    modes, _ = read_protocol(name)
    for tables in modes.values():
        protocol = validate(Protocol, tables, source=name)
        domains = load_stream(protocol.stream).order if protocol.stream else ()
        assert set(protocol.fit.rates) <= set(domains)
        for method, settings in protocol.methods.items():
            validate(load_method(method).Settings, settings, source=f"{name}: {method}")
    assert modes["clean"]["name"] == name


def test_the_learning_rates_that_cosam_may_use_fit_its_stream() -> None:
    text = built_in_protocols()["cosam"].read_text(encoding="utf-8")
    rates = tomllib.loads(re.sub(r"\n# +", " ", text[text.index("# rates = ") + 2 :].partition("\n\n")[0]))["rates"]
    assert tuple(rates) == load_stream("cosam").order
    assert list(rates.values()) == [1e-2, 1e-2, 3e-3, 3e-2, 3e-2, 3e-2, 3e-2, 3e-2]


@pytest.mark.parametrize("name", WITH_MODES)
def test_clean_and_faithful_share_the_data_and_the_metric(name: str) -> None:
    clean, faithful = (
        resolve_run(method="frozen", protocol=name, mode=mode).protocol for mode in ("clean", "faithful")
    )
    assert clean.stream == faithful.stream
    assert clean.score.size == faithful.score.size
    assert clean.prompts.test == faithful.prompts.test
    assert clean.version == faithful.version
    assert (clean.name, faithful.name) == (name, f"{name}-faithful")


def test_training_is_given_nothing_to_choose_an_epoch_by() -> None:
    assert not [name for name in fit_adapter.__annotations__ if "test" in name or "score" in name or "valid" in name]
    source = (ROOT / "cosam_bench" / "training" / "fit.py").read_text(encoding="utf-8")
    assert "cosam_bench.evaluation.scoring" not in source
    assert "cosam_bench.evaluation.metrics" not in source


def test_the_page_lists_the_built_in_protocols_and_their_modes() -> None:
    rows = table(PAGE.partition("\n## ")[0])
    assert sorted(row[0].strip("`") for row in rows) == protocol_names()
    for row in rows:
        modes = list(read_protocol(row[0].strip("`"))[0])
        assert row[3] == (", ".join(f"`{mode}`" for mode in modes) if len(modes) > 1 else "\N{EN DASH}")
