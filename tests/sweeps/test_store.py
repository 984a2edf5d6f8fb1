"""Sweeps whose workers exchange files through a store: the same records, nothing done twice, nothing half uploaded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.quick_protocol import write_quick_protocol
from support.s3 import S3
from support.sweeps import AT_ONCE, Elsewhere, assert_same_bytes, missing
from typer.testing import Result

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_bytes, sha256_file
from cosam_bench.sweeps.artifact_store import open_store
from cosam_bench.sweeps.grid import Grid, read_grid
from cosam_bench.sweeps.sweep import SweepResult, sweep
from cosam_bench.sweeps.task_store import Done, TaskStore, task_store
from cosam_bench.training import expert_store

NOTHING = {"frozen row": 0, "expert": 0, "run": 0}


@dataclass(frozen=True)
class Study:
    """A sweep in one folder, without a store."""

    grid: Grid
    folder: Path
    done: SweepResult


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("study")
    protocol = write_quick_protocol(folder)
    grid = Grid(methods=("average", "frozen"), protocol=str(protocol), isolated=False, device="cpu")
    yield Study(grid, folder / "results", sweep(grid, results=folder / "results", engine=AT_ONCE))
    torch.set_num_threads(threads)


def ran(grid: Grid, results: Path, *, store: str, engine: Elsewhere | None = None) -> tuple[list[str], SweepResult]:
    """The kinds and methods of the tasks that a sweep did, and what came of it."""
    did: list[str] = []
    done = sweep(
        grid,
        results=results,
        engine=engine or AT_ONCE,
        store=store,
        on_task=lambda name, outcome: did.append(name.split()[0] + outcome.error),
    )
    return did, done


def test_machines_without_a_common_folder_write_the_bytes_of_one(
    study: Study, s3: S3, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, machines = s3.address("apart"), Elsewhere(folder=tmp_path / "machines", patch=monkeypatch)
    trained: list[Path] = []
    write = expert_store.write_sealed
    monkeypatch.setattr(expert_store, "write_sealed", lambda path, *rest: trained.append(path) or write(path, *rest))

    did, apart = ran(study.grid, tmp_path / "results", store=address, engine=machines)
    assert sorted(did) == ["average", "expert", "expert", "expert", "frozen", "frozen"]
    assert apart.failed == {}
    assert len(machines.machines) == 6
    assert len(trained) == 3  # the run found them all
    assert_same_bytes(study.done, apart)
    assert not (tmp_path / "results" / "_shared" / "experts").exists()

    did, again = ran(study.grid, tmp_path / "again", store=address)
    assert did == []
    assert missing(again) == NOTHING
    assert_same_bytes(apart, again)
    assert missing(sweep(study.grid, results=tmp_path / "again", dry_run=True))["run"] == 0

    shown = cli("sweep", "--status", address)
    assert shown.exit_code == 0, shown.output
    assert "Nothing is left to do." in shown.output
    assert ["average", "tiny", "1"] in [line.split()[:3] for line in shown.output.splitlines()]


@pytest.fixture
def stored(study: Study, tmp_path: Path) -> str:
    """A store that has all of the study, which was there before."""
    address = f"file://{tmp_path}/store"
    did, found = ran(study.grid, study.folder, store=address)
    assert did == []
    assert missing(found) == NOTHING
    return address


def blob(address: str, done: Done, name: str) -> Path:
    [digest] = [digest for file, digest in done.files.items() if file.endswith(name)]
    return Path(address.removeprefix("file://"), "blobs", digest[:2], digest)


@pytest.mark.parametrize("content", [b"damaged", None])
def test_a_damaged_record_is_run_again_and_nothing_else(
    study: Study, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    [average] = [one for one in task_store(stored).all_done().values() if one.like[1] == "average"]
    path = blob(stored, average, "matrix.csv")
    path.unlink() if content is None else path.write_bytes(content)
    machines = Elsewhere(folder=tmp_path / "machines", patch=monkeypatch)
    did, done = ran(study.grid, tmp_path / "results", store=stored, engine=machines)
    assert did == ["average"]
    assert_same_bytes(study.done, done)
    assert sha256_file(path) == path.name


def test_a_damaged_expert_is_trained_again_by_the_run_that_needs_it(
    study: Study, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = task_store(stored)
    done = tasks.all_done()
    [run] = [key for key, one in done.items() if one.like[1] == "average"]
    [expert] = [key for key, one in done.items() if one.kind == "expert" and one.like[1] == "pill"]
    blob(stored, done[expert], ".safetensors").write_bytes(b"damaged")
    tasks.forget([run])
    machines = Elsewhere(folder=tmp_path / "machines", patch=monkeypatch)
    did, again = ran(study.grid, tmp_path / "results", store=stored, engine=machines)
    assert did == ["average"]
    assert_same_bytes(study.done, again)
    path = blob(stored, tasks.all_done()[expert], ".safetensors")
    assert sha256_file(path) == path.name


def test_keys_are_listed_and_none_is_looked_up(
    study: Study, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = open_store(stored).system
    listed: list[str] = []
    ls = system.ls
    monkeypatch.setattr(system, "ls", lambda path, **options: listed.append(path) or ls(path, **options))
    for name in ("exists", "find", "glob"):
        monkeypatch.setattr(system, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    ran(study.grid, tmp_path / "results", store=stored)
    assert len(listed) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from cosam_bench.sweeps.task_store import Done, task_store
results, address, made, moves = sys.argv[1:]
tasks = task_store(address, results=Path(results))
move, left = tasks.store.system.mv, iter(range(int(moves)))
def killed(*paths):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    move(*paths)
tasks.store.system.mv = killed
tasks.finish("key", Done(kind="run", like=("tiny", "average", "quick"), made=made, seconds=1))
"""


