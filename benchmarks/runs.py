"""Whole runs on `mini` and its longer and shorter kin: ten methods against one, and growth with the domains."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tomli_w

from benchmarks.figures import Figure
from cosam_bench.data.cards import Card
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.progress import SilentReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.records import Record

# Ten that start every expert from the base, so that all of them merge the same experts. A method that trains on
# from what it serves (coma, cofima, perturb_merge, became, trm, and magmax by default) needs trainings of its own.
_SUMS, _OTHERS = ("average", "task_arithmetic", "ties", "continual_ties", "dare", "magmax"), ("opcm", "nullfilter")
TEN = (*_SUMS, *_OTHERS, "regmean", "regcl")
SAME_EXPERTS = "methods.magmax.start=base"

# CoSAM: 24 epochs of about 2,985 training images, as its log's timing implies; 9 rows of 8 x 94 + 200 test images.
COSAM_TRAINING = 24 * 2985
COSAM_SCORED = 9 * (8 * 94 + 200)
# mini: 10 epochs of 8 x 24 training images; 9 rows with so many test images come nearest to CoSAM's 8.4 per scored one.
TEST, RETENTION = 3, 2


def methods(names: Sequence[str] = TEN) -> Iterator[Figure]:
    """Seconds of the first method, which trains all experts and scores frozen SAM, and of all together."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _compared("mini", names, folder=Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        stream = stream_file(Path(folder), domains=8, test=TEST, retention=RETENTION)
        yield from _compared("CoSAM's proportion", names, folder=Path(folder), overrides=(f"stream={stream}",))


def _compared(name: str, methods: Sequence[str], *, folder: Path, overrides: tuple[str, ...] = ()) -> Iterator[Figure]:
    first, *others = run_each(methods, results=folder / "results", overrides=(*overrides, SAME_EXPERTS))
    yield Figure(f"{name}: one method, {methods[0]}", None, first.seconds, "s", f"learning {first.learning:.3g} s")
    together = first.seconds + sum(each.seconds for each in others)
    learning, scoring = sum(each.learning for each in others), sum(each.scoring for each in others)
    rest = f"of the others merges, with their passes over data, {learning:.3g} s, scoring {scoring:.3g} s"
    note = f"{together / first.seconds:.2f} times one; {rest}"
    yield Figure(f"{name}: {len(methods)} methods", None, together, "s", note)


def growth(counts: Sequence[int] = (4, 8, 16), *, images: int = 12, epochs: int = 2) -> Iterator[Figure]:
    """For each method and number of domains: fitting a domain, scoring a cell of the matrix, and the state's size.

    Args:
        images: of each domain, for training and for the test; half of mini's, on which growth does not depend.
        epochs: of training.
    """
    for method in ("average", "finetune"):
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                stream = stream_file(Path(folder), domains=count, train=images, test=images, retention=images)
                overrides = (f"stream={stream}", f"fit.epochs={epochs}")
                [taken] = run_each([method], results=Path(folder) / "results", overrides=overrides)
            cells = (count + 1) * (count + 1)  # frozen SAM's row; the retention domain's column
            name = f"{method}, {count} domains"
            note = f"{epochs} epochs of {images} images"
            yield Figure(f"fitting a domain, {name}", None, taken.learning / count, "s", note)
            yield Figure(f"scoring a cell, {name}", None, taken.scoring / cells, "s", f"{images} images, {cells} cells")
            yield Figure(f"state, {name}", None, taken.record.info.cost.state_bytes[-1] / 1024, "KiB")


def stream_file(folder: Path, *, domains: int, train: int = 24, test: int = 24, retention: int = 24) -> Path:
    """A stream of this many domains by the generators of `mini`, in its order, then again from other seeds.

    Args:
        folder: where the file is written.
        train: images per domain.
        test: images per domain.
        retention: test images of the retention domain.
    """
    mini = load_stream("mini")
    tables = []
    for number in range(domains):
        turn, place = divmod(number, len(mini.order))
        tables.append(_table(mini.card(mini.order[place]), turn=turn, train=train, test=test))
    tables += [_table(mini.card(name), turn=0, train=0, test=retention) for name in mini.retention]
    path = folder / f"mini-{domains}-{train}-{test}-{retention}.toml"
    stream = {"name": path.stem, "retention": list(mini.retention), "domain": tables}
    path.write_text(tomli_w.dumps(stream), encoding="utf-8")
    return path


def _table(card: Card, *, turn: int, train: int, test: int) -> dict[str, object]:
    split = {"kind": "counts", "train": train, "test": test, "seed": card.split.seed + turn}
    name = f"{card.name}_{turn + 1}" if turn else card.name
    return {"name": name, "kind": "synthetic", "generator": card.generator, "size": card.size, "split": split}


class Clock(SilentReporter):
    """A reporter that adds up processor seconds by the first word of what the run says it does."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._began, self._doing = time.process_time(), ""

    def say(self, text: str) -> None:
        """What went on until now ends."""
        now = time.process_time()
        if self._doing:
            self.seconds[self._doing] += now - self._began
        self._began, self._doing = now, text.partition(" ")[0]


class Taken(NamedTuple):
    """What one method's run took: processor seconds in all, those of learning and of scoring; and its record."""

    seconds: float
    learning: float
    scoring: float
    record: Record


def run_each(methods: Sequence[str], *, results: Path, overrides: tuple[str, ...] = ()) -> list[Taken]:
    """Run methods on one opened protocol, as ``cosam-bench run --method a,b,c`` does; opening it counts as the first's.

    Args:
        overrides: as for ``cosam-bench run --set``, over `mini`.
    """
    found = []
    experiment: Experiment | None = None
    for method in methods:
        began, clock = time.process_time(), Clock()
        config = resolve_run(method=method, protocol="mini", overrides=("device=cpu", *overrides))
        experiment = experiment.with_method(config) if experiment else open_experiment(config, results)
        record = Runner(experiment, results=results, reporter=clock).run()
        clock.say("")
        taken = time.process_time() - began, clock.seconds["Learning"], clock.seconds["Scoring"]
        found.append(Taken(*taken, record))
    return found
