"""Streaming the domains through a method, and filling the score matrix row by row.

Between two domains the method's state is written to disk, the object is dropped and a new one is built from
the file. A run that was stopped therefore goes on where it was by the same path as one that was not.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from safetensors.torch import save

from cosam_bench.domains.prompts import frozen_prompts
from cosam_bench.domains.samples import union
from cosam_bench.environment import commit, hardware, peak_memory_bytes, reset_peak_memory, utc_now, versions
from cosam_bench.errors import CosamError
from cosam_bench.files import write_atomically
from cosam_bench.matrix import Cell, ScoreMatrix, summary
from cosam_bench.method import MergingMethod, Method, State
from cosam_bench.metrics import METRICS
from cosam_bench.prepare import SHARED, Prepared
from cosam_bench.records import Record, RecordWriter, record_folder
from cosam_bench.run_info import Cost, RunInfo, Status, read_run_info
from cosam_bench.score import domain_means, score_split
from cosam_bench.steps import StepResult
from cosam_bench.training_domain import TrainingDomain
from cosam_bench.updates import digest_tensors
from cosam_bench.workbench import Meter


class Reporter(Protocol):
    """Whoever shows how far a run is."""

    def begin(self, total: float) -> None:
        """A run of ``total`` units of work starts; one unit is an encoder pass over one image."""

    def say(self, text: str) -> None:
        """What is being done now."""

    def advance(self, units: float) -> None:
        """So much work was done."""


class SilentReporter:
    """Shows nothing."""

    def begin(self, total: float) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, units: float) -> None:
        """Nothing."""


class MethodFailed(CosamError):
    """The method raised, or broke its contract; its record says ``failed``."""


class Runner:
    """One run: its folder, what it has measured so far, and the loop over the domains."""

    def __init__(self, prepared: Prepared, *, results: Path, reporter: Reporter | None = None) -> None:
        self._prepared = prepared
        self._results = results
        self._reporter = reporter or SilentReporter()
        self.folder = record_folder(
            results, protocol=prepared.config.protocol.name, method=prepared.config.method, digest=prepared.digest
        )
        self._writer = RecordWriter(self.folder)
        self._started = utc_now()
        self._base_digest = digest_tensors(prepared.bench.sam.state_dict())
        self._results_by_step: dict[int, StepResult] = {}

    @property
    def steps(self) -> list[int]:
        """The rows that are measured: all of them, or the first and the last for joint training."""
        last = len(self._prepared.domains)
        return [0, last] if self._prepared.method.card.all_at_once else list(range(last + 1))

    def finished(self) -> Record | None:
        """The record of this very run where it is already complete."""
        path = self.folder / "run.json"
        if not path.exists():
            return None
        info = read_run_info(path)
        return Record(self.folder, info) if info.status == "complete" else None

    def run(self, *, fresh: bool = False) -> Record:
        """Measure every row that is missing, and return the complete record.

        Args:
            fresh: forget what an earlier run of the same settings left.

        Raises:
            MethodFailed: the method raised; the record says so and keeps the rows it had.
            CosamError: a file cannot be written or read.
        """
        if fresh and self.folder.exists():
            shutil.rmtree(self.folder)
        record = self.finished()
        if record is not None:
            return record
        self._read_finished_steps()
        self._write_config()
        self._write_info("running")
        reset_peak_memory(self._prepared.bench.view.device)
        self._reporter.begin(self._units_left())
        try:
            for step in self.steps:
                if step not in self._results_by_step:
                    self._finish_step(self._measure(step))
        except KeyboardInterrupt:
            self._write_info("interrupted")
            raise
        except CosamError as error:
            self._write_info("failed", error=str(error))
            raise
        self._write_info("complete")
        shutil.rmtree(self.folder / "steps")
        return Record(self.folder, read_run_info(self.folder / "run.json"))

    def _read_finished_steps(self) -> None:
        for step in self.steps:
            path = self._step_path(step, "json")
            if not path.exists():
                break
            self._results_by_step[step] = StepResult.read(path)

    def _step_path(self, step: int, ending: str) -> Path:
        return self.folder / "steps" / f"{step:03d}.{ending}"

    def _units_left(self) -> float:
        images = sum(len(domain.test) for domain in self._prepared.columns)
        rows = [step for step in self.steps if step not in self._results_by_step]
        learned = self._prepared.domains if self._prepared.method.card.all_at_once else [
            self._prepared.domains[step - 1] for step in rows if step > 0
        ]
        training = sum(len(domain.train) for domain in learned) * self._prepared.bench.fit.epochs * 3
        return len(rows) * images + (training if self._prepared.method.card.state != "none" else 0)

    def _measure(self, step: int) -> StepResult:
        result = self._learn(step) if step > 0 else StepResult(0, {})
        self._reporter.say(f"Scoring after step {step} of {self.steps[-1]}" if step else "Scoring frozen SAM")
        began = time.perf_counter()
        sam = self._prepared.bench.sam
        method = self._build(step)
        passes = sam.encoder_passes
        scores = {}
        with self._watch(method, "predict"):
            for domain in self._prepared.columns:
                scores[domain.name] = score_split(
                    (lambda batch: method.bench.predict(None, batch)) if step == 0 else method.predict,
                    domain.test,
                    self._prepared.test_prompts[domain.name],
                    kind=self._prepared.config.protocol.prompts.test,
                    view=self._prepared.bench.view,
                    batch_size=self._prepared.bench.batch_size,
                    tell_domain=method.card.told_domain,
                    advance=self._reporter.advance,
                )
        images = sum(len(images) for images in scores.values())
        return replace(
            result,
            scores=scores,
            scoring_seconds=time.perf_counter() - began,
            encoder_passes_per_image=(sam.encoder_passes - passes) / images,
        )

    def _learn(self, step: int) -> StepResult:
        """Let the method learn the step's domain, and write its state."""
        domain = self._training_domain(step)
        self._reporter.say(f"Learning {domain.name} (step {step} of {self.steps[-1]})")
        method = self._build(self.steps[self.steps.index(step) - 1])
        began = time.perf_counter()
        with self._watch(method, "learn"):
            method.learn(domain, step=step)
            seconds = time.perf_counter() - began
            domain.close()
            state_bytes = method.state().save(self._step_path(step, "safetensors"))
        meter = method.bench.meter
        return StepResult(
            step,
            {},
            training_seconds=meter.training_seconds,
            merge_seconds=seconds - meter.elapsed_training_seconds,
            state_bytes=state_bytes,
            trainable_parameters=meter.trainable_parameters,
        )

    def _training_domain(self, step: int) -> TrainingDomain:
        if not self._prepared.method.card.all_at_once:
            domain = self._prepared.domains[step - 1]
            return TrainingDomain(domain.name, domain.train, self._prepared.train_prompts[domain.name])
        split = union(self._prepared.domains, "all")
        prompts = frozen_prompts(
            split,
            points=self._prepared.config.protocol.prompts.points,
            seed=self._prepared.config.seed,
            folder=self._results / SHARED / "prompts",
        )
        return TrainingDomain("all", split, prompts)

    def _build(self, step: int) -> Method:
        """A new method object, as the state after ``step`` makes it."""
        bench = replace(self._prepared.bench, meter=Meter(), advance=self._reporter.advance)
        method = self._prepared.method(self._prepared.settings, bench)
        if step > 0:
            with self._watch(method, "load"):
                method.load(State.read(self._step_path(step, "safetensors")))
        return method

    @contextmanager
    def _watch(self, method: Method, act: str) -> Iterator[None]:
        """Turn what the method raises into this run's failure, and see that the base model is untouched."""
        name = self._prepared.config.method
        try:
            yield
        except CosamError:
            raise
        except Exception as error:  # a method may raise anything, and it must break its own run only
            path = self.folder / "error.txt"
            write_atomically(path, traceback.format_exc())
            raise MethodFailed(
                f"The method {name!r} raised {type(error).__name__} in {act}(): {error}. The traceback is in {path}."
            ) from error
        if digest_tensors(method.bench.sam.state_dict()) != self._base_digest:
            raise MethodFailed(
                f"The method {name!r} changed the frozen base model's weights in {act}(). That is memory outside "
                "of its state: keep changes as an Update."
            )

    def _finish_step(self, result: StepResult) -> None:
        """Write the row; the step's own file comes last and makes it final."""
        self._results_by_step[result.step] = result
        self._writer.write_scores(result.step, result.scores)
        self._writer.write_matrix(self._cells())
        if result.step == self.steps[-1]:
            self._keep_final_state(result.step)
        result.save(self._step_path(result.step, "json"))
        for path in (self.folder / "steps").glob("*.safetensors"):
            if path != self._step_path(result.step, "safetensors"):
                path.unlink()

    def _keep_final_state(self, step: int) -> None:
        method = self._build(step)
        if isinstance(method, MergingMethod) and method.served is not None:
            write_atomically(self.folder / "update.safetensors", save(method.served.tensors()))
        shutil.copyfile(self._step_path(step, "safetensors"), self.folder / "state.safetensors")

    def _cells(self) -> list[Cell]:
        return [
            Cell(step, column, metric, value, len(scores))
            for step, result in sorted(self._results_by_step.items())
            for column, scores in result.scores.items()
            for metric, value in domain_means(scores).items()
        ]

    def _write_config(self) -> None:
        write_atomically(self.folder / "config.toml", self._prepared.config.to_toml())

    def _write_info(self, status: Status, *, error: str | None = None) -> None:
        prepared = self._prepared
        config = prepared.config
        device = prepared.bench.view.device
        order = tuple(domain.name for domain in prepared.domains)
        retention = tuple(domain.name for domain in prepared.retention)
        cells = self._cells()
        matrices = [
            ScoreMatrix.from_rows(cells, metric=metric, domains=order, retention=retention) for metric in METRICS
        ]
        info = RunInfo(
            protocol=config.protocol.name,
            protocol_version=config.protocol.version,
            method=config.method,
            settings=prepared.settings.model_dump(mode="json"),
            config=json.loads(config.model_dump_json()),
            seed=config.seed,
            order=order,
            retention=retention,
            marks=prepared.method.card.marks,
            conditions=prepared.conditions,
            versions=versions(),
            commit=commit(),
            hardware=dict(hardware(device)),
            device=str(device),
            status=status,
            started=self._started,
            error=error,
            cost=self._cost(),
            summary={matrix.metric: summary(matrix) for matrix in matrices},
        )
        self._writer.write_info(info)

    def _cost(self) -> Cost:
        learned = [self._results_by_step[step] for step in self.steps[1:] if step in self._results_by_step]
        if not learned:
            return Cost()
        return Cost(
            train_seconds=tuple(result.training_seconds for result in learned),
            merge_seconds=tuple(result.merge_seconds for result in learned),
            state_bytes=tuple(result.state_bytes for result in learned),
            peak_memory_bytes=peak_memory_bytes(self._prepared.bench.view.device),
            encoder_passes_per_image=learned[-1].encoder_passes_per_image,
            trainable_parameters=learned[-1].trainable_parameters,
        )
