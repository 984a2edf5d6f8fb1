"""Which records are comparable, older ones among them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_json
from cosam_bench.data.protocol_files import read_protocol
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import Protocol, resolve_run
from cosam_bench.results.conditions import comparable_conditions, comparison_key, protocol_digest
from cosam_bench.results.run_info import Conditions, RunInfo, read_run_info

RECORDS = Path(__file__).resolve().parents[2] / "results" / "reference" / "records"
REFERENCE = RECORDS.parent / "mini.csv"


def run_info(protocol: dict[str, Any], conditions: Conditions) -> RunInfo:
    return RunInfo(
        protocol=protocol.get("name", "own"),
        protocol_version=1,
        method="regcl",
        settings={},
        config={"seed": 0, "protocol": protocol},
        seed=0,
        order=("a",),
        retention=(),
        marks=(),
        conditions=conditions,
        versions={},
        commit="",
        hardware={},
        device="cpu",
        status="complete",
        started="2025-01-01T00:00:00+00:00",
    )


NEWER: Any = {"adapter": {"mixing"}, "prompts": {"grid"}}  # settings that came later


def old_record(protocol: Protocol) -> RunInfo:
    """A run as versions before 0.2 recorded it: every key of the protocol is hashed, and newer ones are not there."""
    hashed_elsewhere: Any = {
        "title": True,
        "stream": True,
        "methods": True,
        "model": True,
        "adapter": {"start"} | NEWER["adapter"],
        "prompts": NEWER["prompts"],
    }
    config = sha256_json(protocol.model_dump(mode="json", exclude=hashed_elsewhere))
    known = json.loads(protocol.model_dump_json(exclude=NEWER))
    return run_info(known, Conditions(data={"a": "aa"}, checkpoint="cc", config=config))


def new_conditions(protocol: Protocol) -> Conditions:
    config = protocol_digest(counted_settings(protocol))
    return Conditions(data={"a": "aa"}, checkpoint="cc", config=config, keys="changed")


PROTOCOLS = [
    Protocol.model_validate(tables)
    for name in ("mini", "cosam", "regcl", "union")
    for tables in read_protocol(name)[0].values()
] + [
    Protocol.model_validate({"name": "own", "stream": "s"} | changes)
    for changes in (
        {},
        {"foreground": "auto"},
        {"foreground": {"values": [255]}},
        {"fit": {"rates": {"a": 0.1}}, "score": {"batch_size": "auto"}},
        {"adapter": {"kind": "hq", "start": "w.pth"}},
        {"version": 2, "model": {"global_attention": True}, "adapter": {"blocks": [0, 2]}},
    )
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_an_older_record_has_the_conditions_of_a_new_one(protocol: Protocol) -> None:
    old = old_record(protocol)
    assert old.conditions.keys == "all"
    assert comparable_conditions(old) == new_conditions(protocol) != old.conditions
    assert comparison_key(old) == comparison_key(run_info(old.config["protocol"], new_conditions(protocol)))


def test_different_protocols_keep_different_conditions() -> None:
    digests = {comparable_conditions(old_record(protocol)).digest for protocol in PROTOCOLS}
    without_model = {
        json.dumps(counted_settings(protocol) | {"stream": "", "model": "", "title": "", "methods": ""})
        for protocol in PROTOCOLS
    }
    assert len(digests) == len(without_model) == len(PROTOCOLS)


def test_a_key_that_an_older_record_does_not_know_counts_as_its_default() -> None:
    protocol = PROTOCOLS[0]
    tables = json.loads(protocol.model_dump_json())
    del tables["fit"]["empty_crops"], tables["resampling"]
    counted = {key: value for key, value in tables.items() if key not in ("title", "stream", "methods", "model")}
    counted["adapter"] = {key: value for key, value in counted["adapter"].items() if key != "start"}
    old = run_info(tables, Conditions(data={"a": "aa"}, checkpoint="cc", config=sha256_json(counted)))
    assert comparable_conditions(old) == new_conditions(protocol)


def test_a_record_whose_protocol_was_edited_is_not_converted() -> None:
    old = old_record(PROTOCOLS[0])
    protocol: dict[str, Any] = json.loads(json.dumps(old.config["protocol"]))
    protocol["fit"]["epochs"] += 1
    edited = old.model_copy(update={"config": {"protocol": protocol}})
    assert comparable_conditions(edited) == old.conditions
    assert comparable_conditions(old.model_copy(update={"config": {}})) == old.conditions


@pytest.mark.parametrize("keys", ["all", "changed"])
@pytest.mark.parametrize("part", ["data", "checkpoint", "config", "keys"])
def test_conditions_that_were_edited_are_refused_in_both_forms(keys: Any, part: str, tmp_path: Path) -> None:
    info = run_info({}, Conditions(data={"a": "aa"}, checkpoint="cc", config="dd", keys=keys))
    text = json.loads(info.to_json())
    if keys == "all":
        del text["conditions"]["keys"]  # as an older version wrote it
    (tmp_path / "run.json").write_text(json.dumps(text))
    assert read_run_info(tmp_path / "run.json").conditions == info.conditions
    edited = {"data": {"a": "ab"}, "checkpoint": "cd", "config": "de", "keys": "changed" if keys == "all" else "all"}
    text["conditions"][part] = edited[part]
    (tmp_path / "run.json").write_text(json.dumps(text))
    with pytest.raises(CosamError, match="the record was edited"):
        read_run_info(tmp_path / "run.json")


def test_the_reference_table_is_of_todays_mini(tmp_path: Path) -> None:
    experiment = open_experiment(resolve_run(method="average", protocol="mini"), tmp_path)
    protocol = experiment.config.protocol
    [path] = RECORDS.glob("mini/*/*/run.json")
    recorded = read_run_info(path)
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        rows = {(row["version"], row["conditions"]) for row in csv.DictReader(file)}
    assert rows == {(str(recorded.protocol_version), comparison_key(recorded))}
    assert experiment.conditions.data == recorded.conditions.data
    today = run_info(protocol.model_dump(mode="json"), experiment.conditions)
    today = today.model_copy(update={"protocol_version": protocol.version})
    assert rows == {(str(protocol.version), comparison_key(today))}
