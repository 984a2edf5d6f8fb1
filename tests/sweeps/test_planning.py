"""The graph of a grid's tasks: what is shared, what is not, and how long planning takes."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.quick_protocol import write_quick_protocol

from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.planning import Plan, plan


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_protocol(tmp_path_factory.mktemp("protocol"))


def planned(protocol: Path, *methods: str, **axes: Any) -> Plan:
    return plan(Grid(methods=methods, protocol=str(protocol), **axes))


def kinds(found: Plan) -> dict[str, int]:
    return dict(Counter(task.kind for task in found.tasks.values()))


def test_the_case_worked_by_hand(protocol: Path) -> None:
    """Two methods that merge, one that goes on training; three orders, two seeds, three domains."""
    found = planned(protocol, "average", "ties", "finetune", orders=3, seeds=2)
    assert found.unshared == {"frozen row": 18, "expert": 36, "run": 18}
    assert kinds(found) == {"frozen row": 2, "expert": 6, "run": 18}


def test_each_task_comes_after_those_that_it_needs(protocol: Path) -> None:
    seen: set[str] = set()
    for key, task in planned(protocol, "average", "frozen", orders=2, seeds=2).tasks.items():
        assert key == task.key
        assert seen.issuperset(task.needs)
        seen.add(key)


def test_a_run_needs_the_experts_of_its_own_seed(protocol: Path) -> None:
    found = planned(protocol, "average", seeds=2)
    for task in found.tasks.values():
        needed = [found.tasks[key] for key in task.needs]
        assert {one.seed for one in needed} <= {task.seed}
        if task.kind == "run":
            assert [one.domain for one in needed] == ["", "pitting", "pill", "polyp"]


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ({"fit.epochs": 2}, {"frozen row": 1, "expert": 6, "run": 2}),
        ({"score.batch_size": 2}, {"frozen row": 2, "expert": 3, "run": 2}),
        ({"method.density": 0.5}, {"frozen row": 1, "expert": 3, "run": 2}),
        ({"method.density": 0.2}, {"frozen row": 1, "expert": 3, "run": 1}),  # the default
        ({"title": "Another"}, {"frozen row": 1, "expert": 3, "run": 1}),
        ({"name": "another"}, {"frozen row": 1, "expert": 3, "run": 2}),  # a record of its own
    ],
)
def test_a_setting_parts_the_tasks_that_it_decides(
    protocol: Path, setting: dict[str, object], shared: dict[str, int]
) -> None:
    assert kinds(planned(protocol, "ties", settings=({}, setting))) == shared


def test_keys_are_the_same_in_every_plan(protocol: Path) -> None:
    alone = planned(protocol, "average", orders=("reverse",)).tasks
    among = planned(protocol, "ties", "average", orders=("stream", "reverse"), seeds=2).tasks
    assert alone.keys() < among.keys()


def test_a_hundred_thousand_tasks_are_planned_in_seconds_and_megabytes(protocol: Path) -> None:
    grid = Grid(methods=("average", "ties", "finetune"), protocol=str(protocol), orders=("stream",), seeds=15_000)
    plan(grid.model_copy(update={"seeds": 1}))  # methods and torch are loaded
    began = time.process_time()
    found = plan(grid)
    assert time.process_time() - began < 10
    assert len(found.tasks) == 15_000 * (1 + 3 + 3)
    tracemalloc.start()
    plan(grid.model_copy(update={"seeds": 500}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500 * 2**20 / 30  # of a thirtieth of the tasks
