"""What a comparison of ten merging methods costs, against one of them: experts and frozen SAM's row are shared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import Row
from benchmarks.runs import run_each, stream_file

# Ten that start every expert from the base, so that all of them merge the same experts. A method that trains on
# from what it serves (coma, cofima, perturb_merge, became, trm, and magmax by default) needs trainings of its own.
METHODS = (
    "average",
    "task_arithmetic",
    "ties",
    "continual_ties",
    "dare",
    "magmax",
    "opcm",
    "nullfilter",
    "regmean",
    "regcl",
)
SAME_EXPERTS = "methods.magmax.start=base"

# CoSAM: 24 epochs of about 2,985 training images, as its log's timing implies; 9 rows of 8 x 94 + 200 test images.
COSAM_TRAINING = 24 * 2985
COSAM_SCORED = 9 * (8 * 94 + 200)
# mini: 10 epochs of 8 x 24 training images; 9 rows of so many test images come nearest to CoSAM's 8.4 trained a scored.
TEST, RETENTION = 3, 2


def rows(methods: Sequence[str] = METHODS, *, overrides: tuple[str, ...] = ()) -> Iterator[Row]:
    """Seconds of the first method, which trains all experts and scores frozen SAM, and of all together.

    Args:
        overrides: over `mini`, for every run.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield from _compared("mini", methods, folder=Path(folder), overrides=overrides)
    with tempfile.TemporaryDirectory() as folder:
        stream = stream_file(Path(folder), domains=8, test=TEST, retention=RETENTION)
        stream_and_more = (*overrides, f"stream={stream}")
        yield from _compared("CoSAM's proportion", methods, folder=Path(folder), overrides=stream_and_more)


def _compared(name: str, methods: Sequence[str], *, folder: Path, overrides: tuple[str, ...]) -> Iterator[Row]:
    taken = run_each(methods, results=folder / "results", overrides=(*overrides, SAME_EXPERTS))
    one, together = taken[0], sum(each.seconds for each in taken)
    yield Row(f"{name}: one method, {methods[0]}", None, one.seconds, "s", f"learning {one.learning:.3g} s")
    learning = sum(each.learning for each in taken[1:])
    scoring = sum(each.scoring for each in taken[1:])
    others = f"of the others merges, with their passes over data, {learning:.3g} s, scoring {scoring:.3g} s"
    note = f"{together / one.seconds:.2f} times one; {others}"
    yield Row(f"{name}: {len(methods)} methods", None, together, "s", note)
