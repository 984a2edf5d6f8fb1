"""Sweeps on several machines, of which one is lost: they end complete, with the scores of one machine, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.quick_protocol import write_quick_protocol
from support.s3 import S3
from support.sweeps import assert_same_bytes, missing

from cosam_bench.sweeps.engine_choice import EngineChoice
from cosam_bench.sweeps.engines import Outcome
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.sweep import sweep

SIX = ("average", "ties", "opcm", "regcl", "finetune", "frozen")
DIES_ONCE = '''"""The average; its process is killed at the second domain, the first time."""
import os
import signal
from pathlib import Path

from cosam_bench import MethodCard
from cosam_bench.methods.average import Average


class DiesOnce(Average):
    card = MethodCard(title="Dies once")

    def merge(self, expert, domain, *, step):
        mark = Path(__file__).with_suffix(".died")
        if step == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().merge(expert, domain, step=step)
'''


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    return write_quick_protocol(tmp_path)


@pytest.mark.parametrize(
    ("methods", "axis", "protocol"),
    [
        (("average", "ties"), 1, "quick"),
        pytest.param(SIX, 3, "quick", marks=pytest.mark.long),
        pytest.param(SIX, 3, "mini", marks=pytest.mark.long),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of Ray
def test_a_cluster_that_loses_a_machine_writes_the_bytes_of_one_machine(
    methods: tuple[str, ...],
    axis: int,
    protocol: str,
    quick: Path,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command and the workers exchange files through a store alone; both nodes use the cache of this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # else other work on this machine stops the tasks
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path / "cache"))
    grid = Grid(
        methods=methods,
        protocol=str(quick) if protocol == "quick" else protocol,
        orders=axis,
        seeds=min(axis, 2),
        device="cpu",
    )
    address = s3.address(f"{protocol}-{axis}")
    planned = sweep(grid, results=tmp_path / "results", dry_run=True, store=address)
    count = sum(one.planned for one in planned.counts)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        ended: list[str] = []

        def lose_one(name: str, outcome: Outcome) -> None:
            ended.append(name)
            if len(ended) == max(2, count // 3):
                cluster.remove_node(lost, allow_graceful=False)

        choice = EngineChoice("ray", {"address": cluster.address})
        done = sweep(grid, results=tmp_path / "results", engine=choice, store=address, on_task=lose_one)
        assert done.failed == {}
        assert len(ended) == count
        again = sweep(grid, results=tmp_path / "again", engine=choice, store=address, on_task=lose_one)
        assert len(ended) == count
    finally:
        cluster.shutdown()
    assert missing(again) == {"frozen row": 0, "expert": 0, "run": 0}
    assert not (tmp_path / "results" / "_shared" / "experts").exists()
    alone = sweep(grid, results=tmp_path / "alone", workers=2)
    assert_same_bytes(alone, done)
    assert_same_bytes(alone, again)


def test_jobs_of_which_one_is_killed_write_the_bytes_of_one_machine(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "dies_once.py"
    own.write_text(DIES_ONCE)
    grid = Grid(methods=("average", str(own)), protocol=str(quick), device="cpu", isolated=False)
    choice = EngineChoice("slurm", {"cluster": "local", "timeout_min": "10"})
    store = f"file://{tmp_path}/store"
    done = sweep(grid, results=tmp_path / "results", engine=choice, workers=2, store=store)
    assert own.with_suffix(".died").exists()
    assert done.failed == {}
    again: list[str] = []
    sweep(
        grid,
        results=tmp_path / "results",
        engine=choice,
        workers=2,
        store=store,
        on_task=lambda name, outcome: again.append(name),
    )
    assert again == []
    assert_same_bytes(sweep(grid, results=tmp_path / "alone", workers=1), done)
