"""One job in a process of its own: describe a method, learn one domain, predict one row, or give the served update."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.arithmetic import round_as
from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.devices import peak_memory_bytes, release_reserve, reset_peak_memory, synchronise
from cosam_bench.core.hashing import digest_tensors
from cosam_bench.core.search_ranges import search_ranges
from cosam_bench.core.settings import Settings, validate
from cosam_bench.isolation.audit import Audit
from cosam_bench.isolation.faults import WorkerFault, fault_of
from cosam_bench.isolation.messages import Channel, ChannelClosed, Message
from cosam_bench.isolation.payloads import (
    adapter_from,
    batch_from,
    card_values,
    domain_from,
    fit_from,
    view_from,
)
from cosam_bench.isolation.remote import Parent, Progress, RemoteMemory, RemotePixels, RemotePrefixes, RemoteWorkbench
from cosam_bench.isolation.sandbox import confine, end_with_parent, settle
from cosam_bench.method.card import MethodCard
from cosam_bench.method.contract_check import examine
from cosam_bench.method.frozen_base import FrozenBase
from cosam_bench.method.interface import Method, State, served_update, state_of
from cosam_bench.method.places import place_of
from cosam_bench.method.registry import load_method
from cosam_bench.method.rule_digest import rule_digest
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import TrainingStep
from cosam_bench.training.given_experts import GivenExperts

_GPU_FILES = ("nvidia*", "dri/*", "kfd", "nvidia-caps/*")


@dataclass(frozen=True)
class Model:
    """The frozen model that a worker finds when it starts.

    Attributes:
        sam: on the CPU.
        digest: of its weights.
    """

    sam: Sam
    digest: str


def run_worker(connection: socket.socket, model: Model | None) -> None:
    """Do the one job that the parent sends first, and return when the parent is done with it."""
    end_with_parent()
    parent = Parent(Channel(connection))
    try:
        job = parent.next()
        worker = _Worker(job, parent, model)
        {
            "describe": worker.describe,
            "learn": worker.learn,
            "predict": worker.predict,
            "served": worker.served,
            "check": worker.check,
        }[job.kind]()
        parent.next()  # wait until the parent has read everything
    except ChannelClosed:
        return
    except BaseException as error:  # whatever a method raises, SystemExit included
        fault = fault_of(error, act="run")
        parent.tell("failed", fault.to_values())
        parent.next()


class _Worker:
    """The state of one job."""

    def __init__(self, job: Message, parent: Parent, model: Model | None) -> None:
        self._job = job
        self._parent = parent
        self._model = model
        values = job.values
        sys.path[:] = values["path"]
        round_as(values["arithmetic"])
        folder = Path(values["folder"])
        device = values.get("bench", {}).get("device", "cpu")
        is_gpu = device != "cpu"
        devices = [path for pattern in _GPU_FILES for path in Path("/dev").glob(pattern)] if is_gpu else []
        settle(folder)
        given_up = confine(folder, hidden=[Path(path) for path in values["hidden"]], devices=devices)
        parent.tell("confined", {"given_up": given_up})
        self._folder = folder

    @contextmanager
    def _act(self, act: str, function: object = None) -> Iterator[None]:
        """Tell the parent which function of the method runs now, and turn what it raises into a fault."""
        self._parent.tell("act", {"act": act, **asdict(place_of(function))})
        try:
            yield
        except ChannelClosed:
            raise
        except BaseException as error:  # a method may raise anything
            raise fault_of(error, act=act) from error

    def _method_class(self) -> type[Method]:
        with self._act("import"):
            return load_method(self._job.values["method"])

    def _settings(self, method: type[Method]) -> Settings:
        return validate(method.Settings, self._job.values["settings"], source=self._job.values["source"])

    def describe(self) -> None:
        """Tell what the harness must know of a method before it runs."""
        method = self._method_class()
        with self._act("describe", method):
            card = getattr(method, "card", None)
            if not isinstance(card, MethodCard):
                raise WorkerFault("cosam", act="describe", text=_no_card(self._job.values["method"]))
            settings = self._settings(method)
            facts = {
                "card": card_values(card),
                "settings": settings.model_dump(mode="json"),
                "given": settings.model_dump(mode="json", exclude_none=True),
                "counted": counted_settings(settings),
                "rule": rule_digest(method),
                "needs_training": method.needs_training(settings),
                "ranges": {name: one.as_table() for name, one in search_ranges(method.Settings).items()},
            }
            self._parent.tell("described", facts)

    def check(self) -> None:
        """Try the method on small domains, all in this process, and tell what was seen."""
        audit = Audit()
        method = self._method_class()
        audit.watch(getattr(sys.modules.get(method.__module__), "__file__", None))
        with self._act("check", method):
            examined = examine(method, settings=self._job.values["settings"])
            values = {
                "faults": examined.faults,
                "passed": examined.passed,
                "states": examined.states,
                "logits": [digest_tensors({"logits": logits}) for logits in examined.logits],
                "findings": audit.findings(),
            }
            self._parent.tell("checked", values)

    def learn(self) -> None:
        """Learn one domain, and give the state."""
        job = self._job.values
        domain = domain_from(self._job, RemotePixels(self._parent))
        bench, base = self._bench()
        bench = replace(bench, shared_domain=domain)
        method = self._built(bench)
        reset_peak_memory(bench.view.device)
        with self._act("learn", type(method).learn):
            self._parent.tell("learning")
            method.learn(domain, step=job["step"])
            synchronise(bench.view.device)
        domain.close()
        self._parent.tell(
            "learned",
            {
                "training_seconds": max(0.0, bench.meter.training_seconds - bench.shared.training_seconds),
                "trainable_parameters": bench.meter.trainable_parameters,
                "reported": {name: value for name, value in bench.meter.reported.items() if math.isfinite(value)},
                "gpu_peak_bytes": _gpu_peak(bench),
            },
        )
        path = self._folder / "state.safetensors"
        with self._act("state", type(method).state):
            state_of(method).save(path)
        self._check_base(base, "learn")
        self._parent.tell("state", {"size_bytes": path.stat().st_size})
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                self._parent.send_bytes(memoryview(block))

    def predict(self) -> None:
        """Predict batch after batch until the parent has no more; on a GPU, features are kept for one batch.

        A row's test images come once, but a method may encode each several times. With further prompts they come again,
        but only after all others.
        """
        bench, base = self._bench()
        method = self._built(bench)
        reset_peak_memory(bench.view.device)
        self._parent.tell("ready")
        while (message := self._parent.next()).kind == "predict":
            is_full = False
            try:
                self._predict(method, bench, message)
            except WorkerFault as fault:
                if fault.kind != "memory":
                    raise
                self._parent.tell("failed", fault.to_values())  # a smaller batch may fit
                is_full = True
            _forget_features(bench)
            if is_full:  # only here is the fault gone, with the frames that hold the batch's tensors
                release_reserve(bench.view.device)
        self._check_base(base, "predict")
        self._parent.tell("finished", {"gpu_peak_bytes": _gpu_peak(bench)})

    def _predict(self, method: Method, bench: RemoteWorkbench, message: Message) -> None:
        batch = batch_from(message, bench.view)
        before = bench.sam.encoder_passes
        with self._act("predict", type(method).predict), torch.inference_mode():
            logits: object = method.predict(batch)
            passes = {"passes": bench.sam.encoder_passes - before}
            expected = (len(batch), bench.view.grid, bench.view.grid)
            if not isinstance(logits, Tensor):
                self._parent.tell("logits", {**passes, "found": type(logits).__name__})
            elif tuple(logits.shape) != expected or not logits.is_floating_point():
                self._parent.tell("logits", {**passes, "found": f"{logits.dtype} {tuple(logits.shape)}"})
            else:
                self._parent.tell("logits", passes, {"logits": logits.float()})

    def served(self) -> None:
        """Give the update that a merging method serves."""
        bench, _ = self._bench()
        method = self._built(bench)
        served = served_update(method)
        if served is None:
            self._parent.tell("served", {"is_served": False})
        else:
            self._parent.tell("served", {"is_served": True}, served.tensors())

    def _built(self, bench: RemoteWorkbench) -> Method:
        """A new method object, restored from the state before the step if there is one."""
        found = self._method_class()
        with self._act("__init__", found.__init__):
            method = found(self._settings(found), bench)
        state = self._job.values.get("state")
        if state is not None:
            with self._act("load", found.load):
                method.load(State.read(Path(state)))
        return method

    def _bench(self) -> tuple[RemoteWorkbench, FrozenBase]:
        assert self._model is not None
        values, sam = self._job.values["bench"], self._model.sam
        device = torch.device(values["device"])
        sam = sam.to(device)
        bench = RemoteWorkbench(
            sam=sam,
            adapter=adapter_from(values["adapter"]),
            fit=fit_from(values["fit"]),
            prompt_kind=values["prompt_kind"],
            view=view_from(values["view"], device),
            seed=values["seed"],
            batch_size=values["batch_size"],
            prefixes=self._prefixes(values["prefixes"], sam),
            advance=Progress(self._parent),
            on_step=self._report if self._job.values["is_watched"] else None,
            given=None if values["given_layers"] is None else GivenExperts(tuple(values["given_layers"])),
            note=self._note,
            parent=self._parent,
        )
        return bench, FrozenBase(sam, digest=self._model.digest)

    def _report(self, step: TrainingStep) -> None:
        self._parent.tell("step", asdict(step))

    def _note(self, text: str) -> None:
        self._parent.tell("note", {"text": text})

    def _prefixes(self, values: Mapping[str, Any] | None, sam: Sam) -> PrefixCache | None:
        """The parent's cache on the CPU; one of this process on a GPU, from which features would have to be copied."""
        if values is None:
            return None
        if sam.device.type != "cuda":
            return RemotePrefixes(self._parent, sam=sam, depth=values["depth"])
        memory = RemoteMemory(self._parent, limit_bytes=values["limit_bytes"])
        return PrefixCache.on_gpu(memory, sam=sam, depth=values["depth"])

    def _check_base(self, base: FrozenBase, act: str) -> None:
        fault = base.fault(act)
        if fault is not None:
            raise WorkerFault("contract", act=act, text=fault)


def _no_card(asked: str) -> str:
    return f"Method {asked!r}: its class has no card. Write card = MethodCard(title='...', ...) in it."


def _forget_features(bench: RemoteWorkbench) -> None:
    """Drop the features that this process keeps itself, as it does on a GPU."""
    if bench.prefixes is not None and isinstance(bench.prefixes.backend, FeatureMemory):
        bench.prefixes.backend.clear()


def _gpu_peak(bench: RemoteWorkbench) -> int:
    device = bench.view.device
    return peak_memory_bytes(device) if device.type == "cuda" else 0


def leave(code: int = 0) -> None:
    """End this process without what the interpreter would do at its end, which is the parent's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
