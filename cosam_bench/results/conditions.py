"""Which records one table may hold: those measured under the same conditions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_json
from cosam_bench.evaluation.score_matrix import ScoreMatrix
from cosam_bench.results.protocol_defaults import first_defaults
from cosam_bench.results.protocol_match import differences, protocol_title
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import BROUGHT_IN, Conditions, RunInfo

# Parts of a protocol that change nothing, or whose contents are hashed in place of their names.
_HASHED_ELSEWHERE = (("title",), ("stream",), ("methods",), ("model",), ("adapter", "start"))


class Variant(NamedTuple):
    """What the runs of one row of a table have in common.

    Attributes:
        method: its name.
        settings: as JSON.
        tuned: the budget of their tuning in words; empty without.
        code: the hash of the method's code.
    """

    method: str
    settings: str
    tuned: str
    code: str


@dataclass(frozen=True)
class Measured:
    """A complete run with its scores.

    Attributes:
        conditions: a short hash; two runs of one protocol with the same hash are comparable.
        differs: what differs from the protocol, see ``protocol_match``; the same for all comparable runs.
    """

    record: Record
    matrix: ScoreMatrix
    conditions: str
    differs: str

    @property
    def info(self) -> RunInfo:
        """The record's ``run.json``."""
        return self.record.info

    @property
    def experiment(self) -> str:
        """The protocol with its version, and what the run changes of it."""
        return protocol_title(self.info.protocol, self.info.protocol_version, self.differs)

    @property
    def variant(self) -> Variant:
        """What a row of a table has in common."""
        info = self.info
        return Variant(info.method, json.dumps(info.settings, sort_keys=True), info.tuned, info.rule)


def measured_runs(records: Sequence[Record], *, metric: str) -> tuple[list[Measured], list[str]]:
    """The complete runs with their conditions, and a note for whatever was left out or set apart.

    Runs are comparable if the protocol, its version and settings, the model's weights and the data agree.
    """
    notes = _left_out(records)
    runs = []
    for record in records:
        if record.info.status != "complete":
            continue
        try:
            matrix, differs = record.score_matrix(metric), record.differs
            runs.append(Measured(record, matrix, _comparison_key(record.info, differs), differs))
        except CosamError as error:
            notes.append(f"Left out: {error}")
    return runs, notes + _set_apart(runs) + _mixed_versions(runs) + mixed_budgets(runs)


def comparison_key(info: RunInfo) -> str:
    """A short hash of the protocol, its version, the conditions of a run, and what it changes of the protocol."""
    return _comparison_key(info, differences(info))


def _comparison_key(info: RunInfo, differs: str) -> str:
    facts = [info.protocol, info.protocol_version, comparable_conditions(info).digest]
    return sha256_json([*facts, differs] if differs else facts)[:8]


def comparable_conditions(info: RunInfo) -> Conditions:
    """The conditions of a run, those of an older record converted to today's rule.

    Records from before 0.2 hashed every key of the protocol, defaults too. They hold the whole protocol as well, so
    its hash by today's rule follows from it. A record whose protocol does not have the recorded hash keeps that one,
    and is comparable with nothing new.
    """
    recorded = info.conditions
    protocol = info.config.get("protocol")
    if recorded.keys != "all" or not isinstance(protocol, dict) or protocol_digest(protocol) != recorded.config:
        return recorded
    changed = _without_defaults(protocol, first_defaults())
    return Conditions(
        data=recorded.data, checkpoint=recorded.checkpoint, config=protocol_digest(changed), keys="changed"
    )


def protocol_digest(protocol: dict[str, Any]) -> str:
    """The hash of a protocol's settings, without what other hashes cover: model, stream and methods.

    Args:
        protocol: the settings that differ from their defaults, as JSON values.
    """
    counted = dict(protocol)
    for *tables, key in _HASHED_ELSEWHERE:
        if not tables:
            counted.pop(key, None)
        elif inner := {name: value for name, value in counted.pop(tables[0], {}).items() if name != key}:
            counted[tables[0]] = inner
    return sha256_json(counted)


