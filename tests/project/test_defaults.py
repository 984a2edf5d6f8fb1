"""No default changes by accident.

Hashes leave out what is at a protocol's default, so a changed one needs a new version of them all. A method's defaults
are part of its rule, whose hash keeps old and new results apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python

import cosam_bench
from cosam_bench.core.defaults import DEFAULTS_VERSION, counted_settings
from cosam_bench.core.settings import Settings
from cosam_bench.experiments.protocol import Protocol
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.rule_digest import rule_digest
from cosam_bench.methods import trm

PROTOCOL_FILE = Path(cosam_bench.__file__).parent / "results" / "protocol_defaults.json"
METHODS_FILE = Path(__file__).parent / "method_defaults.json"


def defaults_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of all settings that have a default, with it as a JSON value."""
    for name, field in model.model_fields.items():
        path = prefix + name
        inner = next((part for part in (field.annotation, *get_args(field.annotation)) if is_model(part)), None)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if inner is not None and isinstance(default, BaseModel):
            assert default == inner(), f"{path}: a table's default must be that of its settings"
        elif not field.is_required():
            yield path, to_jsonable_python(default)
        if inner is not None:
            yield from defaults_of(inner, f"{path}.")


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def faults(current: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """What is wrong with the known defaults of protocols, and what to do."""
    found = []
    for name in sorted(current | known):
        line = f"{json.dumps(name)}: {json.dumps(current.get(name))}"
        if name not in known:
            found.append(
                f"{name} is new. If its default keeps what was done before, add {line} to protocol_defaults.json."
            )
        elif name not in current:
            found.append(f"{name} is gone. Raise DEFAULTS_VERSION, and write all to protocol_defaults.json under it.")
        elif current[name] != known[name]:
            found.append(
                f"The default of {name} was {known[name]!r} and is {current[name]!r}. Raise DEFAULTS_VERSION in "
                "core/defaults.py, so that old and new results are kept apart, and write all defaults to "
                "protocol_defaults.json under the new version; leave those of older versions as they are."
            )
    return found


def test_a_protocols_defaults_are_those_of_their_version() -> None:
    known = json.loads(PROTOCOL_FILE.read_text()).get(str(DEFAULTS_VERSION), {})
    assert not faults(dict(defaults_of(Protocol)), known)


def test_the_defaults_of_built_in_methods_are_the_written_ones() -> None:
    """If one was meant to change: write it here, measure the method again, and say so in the changelog."""
    built_in = (name for name in method_names() if load_method(name).__module__.startswith("cosam_bench.methods."))
    current = {f"{name}.{key}": value for name in built_in for key, value in defaults_of(load_method(name).Settings)}
    assert current == json.loads(METHODS_FILE.read_text())


def test_a_methods_default_is_part_of_its_rule(tmp_path: Path) -> None:
    source = Path(trm.__file__).read_text(encoding="utf-8")
    changed = source.replace(" 0.55, ", " 0.56, ")
    assert changed != source
    digests = []
    for name, text in (("one", source), ("other", changed), ("again", source)):
        path = tmp_path / name / "rule.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        digests.append(rule_digest(load_method(f"{path}:TRM")))
    assert digests[0] == digests[2] != digests[1]


def test_a_changed_default_needs_a_new_version_and_a_new_key_a_new_line() -> None:
    def told(current: dict[str, Any]) -> str:
        return "\n".join(faults(current, {"fit.epochs": 24, "fit.flip": True}))

    assert not told({"fit.epochs": 24, "fit.flip": True})
    assert "The default of fit.epochs was 24 and is 12. Raise DEFAULTS_VERSION" in told(
        {"fit.epochs": 12, "fit.flip": True}
    )
    new = told({"fit.epochs": 24, "fit.flip": True, "fit.warmup_steps": 0})
    assert 'add "fit.warmup_steps": 0 to protocol_defaults.json' in new
    assert "fit.flip is gone" in told({"fit.epochs": 24})


def test_the_check_sees_every_setting_of_every_table() -> None:
    class Inner(Settings):
        width: float = 0.5
        names: tuple[str, ...] = ()

    class Outer(Settings):
        name: str
        inner: Inner = Inner()
        other: Inner | None = None
        table: dict[str, int] = Field(default_factory=dict)

    assert dict(defaults_of(Outer)) == {
        "inner.width": 0.5,
        "inner.names": [],
        "other": None,
        "other.width": 0.5,
        "other.names": [],
        "table": {},
    }


def test_the_version_counts_from_the_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Some(Settings):
        rate: float = 1.0
        steps: int = 3

    assert counted_settings(Some(rate=1.0, steps=4)) == {"steps": 4}
    monkeypatch.setattr("cosam_bench.core.defaults.DEFAULTS_VERSION", 2)
    assert counted_settings(Some(steps=4)) == {"steps": 4, "defaults": 2}
