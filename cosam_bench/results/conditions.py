"""Which records may stand in one table: those measured under the same conditions."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.score_matrix import ScoreMatrix
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import RunInfo


@dataclass(frozen=True)
class Measured:
    """A complete run with its scores.

    Attributes:
        conditions: a short hash; two runs of one protocol with the same hash are comparable.
    """

    record: Record
    matrix: ScoreMatrix
    conditions: str

    @property
    def info(self) -> RunInfo:
        """The record's ``run.json``."""
        return self.record.info


def measured_runs(records: Sequence[Record], *, metric: str) -> tuple[list[Measured], list[str]]:
    """The complete runs with their conditions, and a note for whatever was left out or set apart.

    Runs are comparable where the protocol, its version and settings, the model's weights and the data agree.
    """
    notes = _left_out(records)
    runs = []
    for record in records:
        if record.info.status != "complete":
            continue
        try:
            runs.append(Measured(record, record.score_matrix(metric), conditions_of(record.info)))
        except CosamError as error:
            notes.append(f"Left out: {error}")
    return runs, notes + _set_apart(runs)


def conditions_of(info: RunInfo) -> str:
    """A short hash of the protocol, its version and the conditions of a run."""
    parts = json.dumps([info.protocol, info.protocol_version, info.conditions.digest])
    return hashlib.sha256(parts.encode()).hexdigest()[:8]


def _left_out(records: Iterable[Record]) -> list[str]:
    names = [f"{record.name} ({record.info.status})" for record in records if record.info.status != "complete"]
    if not names:
        return []
    return [f"Left out because they are not complete: {', '.join(names)}."]


def _set_apart(runs: Iterable[Measured]) -> list[str]:
    """One note for each protocol that was measured under more than one set of conditions."""
    by_protocol: dict[str, dict[str, RunInfo]] = defaultdict(dict)
    for run in runs:
        by_protocol[run.info.protocol].setdefault(run.conditions, run.info)
    notes = []
    for protocol, conditions in by_protocol.items():
        (first, reference), *others = conditions.items()
        for other, info in others:
            notes.append(
                f"{protocol}: {other} and {first} are not comparable and listed apart: "
                f"they differ in {', '.join(_differences(reference, info))}."
            )
    return notes


def _differences(first: RunInfo, second: RunInfo) -> list[str]:
    found = []
    if first.protocol_version != second.protocol_version:
        found.append(f"the protocol's version ({first.protocol_version}, {second.protocol_version})")
    one, other = first.conditions, second.conditions
    if one.config != other.config:
        found.append("the protocol's settings")
    if one.checkpoint != other.checkpoint:
        found.append("the model's weights")
    changed = [name for name in sorted(one.data | other.data) if one.data.get(name) != other.data.get(name)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        found.append(f"the data of {', '.join(changed[:3])}{more}")
    return found
