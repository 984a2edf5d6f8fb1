"""What a worker asks for while it does its job, answered by the harness's own code and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cosam_bench.core.devices import release_reserve
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import CannotWrite, replacing
from cosam_bench.core.tensor_files import CannotRead
from cosam_bench.data.faults import DataFault
from cosam_bench.isolation.messages import BadMessage, Message
from cosam_bench.isolation.payloads import (
    Tensors,
    Values,
    images_from,
    update_from,
)
from cosam_bench.isolation.worker_handle import Worker
from cosam_bench.method.interface import State
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.serving import check_fits
from cosam_bench.training.fit import StepHookFailed, TrainingStep

_MOST_NOTES = 10  # of one worker
_NOTE_CHARACTERS = 400


class Answers:
    """Answers what a worker asks for, by the harness's own code and data."""

    def __init__(self, worker: Worker, bench: Workbench, domain: TrainingDomain | None) -> None:
        self._worker = worker
        self._bench = bench
        self._domain = domain
        self._notes = 0

    def until(self, kind: str, *, most_bytes: int | None = None) -> Message:
        """The next message of this kind; what is asked for before it is answered.

        Args:
            most_bytes: of that message's tensors, in addition to what a question may hold; None: those of an update.
        """
        told = {"advance": self._advance, "step": self._step, "note": self._note}
        asked = {"image": self._pixels, "mask": self._pixels, "ignored": self._pixels}
        asked |= {"features": self._features, "release": self._release, "expert": self._expert}
        limit = (self._update_bytes() if most_bytes is None else most_bytes) + self._question_bytes()
        while (message := self._worker.receive(most_bytes=limit)).kind != kind:
            if message.kind in told:
                with self._worker.checking():
                    told[message.kind](message)
            elif message.kind in asked and (self._domain is not None or message.kind in ("features", "release")):
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

    def _note(self, message: Message) -> None:
        """A note for the user, which the method may have written: one short line that says where it is from."""
        self._notes += 1
        if self._notes <= _MOST_NOTES:
            text = " ".join(message.text("text").split())
            shown = text if len(text) <= _NOTE_CHARACTERS else f"{text[:_NOTE_CHARACTERS]} ..."
            self._bench.note(f"From the method's process: {shown}")
        elif self._notes == _MOST_NOTES + 1:
            self._bench.note("From the method's process: further notes are left out.")

    def _pixels(self, message: Message) -> tuple[Values, Tensors]:
        assert self._domain is not None
        index = message.count("index", most=len(self._domain) - 1)
        sample = self._domain[index]
        pixels = {"image": sample.image, "mask": sample.mask, "ignored": sample.ignored}[message.kind]
        return {}, {} if pixels is None else {"pixels": pixels}

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

    def _release(self, message: Message) -> tuple[Values, Tensors]:
        """The worker ran out of a GPU's memory: what this process keeps there goes."""
        is_released = self._bench.prefixes is not None and self._bench.prefixes.backend.release()
        release_reserve(self._bench.view.device)
        return {"is_released": is_released}, {}

    def _expert(self, message: Message) -> tuple[Values, Tensors]:
        """The domain's expert, from the store or trained here by the protocol."""
        assert self._domain is not None
        start = update_from(message.tensors) if message.values.get("has_start") is True else None
        if start is not None:
            check_fits(self._bench.sam, start)
        from_scratch = message.values.get("from_scratch") is True
        fitted = self._bench.train(self._domain, start=start, from_scratch=from_scratch)
        release_reserve(self._bench.view.device)  # the worker continues on the same GPU
        return fitted.facts, fitted.update.tensors()


def write_state(worker: Worker, message: Message, path: Path) -> int:
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
