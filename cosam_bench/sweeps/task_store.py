"""Tasks as files: what each is, what came of it and how long it took. They are the only memory of a sweep.

``_shared/tasks`` in the folder of results holds, by the key of a task,

    KEY.json          what it is, written before it is given to a process
    KEY.lock          held by the process that does it
    KEY.failed.json   why it failed; removed if a sweep is to try it again
    KEY.done.json     the file that it made and the seconds that it took, written last
    sweep.json        all tasks of the last sweep, for who wants to know how far it is

A task counts as done while the file that it made is there, and, if that is a record, is complete.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.reading import read_text
from cosam_bench.core.settings import Settings, setting, validate
from cosam_bench.experiments.experiment import SHARED
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.results.run_info import read_run_info
from cosam_bench.sweeps.task import Kind, Task

_LIMIT_BYTES = 1 << 22  # a description holds the settings of one run: some KB
_LIST_LIMIT_BYTES = 1 << 28  # 100,000 tasks take about 20 MiB
_DONE, _FAILED, _LIST = ".done.json", ".failed.json", "sweep.json"


class Described(Settings):
    """A task as a process reads it."""

    kind: Kind = setting(..., "the kind of task")
    config: RunConfig = setting(..., "the settings of the run that it belongs to")
    domain: str = setting("", "of an expert", source="none: of other kinds")
    threads: int = setting(..., "of the process", ge=1)
    isolated: bool | None = setting(None, "as `run` takes it", source="as `run`")


class Done(Settings):
    """What came of a task.

    Attributes:
        like: what tasks of about the same length have in common.
    """

    kind: Kind = setting(..., "the kind of task")
    like: tuple[str, ...] = setting(..., "model, then method or domain, then protocol")
    made: str = setting(..., "the file that it made, from the folder of results; empty: none that is shared")
    seconds: float = setting(..., "how long it took", ge=0)


class Listed(Settings):
    """A task of a sweep, for people."""

    kind: Kind = setting(..., "the kind of task")
    words: str = setting(..., "what it is")
    like: tuple[str, ...] = setting(..., "as `Done` has it")


class TaskList(Settings):
    """All tasks of a sweep."""

    workers: int = setting(..., "the number of processes", ge=1)
    tasks: dict[str, Listed] = setting(..., "by key, in the order of the plan")


@dataclass(frozen=True)
class TaskStore:
    """The files of tasks in a folder of results.

    Attributes:
        results: the folder of records.
    """

    results: Path

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.results / SHARED / "tasks"

    def describe(self, task: Task, config: RunConfig, *, threads: int, isolated: bool | None) -> None:
        """Write what a task is.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        described = Described(kind=task.kind, config=config, domain=task.domain, threads=threads, isolated=isolated)
        path = self.folder / f"{task.key}.json"
        text = described.model_dump_json(exclude_none=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def described(self, key: str) -> Described:
        """What a task is.

        Raises:
            CosamError: its file is missing or damaged.
        """
        path = self.folder / f"{key}.json"
        return validate(Described, _read(path), source=str(path))

    def finish(self, key: str, done: Done) -> None:
        """Write what came of a task.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        write_atomically(self.folder / f"{key}{_DONE}", done.model_dump_json())

    def all_done(self) -> dict[str, Done]:
        """By key, what came of each task that was ever done here; what cannot be read is left out."""
        names = self.names()
        keys = [name.removesuffix(_DONE) for name in sorted(names) if name.endswith(_DONE)]
        return {key: done for key in keys if (done := self.done(key, names)) is not None}

    def done(self, key: str, names: Container[str]) -> Done | None:
        """What came of a task; None if it was never done, or what says so cannot be read.

        Args:
            key: the task's.
            names: of all files.
        """
        path = self.folder / f"{key}{_DONE}"
        try:
            return validate(Done, _read(path), source=str(path)) if path.name in names else None
        except CosamError:
            return None

    def fail(self, key: str, reason: str) -> None:
        """Write why a task failed.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        write_atomically(self.folder / f"{key}{_FAILED}", json.dumps({"reason": reason}))

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Remove why tasks failed, since they are tried again."""
        names = self.names()
        for key in keys:
            if (name := f"{key}{_FAILED}") in names:
                (self.folder / name).unlink(missing_ok=True)

    def failure(self, key: str, names: Container[str]) -> str | None:
        """Why a task failed when it was last tried; None if it did not, or is tried again.

        Args:
            key: the task's.
            names: of all files.
        """
        path = self.folder / f"{key}{_FAILED}"
        try:
            return str(_read(path)["reason"]) if path.name in names else None
        except (CosamError, LookupError, TypeError):
            return None

    def lock(self, key: str) -> Path:
        """The file that the process that does a task holds."""
        return self.folder / f"{key}.lock"

    def write_list(self, tasks: TaskList) -> None:
        """Write all tasks of a sweep that begins.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        write_atomically(self.folder / _LIST, tasks.model_dump_json())

    def listed(self) -> TaskList:
        """All tasks of the last sweep.

        Raises:
            CosamError: there was none, or its list is damaged.
        """
        path = self.folder / _LIST
        if not path.is_file():
            raise CosamError(f"No sweep was started in {self.results}. Give the folder of records of one that was.")
        return validate(TaskList, _read(path, limit_bytes=_LIST_LIMIT_BYTES), source=str(path))

    def names(self) -> set[str]:
        """The names of all files."""
        try:
            return {path.name for path in self.folder.iterdir()}
        except OSError:
            return set()

    def is_there(self, done: Done) -> bool:
        """Whether what a task made is still there, and complete."""
        path = self.results / done.made
        if not path.is_file():
            return done.made == ""
        if done.kind != "run":
            return True
        try:
            return read_run_info(path).status == "complete"
        except CosamError:
            return False


def _read(path: Path, *, limit_bytes: int = _LIMIT_BYTES) -> Any:
    try:
        return json.loads(read_text(path, limit_bytes=limit_bytes))
    except (OSError, ValueError) as error:
        raise CosamError(f"{path} cannot be read: {error}. Remove it, and give the same command again.") from None
