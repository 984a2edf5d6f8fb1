"""What the parent has done in workers: learning a domain, predicting, and the served update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from cosam_bench.core.devices import release_reserve
from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scoring import BadPrediction
from cosam_bench.isolation.answers import Answers, write_state
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.isolation.faults import WorkerFault
from cosam_bench.isolation.payloads import (
    Tensors,
    Values,
    batch_message,
    bench_values,
    domain_values,
    prompt_tensors,
    update_from,
)
from cosam_bench.isolation.worker_handle import Worker
from cosam_bench.merging.updates import Update
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.feature_cache import open_domain, uncached_clock
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.serving import check_fits


@dataclass(frozen=True)
class Learned:
    """What learning one domain has cost.

    Attributes:
        training_seconds: adapter training; a reused expert counts in full.
        merge_seconds: the rest of ``learn``.
        state_bytes: size of the state's file.
        trainable_parameters: of the adapter that was trained last.
        peak_bytes: the largest memory of the worker.
        reported: figures of the method's own, by name.
    """

    training_seconds: float
    merge_seconds: float
    state_bytes: int
    trainable_parameters: int
    peak_bytes: int
    reported: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class IsolatedMethod:
    """A method that runs in workers alone.

    Attributes:
        facts: about it.
        bench: the parent's workbench, which trains experts that all methods share and caches features.
        hidden: folders that a worker must not see.
        prefix_bytes: on a GPU, the memory for a worker's own cache of features.
    """

    facts: MethodFacts
    bench: Workbench
    hidden: tuple[str, ...] = ()
    prefix_bytes: int = 0

    def _job(self) -> Values:
        prefixes = self.bench.prefixes
        cache = None if prefixes is None else {"depth": prefixes.depth, "limit_bytes": self.prefix_bytes}
        return {
            "method": self.facts.asked,
            "settings": self.facts.given,
            "source": f"The settings of method {self.facts.asked!r}",
            "bench": bench_values(self.bench) | {"prefixes": cache},
            "hidden": list(self.hidden),
            "is_watched": self.bench.on_step is not None,
        }

    def _worker(
        self, kind: str, more: Values | None = None, tensors: Tensors | None = None, *, state: Path | None
    ) -> Worker:
        release_reserve(self.bench.view.device)  # the worker computes on the same GPU
        return Worker(kind, self._job() | (more or {}), tensors, state=state)

    def learn(
        self, name: str, split: Split, prompts: Prompts, *, step: int, before: Path | None, after: Path
    ) -> Learned:
        """Learn one domain in a worker of its own, and write the state.

        Args:
            name: the domain's.
            split: its training samples, which the worker gets by value.
            prompts: one row per sample.
            step: 1 for the first domain.
            before: the state to start from; None: none.
            after: the file of the new state.

        Raises:
            WorkerFault: the method failed.
            CannotWrite: a file cannot be written.
        """
        domain = TrainingDomain(name, split, prompts)
        bench = replace(self.bench, meter=Meter())
        job = {"domain": domain_values(domain, split.manifest), "step": step}
        with (
            self._worker("learn", job, prompt_tensors(prompts), state=before) as worker,
            open_domain(bench.prefixes),
        ):
            answers = Answers(worker, bench, domain)
            answers.until("learning")
            began = uncached_clock(bench.prefixes)
            learned = answers.until("learned")
            seconds = uncached_clock(bench.prefixes) - began
            domain.close()
            with worker.checking():
                own = min(learned.number("training_seconds"), seconds)
                parameters = learned.count("trainable_parameters", most=1 << 50)
                gpu_peak = learned.count("gpu_peak_bytes", most=1 << 60)
                reported = learned.figures("reported")
            state_bytes = write_state(worker, answers.until("state"), after)
            peak_bytes = worker.finish()
        return Learned(
            training_seconds=bench.meter.training_seconds + own,
            merge_seconds=max(0.0, seconds - bench.meter.elapsed_training_seconds - own),
            state_bytes=state_bytes,
            trainable_parameters=parameters,
            peak_bytes=gpu_peak or peak_bytes,
            reported=reported,
        )

    @contextmanager
    def predicting(self, state: Path | None) -> Iterator[Prediction]:
        """Predictions by the method in a state, in a worker that lives as long as the context.

        Raises:
            WorkerFault: the method failed.
        """
        with self._worker("predict", state=state) as worker:
            prediction = Prediction(worker, self.bench)
            prediction.start()
            yield prediction

    def served(self, state: Path | None) -> Update | None:
        """The update that a merging method serves in a state; None for other methods.

        Raises:
            WorkerFault: the method failed, or what it serves does not fit the model.
        """
        with self._worker("served", state=state) as worker:
            found = Answers(worker, self.bench, None).until("served")
            if found.values.get("is_served") is not True:
                return None
            with worker.checking():
                update = update_from(found.tensors)
            try:
                check_fits(self.bench.sam, update)
            except CosamError as error:
                raise WorkerFault("cosam", act="served", text=str(error)) from None
            worker.finish()
            return update


class Prediction:
    """A method that predicts in a worker.

    Attributes:
        peak_bytes: the largest memory of the worker, once it has finished.
    """

    def __init__(self, worker: Worker, bench: Workbench) -> None:
        self._worker = worker
        self._bench = bench
        self._answers = Answers(worker, bench, None)
        self.peak_bytes = 0

    def start(self) -> None:
        """Wait until the method is loaded."""
        self._answers.until("ready")

    def __call__(self, batch: Batch) -> Tensor:
        """The logits of a batch, as the worker returned them, on the model's device.

        Raises:
            BadPrediction: they are none.
            MemoryError: the worker had too little memory for the batch.
            WorkerFault: the method failed.
        """
        grid = self._bench.view.grid
        expected = (len(batch), grid, grid)
        self._worker.send("predict", *batch_message(batch))
        try:
            found = self._answers.until("logits", most_bytes=4 * len(batch) * grid * grid)
        except WorkerFault as fault:
            if fault.kind == "memory":
                raise MemoryError(fault.text) from fault
            raise
        with self._worker.checking():
            self._bench.sam.encoder_passes += found.count("passes", most=1 << 40)
        logits = found.tensors.get("logits")
        if logits is None or logits.dtype != torch.float32 or tuple(logits.shape) != expected:
            shown = found.text("found") if logits is None else f"{logits.dtype} {tuple(logits.shape)}"
            raise BadPrediction(f"predict() must return float logits of shape {expected}, but returned {shown}.")
        return logits.to(self._bench.view.device)

    def finish(self) -> None:
        """Have the worker check that the frozen model is unchanged, and end it.

        Raises:
            WorkerFault: it is changed.
        """
        self._worker.send("finish")
        found = self._answers.until("finished")
        with self._worker.checking():
            gpu_peak = found.count("gpu_peak_bytes", most=1 << 60)
        self.peak_bytes = gpu_peak or self._worker.finish()
