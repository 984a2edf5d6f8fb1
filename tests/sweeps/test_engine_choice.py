"""Engines by name, and what several machines and Slurm do if a process dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.sweeps.engine_choice import EngineChoice, options_from_texts
from cosam_bench.sweeps.engines import Engine, Outcome
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.ray_engine import RayEngine


def act(folder: Path, key: str, device: str | None) -> Outcome:
    """What the first part of the key says; a file counts how often it was begun."""
    assert device is None
    begun = folder / key
    with begun.open("a") as file:
        file.write("begun\n")
    kind = key.partition("-")[0]
    if kind == "fail":
        return Outcome(key, error="as asked")
    if kind == "die" or (kind == "once" and len(begun.read_text().splitlines()) == 1):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(key)


def outcomes(engine: Engine, *keys: str) -> dict[str, str]:
    for key in keys:
        engine.submit(key)
    found: dict[str, str] = {}
    while len(found) < len(keys):
        found |= {outcome.key: outcome.error for outcome in engine.gather()}
    return found


def opened(choice: EngineChoice, folder: Path, *, workers: int) -> Engine:
    grid = Grid(methods=("average",), device="cpu")
    return choice.open(partial(act, folder), grid=grid, slots=[None] * workers, workers=workers, results=folder)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (EngineChoice("rya"), "Did you mean 'ray'"),
        (EngineChoice("local", {"address": "auto"}), "It takes none"),
        (EngineChoice("ray", {"adress": "auto"}), "It takes address"),
    ],
)
def test_what_does_not_exist_is_refused(choice: EngineChoice, said: str) -> None:
    with pytest.raises(CosamError) as found:
        choice.check()
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("local", "joblib", "sweep"), ("ray", "ray", "ray"), ("slurm", "submitit", "slurm")]
)
def test_an_engine_that_is_not_installed_names_its_extra(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.externals", None)
    with pytest.raises(CosamError) as found:
        opened(EngineChoice(name), tmp_path, workers=1)
    assert f'pip install "cosam-bench[{extra}]"' in str(found.value)


def test_an_option_has_a_value() -> None:
    with pytest.raises(CosamError, match="'partition' is not written as KEY=VALUE"):
        options_from_texts(["cluster=local", "partition"])


class RayOf:
    """Ray, of a cluster with these machines."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources, self.is_shut = resources, False

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        pass

    def shutdown(self) -> None:
        self.is_shut = True

    def nodes(self) -> list[dict[str, object]]:
        lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [lost, *({"Alive": True, "Resources": one} for one in self.resources)]

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": sum(one.get("GPU", 0) for one in self.resources)}

    def remote(self, **options: object) -> Callable[[object], object]:
        return lambda function: options


@pytest.mark.parametrize(
    ("threads", "device", "said"),
    [
        (8, "cpu", ""),
        (9, "cpu", "Each task takes 9 cores, and the largest machine of Ray's cluster has 8."),
        (4, "auto", ""),
        (5, "auto", "Each task takes 5 cores, and the largest machine with a GPU of Ray's cluster has 4."),
    ],
)
def test_ray_refuses_a_task_that_no_machine_can_take(
    threads: int, device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imitated = RayOf({"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setitem(sys.modules, "ray", imitated)

    def open_engine() -> None:
        RayEngine(Outcome, device=device, threads=threads, cores=None)  # type: ignore[arg-type]  # no task is done

    if not said:
        open_engine()
        return
    with pytest.raises(CosamError) as found:
        open_engine()
    assert said in str(found.value)
    assert imitated.is_shut


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[Engine]:
    pytest.importorskip("ray")
    engine = opened(EngineChoice("ray"), tmp_path, workers=2)
    yield engine
    engine.close()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of Ray
def test_ray_gives_the_task_of_a_process_that_died_to_another(ray: Engine, tmp_path: Path) -> None:
    found = outcomes(ray, "good-1", "fail-1", "once-1", "die-1", "good-2")
    assert {key for key, error in found.items() if error} == {"fail-1", "die-1"}
    assert found["fail-1"] == "as asked"
    assert len((tmp_path / "once-1").read_text().splitlines()) == 2
    assert len((tmp_path / "die-1").read_text().splitlines()) == 4  # the first time, and three more


@pytest.mark.long
def test_slurm_gives_each_task_of_a_job_that_died_a_job_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    engine = opened(EngineChoice("slurm", {"cluster": "local", "timeout_min": "5"}), tmp_path, workers=2)
    found = outcomes(engine, "good-1", "once-1", "good-2", "fail-1", "die-1")
    engine.close()
    assert {key for key, error in found.items() if error} == {"fail-1", "die-1"}
    assert "ended twice" in found["die-1"]
    assert len((tmp_path / "once-1").read_text().splitlines()) == 2
    assert len((tmp_path / "die-1").read_text().splitlines()) == 2


@pytest.mark.long
def test_an_option_that_submitit_does_not_have_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(CosamError, match="Correct the engine's options"):
        opened(EngineChoice("slurm", {"cluster": "local", "timeout_minutes": "5"}), tmp_path, workers=2)