def _without_defaults(table: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of a protocol's table that differ from the defaults, which are given by dotted names."""
    changed = {}
    for name, value in table.items():
        path = prefix + name
        is_table = isinstance(value, dict) and any(key.startswith(f"{path}.") for key in defaults)
        kept = _without_defaults(value, defaults, f"{path}.") if is_table else value
        is_default = value == defaults[path] if path in defaults else is_table and not kept
        if not is_default:
            changed[name] = kept
    return changed


def _left_out(records: Iterable[Record]) -> list[str]:
    names = [f"{record.name} ({record.info.status})" for record in records if record.info.status != "complete"]
    if not names:
        return []
    return [f"Left out because they are not complete: {', '.join(names)}."]


def _set_apart(runs: Iterable[Measured]) -> list[str]:
    """One note for each protocol that was measured under more than one set of conditions."""
    by_protocol: dict[str, dict[str, RunInfo]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: bool(run.differs)):
        by_protocol[run.info.protocol].setdefault(run.conditions, run.info)
    notes = []
    for protocol, conditions in by_protocol.items():
        (first, reference), *others = conditions.items()
        for other, info in others:
            notes.append(
                f"{protocol}: {other} and {first} are not comparable and listed apart: "
                f"they differ in {', '.join(differing_conditions(reference, info))}."
            )
    return notes


def _mixed_versions(runs: Iterable[Measured]) -> list[str]:
    """One note for each set of comparable runs that were measured with different software."""
    by_conditions: dict[tuple[str, str], list[RunInfo]] = defaultdict(list)
    for run in runs:
        by_conditions[run.info.protocol, run.conditions].append(run.info)
    notes = []
    for (protocol, conditions), infos in by_conditions.items():
        used = [info.versions | {"commit": info.commit[:12]} for info in infos]
        found = {name: sorted({one[name] for one in used if one.get(name)}) for name in sorted(set().union(*used))}
        differing = [f"{name} {' and '.join(values)}" for name, values in found.items() if len(values) > 1]
        if differing:
            notes.append(
                f"{protocol}, {conditions}: its runs were measured with different software ({', '.join(differing)}); "
                "scores may differ for that reason."
            )
    return notes


def mixed_budgets(runs: Iterable[Measured]) -> list[str]:
    """One note for each set of comparable runs whose settings were tuned with different budgets.

    Methods without settings fit to every budget.
    """
    by_conditions: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.info.settings:
            methods = by_conditions[run.info.protocol, run.conditions][run.info.tuned or "not tuned"]
            methods += [run.info.method] * (run.info.method not in methods)
    notes = []
    for (protocol, conditions), budgets in by_conditions.items():
        if len(budgets) > 1:
            listed = "; ".join(f"{budget}: {', '.join(methods)}" for budget, methods in sorted(budgets.items()))
            notes.append(
                f"{protocol}, {conditions}: settings were tuned with different budgets ({listed}). Compare methods "
                "within one budget; ranks do not tell them apart."
            )
    return notes


def differing_conditions(first: RunInfo, second: RunInfo) -> list[str]:
    """In which conditions two runs differ, in words; empty if they are comparable."""
    found = []
    if first.protocol_version != second.protocol_version:
        found.append(f"the protocol's version ({first.protocol_version}, {second.protocol_version})")
    mine, theirs = differences(first), differences(second)
    if mine != theirs and BROUGHT_IN not in (mine, theirs):
        found.append(f"what they change of the protocol ({mine or 'nothing'}; {theirs or 'nothing'})")
    one, other = comparable_conditions(first), comparable_conditions(second)
    if one.config != other.config:
        found.append("the protocol's settings")
    if one.checkpoint != other.checkpoint:
        found.append("the model's weights")
    if one.experts != other.experts:
        found.append("the experts (brought in or trained)" if not (one.experts and other.experts) else "the experts")
    if one.arithmetic != other.arithmetic:
        found.append(f"where and how they were computed ({one.arithmetic or 'CPU'}; {other.arithmetic or 'CPU'})")
    changed = [name for name in sorted(one.data | other.data) if one.data.get(name) != other.data.get(name)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        found.append(f"the data of {', '.join(changed[:3])}{more}")
    return found
