"""Scoring one row of the score matrix: a model's predictions on every column, and their cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from cosam_bench.core.devices import peak_memory_bytes
from cosam_bench.data.prompt_settings import TestPrompt
from cosam_bench.data.prompts import Prompts, blank_prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scoring import ImageScore, Observer, ignore_predictions, score_split
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.method_faults import FaultWatch, MethodFailed, prediction_faults
from cosam_bench.experiments.method_hosts import Prediction
from cosam_bench.experiments.progress import Reporter
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.sam.batch_size import AdaptiveBatchSize, ImageDoesNotFit
from cosam_bench.sam.feature_cache import uncached_clock
from cosam_bench.sam.inputs import Batch

Observers = Callable[[str], Observer]
"""From a column's name to the observer of its predictions."""


class RowScorer:
    """Scores the rows of one run; after a batch that did not fit into memory, all later ones are smaller."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        watch: FaultWatch,
        reporter: Reporter,
        batch_size: AdaptiveBatchSize | None = None,
    ) -> None:
        """Score an experiment's rows.

        Args:
            watch: checks the frozen model.
            reporter: is told about finished images and smaller batches.
            batch_size: shared with the method's own passes; None: one that begins as configured.
        """
        self._experiment = experiment
        self._watch = watch
        self.advance = reporter.advance
        bench = experiment.bench
        self._batch_size = batch_size or AdaptiveBatchSize(
            bench.batch_size, prefixes=bench.prefixes, note=reporter.note
        )
        self._passes = self._tried = 0

    @property
    def is_batch_size_unchanged(self) -> bool:
        """Whether all batches so far had the configured size."""
        return self._batch_size.current == self._experiment.bench.batch_size

    @property
    def images(self) -> int:
        """The number of images in a row, those without foreground included."""
        negatives = self._experiment.negatives
        return sum(len(domain.test) for domain in self._experiment.columns) + sum(map(len, negatives.values()))

    def frozen(self, result: StepResult, *, observers: Observers) -> StepResult:
        """The step with frozen SAM's row."""
        return self._measured(
            result,
            lambda batch: self._experiment.bench.predict(None, batch),
            finish=lambda: self._watch.check_base("predict"),
            observers=observers,
        )

    def of_method(self, result: StepResult, prediction: Prediction, *, observers: Observers) -> StepResult:
        """The step with the row of a method that is ready to predict.

        Raises:
            MethodFailed: it raises, breaks the contract, or runs out of memory even for a single image.
        """
        try:
            measured = self._measured(result, prediction, finish=prediction.finish, observers=observers)
            return replace(measured, peak_memory_bytes=max(measured.peak_memory_bytes, prediction.peak_bytes))
        except ImageDoesNotFit as error:
            raise MethodFailed(f"The method {self._experiment.method_name!r} failed in predict(): {error}") from error

    def reused(self, result: StepResult, other: StepResult) -> StepResult:
        """The step with the row of another one, at the cost at which that row was measured."""
        return replace(
            result,
            scores=other.scores,
            negatives=other.negatives,
            scoring_seconds=other.scoring_seconds,
            encoder_passes_per_image=other.encoder_passes_per_image,
            peak_memory_bytes=self._peak_bytes(result),
        )

    def _measured(
        self,
        result: StepResult,
        predict: Callable[[Batch], Tensor],
        *,
        finish: Callable[[], None],
        observers: Observers,
    ) -> StepResult:
        bench = self._experiment.bench
        began, self._passes = uncached_clock(bench.prefixes), 0
        with prediction_faults(self._experiment.method_name):
            scores = self.columns(self._counted(predict), observers=observers)
            negatives = self.negatives(self._counted(predict))
        finish()
        return replace(
            result,
            scores=scores,
            negatives=negatives,
            scoring_seconds=uncached_clock(bench.prefixes) - began,
            encoder_passes_per_image=self._passes / self.images,
            peak_memory_bytes=self._peak_bytes(result),
        )

    def _peak_bytes(self, result: StepResult) -> int:
        """The largest memory so far of this process, or of the one that learned if that is more."""
        return max(peak_memory_bytes(self._experiment.bench.view.device), result.peak_memory_bytes)

    def _counted(self, predict: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
        """Remember the encoder passes of a prediction; ``_count`` adds them once its batch is scored."""

        def counted(batch: Batch) -> Tensor:
            before = self._experiment.bench.sam.encoder_passes
            logits = predict(batch)
            self._tried = self._experiment.bench.sam.encoder_passes - before
            return logits

        return counted

    def _count(self) -> None:
        self._passes += self._tried

    def columns(
        self, predict: Callable[[Batch], Tensor], *, observers: Observers = lambda name: ignore_predictions
    ) -> dict[str, list[ImageScore]]:
        """The scores of every column's test images, by the column's name; raises as ``of_split`` does."""
        prompts = self._experiment.test_prompts
        return {
            domain.name: self.of_split(predict, domain.test, prompts[domain.name], observe=observers(domain.name))
            for domain in self._experiment.columns
        }

    def negatives(self, predict: Callable[[Batch], Tensor]) -> dict[str, list[ImageScore]]:
        """The scores of the test images without foreground, by column; raises as ``of_split`` does."""
        points = self._experiment.config.protocol.prompts.points
        return {
            name: self.of_split(predict, split, blank_prompts(len(split), points=points))
            for name, split in self._experiment.negatives.items()
        }

    def of_split(
        self,
        predict: Callable[[Batch], Tensor],
        split: Split,
        prompts: Prompts,
        *,
        kind: TestPrompt | None = None,
        observe: Observer = ignore_predictions,
    ) -> list[ImageScore]:
        """The scores of a split's images, with a kind of prompt; None: the protocol's.

        Raises:
            BadPrediction: the logits are not as they must be.
            ImageDoesNotFit: not even one image fits into the memory.
        """
        experiment, score = self._experiment, self._experiment.config.protocol.score
        return score_split(
            predict,
            split,
            prompts,
            kind=kind or experiment.config.protocol.prompts.test,
            view=experiment.bench.view,
            batch_size=self._batch_size,
            size=score.size,
            upsampling=score.upsampling,
            tell_domain=experiment.method.card.receives_domain,
            loader=experiment.loader,
            measured_batch=self._count,
            advance=self.advance,
            observe=observe,
        )
