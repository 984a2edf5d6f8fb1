"""The parts of a run that other runs use as well, done before any of these runs begins."""

from __future__ import annotations

from pathlib import Path

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.scoring import ignore_predictions
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.experiments.progress import SilentReporter
from cosam_bench.experiments.row_reuse import FrozenRow
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import name_of_expert


def keep_frozen_row(experiment: Experiment, *, results: Path) -> Path | None:
    """The file with frozen SAM's row under the conditions of a run, which is measured unless the file is whole.

    Returns:
        None if memory sufficed for smaller batches only: the row then differs in its last bits, and is not shared.

    Raises:
        ImageDoesNotFit: memory does not suffice for a single image.
        CosamError: the file cannot be written.
    """
    row = FrozenRow(experiment, results=results)
    if row.read() is None:
        watch = FaultWatch(experiment.method_name, sam=experiment.bench.sam, error_file=results / "error.txt")
        scorer = RowScorer(experiment, watch=watch, reporter=SilentReporter())
        result = scorer.frozen(StepResult(0, {}), observers=lambda _: ignore_predictions)
        if not scorer.is_batch_size_unchanged:
            return None
        row.write(result)
        if row.read() is None:
            raise CosamError(f"{row.path} cannot be written. Free space, or choose another folder.")
    return row.path


def keep_expert(experiment: Experiment, domain: str) -> Path:
    """The file with the expert of a domain, trained from the base model unless the file is whole.

    Raises:
        CosamError: the run has no such domain, or training fails.
    """
    found = {one.name: one for one in experiment.domains}
    if domain not in found:
        raise unknown_name("domain of this stream", domain, found)
    data = TrainingDomain(domain, found[domain].train, experiment.train_prompts[domain])
    bench = experiment.bench
    if bench.experts is None or bench.given is not None:
        raise ValueError("this run keeps no experts")
    bench.train(data)
    return bench.experts.path(name_of_expert(bench, data))
