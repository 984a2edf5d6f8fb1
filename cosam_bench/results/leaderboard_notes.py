"""What a reader of the leaderboard must know about its rows: unequal seeds and orders, and several machines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from cosam_bench.results.cell_text import code_mark, told_settings
from cosam_bench.results.conditions import Measured
from cosam_bench.results.row_intervals import place_of

Key = tuple[str, int, str, str, str, str, str]
"""A row: protocol, its version, conditions, method, settings as JSON, their tuning, and the hash of the method's
code."""


def notes_on_rows(rows: Mapping[Key, Sequence[Measured]]) -> list[str]:
    """The notes, of each table's seeds and orders first."""
    return [*_uneven(rows), *_machines(run for runs in rows.values() for run in runs)]


def _uneven(groups: Mapping[Key, Sequence[Measured]]) -> list[str]:
    """One note for each table whose rows do not share the same seeds and orders."""
    tables: dict[str, dict[str, list[object]]] = defaultdict(dict)
    for key, members in groups.items():
        protocol, _, conditions, *_ = key
        tables[f"{protocol} {conditions}"][_row_name(key, groups)] = [place_of(run) for run in members]
    notes = []
    for table, rows in tables.items():
        places = {place for row in rows.values() for place in row}
        short = [f"{name} {len(set(row))}" for name, row in rows.items() if len(set(row)) < len(places)]
        if short:
            notes.append(
                f"{table}: not all rows cover the same seeds and orders; of {len(places)} pairs: {', '.join(short)}."
            )
    return notes


def _row_name(key: Key, rows: Collection[Key]) -> str:
    """The method, and what tells the row from the method's others in its table."""
    *_, method, settings, tuned, _ = key
    others = [json.loads(other[4]) for other in rows if other[:4] == key[:4]]
    told = [*told_settings(json.loads(settings), others), f"tuned: {tuned}" if tuned else "", code_mark(key, rows)]
    facts = ", ".join(filter(None, told))
    return f"{method} ({facts})" if facts else method


def _machines(runs: Iterable[Measured]) -> list[str]:
    machines = {json.dumps([run.info.device, run.info.hardware], sort_keys=True) for run in runs}
    if len(machines) < 2:
        return []
    return [f"The runs come from {len(machines)} machines or devices; do not compare seconds and memory."]
