"""Isolated runs of many methods on one opened experiment."""

from __future__ import annotations

from pathlib import Path

from support.quick_protocol import write_quick_protocol

from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.results.records import Record

DOMAINS = ("pitting", "pill")


class IsolatedRuns:
    """Runs methods on a protocol of two small domains, each isolated, with records in one folder.

    Attributes:
        results: the folder of records.
        protocol: the protocol's file.
    """

    def __init__(self, folder: Path, *, first: Path) -> None:
        """Open the data and the model.

        Args:
            folder: for protocol and results.
            first: the file of some method.
        """
        self.protocol = write_quick_protocol(folder, domains=DOMAINS)
        self.results = folder / "results"
        self._config = resolve_run(method=str(first), protocol=str(self.protocol), isolated=True)
        self._experiment = open_experiment(self._config, self.results, isolated=True)

    def experiment(self, method: str) -> Experiment:
        """The experiment with a method."""
        return self._experiment.with_method(self._config.model_copy(update={"method": method}), isolated=True)

    def run(self, method: str) -> Record:
        """The record of a method."""
        return Runner(self.experiment(method), results=self.results).run()
