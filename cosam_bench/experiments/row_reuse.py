"""Rows of the score matrix that are not measured twice: that of frozen SAM, and that of an unchanged state.

Row 0 depends on the base model, the test data and its prompts, and the scoring, and on neither method, adapter nor
training, so all runs that share those share one file of it. A method is a function of its state, so if a domain leaves
the state unchanged, byte for byte, its row equals the row before. Records do not show the difference: scores are the
same bits, and seconds are those of the measured row.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cosam_bench.core.arithmetic import arithmetic
from cosam_bench.core.environment import versions
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, mark_used
from cosam_bench.core.hashing import sha256_json
from cosam_bench.data.prompt_settings import GRID
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.fingerprint import SCORE_VERSION
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.records import SHARED


class FrozenRow:
    """Frozen SAM's row under the conditions of a run, in a file shared with other runs.

    Attributes:
        path: of the file, whether it is there or not.
    """

    def __init__(self, experiment: Experiment, *, results: Path) -> None:
        self._experiment = experiment
        self._identity = _row_digest(experiment)
        self.path = results / SHARED / "rows" / f"{self._identity}.json"

    def read(self) -> StepResult | None:
        """The row, columns in this run's order; None if no run has measured it, or its file is damaged."""
        if self._identity not in self._experiment.frozen_rows:
            return None
        try:
            result = StepResult.read(self.path, identity=self._identity)
        except CosamError:
            return None
        columns = {domain.name: domain.test.keys for domain in self._experiment.columns}
        negatives = {name: split.keys for name, split in self._experiment.negatives.items()}
        if {name: tuple(score.key for score in scores) for name, scores in result.negatives.items()} != negatives:
            return None
        if {name: tuple(score.key for score in scores) for name, scores in result.scores.items()} != columns:
            return None
        mark_used(self.path)
        return replace(
            result,
            scores={name: result.scores[name] for name in columns},
            negatives={name: result.negatives[name] for name in negatives},
        )

    def write(self, result: StepResult) -> None:
        """Keep the row for other runs; if that fails, they measure it themselves."""
        with suppress(CannotWrite):
            result.save(self.path, identity=self._identity)
            self._experiment.frozen_rows.add(self._identity)


def _row_digest(experiment: Experiment) -> str:
    """Hash of everything that decides the bits of the row.

    Layers that an adapter puts beside the model's own are disabled while nothing is served, so they do not count.
    """
    bench, protocol = experiment.bench, experiment.config.protocol
    sam, view = bench.sam, bench.view
    facts = {
        "model": [sam.name, sam.checkpoint_digest, sam.global_attention],
        "data": {domain.name: domain.test.digest for domain in experiment.columns},
        "prompts": {name: digest for name, digest in experiment.prompt_digests.items() if name.endswith("/test")},
        "prompt kind": [protocol.prompts.test, protocol.prompts.masks],
        "frame": [protocol.resize, protocol.resampling],
        "score": protocol.score.model_dump(mode="json"),
        "score version": SCORE_VERSION,
        "arithmetic": arithmetic(view.device),
        "batch size": bench.batch_size,  # the protocol may say "auto"
        # Features that are kept are computed image by image, the blocks after them in batches.
        "kept features": None if bench.prefixes is None else bench.prefixes.depth,
        "versions": versions(),
    }
    if protocol.prompts.test == GRID:
        facts["grid"] = protocol.prompts.grid
    if experiment.negatives:
        facts["negatives"] = {name: split.digest for name, split in experiment.negatives.items()}
    return sha256_json(facts)[:32]
