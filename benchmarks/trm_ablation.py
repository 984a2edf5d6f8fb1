"""``python -m benchmarks.trm_ablation``: what each part of the reconstructed TRM is worth, as a table."""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path

import cosam_bench as cb
from cosam_bench import CosamError, Record
from cosam_bench.core.files import write_atomically

# By name the settings that differ from the defaults; ``coma`` is the other method that moves part of the way.
VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "midpoint": {"steps": 0},
    "no alignment": {"alignment": 0.0},
    "no consistency": {"consistency": 0.0},
    "no trajectory regulariser": {"anchor": 0.0},
    "responsiveness": {"responsiveness": 0.1},
    "divided by ranges": {"normalised": "range"},
    "K = 4": {"snapshots": 4},
    "history": {"history": True},
    "a row per layer": {"per_layer": True},
    "other prompts": {"prompts": "other"},
}
COMA = "coma"


@dataclass(frozen=True)
class Row:
    """A variant's figures: means and standard deviations over seeds, and the seconds of merging per run."""

    variant: str
    settings: str
    seeds: int
    last: float
    last_std: float
    ff: float
    ff_std: float
    retention: float
    retention_std: float
    merge_seconds: float


def main() -> None:
    """Run the variants that are missing, seed by seed, write the figures, and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trm_ablation", description=main.__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records; default: results")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--variants", default="", help="a,b,c; default: all")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the figures here, replacing each variant's"
    )
    given = parser.parse_args()
    names = given.variants.split(",") if given.variants else [*VARIANTS, COMA]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    try:
        rows = list(measured(names, seeds=seeds, results=given.results))
    except CosamError as error:
        parser.error(str(error))
    if given.csv:
        rows = replaced(read(given.csv) if given.csv.exists() else [], rows)
        write(given.csv, rows)
    print(markdown(rows))


def measured(names: Sequence[str], *, seeds: Sequence[int], results: Path) -> Iterator[Row]:
    """The figures of each variant on `mini`; complete records are read instead of measured again."""
    if unknown := [name for name in names if name not in (*VARIANTS, COMA)]:
        raise CosamError(f"No variant is called {unknown[0]!r}. Offered: {', '.join((*VARIANTS, COMA))}.")
    records: dict[str, list[Record]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            records[name].append(run(name, seed=seed, results=results))
    for name in names:
        yield row(name, records[name])


def run(name: str, *, seed: int, results: Path) -> Record:
    """The record of a variant for one seed."""
    if name == COMA:
        return cb.run(COMA, seed=seed, results=results, progress=False)
    return cb.run("trm", seed=seed, settings={"method": VARIANTS[name]}, results=results, progress=False)


def row(name: str, records: Sequence[Record]) -> Row:
    """The figures of one variant's records, one per seed."""
    last, ff, retention = (_mean_and_deviation([record.summary["iou"][key] for record in records]) for key in _FIGURES)
    settings = json.dumps(VARIANTS.get(name, {}), sort_keys=True)
    seconds = statistics.fmean(sum(record.cost.merge_seconds) for record in records)
    return Row(name, settings, len(records), *last, *ff, *retention, merge_seconds=seconds)


_FIGURES = ("last", "ff", "retention")


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


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
            line.pop("settings"),
            int(line.pop("seeds")),
            **{key: float(text) for key, text in line.items()},
        )
        for line in lines
    ]


def replaced(known: Sequence[Row], found: Sequence[Row]) -> list[Row]:
    """The known rows with those of the found variants replaced, in the order of the variants."""
    by_variant = {each.variant: each for each in (*known, *found)}
    return [by_variant[name] for name in (*VARIANTS, COMA) if name in by_variant]


def markdown(rows: Sequence[Row]) -> str:
    """The figures as the table of ``docs/methods.md``."""
    lines = ["| variant | Last | FF | retention | merging, s | seeds |", "|---|---|---|---|---|---|"]
    for each in rows:
        cells = [_cell(getattr(each, key), getattr(each, f"{key}_std"), seeds=each.seeds) for key in _FIGURES]
        name = f"`{COMA}`" if each.variant == COMA else each.variant
        lines.append(f"| {name} | {' | '.join(cells)} | {each.merge_seconds:.0f} | {each.seeds} |")
    return "\n".join(lines)


def _cell(mean: float, deviation: float, *, seeds: int) -> str:
    return f"{mean:.3f} ± {deviation:.3f}" if seeds > 1 else f"{mean:.3f}"


if __name__ == "__main__":
    main()
