"""A record while its run is in progress: what is final, what is still missing, and who is writing.

The record's folder has ``config.toml`` and ``run.json`` from the start; ``scores.csv`` and ``matrix.csv`` grow with
every step; at the end come ``state.safetensors`` (all that the method keeps), ``update.safetensors`` (what it serves,
if that is one update) and ``examples.json``. Until then ``steps/`` holds

    NNN.safetensors   the method's state after step NNN
    NNN.npz           predicted masks for ``examples.json``
    NNN.json          the step's scores and costs; written last, it makes the step final

A run that is killed between any two writes continues after the last final step: the state that it starts from is
removed only once the next step is final, and everything else is written again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cosam_bench.core.environment import commit, hardware, utc_now, versions
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import LOCK, CannotWrite, is_temporary, only_writer, replacing, write_atomically
from cosam_bench.core.hashing import sha256_file
from cosam_bench.core.tensor_files import write_tensors
from cosam_bench.evaluation.figures import summary
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix
from cosam_bench.evaluation.scoring import domain_means
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.merging.updates import Update
from cosam_bench.results.records import STEPS, Record, RecordWriter, record_folder
from cosam_bench.results.run_info import Cost, RunInfo, Status, read_run_info
from cosam_bench.results.verification import verify_files
from cosam_bench.sam.update_files import UPDATE_FILE


class RunningRecord:
    """The folder of one run, written by one process at a time."""

    def __init__(self, experiment: Experiment, *, results: Path) -> None:
        self.folder = record_folder(
            results,
            protocol=experiment.config.protocol.name,
            method=experiment.method_name,
            digest=experiment.digest,
        )
        self._experiment = experiment
        self._writer = RecordWriter(self.folder)
        self._started = utc_now()
        self._done: dict[int, StepResult] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only writer within the context; a killed process leaves no lock.

        Raises:
            CosamError: another process is writing.
            CannotWrite: the folder cannot be created.
        """
        busy = CosamError(
            f"Another process is writing this same run to {self.folder}. Wait for it, stop it, or give another "
            "folder with --results."
        )
        with only_writer(self.folder, busy=busy):
            yield

    def finished(self) -> Record | None:
        """The record if it is already complete.

        To an isolated run, a record of a method that ran in the process that scored it does not count.

        Raises:
            CosamError: the folder has a record that cannot be read.
        """
        info = self._info()
        if info is None or info.status != "complete" or self._is_doubtful(info):
            return None
        return Record(self.folder, info)

    def _is_doubtful(self, info: RunInfo) -> bool:
        return self._experiment.is_isolated and not info.isolated

    def _info(self) -> RunInfo | None:
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            return read_run_info(path)
        except CosamError as error:
            raise CosamError(f"{error} Use --fresh to replace it with this run.") from None

    def forget(self) -> None:
        """Remove everything that an earlier run left."""
        with _removing(self.folder):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()

    def begin(self) -> None:
        """Read the steps that are final, and mark the record as running.

        Raises:
            CosamError: a step that should be final cannot be read, or belongs to another run.
        """
        earlier = self._info()
        if earlier is not None and self._is_doubtful(earlier):
            self.forget()
        elif earlier is not None:
            self._started = earlier.started
        for step in self._experiment.steps:
            path = self._step_file(step, "json")
            if not path.exists():
                break
            self._done[step] = self._checked(StepResult.read(path, identity=self._experiment.digest), path, step)
        with _removing(self.folder):
            self.error_file.unlink(missing_ok=True)
            for path in filter(is_temporary, self.folder.rglob(".*")):  # left by a process that was killed
                path.unlink()
        write_atomically(self.folder / "config.toml", self._experiment.config.to_toml())
        self.write_info("running")

    def _checked(self, result: StepResult, path: Path, step: int) -> StepResult:
        wanted = {domain.name: list(domain.test.keys) for domain in self._experiment.columns}
        found = {column: [score.key for score in scores] for column, scores in result.scores.items()}
        if result.step != step or found != wanted:
            raise CosamError(f"{path} does not belong to this run. Run again with --fresh.")
        return result

    @property
    def results(self) -> Mapping[int, StepResult]:
        """The final steps by number."""
        return self._done

    @property
    def missing(self) -> list[int]:
        """The steps that are still to be measured, in order."""
        return [step for step in self._experiment.steps if step not in self._done]

    def before(self, step: int) -> StepResult | None:
        """The last final step before this one that left a state; None for the first domain."""
        found = [done for number, done in self._done.items() if 0 < number < step]
        return found[-1] if found else None

    @property
    def error_file(self) -> Path:
        """The file for the traceback of a failed method."""
        return self.folder / "error.txt"

    def state_file(self, step: int) -> Path:
        """The method's state after ``step``."""
        return self._step_file(step, "safetensors")

    def _step_file(self, step: int, ending: str) -> Path:
        return self.folder / STEPS / f"{step:03d}.{ending}"

    def finish_step(self, result: StepResult) -> None:
        """Write a row, make its step final, and remove the state before it."""
        results = self._done | {result.step: result}
        self._writer.write_scores({step: one.scores for step, one in results.items()})
        self._writer.write_matrix(self._cells(results))
        result.save(self._step_file(result.step, "json"), identity=self._experiment.digest)
        self._done[result.step] = result
        with _removing(self.folder):
            for path in (self.folder / STEPS).glob("*.safetensors"):
                if path != self.state_file(result.step):
                    path.unlink()

    def checked_state(self, result: StepResult) -> Path:
        """The file of the method's state after a step.

        Raises:
            CosamError: the file is missing, or is not the one that the step wrote.
        """
        path = self.state_file(result.step)
        if sha256_file(path) != result.state_sha256:
            raise CosamError(f"{path} was changed after step {result.step} wrote it. Run again with --fresh.")
        return path

    def keep_outcome(self, served: Update | None) -> None:
        """Keep the final state, and the served update if the method has one."""
        state = self.state_file(self._experiment.steps[-1])
        with replacing(self.folder / "state.safetensors") as temporary:
            shutil.copyfile(state, temporary)
        if served is not None:
            write_tensors(self.folder / UPDATE_FILE, served.tensors())

    def complete(self) -> Record:
        """Write all results again, verify every file, and only then call the record complete.

        Raises:
            CosamError: a file of the record was changed or removed while the run was in progress.
        """
        write_atomically(self.folder / "config.toml", self._experiment.config.to_toml())
        self._writer.write_scores({step: result.scores for step, result in self._done.items()})
        self._writer.write_matrix(self._cells(self._done))
        self._writer.write_negatives([row for _, one in sorted(self._done.items()) for row in one.negative_scores])
        self._writer.write_prompts([row for _, result in sorted(self._done.items()) for row in result.prompts])
        self._writer.write_scales([row for _, result in sorted(self._done.items()) for row in result.scales])
        info = self._info_as("complete", error=None)
        verified = verify_files(self.folder, info)
        wrong = list(map(str, verified.faults))
        if info.files.get("state.safetensors") != self._done[self._experiment.steps[-1]].state_sha256:
            wrong.append("state.safetensors is not the state after the last step")
        if wrong:
            raise CosamError(
                f"{self.folder} was changed while the run was in progress: {wrong[0].rstrip('.')}. Run it again; the "
                "steps that are whole are not repeated."
            )
        self._writer.write_info(info)
        self.remove_steps()
        return Record(self.folder, read_run_info(self.folder / "run.json"))

    def remove_steps(self) -> None:
        """Remove what a complete record does not need; only who holds the lock may do that."""
        with _removing(self.folder):
            if (self.folder / STEPS).exists():  # a killed process may have removed them, and left the lock
                shutil.rmtree(self.folder / STEPS)
            (self.folder / LOCK).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what a process left that was killed after its record was complete, if that is possible."""
        if (self.folder / STEPS).exists() or (self.folder / LOCK).exists():
            with suppress(CosamError), self.locked():
                self.remove_steps()

    def stop(self, status: Status, *, error: str | None) -> None:
        """Record why the run ended early, if that can still be written."""
        with suppress(CannotWrite):
            self.write_info(status, error=error)

    def write_info(self, status: Status, *, error: str | None = None) -> None:
        """Replace ``run.json``."""
        self._writer.write_info(self._info_as(status, error=error))

    def _info_as(self, status: Status, *, error: str | None) -> RunInfo:
        experiment = self._experiment
        config = experiment.config
        order = tuple(domain.name for domain in experiment.domains)
        retention = tuple(domain.name for domain in experiment.retention)
        cells = self._cells(self._done)
        matrices = [
            ScoreMatrix.from_cells(cells, metric=metric, domains=order, retention=retention) for metric in METRICS
        ]
        return RunInfo(
            protocol=config.protocol.name,
            protocol_version=config.protocol.version,
            method=experiment.method_name,
            settings=experiment.settings_values,
            config=json.loads(config.model_dump_json()),
            seed=config.seed,
            order=order,
            retention=retention,
            marks=experiment.marks,
            budget=experiment.method.card.budget,
            tuning=config.tuning,
            conditions=experiment.conditions,
            image_counts=experiment.image_counts,
            weights_sha256=experiment.bench.sam.checkpoint_digest,
            prompts=experiment.prompt_digests,
            versions=versions(),
            commit=commit(),
            hardware=dict(hardware(experiment.bench.view.device)),
            device=str(experiment.bench.view.device),
            status=status,
            rule=experiment.rule,
            isolated=experiment.is_isolated,
            experts={} if experiment.bench.given is None else dict(sorted(experiment.bench.given.sources.items())),
            started=self._started,
            error=error,
            cost=self._cost(),
            summary={matrix.metric: summary(matrix) for matrix in matrices},
            files=self._files() if status == "complete" else {},
        )

    def _files(self) -> dict[str, str]:
        """By the name of each file of the record but ``run.json``, its sha256."""
        paths = (path for path in sorted(self.folder.iterdir()) if path.is_file() and path.name != "run.json")
        return {path.name: sha256_file(path) for path in paths if not path.name.startswith(".")}

    def _cells(self, results: dict[int, StepResult]) -> list[Cell]:
        return [
            Cell(step, column, metric, value, len(scores))
            for step, result in sorted(results.items())
            for column, scores in result.scores.items()
            for metric, value in domain_means(scores).items()
        ]

    def _cost(self) -> Cost:
        learned = [self._done[step] for step in self._experiment.steps[1:] if step in self._done]
        if not learned:
            return Cost()
        is_trained = self._experiment.bench.given is None  # nothing is claimed of a training elsewhere
        return Cost(
            train_seconds=tuple(result.training_seconds for result in learned) if is_trained else (),
            merge_seconds=tuple(result.merge_seconds for result in learned),
            state_bytes=tuple(result.state_bytes for result in learned),
            peak_memory_bytes=max(result.peak_memory_bytes for result in self._done.values()),
            encoder_passes_per_image=learned[-1].encoder_passes_per_image,
            trainable_parameters=learned[-1].trainable_parameters if is_trained else None,
            reported={
                name: tuple(result.reported.get(name, math.nan) for result in learned)
                for name in dict.fromkeys(name for result in learned for name in result.reported)
            },
        )


@contextmanager
def _removing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be cleared: {error.strerror or error}. Check who owns it.") from error
