"""``python -m benchmarks [STAGE ...]``: a table of ratios, ours against a plain loop over segment-anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import torch

from benchmarks import stages
from benchmarks.figures import Figure, machine_name, read_figures, replaced, show, write_figures
from benchmarks.measuring import CPU, Row, Skipped

# Named here and imported when asked for; each module has ``rows()``.
_MODULES = ("limits", "shares", "merges", "methods", "growth", "mobile", "compiled")
STAGES = ("encoder", "step", "matrix", "start", *_MODULES)


def main() -> None:
    """Measure the stages that are named, all of them where none is, and print a row for each as it comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("stage", nargs="*", help=", ".join(STAGES))
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    parser.add_argument("--images", type=int, default=1, help="of the stage matrix; default: 1")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures here too, over those of a stage")
    asked = parser.parse_args()
    unknown = [name for name in asked.stage if name not in STAGES]
    if unknown:
        parser.error(f"no stage is called {unknown[0]!r}; there are {', '.join(STAGES)}")
    torch.set_num_threads(asked.threads)
    known = read_figures(asked.csv) if asked.csv and asked.csv.exists() else []
    found: list[Figure] = []
    for name in asked.stage or STAGES:
        found += _figures(name, stage_rows(name, images=asked.images), machine=machine_name(CPU))
        if asked.csv:  # after each stage, so that one that is stopped costs no other
            write_figures(asked.csv, replaced(known, found, order=STAGES))
    show(found)


def stage_rows(name: str, *, images: int) -> Iterator[Row]:
    """The rows of a stage, each measured when it is asked for."""
    if name in _MODULES:
        return import_module(f"benchmarks.{name}").rows()  # type: ignore[no-any-return]
    if name == "matrix":
        return stages.matrix(images=images)
    work: Callable[[], Iterator[Row]] = getattr(stages, name)
    return work()


def _figures(name: str, rows: Iterator[Row], *, machine: str) -> list[Figure]:
    """What a stage gives, said as it comes; one that cannot be measured here gives what it had."""
    found = []
    try:
        for row in rows:
            found.append(Figure(name, row, machine))
            print(f"{name}: {row.stage}: {row.ours:.4g} {row.unit}", file=sys.stderr, flush=True)
    except Skipped as reason:
        print(f"{name}: skipped: {reason}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
