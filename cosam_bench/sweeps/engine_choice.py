"""An engine by its name and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.results.records import SHARED
from cosam_bench.sweeps.engines import Engine, Perform
from cosam_bench.sweeps.grid import Grid

ENGINES = ("local", "ray", "slurm")


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs a sweep.

    Attributes:
        name: one of ``ENGINES``.
        options: of the engine: ``address`` of a cluster of Ray; for Slurm those of submitit's executor, and
            ``cluster``; none of ``local``.
    """

    name: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether all tasks run on this machine."""
        return self.name == "local"

    def check(self, *, store: str | None = None) -> None:
        """Refuse a name, an option or a store that does not fit; what only the engine knows, it says itself.

        Args:
            store: the address of a store that the tasks are to use.

        Raises:
            CosamError: there is none of that name, an option does not fit, or the store is of one process only.
        """
        if self.name not in ENGINES:
            raise unknown_name("engine", self.name, ENGINES)
        if store is not None and store.startswith("memory://"):
            raise CosamError(f"{store} is in the memory of one process; a sweep has several. Give another address.")
        known = {"local": (), "ray": ("address",)}.get(self.name)
        for key in self.options:
            if known is not None and key not in known:
                offered = f"It takes {', '.join(known)}." if known else "It takes none."
                raise CosamError(f"The engine {self.name} has no option {key!r}. {offered}")

    def open(
        self, perform: Perform, *, grid: Grid, slots: Sequence[str | None], workers: int | None, results: Path
    ) -> Engine:
        """The engine, ready to be given tasks.

        Args:
            perform: does one task; it can be pickled.
            grid: what is run.
            slots: the device of each process of this machine.
            workers: how many processes were asked for.
            results: the folder of records.

        Raises:
            CosamError: what the engine needs is not installed, or does not answer.
        """
        if self.name == "ray":
            from cosam_bench.sweeps.ray_engine import RayEngine

            cores = None if workers is None else workers * grid.threads
            address = self.options.get("address")
            return RayEngine(perform, address=address, device=grid.device, threads=grid.threads, cores=cores)
        if self.name == "slurm":
            from cosam_bench.sweeps.slurm_engine import SlurmEngine

            folder = results / SHARED / "slurm"
            return SlurmEngine(perform, folder=folder, options=self.options, threads=grid.threads, jobs=len(slots))
        from cosam_bench.sweeps.local_engine import LocalEngine

        return LocalEngine(perform, slots=slots, threads=grid.threads)


def options_from_texts(texts: Sequence[str]) -> dict[str, str]:
    """Options written as ``key=value``.

    Raises:
        CosamError: one of them is not.

    >>> options_from_texts(["cluster=local", "timeout_min=30"])
    {'cluster': 'local', 'timeout_min': '30'}
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise CosamError(f"--engine-option {text!r} is not written as KEY=VALUE. Correct it.")
        found[key.strip()] = value.strip()
    return found
