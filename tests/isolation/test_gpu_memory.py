"""The features that a worker and its parent keep in the memory of one GPU; tried on the CPU."""

from __future__ import annotations

import socket
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cosam_bench.isolation.answers import Answers
from cosam_bench.isolation.messages import Channel, Message
from cosam_bench.isolation.remote import Parent, RemoteMemory
from cosam_bench.method.trial import trial_workbench
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.sam import Features


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
        parent.tell("logits")

    channel = Channel(here)
    worker: Any = SimpleNamespace(receive=lambda most_bytes: channel.receive(), send=channel.send)
    thread = Thread(target=work)
    with here, there:
        thread.start()
        assert Answers(worker, bench, None).until("logits") == Message("logits")
        thread.join()
    assert found == [bool(own or parents), True]
    assert kept.used_bytes == 0
    assert beyond.used_bytes > 0
    assert kept.limit_bytes == 1000, "the worker's next domain may have room beside them"
