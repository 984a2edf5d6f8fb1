"""The measurements of one step of a run, and the file that makes the step final."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.hashing import sha256_json
from cosam_bench.evaluation.false_positives import NegativeScore
from cosam_bench.evaluation.prompt_scores import PromptScore
from cosam_bench.evaluation.scales import ScaleScore
from cosam_bench.evaluation.scoring import ImageScore


@dataclass(frozen=True)
class StepResult:
    """One row of the score matrix, image by image, and the cost of the step.

    Attributes:
        step: the number of domains learned; 0 is the frozen model.
        scores: by column, the scores of its test images.
        training_seconds: time to train the adapter; counted in full even if an expert was reused.
        merge_seconds: the rest of ``learn``.
        scoring_seconds: time to score the row.
        state_bytes: size of the method's state on disk.
        encoder_passes_per_image: of the row's predictions.
        trainable_parameters: of the adapter.
        peak_memory_bytes: the highest use up to the end of the step, in the process that measured it.
        state_sha256: of the file with the method's state after the step; empty for the frozen model.
        reported: figures of the method's own, by name.
        scales: scores of the served update at other lengths.
        prompts: scores under further prompts.
        negatives: by column, the scores of its test images without foreground, if there are any.
    """

    step: int
    scores: dict[str, list[ImageScore]]
    training_seconds: float = 0.0
    merge_seconds: float = 0.0
    scoring_seconds: float = 0.0
    state_bytes: int = 0
    encoder_passes_per_image: float = 0.0
    trainable_parameters: int = 0
    peak_memory_bytes: int = 0
    state_sha256: str = ""
    reported: dict[str, float] = field(default_factory=dict)
    scales: tuple[ScaleScore, ...] = ()
    prompts: tuple[PromptScore, ...] = ()
    negatives: dict[str, list[ImageScore]] = field(default_factory=dict)

    @property
    def negative_scores(self) -> list[NegativeScore]:
        """What was found in the images without foreground: of these, the share of wrong pixels is what was found."""
        return [
            NegativeScore(self.step, name, score.key, score.values["pixel_error"])
            for name, scores in self.negatives.items()
            for score in scores
        ]

    def save(self, path: Path, *, identity: str) -> None:
        """Write the step as JSON with a checksum; numbers keep their exact bits.

        Args:
            path: the file.
            identity: what the step belongs to, which ``read`` asks for again.
        """
        fields = asdict(self)
        write_atomically(path, json.dumps({"seal": sha256_json([identity, fields]), "step": fields}))

    @classmethod
    def read(cls, path: Path, *, identity: str) -> StepResult:
        """The step that ``save`` wrote for this identity.

        Raises:
            CosamError: the file is missing, was damaged or changed, or belongs to something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["seal"] != sha256_json([identity, content["step"]]):
                raise ValueError("it was changed, or belongs to another run")
            return _AS_WRITTEN.validate_python(content["step"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise CosamError(f"The step {path} cannot be read: {reason}. Run again with --fresh.") from None


_AS_WRITTEN = TypeAdapter(StepResult)
