"""What a worker asks its parent for: samples, features and shared experts, each by value."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.isolation.messages import Channel, Message
from cosam_bench.isolation.payloads import Tensors, Values, image_message
from cosam_bench.merging.updates import Update
from cosam_bench.method.cost_meter import Meter
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache, uncached_clock
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import BatchInputs
from cosam_bench.sam.sam import Features, Sam
from cosam_bench.training.fit import Fitted, TrainingHooks


class Parent:
    """The worker's end of the socket; threads may ask at the same time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def tell(self, kind: str, values: Values | None = None, tensors: Tensors | None = None) -> None:
        """Send a message that has no answer."""
        with self._lock:
            self._channel.send(kind, values, tensors)

    def ask(self, kind: str, values: Values | None = None, tensors: Tensors | None = None) -> Message:
        """Send a message, and return its answer.

        Raises:
            CosamError: the parent could not do what was asked.
            MemoryError: it had too little memory.
        """
        with self._lock:
            self._channel.send(kind, values, tensors)
            answer = self._channel.receive()
        if answer.kind == "refused":
            text = str(answer.values["text"])
            raise MemoryError(text) if answer.values["is_memory"] else CosamError(text)
        return answer

    def next(self) -> Message:
        """The next message that the parent sends by itself."""
        return self._channel.receive()

    def send_bytes(self, data: memoryview) -> None:
        """Send raw bytes."""
        self._channel.send_bytes(data)


@dataclass(frozen=True)
class RemotePixels:
    """The pixels of the training samples, each asked for when it is read."""

    parent: Parent

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        return self.parent.ask("image", {"index": index}).tensors["pixels"]

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        return self.parent.ask("mask", {"index": index}).tensors["pixels"]

    def ignored(self, index: int) -> Tensor | None:
        """bool, ``(H, W)``; None if all pixels count."""
        return self.parent.ask("ignored", {"index": index}).tensors.get("pixels")


class _NoFeatures:
    """Keeps nothing: the parent does."""

    def read(self, key: str) -> Kept | None:
        return None

    def keep(self, key: str, kept: Kept) -> None:
        return None

    def open_domain(self) -> AbstractContextManager[None]:
        return nullcontext()

    def release(self) -> bool:
        return False

    def keep_fewer(self) -> None:
        return None


class RemotePrefixes(PrefixCache):
    """The parent's cache of features: it looks them up, or computes and keeps them, by its own model."""

    def __init__(self, parent: Parent, *, sam: Sam, depth: int) -> None:
        super().__init__(_NoFeatures(), sam=sam, depth=depth)
        self._parent = parent

    def features(self, images: Tensor, *, inputs: BatchInputs | None = None) -> Features:
        """As the cache's own; the same bits."""
        tensors, values = image_message(images, inputs)
        kind = images.device.type
        values["is_bf16"] = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        answer = self._parent.ask("features", values, tensors)
        self.spared_seconds += answer.values["spared_seconds"]
        return Features(answer.tensors["maps"], answer.tensors.get("early"))


class RemoteMemory(FeatureMemory):
    """This process's features in a GPU's memory, in which the parent keeps features, too."""

    def __init__(self, parent: Parent, *, limit_bytes: int) -> None:
        super().__init__(limit_bytes=limit_bytes)
        self._parent = parent

    def release(self) -> bool:
        """As a memory's own; the parent drops its features, too."""
        is_released = super().release()
        return self._parent.ask("release").values["is_released"] or is_released

    def keep_fewer(self) -> None:
        """As a memory's own, unless the parent's features alone were in the way."""
        if self._released_bytes:
            super().keep_fewer()


@dataclass(frozen=True)
class RemoteWorkbench(Workbench):
    """A workbench whose parent trains the experts that all methods share.

    Attributes:
        parent: trains them.
        shared_domain: the domain of the step; a method may make others, which are trained in the worker.
        shared: the part of the meter that the parent has measured itself.
    """

    parent: Parent | None = None
    shared_domain: TrainingDomain | None = None
    shared: Meter = field(default_factory=Meter)

    def train(
        self,
        domain: TrainingDomain,
        *,
        start: Update | None = None,
        from_scratch: bool = False,
        hooks: TrainingHooks | None = None,
    ) -> Fitted:
        """As a workbench's own; the same bits."""
        if self.parent is None or domain is not self.shared_domain or hooks is not None:
            return super().train(domain, start=start, from_scratch=from_scratch, hooks=hooks)
        values = {"has_start": start is not None, "from_scratch": from_scratch}
        began = uncached_clock(self.prefixes)
        answer = self.parent.ask("expert", values, {} if start is None else start.tensors())
        fitted = Fitted.from_facts(Update.from_tensors(answer.tensors), answer.values)
        elapsed = uncached_clock(self.prefixes) - began
        for meter in (self.meter, self.shared):
            meter.training_seconds += fitted.seconds
            meter.elapsed_training_seconds += elapsed
        self.meter.trainable_parameters = fitted.trainable_parameters
        return fitted


class Progress:
    """Tells the parent about finished work, a few times per second."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._told = time.monotonic()
        self._units = 0.0

    def __call__(self, units: float) -> None:
        """Count finished work."""
        self._units += units
        if time.monotonic() - self._told > 0.1:
            self._parent.tell("advance", {"units": self._units})
            self._told, self._units = time.monotonic(), 0.0
