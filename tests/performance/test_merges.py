"""The merges' benchmark on a tiny model: what its figures are made of, not the figures."""

from __future__ import annotations

import json
import time
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import merges
from cosam_bench.merging import elementwise
from cosam_bench.merging.updates import Update
from cosam_bench.method.interface import State
from cosam_bench.method.registry import method_names
from cosam_bench.sam.sam import Sam

needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a highest use")


def test_every_merging_method_but_the_search_is_measured() -> None:
    methods = {case.method for case in merges.cases().values()}
    routers_and_prompts = {"moda", "router", "l2p", "experts", "kmerge", "frozen"}
    assert methods == set(method_names()) - routers_and_prompts - {"trm"}


@needs_linux
@pytest.mark.parametrize("name", ["average", "became", "regcl", "lorm"])
def test_a_merge_goes_from_a_state_to_the_next(name: str, tiny: Sam, tmp_path: Path) -> None:
    case = merges.cases()[name]
    bench = merges.workbench(case, tiny)
    before = merges.prepare(case, bench, tmp_path, domains=2)
    began = time.process_time()
    found = merges.measure(case, bench, before, step=3)
    assert 0 < found.seconds < time.process_time() - began
    assert found.seconds < time.process_time() - began - bench.meter.elapsed_training_seconds
    after = tmp_path / "after.safetensors"
    assert found.state == after.stat().st_size / 2**20
    assert State.read(after).tensors.keys() == State.read(before).tensors.keys()


@pytest.mark.parametrize("name", ["average", "magmax"])
def test_no_second_copy_of_a_state_is_made_but_the_new_one(
    name: str, tiny: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elementwise, "_CHUNK", 1024)  # next to a tiny model's state, the usual pieces are large
    case = merges.cases()[name]
    bench = merges.workbench(case, tiny)
    before = merges.prepare(case, bench, tmp_path, domains=2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        merges.learn(case, bench, step=3, before=before)
    assert highest_use(profiler, tmp_path / "trace.json") < 2.6 * before.stat().st_size  # the expert's factors: 0.1


def highest_use(profiler: profile, path: Path) -> int:
    """Bytes of tensors that were held at most."""
    profiler.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    return max(accumulate(event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])))


def test_experts_and_passes_are_random_of_the_right_shapes_and_the_same_each_time(tiny: Sam) -> None:
    bench = merges.workbench(merges.Case("average"), tiny)
    domain = merges.TrainingDomain("one", *merges.noise())
    expert, again = (bench.train(domain).update for _ in range(2))
    other = bench.train(merges.TrainingDomain("other", *merges.noise())).update
    assert expert.digest() == again.digest() != other.digest()
    above = bench.train(domain, start=Update(dense={"bias": torch.ones(2)}), from_scratch=True).update
    assert above.dense["bias"].tolist() == [1.0, 1.0]
    assert above.low_rank.keys() == set(bench.layers)
    for layer, gram in bench.input_grams(domain, expert).items():
        assert gram.shape == (tiny.get_parameter(f"{layer}.weight").shape[1],) * 2
        assert torch.linalg.eigvalsh(gram).min() > 0
    fisher = bench.squared_gradients(domain, expert, labels="true")
    assert all(fisher[f"{layer}.weight"].min() >= 0 for layer in bench.layers)
