"""Several methods on one protocol, one after another, sharing data, model and trained experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.experiments.chosen_method import chosen_method
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.progress import Reporter
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.experiments.run_notes import isolation_notes, run_notes
from cosam_bench.experiments.runner import Runner
from cosam_bench.method.registry import short_name
from cosam_bench.results.records import Record


@dataclass(frozen=True)
class Outcome:
    """What became of one method.

    Attributes:
        method: its name in records.
        record: complete; None if the method failed.
        was_complete: an earlier run had completed the record, and nothing was measured now.
        failure: why there is no record.
    """

    method: str
    record: Record | None = None
    was_complete: bool = False
    failure: MethodFailed | None = None


def run_methods(
    configs: Sequence[RunConfig],
    *,
    results: Path,
    fresh: bool,
    isolated: bool | None = False,
    make_reporter: Callable[[], AbstractContextManager[Reporter]],
) -> Iterator[Outcome]:
    """Run each configuration, and yield its outcome as soon as it is known; a method that fails stops no other one.

    Args:
        configs: alike except for the method and its settings.
        results: the folder of records.
        fresh: discard what earlier runs with the same settings left, and read nothing that they left for sharing.
        isolated: whether methods run in processes of their own; None: those that are not built in.
        make_reporter: called once for each method.

    Raises:
        CosamError: anything but a fault of a method: missing data, settings that do not fit, a file that cannot be
            written. A method that does not fit its protocol is refused before the first one runs.
    """
    for config in configs:
        chosen_method(config, isolated, results=results)
    experiment: Experiment | None = None
    shown: set[str] = set()
    for config in configs:
        name = short_name(config.method)
        try:
            with make_reporter() as reporter:
                reporter.say("Opening data and model")
                if experiment is None:
                    experiment = open_experiment(config, results, fresh=fresh, isolated=isolated)
                    for note in run_notes(experiment):
                        reporter.note(note)
                else:
                    experiment = experiment.with_method(config, isolated=isolated)
                for note in isolation_notes(experiment):
                    if note not in shown:  # a method may come several times, with other settings
                        reporter.note(note)
                    shown.add(note)
                runner = Runner(experiment, results=results, reporter=reporter)
                known = None if fresh else runner.finished()
                outcome = Outcome(name, known or runner.run(fresh=fresh), was_complete=known is not None)
        except MethodFailed as failure:
            outcome = Outcome(name, failure=failure)
            if experiment is not None and not experiment.is_isolated:
                experiment = None  # the method may have left the model changed
        yield outcome