@pytest.mark.parametrize("moves", [0, 4, -1])
def test_an_upload_that_is_killed_counts_for_nothing(study: Study, tmp_path: Path, moves: int) -> None:
    record = study.done.records[0]
    files = [*record.info.files, "run.json"]
    address, made = f"file://{tmp_path}/store", f"{record.folder.relative_to(study.folder)}/run.json"
    number = moves if moves >= 0 else len(files)  # the last is the text that lists them
    command = [sys.executable, "-c", KILLED, str(study.folder), address, made, str(number)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    tasks = TaskStore(tmp_path / "here", open_store(address))
    assert tasks.all_done() == {}
    assert tasks.names() == set()
    TaskStore(study.folder, open_store(address)).finish(
        "key", Done(kind="run", like=("tiny", "average", "quick"), made=made, seconds=1)
    )
    assert tasks.bring(tasks.all_done()) == {"key"}
    for name in files:
        assert (tmp_path / "here" / made).with_name(name).read_bytes() == (record.folder / name).read_bytes()


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
def test_every_kind_of_store_gives_back_what_it_took(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    s3 = request.getfixturevalue("s3") if kind == "s3" else None
    address = s3.address("kinds") if s3 else f"{kind}://{tmp_path}/a store [1]"
    store = open_store(address)
    assert store.names() == set()
    store.write_all({"b.json": "2", "a.json": "ä"})
    store.write_all({"b.json": "3"})
    assert store.names() == {"a.json", "b.json"}
    assert store.read_all(["a.json", "b.json", "c.json"], limit_bytes=9) == {"a.json": "ä", "b.json": "3"}
    store.remove(["a.json", "c.json"])
    assert store.names() == {"b.json"}
    with pytest.raises(CosamError, match=r"more than 0 bytes"):
        store.read("b.json", limit_bytes=0)
    with pytest.raises(CosamError, match=r"a\.json cannot be read: it is not there"):
        store.read("a.json", limit_bytes=9)

    one, other = tmp_path / "one", tmp_path / "other"
    (one / "deep").mkdir(parents=True)
    (one / "deep" / "x").write_bytes(b"x" * 100_000)
    (one / "empty").touch()
    files = store.push(one, ["deep/x", "empty"])
    assert files == {"deep/x": sha256_bytes(b"x" * 100_000), "empty": sha256_bytes(b"")}
    assert store.pull(other, [*files.items(), ("lost", sha256_bytes(b"lost"))]) == {"lost"}
    assert {path.name for path in other.rglob("*") if path.is_file()} == {"x", "empty"}
    assert (other / "deep" / "x").read_bytes() == (one / "deep" / "x").read_bytes()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "a\\..\\outside"])
