"""Files of tuned settings, which ``tune`` writes and ``run --tuned`` uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded, write_atomically
from cosam_bench.core.hashing import sha256_file
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.method.registry import short_name
from cosam_bench.results.tuning import Tuning


class TunedFile(Settings):
    """The best settings of one method.

    Attributes:
        method: its name in records.
        search: a hash of what was searched under which conditions.
        default_score: the objective at the settings without tuning; None if that trial failed or there was none.
        best_score: the objective at the best settings, likewise.
        failed: the number of trials that failed.
        settings: the best ones, all of the method's that are not null.
        tuning: the budget; None if the method has no settings to tune.
        space: what was searched, by the setting's name: ``choices``, or ``low``, ``high`` and ``log``, and
            ``whole`` if that does not follow from the two ends.
    """

    method: str
    search: str = ""
    default_score: float | None = Field(default=None, allow_inf_nan=False)
    best_score: float | None = Field(default=None, allow_inf_nan=False)
    failed: int = Field(default=0, ge=0)
    settings: dict[str, Any] = Field(default_factory=dict)
    tuning: Tuning | None = None
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file as TOML.

        Raises:
            CannotWrite: the file cannot be written; it is then as it was.
        """
        write_atomically(path, tomli_w.dumps(self.as_written()))

    def as_written(self) -> dict[str, Any]:
        """What the file holds."""
        facts = self.model_dump(mode="json", exclude_none=True)
        facts.get("tuning", {}).pop("file", None)  # the file cannot hold its own hash
        return facts


def read_tuned(place: Path, method: str) -> TunedFile:
    """The tuned settings of a method; ``tuning.file`` is the hash of the file.

    Args:
        place: the file, or a folder that has it as ``METHOD.toml``.
        method: as ``--method`` takes it.

    Raises:
        CosamError: there is no such file, it is of another method, or it was not written by ``tune``.
    """
    path, name = expanded(place), short_name(method)
    if path.is_dir():
        path /= f"{name}.toml"
        if not path.is_file():
            raise CosamError(
                f"{place} has no tuned settings of {name!r}. Tune it with the same budget: cosam-bench tune {name}."
            )
    found = validate(TunedFile, read_toml(path), source=str(path))
    if found.method != name:
        raise CosamError(
            f"{path} has the tuned settings of {found.method!r}, not of {name!r}. Give that method's file, or the "
            "folder with a file for each method."
        )
    if found.tuning is None:
        return found
    return found.model_copy(update={"tuning": found.tuning.model_copy(update={"file": sha256_file(path)})})
