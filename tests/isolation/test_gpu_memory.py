"""The features that a worker and its parent keep in the memory of one GPU; tried on the CPU."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.data.prompts import draw_prompts
from cosam_bench.isolation.answers import Answers
from cosam_bench.isolation.messages import Channel, Message
from cosam_bench.isolation.payloads import batch_message
from cosam_bench.isolation.remote import Parent, RemoteMemory
from cosam_bench.isolation.worker import _Worker
from cosam_bench.method.frozen_base import FrozenBase
from cosam_bench.method.trial import trial_split, trial_workbench
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import Batch, collate
from cosam_bench.sam.sam import Features, Sam


def memory_of(*keys: str, memory: FeatureMemory | None = None) -> FeatureMemory:
    memory = memory or FeatureMemory(limit_bytes=1000)
    for key in keys:
        memory.keep(key, Kept(Features(torch.zeros(1)), seconds=1.0))
    return memory


@pytest.mark.parametrize(("own", "parents"), [(2, 1), (0, 1), (2, 0), (0, 0)])
def test_a_worker_without_memory_has_its_parent_drop_its_features_too(own: int, parents: int) -> None:
    """Through a socket, as in a run, and while the parent waits for predictions, which are of no domain."""
    here, there = socket.socketpair()
    beyond = memory_of("in the host's memory")
    kept = memory_of(*map(str, range(parents)), memory=FeatureMemory(limit_bytes=1000, beyond=beyond))
    bench = trial_workbench(build_sam("tiny", checkpoint="random", seed=0))
    bench = replace(bench, prefixes=PrefixCache(kept, sam=bench.sam, depth=2))
    found: list[bool] = []

    def work() -> None:
        parent = Parent(Channel(there))
        memory = memory_of(*map(str, range(own)), memory=RemoteMemory(parent, limit_bytes=1000))
        found.extend((memory.release(), memory.used_bytes == 0))
        memory.keep_fewer()
        found.append(memory.limit_bytes < 1000)
        parent.tell("logits")

    channel = Channel(here)
    worker: Any = SimpleNamespace(receive=lambda most_bytes: channel.receive(), send=channel.send)
    thread = Thread(target=work)
    with here, there:
        thread.start()
        assert Answers(worker, bench, None).until("logits") == Message("logits")
        thread.join()
    assert found == [bool(own or parents), True, bool(own)]
    assert kept.used_bytes == 0
    assert beyond.used_bytes > 0
    assert kept.limit_bytes == 1000, "the worker's next domain may have room beside them"


class EncodesTwice:
    """As a method that asks the frozen model first which update suits an image."""

    bench: Any
    fails = False

    def predict(self, batch: Batch) -> Tensor:
        for _ in range(2):
            self.bench.encode(batch)
        if self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(len(batch), self.bench.view.grid, self.bench.view.grid)


def test_a_worker_that_predicts_keeps_features_for_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, job = SimpleNamespace(), Message("predict", {"method": "EncodesTwice"})
    memory = RemoteMemory(parent, limit_bytes=2**30)  # type: ignore[arg-type]  # not asked
    bench: Any = trial_workbench(build_sam("tiny", checkpoint="random", seed=0))
    bench = replace(bench, prefixes=PrefixCache.on_gpu(memory, sam=bench.sam, depth=2))
    split = trial_split("d", shift=0)
    prompts = draw_prompts(split, points=1, seed=0)
    ran, own, told = [], Sam.prefix, []
    kept: list[int] = []
    method = EncodesTwice()
    method.bench = bench

    def watched(sam: Sam, images: Tensor, *, depth: int) -> Features:
        ran.append(len(images))
        return own(sam, images, depth=depth)

    def batches() -> Iterator[Message]:
        for rows, fails in (([0, 1], False), ([2], False), ([0, 1], True), ([0, 1], False)):
            samples, kinds = [split[row] for row in rows], ["box"] * len(rows)
            batch, _ = collate(samples, prompts.take(rows), kinds=kinds, view=bench.view)
            method.fails = fails
            yield Message("predict", *batch_message(batch))
            kept.append(memory.used_bytes)
        yield Message("finish")

    messages = batches()
    parent.next, parent.tell = lambda: next(messages), lambda kind, *more: told.append(kind)
    worker = object.__new__(_Worker)
    worker._job, worker._parent = job, parent
    monkeypatch.setattr(Sam, "prefix", watched)
    monkeypatch.setattr(worker, "_bench", lambda: (bench, FrozenBase(bench.sam)), raising=False)
    monkeypatch.setattr(worker, "_built", lambda bench: method, raising=False)
    worker.predict()
    assert [kind for kind in told if kind != "act"] == ["ready", "logits", "logits", "failed", "logits", "finished"]
    assert ran == [2, 1, 2, 2], "the second time within a batch they are found, in a later one they are not"
    assert kept == [0] * 4
