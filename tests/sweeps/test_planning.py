"""The graph of a grid's tasks: what is shared, what is not, and how long planning takes."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.imitated_scenes import save, scene
from support.quick_protocol import QUICK_DOMAINS, write_quick_protocol

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.overrides import RUN_KEYS
from cosam_bench.sam.build import weights_file
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


def test_a_run_in_the_streams_own_order_names_none(protocol: Path) -> None:
    found = planned(protocol, "average", orders=["stream", "reverse"])
    runs = [found.config(task).order for task in found.tasks.values() if task.kind == "run"]
    assert runs == [(), QUICK_DOMAINS[::-1]]


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


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ({"limit": 2}, {"frozen row": 2, "expert": 6, "run": 2}),
        ({"deterministic": True}, {"frozen row": 2, "expert": 6, "run": 2}),
        ({"prefix_cache_gib": 0.0}, {"frozen row": 2, "expert": 6, "run": 2}),
        ({"also_prompts": ["points"]}, {"frozen row": 1, "expert": 3, "run": 2}),
        ({"scales": [0.5, 1.0]}, {"frozen row": 2, "expert": 6, "run": 2}),
        ({"experts": "experts"}, {"frozen row": 1, "expert": 3, "run": 2}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_so_does_a_setting_of_the_run(
    protocol: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    setting: dict[str, object],
    shared: dict[str, int],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_experts(tmp_path / "experts")
    assert kinds(planned(protocol, "ties", settings=({}, setting))) == shared


def test_every_setting_of_the_run_is_tried_or_an_axis() -> None:
    [mark] = test_so_does_a_setting_of_the_run.pytestmark  # type: ignore[attr-defined]
    tried = {key for setting, _ in mark.args[1] for key in setting}
    assert tried | {"seed", "order", "device"} == set(RUN_KEYS)


def test_isolated_runs_have_keys_of_their_own(protocol: Path) -> None:
    default, in_process, isolated = (planned(protocol, "ties", isolated=one).tasks for one in (None, False, True))
    assert default.keys() == in_process.keys()
    assert [isolated[key].kind for key in isolated.keys() - default.keys()] == ["run"]


def test_the_device_auto_is_the_one_of_the_machine_that_does_the_tasks(
    protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(device: str, *, is_here: bool = True) -> set[str]:
        return set(plan(Grid(methods=("ties",), protocol=str(protocol), device=device), is_here=is_here).tasks)

    found = []
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert keys("auto") == keys("cuda" if has_gpu else "cpu")
        assert keys("auto", is_here=False).isdisjoint(keys("auto"))
        found += [keys("auto"), keys("auto", is_here=False), keys("cpu")]
    assert found[0].isdisjoint(found[3])
    assert (found[1], found[2]) == (found[4], found[5])


def write_experts(folder: Path, *, value: float = 1.0) -> None:
    folder.mkdir(exist_ok=True)
    for domain in QUICK_DOMAINS:
        save_file({"a": torch.full((2, 2), value)}, folder / f"{domain}.safetensors")


def test_another_expert_in_a_file_of_the_same_name_is_another_run(protocol: Path, tmp_path: Path) -> None:
    place = tmp_path / "experts"
    write_experts(place)
    grid = {"settings": ({"experts": str(place)},)}
    before = planned(protocol, "ties", **grid).tasks
    assert planned(protocol, "ties", **grid).tasks.keys() == before.keys()
    write_experts(place, value=2.0)
    after = planned(protocol, "ties", **grid).tasks
    assert [task.kind for key, task in after.items() if key not in before] == ["run"]
    (place / "polyp.safetensors").unlink()
    with pytest.raises(CosamError, match="has no expert for polyp"):
        planned(protocol, "ties", **grid)


def test_every_file_of_an_experts_folder_counts(protocol: Path, tmp_path: Path) -> None:
    place = tmp_path / "experts"
    write_experts(place)
    (place / "polyp.safetensors").unlink()
    (place / "polyp").mkdir()
    keys = []
    for text in ("{}", '{"r": 2}'):
        (place / "polyp" / "adapter_config.json").write_text(text)
        keys += [
            key
            for key, task in planned(protocol, "ties", settings=({"experts": str(place)},)).tasks.items()
            if task.kind == "run"
        ]
    assert len(set(keys)) == 2


def test_keys_are_the_same_in_every_plan(protocol: Path) -> None:
    alone = planned(protocol, "average", orders=("reverse",)).tasks
    among = planned(protocol, "ties", "average", orders=("stream", "reverse"), seeds=2).tasks
    assert alone.keys() < among.keys()


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protocol on two domains of image files, and the file of the model's weights."""
    folder = tmp_path_factory.mktemp("own")
    for domain in ("leaves", "cells"):
        for number in range(5):
            picture = scene(domain, number)
            save(folder / domain / "images" / f"{number}.png", picture.pixels)
            save(folder / domain / "masks" / f"{number}.png", picture.mask)
    domains = "".join(f'[[domain]]\nname = "{name}"\nroot = "{name}"\n' for name in ("leaves", "cells"))
    (folder / "stream.toml").write_text(f'name = "own"\n{domains}')
    shutil.copy(weights_file("tiny"), folder / "tiny.safetensors")
    protocol = folder / "own.toml"
    protocol.write_text(
        'name = "own"\nstream = "stream.toml"\nfit = { epochs = 1 }\n'
        f'model = {{ name = "tiny", checkpoint = "{folder / "tiny.safetensors"}" }}\n'
    )
    return protocol


def new_keys(protocol: Path, change: Callable[[], object]) -> list[str]:
    """What tasks have other keys after a change."""
    before = planned(protocol, "average").tasks
    change()
    after = planned(protocol, "average").tasks
    assert len(before) == len(after) == 4
    return sorted(f"{task.kind} {task.domain}".strip() for key, task in after.items() if key not in before)


def test_another_image_makes_tasks_anew_that_see_it(own_data: Path) -> None:
    image = own_data.parent / "cells" / "images" / "3.png"
    changed = new_keys(own_data, lambda: save(image, scene("cells", 77).pixels))
    assert changed == ["expert cells", "frozen row", "run"]


def test_other_weights_make_all_tasks_anew(own_data: Path) -> None:
    weights = own_data.parent / "tiny.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).add_(1)
    assert len(new_keys(own_data, lambda: save_file(tensors, weights))) == 4


def test_data_that_is_missing_is_named_before_anything_runs(protocol: Path, tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text('name = "none"\n[[domain]]\nname = "leaves"\nroot = "leaves"\n')
    (tmp_path / "own.toml").write_text('name = "own"\nstream = "none.toml"\nmodel = { name = "tiny" }\n')
    with pytest.raises(CosamError, match="leaves"):
        planned(tmp_path / "own.toml", "average")


@pytest.mark.long
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
