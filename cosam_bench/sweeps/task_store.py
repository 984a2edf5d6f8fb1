"""Tasks as small files: what each is, what came of it and how long it took. They are the only memory of a sweep.

By the key of a task,

    KEY.json          what it is, written before it is given to a process
    KEY.lock          held by the process that does it; always on the disk of its machine
    KEY.begun.json    only in a store: a process has begun it
    KEY.failed.json   why it failed; removed if a sweep is to try it again
    KEY.done.json     the files that it made and the seconds that it took, written last
    sweep.json        all tasks of the last sweep, for who wants to know how far it is

They are in ``_shared/tasks`` of the folder of results, or, for workers without a common folder, in a store. In a
folder, a task counts as done while the file that it made is there, and, if that is a record, is complete; in a store,
once ``KEY.done.json`` is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import exclusive, is_locked
from cosam_bench.core.settings import Settings, setting, validate
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.results.records import SHARED
from cosam_bench.results.run_info import RUN_BYTES, RunInfo, parse_run_info, read_run_info
from cosam_bench.sweeps.artifact_store import ArtifactStore, is_address, open_store, worker_folder
from cosam_bench.sweeps.task import Kind, Task
from cosam_bench.sweeps.task_files import FolderFiles, TaskFiles

_LIMIT_BYTES = 1 << 22  # a description holds the settings of one run: some KB
_LIST_LIMIT_BYTES = 1 << 28  # 100,000 tasks take about 20 MiB
_BEGUN, _DONE, _FAILED, _LIST = ".begun.json", ".done.json", ".failed.json", "sweep.json"


def _inside(name: str) -> str:
    """The name, which must not lead out of the folder that it starts from."""
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
        raise ValueError("the name leads out of the folder of results")
    return name


_Name = Annotated[str, AfterValidator(_inside)]


class Described(Settings):
    """A task as a process reads it."""

    kind: Kind = setting(..., "the kind of task")
    config: RunConfig = setting(..., "the settings of the run that it belongs to")
    domain: str = setting("", "of an expert", source="none: of other kinds")
    needs: tuple[str, ...] = setting((), "keys of the tasks before it", source="none: of other kinds than runs")
    threads: int = setting(..., "of the process", ge=1)
    isolated: bool | None = setting(None, "as `run` takes it", source="as `run`")
    rule: str = setting("", "of a run, the hash of its method's code", source="none: of other kinds")


class Done(Settings):
    """What came of a task.

    Attributes:
        like: what tasks of about the same length have in common.
        files: by name from the folder of results, the hashes of all files that a store has of it.
    """

    kind: Kind = setting(..., "the kind of task")
    like: tuple[str, ...] = setting(..., "model, then method or domain, then protocol")
    made: _Name = setting(..., "the file that it made, from the folder of results; empty: none that is shared")
    seconds: float = setting(..., "how long it took", ge=0)
    files: dict[_Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = setting(
        {}, "by name, the sha256", source="none: without a store"
    )
    isolated: bool = setting(False, "whether the method ran in processes of its own", source="as built-in methods do")


class Listed(Settings):
    """A task of a sweep, for people."""

    kind: Kind = setting(..., "the kind of task")
    words: str = setting(..., "what it is")
    like: tuple[str, ...] = setting(..., "as `Done` has it")
    settings: str = setting("", "its table of settings, if the sweep has several", source="none: of an earlier version")


class TaskList(Settings):
    """All tasks of a sweep."""

    workers: int = setting(..., "the number of processes", ge=1)
    tasks: dict[str, Listed] = setting(..., "by key, in the order of the plan")


@dataclass(frozen=True)
class TaskStore:
    """The files of tasks, and what the tasks made.

    Attributes:
        results: the folder of records.
        store: where both are for all workers; None: in the folder.
    """

    results: Path
    store: ArtifactStore | None = None

    @property
    def folder(self) -> Path:
        """The folder of locks, and of all other files if there is no store."""
        return self.results / SHARED / "tasks"

    @cached_property
    def files(self) -> TaskFiles:
        """The tasks' files."""
        return FolderFiles(self.folder) if self.store is None else self.store

    def describe(self, tasks: Iterable[tuple[Task, RunConfig]], *, threads: int, isolated: bool | None) -> None:
        """Write what tasks are.

        Raises:
            CosamError: the files cannot be written.
        """
        texts = {}
        for task, config in tasks:
            described = Described(
                kind=task.kind,
                config=config,
                domain=task.domain,
                needs=task.needs,
                threads=threads,
                isolated=isolated,
                rule=task.rule,
            )
            texts[f"{task.key}.json"] = described.model_dump_json(exclude_none=True)
        self.files.write_all(texts)

    def described(self, key: str) -> Described:
        """What a task is.

        Raises:
            CosamError: its file is missing or damaged.
        """
        name = f"{key}.json"
        return validate(Described, self._read(name), source=self.files.where(name))

    @contextmanager
    def doing(self, key: str) -> Iterator[None]:
        """Be the only process of this machine that does a task, and let others know.

        Raises:
            CosamError: the files cannot be written.
        """
        with exclusive(self.lock(key)):
            if self.store is not None:
                self.files.write_all({f"{key}{_BEGUN}": "{}"})
            yield

    def finish(self, key: str, done: Done) -> None:
        """Write what came of a task, after the files that it made if there is a store.

        Raises:
            CosamError: the files cannot be read or written.
        """
        if self.store is not None and done.made:
            done = done.model_copy(update={"files": self.store.push(self.results, self._made(done))})
        self.files.write_all({self.done_name(key): done.model_dump_json(exclude_defaults=True)})

    def _made(self, done: Done) -> list[str]:
        """The names of all files that a task made."""
        if done.kind != "run":
            return [done.made]
        folder = done.made.rpartition("/")[0]
        return [*(f"{folder}/{name}" for name in read_run_info(self.results / done.made).files), done.made]

    def bring(self, tasks: Mapping[str, Done]) -> set[str]:
        """Bring the files that tasks made from the store into the folder of results.

        The file that says that a record is complete comes last.

        Returns:
            The keys of the tasks of which every file is there, each with the bytes that were stored.

        Raises:
            CosamError: the store does not answer, or the folder cannot be written.
        """
        assert self.store is not None
        others = [(name, digest) for one in tasks.values() for name, digest in one.files.items() if name != one.made]
        lost = self.store.pull(self.results, others)
        whole = {key: one for key, one in tasks.items() if self.is_there(one) and lost.isdisjoint(one.files)}
        last = [(one.made, one.files[one.made]) for one in whole.values() if one.made]
        lost = self.store.pull(self.results, last)
        return {key for key, one in whole.items() if one.made not in lost}

    def all_done(self, among: Collection[str] | None = None) -> dict[str, Done]:
        """By key, what came of tasks; those that were never done, or of which that cannot be read, are left out.

        Args:
            among: the tasks' keys; None: all.

        Raises:
            CosamError: the store does not answer.
        """
        found = (name.removesuffix(_DONE) for name in sorted(self.names()) if name.endswith(_DONE))
        return self.done(key for key in found if among is None or key in among)

    def done(self, keys: Iterable[str]) -> dict[str, Done]:
        """By key, what came of tasks that may be done; the others, or what cannot be read, are left out.

        Raises:
            CosamError: the store does not answer.
        """
        found = {}
        for name, text in self.files.read_all([self.done_name(key) for key in keys], limit_bytes=_LIMIT_BYTES).items():
            try:
                found[name.removesuffix(_DONE)] = validate(Done, json.loads(text), source=self.files.where(name))
            except (CosamError, ValueError):
                continue
        return found

    def done_name(self, key: str) -> str:
        """The name of the file that says what came of a task."""
        return f"{key}{_DONE}"

    def forget(self, keys: Iterable[str]) -> None:
        """Remove what says that tasks are done.

        Raises:
            CosamError: the files cannot be removed.
        """
        self.files.remove([self.done_name(key) for key in keys])

    def fail(self, key: str, reason: str) -> None:
        """Write why a task failed.

        Raises:
            CosamError: the files cannot be written.
        """
        self.files.write_all({f"{key}{_FAILED}": json.dumps({"reason": reason})})

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Remove why tasks failed, and that they were begun, since they are tried again."""
        names = self.names()
        self.files.remove([name for key in keys for end in (_FAILED, _BEGUN) if (name := f"{key}{end}") in names])

    def failure(self, key: str, names: Container[str]) -> str | None:
        """Why a task failed when it was last tried; None if it did not, or is tried again.

        Args:
            key: the task's.
            names: of all files.
        """
        name = f"{key}{_FAILED}"
        try:
            return str(self._read(name)["reason"]) if name in names else None
        except (CosamError, LookupError, TypeError):
            return None

    def is_running(self, key: str, names: Container[str]) -> bool:
        """Whether a process does a task; in a store, whether one has begun it and it has not failed.

        Args:
            key: the task's.
            names: of all files.
        """
        if self.store is not None:
            return f"{key}{_BEGUN}" in names and f"{key}{_FAILED}" not in names
        return (lock := self.lock(key)).name in names and is_locked(lock)

    def lock(self, key: str) -> Path:
        """The file that the process that does a task holds."""
        return self.folder / f"{key}.lock"

    def write_list(self, tasks: TaskList) -> None:
        """Write all tasks of a sweep that begins.

        Raises:
            CosamError: the files cannot be written.
        """
        self.files.write_all({_LIST: tasks.model_dump_json()})

    def listed(self) -> TaskList:
        """All tasks of the last sweep.

        Raises:
            CosamError: there was none, or its list is damaged.
        """
        if _LIST not in self.names():
            place, kind = (self.results, "folder of records") if self.store is None else (self.store.address, "store")
            raise CosamError(f"No sweep was started in {place}. Give the {kind} of one that was.")
        return validate(TaskList, self._read(_LIST, limit_bytes=_LIST_LIMIT_BYTES), source=self.files.where(_LIST))

    def names(self) -> set[str]:
        """The names of all files."""
        return self.files.names()

    def is_there(self, done: Done) -> bool:
        """Whether what a task made is still there, complete, and isolated if it was; of a store, this is not asked."""
        if self.store is not None:
            return done.made == "" or done.made in done.files
        path = self.results / done.made
        if not path.is_file():
            return done.made == ""
        if done.kind != "run":
            return True
        try:
            info = read_run_info(path)
        except CosamError:
            return False
        return info.status == "complete" and (info.isolated or not done.isolated)

    def run_info(self, done: Done) -> RunInfo:
        """The ``run.json`` that a run made.

        Raises:
            CosamError: it is missing or damaged, or the store does not answer.
        """
        if self.store is None:
            return read_run_info(self.results / done.made)
        text = self.store.read_file(done.files[done.made], limit_bytes=RUN_BYTES)
        return parse_run_info(text, source=done.made)

    def _read(self, name: str, *, limit_bytes: int = _LIMIT_BYTES) -> Any:
        text = self.files.read(name, limit_bytes=limit_bytes)
        try:
            return json.loads(text)
        except ValueError as error:
            message = f"{self.files.where(name)} cannot be read: {error}. Remove it, and give the same command again."
            raise CosamError(message) from None


def task_store(place: str, *, results: Path | None = None) -> TaskStore:
    """The tasks' files in a folder of results, or in the store at an address.

    Args:
        place: the folder or the address.
        results: with a store, the folder for the files that tasks make; None: this machine's own for that store.

    Raises:
        CosamError: the store cannot be opened.
    """
    if not is_address(place):
        return TaskStore(Path(place).absolute())
    return TaskStore(results or worker_folder(place), open_store(place))
