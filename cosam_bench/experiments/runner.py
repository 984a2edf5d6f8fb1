"""Streaming the domains through a method, and filling the score matrix row by row.

Between two domains the method's state is written to disk, the object is dropped and a new one is built from the
file. Resuming a stopped run therefore takes the same path as an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cosam_bench.core.devices import reset_peak_memory
from cosam_bench.core.hashing import sha256_file
from cosam_bench.evaluation.scoring import ignore_predictions
from cosam_bench.experiments.example_masks import ExampleMasks
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.method_faults import FaultWatch, MethodFailed, guarded_hook
from cosam_bench.experiments.progress import Reporter, SilentReporter
from cosam_bench.experiments.prompt_scorer import PromptScorer
from cosam_bench.experiments.row_reuse import FrozenRow
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.experiments.running_record import RunningRecord
from cosam_bench.experiments.scale_scorer import ScaleScorer
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.records import Record
from cosam_bench.sam.batch_size import AdaptiveBatchSize
from cosam_bench.training.sampling import images_seen
from cosam_bench.training.step_division import StepDivision

# Encoder passes over each training image that a rule makes in addition to training, by what its card needs: as
# many as the built-in rules make. They only move the progress bar.
_PASSES = {"inputs": 1, "labels": 1, "gradients": 3, "replay": 0}


class Runner:
    """One run: the loop over the domains."""

    def __init__(self, experiment: Experiment, *, results: Path, reporter: Reporter | None = None) -> None:
        self._experiment = experiment
        self._reporter = reporter or SilentReporter()
        self._record = RunningRecord(experiment, results=results)
        self._frozen = FrozenRow(experiment, results=results)
        self._watch = FaultWatch(experiment.method_name, sam=experiment.bench.sam, error_file=self._record.error_file)
        self._examples = ExampleMasks(experiment, folder=self._record.folder)
        bench = experiment.bench
        passes = AdaptiveBatchSize(bench.batch_size, prefixes=bench.prefixes, note=self._reporter.note)
        self._scorer = RowScorer(experiment, watch=self._watch, reporter=self._reporter, batch_size=passes)
        self._scales = ScaleScorer(experiment, self._scorer)
        self._prompts = PromptScorer(experiment, self._scorer)
        hook, name = self._reporter.on_step, experiment.method_name
        on_step = guarded_hook(hook, method=name) if hook else None
        bench = replace(
            experiment.bench,
            advance=self._reporter.advance,
            on_step=on_step,
            note=self._reporter.note,
            passes=passes,
            division=StepDivision(),
        )
        self._to_score: set[int] = set()
        self._host = experiment.host(bench, watch=self._watch, error_file=self._record.error_file)

    @property
    def folder(self) -> Path:
        """The record's folder."""
        return self._record.folder

    def finished(self) -> Record | None:
        """The record of this run if it is already complete."""
        record = self._record.finished()
        if record is not None:
            self._record.clear_leftovers()
        return record

    def run(self, *, fresh: bool = False) -> Record:
        """Measure every missing row, and return the complete record.

        The record says ``failed`` if the method is at fault, and ``interrupted`` if the run was stopped or anything
        else went wrong: the next run with the same settings continues after the last complete step.

        Args:
            fresh: discard what an earlier run with the same settings left.

        Raises:
            MethodFailed: the method raised an error, or broke its contract.
            CosamError: a file cannot be written or read, or another process is working on this run.
        """
        with self._record.locked():
            if fresh:
                self._record.forget()
            record = self._record.finished()
            if record is not None:
                self._record.remove_steps()
                return record
            self._record.begin()
            try:
                self._measure_missing()
            except MethodFailed as error:
                self._record.stop("failed", error=str(error))
                raise
            except KeyboardInterrupt:
                self._record.stop("interrupted", error=None)
                raise
            except Exception as error:
                self._record.stop("interrupted", error=f"{type(error).__name__}: {error}")
                raise
            return self._record.complete()

    def _measure_missing(self) -> None:
        reset_peak_memory(self._experiment.bench.view.device)
        self._to_score = self._rows_to_score()
        self._reporter.begin(self._units_left())
        for step in self._record.missing:
            self._record.finish_step(self._with_prompts(self._with_scales(self._measure(step))))
        self._record.keep_outcome(self._host.served(self._state(self._record.results[self._experiment.steps[-1]])))
        self._examples.write(self._record.results)

    def _rows_to_score(self) -> set[int]:
        """The steps whose rows will be measured, as far as that is known before the run."""
        missing, is_base, first = self._record.missing, self._experiment.is_base_model, self._experiment.steps[1]
        rows = {step for step in missing if step > 0}
        if self._experiment.method.card.state == "none":  # its rows are all alike
            rows &= {first}
        if 0 in missing and self._frozen.read() is None:
            return {0} if is_base else {0, *rows}
        return rows if 0 in missing or not (is_base and self._examples.has(first)) else set()

    def _units_left(self) -> float:
        experiment, card, missing = self._experiment, self._experiment.method.card, self._record.missing
        scoring = len(self._to_score) * self._scorer.images
        scoring += sum(self._scales.units(step) + self._prompts.units(step) for step in missing)
        if card.state == "none":
            return scoring
        learned = [len(experiment.domains[step - 1].train) for step in missing if step > 0]
        if card.all_at_once and learned:
            learned = [sum(len(domain.train) for domain in experiment.domains)]
        extra = max((_PASSES[need] for need in card.needs), default=0)
        is_trained = experiment.bench.given is None
        trained = [3 * images_seen(count, experiment.bench.fit) if is_trained else 0 for count in learned]
        return scoring + sum(trained) + sum(extra * count for count in learned)

    def _measure(self, step: int) -> StepResult:
        """One row: learn the step's domain, then score all columns. Row 0 is the frozen model."""
        if step == 0:
            return self._frozen_row()
        before = self._record.before(step)
        result = self._learn(step, before)
        if before is not None and before.state_sha256 == result.state_sha256:
            self._examples.reuse(step, of=before.step)
            return self._reused(result, before)
        if before is None and self._experiment.is_base_model and self._examples.has(step):
            return self._reused(result, self._record.results[0])
        self._reporter.say(f"Scoring after step {step} of {self._experiment.steps[-1]}")
        with self._host.predicting(self._state(result)) as prediction:
            result = self._scorer.of_method(result, prediction, observers=self._examples.observers(step))
        self._examples.save(step)
        return result

    def _with_scales(self, result: StepResult) -> StepResult:
        """The step with the scores of its merge at the run's other scales."""
        if not self._scales.scales or result.step == 0:
            return result
        self._reporter.say(f"Scoring {len(self._scales.scales)} scales after step {result.step}")
        return replace(result, scales=self._scales.scored(result, self._host.served(self._state(result))))

    def _with_prompts(self, result: StepResult) -> StepResult:
        """The step with its model's scores under the run's further prompts."""
        if not self._prompts.is_due(result.step):
            return result
        self._reporter.say(f"Scoring {', '.join(self._prompts.kinds)} prompts after step {result.step}")
        if result.step == 0:
            bench = self._experiment.bench
            return replace(result, prompts=self._prompts.scored(0, lambda batch: bench.predict(None, batch)))
        with self._host.predicting(self._state(result)) as prediction:
            scores = self._prompts.scored(result.step, prediction)
            prediction.finish()
        return replace(result, prompts=scores)

    def _frozen_row(self) -> StepResult:
        known = self._frozen.read()
        if known is not None:
            return self._reused(StepResult(0, {}), known)
        self._reporter.say("Scoring frozen SAM")
        first = self._experiment.steps[1]
        is_methods_too = self._experiment.is_base_model
        observers = self._examples.observers(first) if is_methods_too else lambda _: ignore_predictions
        result = self._scorer.frozen(StepResult(0, {}), observers=observers)
        if is_methods_too:
            self._examples.save(first)
        if self._scorer.is_batch_size_unchanged:  # otherwise its last bits are those of smaller batches
            self._frozen.write(result)
        return result

    def _reused(self, result: StepResult, other: StepResult) -> StepResult:
        """The step with the row of another one; progress counts it if it was to be measured."""
        if result.step in self._to_score:
            self._reporter.advance(self._scorer.images)
        return self._scorer.reused(result, other)

    def _learn(self, step: int, before: StepResult | None) -> StepResult:
        """Let the method, as it was after the step before, learn the step's domain, and save its state."""
        task = self._experiment.task(step)
        self._reporter.say(f"Learning {task.name} (step {step} of {self._experiment.steps[-1]})")
        after = self._record.state_file(step)
        learned = self._host.learn(task, before=self._state(before), after=after)
        return StepResult(
            step,
            {},
            training_seconds=learned.training_seconds,
            merge_seconds=learned.merge_seconds,
            state_bytes=learned.state_bytes,
            trainable_parameters=learned.trainable_parameters,
            peak_memory_bytes=learned.peak_bytes,
            state_sha256=sha256_file(after),
            reported=learned.reported,
        )

    def _state(self, after: StepResult | None) -> Path | None:
        """The file of the state after a step; None: before the first domain."""
        return None if after is None else self._record.checked_state(after)
