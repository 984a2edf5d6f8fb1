"""Reading a folder of reference numbers: every run of every file, and how far ours is from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ABSOLUTE_FLOAT64 = 1e-10
RELATIVE_FLOAT32 = 2e-6  # of the largest reference number


class Arrays:
    """The arrays of one ``.npz`` file as a tree of ``/``-separated names."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path, allow_pickle=False)
        self._names = list(self._file.files)

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._file[name])

    def tree(self, prefix: str) -> dict[str, Tensor]:
        """All arrays under ``prefix/``, by the rest of their names."""
        start = f"{prefix}/"
        return {name[len(start) :]: self[name] for name in self._names if name.startswith(start)}

    def children(self, prefix: str) -> list[str]:
        """The next parts of the names under ``prefix/``, in the file's order."""
        start = f"{prefix}/"
        return list(dict.fromkeys(name[len(start) :].split("/")[0] for name in self._names if name.startswith(start)))


@dataclass(frozen=True)
class OracleRun:
    """One run of a reference.

    Attributes:
        file: its file's name without ending, such as ``static_cases``.
        case: the case in that file.
        facts: the run's entry in the ``.json``: ``id`` and hyper-parameters.
        case_facts: the case's other entries.
        arrays: of the whole file.
    """

    file: str
    case: str
    facts: Mapping[str, Any]
    case_facts: Mapping[str, Any]
    arrays: Arrays

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.file}/{self.case}/{self.facts.get('id', '?')}"

    def tree(self, path: str) -> dict[str, Tensor]:
        """All arrays under ``<case>/<path>/``."""
        return self.arrays.tree(f"{self.case}/{path}")

    def tasks(self) -> list[dict[str, Tensor]]:
        """The weights of each task, ``task0`` first."""
        names = sorted((n for n in self.arrays.children(self.case) if n.startswith("task")), key=lambda n: int(n[4:]))
        return [self.tree(name) for name in names]

    def changes(self) -> list[dict[str, Tensor]]:
        """Of each task, its weights less the base's."""
        base = self.tree("base")
        return [{name: weight - base[name] for name, weight in task.items()} for task in self.tasks()]


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        method: ours, by its registered name.
        distance: the largest deviation in units of what is allowed, so at most 1; None where not compared.
        skipped: why the reference's number is not one to match; empty where it was compared.
        not_offered: why this project has no such rule; empty where it has.
    """

    method: str = ""
    distance: float | None = None
    skipped: str = ""
    not_offered: str = ""


def oracle_runs(folder: Path) -> Iterator[OracleRun]:
    """Every run of every ``.json`` that has a ``.npz`` of the same name beside it."""
    for path in sorted(folder.glob("*.json")):
        if not path.with_suffix(".npz").is_file():
            continue
        document, arrays = json.loads(path.read_text()), Arrays(path.with_suffix(".npz"))
        for case, facts in document.get("cases", document).items():
            others = {key: value for key, value in facts.items() if key != "runs"} if isinstance(facts, dict) else {}
            for run in facts.get("runs", ()) if isinstance(facts, dict) else ():
                yield OracleRun(path.stem, case, run, others, arrays)


def distance(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """The largest deviation in units of what is allowed: 1 is the limit, infinity where names or shapes differ."""
    if ours.keys() != reference.keys() or any(ours[name].shape != reference[name].shape for name in reference):
        return math.inf
    if not all(torch.isfinite(ours[name]).all() and torch.isfinite(reference[name]).all() for name in reference):
        return math.inf
    largest = max((value.abs().max().item() for value in reference.values()), default=0.0)
    is_single = any(value.dtype == torch.float32 for value in reference.values())
    allowed = RELATIVE_FLOAT32 * largest if is_single else ABSOLUTE_FLOAT64
    deviations = [(ours[name].double() - value.double()).abs().max().item() for name, value in reference.items()]
    worst = max(deviations, default=0.0)
    if allowed == 0:
        return 0.0 if worst == 0 else math.inf
    return worst / allowed
