"""``python -m benchmarks.ablations NAME``: what each setting of a method is worth, as a table over seeds."""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import cosam_bench as cb
from benchmarks.pages import DASH, markdown, with_deviation
from cosam_bench import CosamError, Record
from cosam_bench.core.files import write_atomically
from cosam_bench.results.protocol_match import protocol_title


class Variant(NamedTuple):
    """A method, and the settings that differ from its defaults."""

    method: str
    settings: Mapping[str, object]


# ``coma`` is the other method that moves part of the way.
TRM = {
    "default": Variant("trm", {}),
    "midpoint": Variant("trm", {"passes": 0}),
    "the served adapter trained on": Variant("trm", {"fresh": False}),
    "no alignment": Variant("trm", {"alignment": 0.0}),
    "no consistency": Variant("trm", {"consistency": 0.0}),
    "no trajectory regulariser": Variant("trm", {"anchor": 0.0}),
    "responsiveness": Variant("trm", {"responsiveness": 0.1}),
    "divided by ranges": Variant("trm", {"normalised": "range"}),
    "K = 4": Variant("trm", {"snapshots": 4}),
    "the served adapter trained on, with history": Variant("trm", {"fresh": False, "history": True}),
    "one row for all layers": Variant("trm", {"per_layer": False}),
    "other prompts": Variant("trm", {"prompts": "other"}),
    "`coma`": Variant("coma", {}),
}
_RIDGES: dict[str, Mapping[str, object]] = {
    "1e-6, the default": {},
    "1e-3": {"ridge": 1e-3},
    "1e-2": {"ridge": 1e-2},
    "1e-4 to the mean": {"ridge": 1e-4, "ridge_to": "mean"},
    "1e-3 to the mean": {"ridge": 1e-3, "ridge_to": "mean"},
    "1e-2 to the mean": {"ridge": 1e-2, "ridge_to": "mean"},
    "1e-1 to the mean": {"ridge": 1e-1, "ridge_to": "mean"},
    "none, float32 inverse": {"ridge": 0.0, "solver": "float32_inverse"},
}
RIDGE = {
    f"`{method}`, {name}": Variant(method, settings)
    for method in ("regcl", "regmean")
    for name, settings in _RIDGES.items()
}
ABLATIONS = {"trm": TRM, "ridge": RIDGE}

_FIGURES = ("last", "ff", "retention")
_CONDITION = "condition_number"


@dataclass(frozen=True)
class Row:
    """A variant's figures: means and standard deviations over seeds.

    Attributes:
        merge_seconds: of a whole run.
        condition_number: the largest of all merges that reported one; NaN if none did.
    """

    variant: str
    protocol: str
    method: str
    settings: str
    seeds: int
    last: float
    last_std: float
    ff: float
    ff_std: float
    retention: float
    retention_std: float
    merge_seconds: float
    condition_number: float


def main() -> None:
    """Run the variants that are missing, seed by seed, write the figures, and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=main.__doc__)
    parser.add_argument("ablation", choices=list(ABLATIONS), help="which one")
    parser.add_argument(
        "--protocol", default="mini", metavar="NAME", help="a built-in one or a TOML file; default: mini"
    )
    parser.add_argument("--stream", metavar="FILE", help="another stream than the protocol's")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records; default: results")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--variants", default="", help="some of them, separated by semicolons; default: all")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the figures here, replacing each variant's"
    )
    given = parser.parse_args()
    variants = ABLATIONS[given.ablation]
    names = given.variants.split(";") if given.variants else list(variants)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    try:
        found = measured(
            variants, names, protocol=given.protocol, stream=given.stream, seeds=seeds, results=given.results
        )
        rows = list(found)
    except CosamError as error:
        parser.error(str(error))
    if given.csv:
        rows = replaced(variants, read(given.csv) if given.csv.exists() else [], rows)
        write(given.csv, rows)
    print(table(rows))


def measured(
    variants: Mapping[str, Variant],
    names: Sequence[str],
    *,
    protocol: str,
    stream: str | None = None,
    seeds: Sequence[int],
    results: Path,
) -> Iterator[Row]:
    """The figures of each named variant; complete records are read instead of measured again."""
    if unknown := [name for name in names if name not in variants]:
        raise CosamError(f"No variant is called {unknown[0]!r}. Offered: {'; '.join(variants)}.")
    records: dict[str, list[Record]] = {name: [] for name in names}
    for seed in seeds:  # after the first, every variant has a figure
        for name in names:
            method, settings = variants[name]
            record = cb.run(
                method,
                protocol=protocol,
                stream=stream,
                seed=seed,
                settings={f"method.{key}": value for key, value in settings.items()},
                results=results,
                progress=False,
            )
            records[name].append(record)
    for name in names:
        yield row(name, variants[name], records[name])


def row(name: str, variant: Variant, records: Sequence[Record]) -> Row:
    """The figures of one variant's records, one per seed."""
    last, ff, retention = (_mean_and_deviation([record.summary["iou"][key] for record in records]) for key in _FIGURES)
    info = records[0].info
    return Row(
        name,
        protocol_title(info.protocol, info.protocol_version, records[0].differs),
        variant.method,
        json.dumps(variant.settings, sort_keys=True),
        len(records),
        *last,
        *ff,
        *retention,
        merge_seconds=statistics.fmean(sum(record.cost.merge_seconds) for record in records),
        condition_number=_largest([record.cost.reported.get(_CONDITION, ()) for record in records]),
    )


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _largest(steps: Sequence[Sequence[float]]) -> float:
    return max((value for values in steps for value in values if not math.isnan(value)), default=math.nan)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the figures, in full precision."""
    text = StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in rows)
    write_atomically(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """The figures that ``write`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [
        Row(
            line.pop("variant"),
            line.pop("protocol"),
            line.pop("method"),
            line.pop("settings"),
            int(line.pop("seeds")),
            **{key: float(text) for key, text in line.items()},
        )
        for line in lines
    ]


def replaced(variants: Mapping[str, Variant], known: Sequence[Row], found: Sequence[Row]) -> list[Row]:
    """The known rows with those of the found variants replaced, in the order of the variants.

    Known rows of another protocol than the found ones are dropped: one table has one protocol. Rows of other code are
    not known as such: after a change of the method, begin a new file.
    """
    protocols = {each.protocol for each in found}
    comparable = [each for each in known if not protocols or each.protocol in protocols]
    by_variant = {each.variant: each for each in (*comparable, *found)}
    return [by_variant[name] for name in variants if name in by_variant]


def table(rows: Sequence[Row]) -> str:
    """The figures as a table of Markdown."""
    lines = [["variant", "Last", "FF", "retention", "merging, s", "seeds"]]
    for each in rows:
        figures = [
            with_deviation(getattr(each, key), getattr(each, f"{key}_std") if each.seeds > 1 else None)
            for key in _FIGURES
        ]
        lines.append([each.variant, *figures, _seconds(each), str(each.seeds)])
    return markdown(lines)


def _seconds(row: Row) -> str:
    return DASH if math.isnan(row.merge_seconds) else f"{row.merge_seconds:.0f}"


if __name__ == "__main__":
    main()
