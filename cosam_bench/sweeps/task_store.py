"""Tasks as files: what each is, what came of it and how long it took. They are the only memory of a sweep.

``_shared/tasks`` in the folder of results holds, by the key of a task,

    KEY.json        what it is, written before it is given to a process
    KEY.done.json   the file that it made and the seconds that it took, written last

A task counts as done while the file that it made is there, and, if that is a record, is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
_DONE = ".done.json"


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
        found = {}
        for name in self._names():
            try:
                path = self.folder / name
                found[name.removesuffix(_DONE)] = validate(Done, _read(path), source=str(path))
            except CosamError:
                continue
        return found

    def _names(self) -> Iterable[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.name.endswith(_DONE))
        except OSError:
            return []

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


def _read(path: Path) -> Any:
    try:
        return json.loads(read_text(path, limit_bytes=_LIMIT_BYTES))
    except (OSError, ValueError) as error:
        raise CosamError(f"{path} cannot be read: {error}. Remove it, and give the same command again.") from None
