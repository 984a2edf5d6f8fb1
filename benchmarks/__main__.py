"""``python -m benchmarks [STAGE ...]``: a table of ratios, ours against a plain loop over segment-anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.figures import Figure, machine_name, read_figures, replaced, table, write_figures
from benchmarks.measuring import CPU, Skipped
from benchmarks.pages import markdown

# By stage the function that measures it, imported only when the stage is asked for.
STAGES = {name: f"stages:{name}" for name in ("encoder", "step", "matrix", "start")}
STAGES |= {name: f"{name}:figures" for name in ("limits", "shares", "merges")}
STAGES |= {name: f"runs:{name}" for name in ("methods", "growth")}
STAGES |= {name: f"{name}:figures" for name in ("mobile", "compiled")}


def main() -> None:
    """Measure the named stages, or all of them, and print each figure as it comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("stage", nargs="*", help=", ".join(STAGES))
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; default: 1")
    parser.add_argument("--images", type=int, default=1, help="images in the stage matrix; default: 1")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the figures here, replacing each stage's")
    given = parser.parse_args()
    unknown = [name for name in given.stage if name not in STAGES]
    if unknown:
        parser.error(f"no stage is called {unknown[0]!r}; there are {', '.join(STAGES)}")
    torch.set_num_threads(given.threads)
    known = read_figures(given.csv) if given.csv and given.csv.exists() else []
    found: list[Figure] = []
    for name in given.stage or STAGES:
        work = partial(stage(name), images=given.images) if name == "matrix" else stage(name)
        found += measured(name, work(), device=CPU)
        if given.csv:  # after each stage, so that a stopped one costs no other
            write_figures(given.csv, replaced(known, found, order=list(STAGES)))
    print(markdown(table(found)))


def stage(name: str) -> Callable[..., Iterator[Figure]]:
    """The function that measures a stage."""
    module, _, function = STAGES[name].partition(":")
    return getattr(import_module(f"benchmarks.{module}"), function)  # type: ignore[no-any-return]


def measured(group: str, figures: Iterator[Figure], *, device: torch.device) -> Iterator[Figure]:
    """A stage's figures, each printed as it comes; a stage that cannot be measured here ends with what it has."""
    machine = machine_name(device)
    try:
        for figure in figures:
            print(f"{group}: {figure.stage}: {figure.ours:.4g} {figure.unit}", file=sys.stderr, flush=True)
            yield replace(figure, group=group, machine=machine)
    except Skipped as reason:
        print(f"{group}: skipped: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