def test_a_name_that_leads_out_of_the_folder_is_not_followed(name: str, tmp_path: Path) -> None:
    tasks = TaskStore(tmp_path / "here", open_store(f"file://{tmp_path}/store"))
    made = {"kind": "expert", "like": [], "made": "a", "seconds": 1, "files": {"a": 64 * "0"}}
    tasks.files.write_all(
        {"good.done.json": json.dumps(made), "bad.done.json": json.dumps(made | {"files": {name: 64 * "0"}})}
    )
    assert set(tasks.all_done()) == {"good"}


def test_a_store_shows_what_runs_and_what_failed(
    study: Study, stored: str, cli: Callable[..., Result], tmp_path: Path
) -> None:
    tasks = task_store(stored, results=tmp_path / "here")
    keys = {one.like[1]: key for key, one in tasks.all_done().items() if one.kind == "run"}
    tasks.forget(keys.values())
    with tasks.doing(keys["average"]):
        tasks.fail(keys["frozen"], "as asked")
        shown = cli("sweep", "--status", stored)
    assert shown.exit_code == 0, shown.output
    assert ["run", "0", "1", "0", "1"] in [line.split() for line in shown.output.splitlines()]
    assert "Running: average on tiny" in shown.output
    assert "as asked" in shown.output
    tasks.forget_failures(keys.values())
    assert ["run", "2", "0", "0", "0"] in [
        line.split() for line in cli("sweep", "--status", stored).output.splitlines()
    ]


def test_a_grid_names_its_store(quick_protocol: Path, tmp_path: Path) -> None:
    file = quick_protocol.parent / "grid.toml"
    file.write_text(f'methods = ["average"]\nprotocol = "quick.toml"\nstore = "file://{tmp_path}/store"\n')
    planned = sweep(read_grid(file), results=tmp_path / "results", dry_run=True)
    assert missing(planned) == {"frozen row": 1, "expert": 3, "run": 1}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("results", "'results' is not an address. Write it as s3://bucket/prefix or file:///folder."),
        ("s3://", "is not an address"),
        ("file://folder", "is not an address"),
        ("simplecache::s3://studies/a", "is not an address"),
        ("s4://studies/a", "no file system is called 's4'"),
        ("memory://a", "is in the memory of one process"),
        ("https://example.org/a", "files of this kind of address cannot be written"),
        ("s3://nowhere/a", "there is no bucket 'nowhere'"),
        ("file:///proc/none/a", "cannot be written"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_in_one_sentence(
    address: str, said: str, s3: S3, cli: Callable[..., Result], quick_protocol: Path
) -> None:
    shown = cli("sweep", "--methods", "frozen", "--protocol", quick_protocol, "--store", address)
    assert shown.exit_code == 2, shown.output
    assert said in " ".join(shown.output.split())
    assert shown.output.startswith("Error:")


def test_a_missing_package_names_its_extra(cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    open_store.cache_clear()
    shown = cli("sweep", "--methods", "frozen", "--store", "s3://studies/a")
    assert shown.exit_code == 2
    assert 'pip install "cosam-bench[s3]"' in " ".join(shown.output.split())


def test_who_has_no_right_is_told(s3: S3, cli: Callable[..., Result], quick_protocol: Path) -> None:
    open_store.cache_clear()
    s3.refuse_everybody(after=0)
    try:
        for command in (
            ("--methods", "frozen", "--protocol", quick_protocol, "--store", s3.address("a")),
            ("--status", s3.address("a")),
        ):
            shown = cli("sweep", *command)
            assert shown.exit_code == 2, shown.output
            assert "Check this machine's credentials" in " ".join(shown.output.split())
    finally:
        s3.refuse_everybody(after=float("inf"))
