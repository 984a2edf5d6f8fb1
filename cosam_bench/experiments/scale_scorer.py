"""Scoring one merge at several lengths, the best of which held-out training images choose."""

from __future__ import annotations

from collections.abc import Iterator

from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scales import BASES, Basis, Part, ScaleScore, choose_scale, chosen_by
from cosam_bench.evaluation.scoring import BadPrediction, ImageScore, domain_means
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.merging.updates import Update


class ScaleScorer:
    """Scores the served update of each step times every scale of the run.

    All scales are scored on the held-out images of the domains seen so far. Test images are scored only at the scales
    that these choose, and at all scales after the last step.
    """

    def __init__(self, experiment: Experiment, scorer: RowScorer) -> None:
        self._experiment = experiment
        self._scorer = scorer
        self.scales = tuple(sorted({1.0, *experiment.config.scales})) if experiment.config.scales else ()

    def units(self, step: int) -> int:
        """The most images that one step passes, beyond its row."""
        if not self.scales or step == 0:
            return 0
        held_out = sum(len(split) for _, split, _ in self._held_out(step))
        test = len(self.scales) - 1 if self._is_last(step) else len(BASES)
        return len(self.scales) * held_out + test * self._scorer.images

    def scored(self, result: StepResult, update: Update | None) -> tuple[ScaleScore, ...]:
        """The means at every scale; none if the method serves no single update.

        Args:
            result: the step with its row, which is that of the scale 1.
            update: what the method serves.
        """
        left = self.units(result.step)
        rows: list[ScaleScore] = []
        if update is not None:
            for scale in self.scales:
                rows += self._of_held_out(result.step, update, scale)
            rows += self._of_test(result, update, rows)
        self._scorer.advance(left - _passed(rows))
        return tuple(rows)

    def _of_held_out(self, step: int, update: Update, scale: float) -> Iterator[ScaleScore]:
        for name, split, prompts in self._held_out(step):
            yield from _means(step, scale, "held_out", name, self._scores(update, scale, split, prompts))

    def _of_test(self, result: StepResult, update: Update, held_out: list[ScaleScore]) -> Iterator[ScaleScore]:
        chosen = {self._chosen(held_out, result.step, basis) for basis in BASES}
        for scale in self.scales if self._is_last(result.step) else sorted(chosen | {1.0}):
            for domain in self._experiment.columns:
                if scale == 1:
                    scores = result.scores[domain.name]
                else:
                    prompts = self._experiment.test_prompts[domain.name]
                    scores = self._scores(update, scale, domain.test, prompts)
                yield from _means(result.step, scale, "test", domain.name, scores)

    def _chosen(self, held_out: list[ScaleScore], step: int, basis: Basis) -> float:
        domains = chosen_by(self._seen(step), basis, all_at_once=self._experiment.method.card.all_at_once)
        return choose_scale(held_out, step=step, domains=domains)

    def _scores(self, update: Update, scale: float, split: Split, prompts: Prompts) -> list[ImageScore]:
        """The scores of a split; none if the logits are not finite."""
        longer, bench = update.scaled(scale), self._experiment.bench
        try:
            return self._scorer.of_split(lambda batch: bench.predict(longer, batch), split, prompts)
        except BadPrediction:
            return []

    def _held_out(self, step: int) -> Iterator[tuple[str, Split, Prompts]]:
        for name in self._seen(step):
            yield (name, *self._experiment.held_out[name])

    def _seen(self, step: int) -> list[str]:
        return [domain.name for domain in self._experiment.domains[:step]]

    def _is_last(self, step: int) -> bool:
        return step == self._experiment.steps[-1]


def _passed(rows: list[ScaleScore]) -> int:
    """How many images were scored for these rows, beyond those of the row of the matrix."""
    counts = {(row.scale, row.part, row.domain): row.count for row in rows if (row.scale, row.part) != (1, "test")}
    return sum(counts.values())


def _means(step: int, scale: float, part: Part, domain: str, scores: list[ImageScore]) -> Iterator[ScaleScore]:
    if scores:
        for metric, value in domain_means(scores).items():
            yield ScaleScore(step, scale, part, domain, metric, value, len(scores))
