"""One trial: all domains through a method, and its final model scored on the training images held out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cosam_bench.evaluation.scoring import domain_means, ignore_predictions
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.experiments.progress import Reporter
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.records import STATES
from cosam_bench.training.sampling import images_seen

METRIC = "iou"


def last_scores(experiment: Experiment, *, folder: Path, reporter: Reporter) -> dict[str, float]:
    """By domain, the mean IoU of the final model on what the experiment scores.

    Args:
        experiment: opened with a ``Validation``.
        folder: for the method's states, which are removed.
        reporter: told of the progress.

    Raises:
        MethodFailed: the method raised an error, or broke its contract.
    """
    watch = FaultWatch(experiment.method_name, sam=experiment.bench.sam)
    scorer = RowScorer(experiment, watch=watch, reporter=reporter)
    host = experiment.host(replace(experiment.bench, advance=reporter.advance, note=reporter.note), watch=watch)
    with TemporaryDirectory(dir=folder, prefix=STATES) as states:
        state: Path | None = None
        for step in experiment.steps[1:]:
            after = Path(states) / f"{step:03d}.safetensors"
            host.learn(experiment.task(step), before=state, after=after)
            if state is not None:
                state.unlink()
            state = after
        with host.predicting(state) as prediction:
            last = StepResult(experiment.steps[-1], {})
            result = scorer.of_method(last, prediction, observers=lambda _: ignore_predictions)
    return {name: domain_means(scores)[METRIC] for name, scores in result.scores.items()}


def last(scores: Mapping[str, float]) -> float:
    """Last, the mean over the domains."""
    return math.fsum(scores.values()) / len(scores)


def units(experiment: Experiment) -> float:
    """About how many units of progress one trial has."""
    trained = sum(3 * images_seen(len(domain.train), experiment.bench.fit) for domain in experiment.domains)
    return trained + sum(len(domain.test) for domain in experiment.domains)
