"""What the parent has done in workers: describing a method, learning a domain, predicting, and the served update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import CannotWrite, replacing
from cosam_bench.core.tensor_files import CannotRead
from cosam_bench.data.faults import DataFault
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.scoring import BadPrediction
from cosam_bench.isolation.faults import WorkerFault
from cosam_bench.isolation.messages import BadMessage, Message
from cosam_bench.isolation.payloads import (
    Tensors,
    Values,
    batch_message,
    bench_values,
    card_from,
    domain_values,
    images_from,
    prompt_tensors,
    update_from,
)
from cosam_bench.isolation.workers import Worker
from cosam_bench.merging.updates import Update
from cosam_bench.method.card import MethodCard
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.interface import State
from cosam_bench.method.registry import absolute_reference
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.feature_cache import uncached_clock
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.serving import check_fits
from cosam_bench.training.fit import StepHookFailed, TrainingStep


@dataclass(frozen=True)
class MethodFacts:
    """What the harness knows of a method that it never imports.

    Attributes:
        asked: the method, as ``--method`` takes it.
        card: its card.
        settings: all of its settings, resolved, as JSON values.
        given: the same without those that are None.
        counted: those that differ from their defaults.
        rule: the hash of its code.
    """

    asked: str
    card: MethodCard
    settings: Values
    given: Values
    counted: Values
    rule: str


def describe(asked: str, settings: Mapping[str, Any], *, source: str) -> MethodFacts:
    """The facts about a method, which is imported in a worker.

    Args:
        asked: the method.
        settings: those that are given.
        source: of the settings, in messages.

    Raises:
        WorkerFault: it cannot be imported, or a setting is not one of its own.
    """
    asked = absolute_reference(asked)  # a worker has a working directory of its own
    with Worker("describe", {"method": asked, "settings": dict(settings), "source": source}) as worker:
        found = worker.due("described")
        try:
            card = card_from(found.values.get("card"))
        except BadMessage as error:
            raise worker.bad(str(error)) from None
        parts = [found.values.get(name) for name in ("settings", "given", "counted")]
        rule = found.text("rule")
        if not all(isinstance(part, dict) for part in parts) or len(rule) != 64:
            raise worker.bad("a description without settings or rule")
        worker.finish()
        resolved, given, counted = (dict(part) for part in parts if isinstance(part, dict))
        return MethodFacts(asked, card, resolved, given, counted, rule)


def text_of(fault: WorkerFault, asked: str) -> str:
    """What went wrong while a method was imported or checked, as one message."""
    if fault.kind in ("cosam", "disk"):
        return fault.text
    where = f" ({fault.place})" if str(fault.place) else ""
    act = "while its code was imported" if fault.act in ("import", "describe") else f"in {fault.act}()"
    if fault.kind == "died":
        return f"Method {asked!r}: its process {fault.text} {act}{where}. Correct the method."
    if fault.kind == "contract":
        return f"Method {asked!r}: {fault.text}"
    return f"Method {asked!r} raised {fault.error} {act}: {fault.text}{where}."


@dataclass(frozen=True)
class Learned:
    """What learning one domain has cost.

    Attributes:
        training_seconds: adapter training; a reused expert counts in full.
        merge_seconds: the rest of ``learn``.
        state_bytes: size of the state's file.
        trainable_parameters: of the adapter that was trained last.
        peak_bytes: the largest memory of the worker.
    """

    training_seconds: float
    merge_seconds: float
    state_bytes: int
    trainable_parameters: int
    peak_bytes: int


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
        job = self._job() | {"domain": domain_values(domain, split.manifest), "step": step}
        with Worker("learn", job, prompt_tensors(prompts), state=before) as worker:
            answers = _Answers(worker, bench, domain)
            answers.until("learning")
            began = uncached_clock(bench.prefixes)
            learned = answers.until("learned")
            seconds = uncached_clock(bench.prefixes) - began
            domain.close()
            with worker.checking():
                own = min(learned.number("training_seconds"), seconds)
                parameters = learned.count("trainable_parameters", most=1 << 50)
                gpu_peak = learned.count("gpu_peak_bytes", most=1 << 60)
            state_bytes = _write_state(worker, answers.until("state"), after)
            peak_bytes = worker.finish()
        return Learned(
            training_seconds=bench.meter.training_seconds + own,
            merge_seconds=max(0.0, seconds - bench.meter.elapsed_training_seconds - own),
            state_bytes=state_bytes,
            trainable_parameters=parameters,
            peak_bytes=gpu_peak or peak_bytes,
        )

    @contextmanager
    def predicting(self, state: Path | None) -> Iterator[Prediction]:
        """Predictions by the method in a state, in a worker that lives as long as the context.

        Raises:
            WorkerFault: the method failed.
        """
        with Worker("predict", self._job(), state=state) as worker:
            prediction = Prediction(worker, self.bench)
            prediction.start()
            yield prediction

    def served(self, state: Path | None) -> Update | None:
        """The update that a merging method serves in a state; None for other methods.

        Raises:
            WorkerFault: the method failed, or what it serves does not fit the model.
        """
        with Worker("served", self._job(), state=state) as worker:
            found = _Answers(worker, self.bench, None).until("served")
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
        self._answers = _Answers(worker, bench, None)
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


class _Answers:
    """Answers what a worker asks for, by the harness's own code and data."""

    def __init__(self, worker: Worker, bench: Workbench, domain: TrainingDomain | None) -> None:
        self._worker = worker
        self._bench = bench
        self._domain = domain

    def until(self, kind: str, *, most_bytes: int | None = None) -> Message:
        """The next message of this kind; what is asked for before it is answered.

        Args:
            most_bytes: of that message's tensors, in addition to what a question may hold; None: those of an update.
        """
        told = {"advance": self._advance, "step": self._step}
        asked = {"image": self._pixels, "mask": self._pixels, "features": self._features, "expert": self._expert}
        limit = (self._update_bytes() if most_bytes is None else most_bytes) + self._question_bytes()
        while (message := self._worker.receive(most_bytes=limit)).kind != kind:
            if message.kind in told:
                with self._worker.checking():
                    told[message.kind](message)
            elif message.kind in asked and (self._domain is not None or message.kind == "features"):
                self._answer(message, asked[message.kind])
            else:
                raise self._worker.bad(f"a message {message.text('kind') or message.kind[:40]!r}, which is not due")
        return message

    def _update_bytes(self) -> int:
        """More than any update of the model takes: all of it, in float64, both thin and dense."""
        return 64 * sum(part.nbytes for part in self._bench.sam.parameters())

    def _question_bytes(self) -> int:
        """What the images of a request for features may take."""
        return 3 * 4 * self._bench.view.size**2 * 4096

    def _answer(self, message: Message, make: Callable[[Message], tuple[Values, Tensors]]) -> None:
        try:
            answer = make(message)
        except BadMessage as error:
            raise self._worker.bad(str(error)) from None
        except (CannotWrite, DataFault, StepHookFailed):
            raise  # a full disk, the data or the caller's hook is not the method's fault
        except Exception as error:  # the worker raises it where the method called
            text = str(error) if isinstance(error, CosamError) else f"{type(error).__name__}: {error}"
            self._worker.send("refused", {"text": text, "is_memory": ran_out_of_memory(error)})
        else:
            self._worker.send("answer", *answer)

    def _advance(self, message: Message) -> None:
        self._bench.advance(message.number("units", most=1e9))

    def _step(self, message: Message) -> None:
        """A step of a training with the method's own hooks, which runs in the worker."""
        step, steps, epoch = (message.count(name, most=1 << 40) for name in ("step", "steps", "epoch"))
        loss = message.values.get("loss")
        if not isinstance(loss, float):
            raise BadMessage("a training step without a loss")
        if self._bench.on_step is not None:
            self._bench.on_step(TrainingStep(step, steps, epoch, loss, domain=message.text("domain")))

    def _pixels(self, message: Message) -> tuple[Values, Tensors]:
        assert self._domain is not None
        index = message.count("index", most=len(self._domain) - 1)
        sample = self._domain[index]
        return {}, {"pixels": sample.image if message.kind == "image" else sample.mask}

    def _features(self, message: Message) -> tuple[Values, Tensors]:
        prefixes, view = self._bench.prefixes, self._bench.view
        if prefixes is None:
            raise BadMessage("a request for features, which this run does not keep")
        images, inputs = images_from(message, view)
        is_bf16 = message.values.get("is_bf16") is True
        before = prefixes.spared_seconds
        with torch.no_grad(), torch.autocast(view.device.type, torch.bfloat16, enabled=is_bf16):
            found = prefixes.features(images, inputs=inputs)
        tensors = {"maps": found.maps} | ({} if found.early is None else {"early": found.early})
        return {"spared_seconds": prefixes.spared_seconds - before}, tensors

    def _expert(self, message: Message) -> tuple[Values, Tensors]:
        """The domain's expert, from the store or trained here by the protocol."""
        assert self._domain is not None
        start = update_from(message.tensors) if message.values.get("has_start") is True else None
        if start is not None:
            check_fits(self._bench.sam, start)
        from_scratch = message.values.get("from_scratch") is True
        fitted = self._bench.train(self._domain, start=start, from_scratch=from_scratch)
        facts = {
            "epoch_losses": fitted.epoch_losses,
            "trainable_parameters": fitted.trainable_parameters,
            "seconds": fitted.seconds,
        }
        return facts, fitted.update.tensors()


def _write_state(worker: Worker, message: Message, path: Path) -> int:
    """Write the state that a worker sends as a file, and return its size in bytes.

    Raises:
        WorkerFault: it is not a state.
    """
    with worker.checking():
        size_bytes = message.count("size_bytes", most=1 << 50)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            while rest := size_bytes - file.tell():
                file.write(worker.receive_bytes(min(rest, 1 << 22)))
        try:
            State.read(temporary)
        except CannotRead:
            raise worker.bad("something else than a state") from None
    return size_bytes
