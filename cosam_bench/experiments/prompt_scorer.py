"""Scoring frozen SAM and the final model under other prompts than the protocol's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cosam_bench.evaluation.prompt_scores import PromptScore
from cosam_bench.evaluation.scoring import domain_means
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.method_faults import MethodFailed, prediction_faults
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.sam.batch_size import ImageDoesNotFit
from cosam_bench.sam.inputs import Batch


class PromptScorer:
    """Scores the first and the last row once more under each further prompt of a run."""

    def __init__(self, experiment: Experiment, scorer: RowScorer) -> None:
        self._experiment = experiment
        self._scorer = scorer
        self.kinds = experiment.config.also_prompts

    def is_due(self, step: int) -> bool:
        """Whether the row of a step is scored under further prompts."""
        return bool(self.kinds) and step in (0, self._experiment.steps[-1])

    def units(self, step: int) -> int:
        """The number of images that a step passes beyond its row."""
        return len(self.kinds) * sum(len(one.test) for one in self._experiment.columns) if self.is_due(step) else 0

    def scored(self, step: int, predict: Callable[[Batch], Tensor]) -> tuple[PromptScore, ...]:
        """The means under every further prompt.

        Raises:
            MethodFailed: the method raises, breaks the contract, or runs out of memory even for a single image.
        """
        method = self._experiment.method_name
        try:
            with prediction_faults(method):
                return tuple(
                    PromptScore(kind, step, domain.name, metric, value, len(scores))
                    for kind in self.kinds
                    for domain in self._experiment.columns
                    for scores in [
                        self._scorer.of_split(
                            predict, domain.test, self._experiment.test_prompts[domain.name], kind=kind
                        )
                    ]
                    for metric, value in domain_means(scores).items()
                )
        except ImageDoesNotFit as error:
            raise MethodFailed(f"The method {method!r} failed in predict(): {error}") from error
