"""``python -m benchmarks [STAGE ...]``: a table of ratios, ours against a plain loop over segment-anything."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.stages import STAGES
from cosam_bench.cli.console import plain_table


def main() -> None:
    """Measure the stages that are named, all of them where none is, and print a row for each as it comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("stage", nargs="*", help=", ".join(STAGES))
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures here too")
    asked = parser.parse_args()
    unknown = [name for name in asked.stage if name not in STAGES]
    if unknown:
        parser.error(f"no stage is called {unknown[0]!r}; there are {', '.join(STAGES)}")
    torch.set_num_threads(asked.threads)
    rows = []
    for name in asked.stage or STAGES:
        for row in STAGES[name]():
            rows.append(row)
            print(f"{row.stage}: {row.ours:.4g} {row.unit}", file=sys.stderr, flush=True)
    table = plain_table("stage", "plain", "ours", "", "times less", "note")
    for row in rows:
        plain, ratio = ("" if number is None else f"{number:.4g}" for number in (row.plain, row.ratio))
        table.add_row(row.stage, plain, f"{row.ours:.4g}", row.unit, ratio, row.note)
    Console().print(table)
    if asked.csv:
        with asked.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*asdict(rows[0]), "ratio"])
            writer.writeheader()
            writer.writerows(asdict(row) | {"ratio": row.ratio} for row in rows)


if __name__ == "__main__":
    main()
