"""Scoring a recorded run's final model again, and comparing with the scores that the record has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import Tensor

from cosam_bench.core.environment import hardware, versions
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.prompt_scores import PromptScore
from cosam_bench.evaluation.scoring import ImageScore
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_faults import FaultWatch, prediction_faults
from cosam_bench.experiments.progress import Reporter, SilentReporter
from cosam_bench.experiments.prompt_scorer import PromptScorer
from cosam_bench.experiments.recorded_config import recorded_config
from cosam_bench.experiments.row_scorer import RowScorer
from cosam_bench.method.interface import State
from cosam_bench.results.records import NEGATIVES_FILE, PROMPTS_FILE, SCORES_FILE, Record
from cosam_bench.results.run_info import RunInfo
from cosam_bench.results.score_lines import Fault, ScoreLines, read_score_lines
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.serving import check_fits
from cosam_bench.sam.update_files import UPDATE_FILE, read_update

MEAN_TOLERANCE = 0.005
"""Allowed in a domain's mean on another kind of machine, where the last bits of the logits differ, and with them
single pixels at the masks' borders. A choice, not a measured bound: bfloat16 moved a cell of four images by .0039."""

_SERVED = (UPDATE_FILE, "state.safetensors")
_MACHINE = ("processor", "threads")


@dataclass(frozen=True)
class Rescoring:
    """What came of scoring a record's final model again.

    Attributes:
        served: the file of the record that was served.
        is_exact: whether equal bits were asked for: a CPU whose processor, threads and libraries are those of the run.
        differing: how many of the images have another score by some metric.
        images: the number of images, those without foreground included.
        largest: the largest difference of an image's score.
        largest_mean: the largest difference of a domain's mean.
        further_prompts: the kinds under which the model was scored as well, whose means are compared.
        faults: scores that are not those of the model.
    """

    served: str
    is_exact: bool
    differing: int
    images: int
    largest: float
    largest_mean: float
    further_prompts: tuple[str, ...]
    faults: tuple[Fault, ...]


def rescore(record: Record, *, device: str | None = None, reporter: Reporter | None = None) -> Rescoring:
    """Serve the record's update, or its state if it has none, and compare with the last row of each file of scores.

    These are ``scores.csv`` and, if the run wrote them, ``negatives.csv`` and ``prompts.csv``. The scores must be the
    same bits on a CPU if the processor, its threads and all libraries are those of the run; otherwise each domain's
    mean may differ by ``MEAN_TOLERANCE``.

    Args:
        record: a complete one.
        device: as in a run's settings; None: what the run asked for.
        reporter: is told about each scored image.

    Raises:
        CosamError: the record has neither file or is damaged, or the data, the prompts or the weights are not here
            or are others than those of the run.
        MethodFailed: the method raised an error.
    """
    reporter = reporter or SilentReporter()
    served = next((name for name in _SERVED if (record.folder / name).is_file()), None)
    if served is None:
        raise CosamError(
            f"{record.folder} has neither {' nor '.join(_SERVED)}, so nothing can be scored again. "
            "Verify it without --rescore, or run it again: cosam-bench run --config config.toml."
        )
    recorded = _recorded(record)
    config = recorded_config(record)
    if device is not None:
        config = config.model_copy(update={"device": device})
    with tempfile.TemporaryDirectory(prefix="cosam-bench-rescore-") as folder:
        reporter.say("Opening data and model")
        experiment = open_experiment(config, Path(folder), isolated=None)
        _check_same_inputs(experiment, record.info, served=served)
        watch = FaultWatch(experiment.method_name, sam=experiment.bench.sam)
        with _predictor(experiment, record.folder / served, watch=watch) as predict:
            pairs = list(_scored(experiment, predict, watch=watch, reporter=reporter, record=record, lines=recorded))
    return _compared(
        pairs,
        step=len(record.info.order),
        served=served,
        is_exact=_is_same_machine(experiment, record.info),
        further_prompts=tuple(experiment.config.also_prompts),
    )


def _recorded(record: Record) -> ScoreLines:
    path = record.folder / SCORES_FILE
    try:
        recorded = read_score_lines(record.folder, record.info)
    except CosamError as error:
        raise CosamError(f"{path}: {error}") from None
    if recorded.faults:
        raise CosamError(f"{record.folder / str(recorded.faults[0])} Verify the record without --rescore first.")
    return recorded


def _check_same_inputs(experiment: Experiment, info: RunInfo, *, served: str) -> None:
    """Refuse data, prompts, weights and experts that are not those of the run, and other code if it predicts."""
    here, there = experiment.conditions, info.conditions
    names = [f"the images or masks of {name}" for name in here.data if here.data[name] != there.data.get(name)]
    prompts = experiment.prompt_digests
    names += [f"the prompts of {name}" for name in info.prompts if info.prompts[name] != prompts.get(name)]
    names += ["the model's weights"] if here.checkpoint != there.checkpoint else []
    names += ["the experts"] if here.experts != there.experts else []
    if served.startswith("state") and info.rule and info.rule != experiment.rule:
        names.append("the method's code, which predicts from its state")
    if names:
        raise CosamError(
            f"This cannot be scored again with what is here. Not as in the run: {', '.join(names)}. Get what it used."
        )


@contextmanager
def _predictor(experiment: Experiment, path: Path, *, watch: FaultWatch) -> Iterator[Callable[[Batch], Tensor]]:
    """The served update's predictions, or those of the method in its final state."""
    bench = experiment.bench
    if path.name == UPDATE_FILE:
        update = read_update(path)
        check_fits(bench.sam, update)
        yield lambda batch: bench.predict(update, batch)
        return
    State.read(path)  # a damaged one is not the method's fault
    with experiment.host(bench, watch=watch).predicting(path) as prediction:
        yield prediction


def _scored(
    experiment: Experiment,
    predict: Callable[[Batch], Tensor],
    *,
    watch: FaultWatch,
    reporter: Reporter,
    record: Record,
    lines: ScoreLines,
) -> Iterator[_Pair]:
    """Every score of the final model that the record has, beside the one found now."""
    scorer = RowScorer(experiment, watch=watch, reporter=reporter)
    further, step = PromptScorer(experiment, scorer), experiment.steps[-1]
    reporter.begin(scorer.images + further.units(step))
    reporter.say("Scoring the final model again")
    with prediction_faults(experiment.method_name):
        columns, negatives = scorer.columns(predict), scorer.negatives(predict)
    yield from _image_pairs(lines, columns, step=step)
    yield from _negative_pairs(record, negatives, step=step)
    if further.is_due(step):
        yield from _prompt_pairs(record, further.scored(step, predict), step=step)


def _is_same_machine(experiment: Experiment, info: RunInfo) -> bool:
    """Whether scores must be the same bits: all that may change the last ones is as it was.

    Never on a GPU: it computes the features that are not kept together, and so in other groups of images here.
    """
    device = experiment.bench.view.device
    if device.type != "cpu":
        return False
    here, libraries = hardware(device), versions()
    same_machine = all(here.get(name) == info.hardware.get(name) for name in _MACHINE)
    ignored = ("python", "cosam-bench")
    same_libraries = all(libraries[name] == info.versions.get(name) for name in libraries if name not in ignored)
    return same_machine and same_libraries and device.type == info.device.partition(":")[0]


@dataclass(frozen=True)
class _Pair:
    """A recorded score and the one found now.

    Attributes:
        key: of the image; None: the score is the mean of a domain.
        prompt: the kind of prompt, if it is not the protocol's.
    """

    file: str
    line: int
    domain: str
    metric: str
    recorded: float
    found: float
    key: str | None = None
    prompt: str | None = None

    @property
    def difference(self) -> float:
        return abs(self.recorded - self.found)

    @property
    def mean(self) -> str:
        """Names the mean of which this is a part."""
        return f"the mean {self.metric} of {self.domain!r}" + (f" under {self.prompt} prompts" if self.prompt else "")

    def __str__(self) -> str:
        return self.mean if self.key is None else f"{self.metric} of image {self.key!r} of {self.domain!r}"


def _image_pairs(recorded: ScoreLines, found: Mapping[str, list[ImageScore]], *, step: int) -> Iterator[_Pair]:
    for domain, scores in found.items():
        group = recorded.groups[step, domain]
        if list(group.scores) != [score.key for score in scores]:
            raise _other_scores(SCORES_FILE)
        for line, score in enumerate(scores, start=group.first_line):
            for metric, value in zip(recorded.metrics, group.scores[score.key], strict=True):
                yield _Pair(SCORES_FILE, line, domain, metric, value, score.values[metric], key=score.key)


def _negative_pairs(record: Record, found: Mapping[str, list[ImageScore]], *, step: int) -> Iterator[_Pair]:
    known = [(line, row) for line, row in enumerate(record.negative_scores(), start=2) if row.step == step]
    scores = {(domain, score.key): score for domain, group in found.items() for score in group}
    if sorted((row.domain, row.key) for _, row in known) != sorted(scores):
        raise _other_scores(NEGATIVES_FILE)
    for line, row in known:
        area = scores[row.domain, row.key].values["pixel_error"]
        yield _Pair(NEGATIVES_FILE, line, row.domain, "area", row.area, area, key=row.key)


def _prompt_pairs(record: Record, found: tuple[PromptScore, ...], *, step: int) -> Iterator[_Pair]:
    known = [(line, row) for line, row in enumerate(record.prompt_scores(), start=2) if row.step == step]
    means = {(row.prompt, row.domain, row.metric): row for row in found}
    if sorted((row.prompt, row.domain, row.metric) for _, row in known) != sorted(means):
        raise _other_scores(PROMPTS_FILE)
    for line, row in known:
        value = means[row.prompt, row.domain, row.metric].value
        yield _Pair(PROMPTS_FILE, line, row.domain, row.metric, row.value, value, prompt=row.prompt)


def _other_scores(file: str) -> CosamError:
    return CosamError(
        f"{file} does not have one score for each that the run's settings ask for, so it cannot be compared. "
        "The record is incomplete or was changed; run it again: cosam-bench run --config config.toml."
    )


def _compared(
    pairs: list[_Pair], *, step: int, served: str, is_exact: bool, further_prompts: tuple[str, ...]
) -> Rescoring:
    groups: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.file, pair.mean), []).append(pair)
    shifts = {place: abs(fmean(one.recorded - one.found for one in group)) for place, group in groups.items()}
    if is_exact:
        faults = [
            Fault(
                pair.file,
                f"{pair} after step {step} is {pair.recorded!r}, scored again it is {pair.found!r}.",
                pair.line,
            )
            for pair in pairs
            if pair.difference
        ]
    else:
        faults = [
            Fault(
                file,
                f"{mean} after step {step} differs by {shift:.4g} from that scored again, "
                f"allowed are {MEAN_TOLERANCE}.",
                groups[file, mean][0].line,
            )
            for (file, mean), shift in shifts.items()
            if shift > MEAN_TOLERANCE
        ]
    images = [pair for pair in pairs if pair.key is not None]
    return Rescoring(
        served=served,
        is_exact=is_exact,
        differing=len({(pair.domain, pair.key) for pair in images if pair.difference}),
        images=len({(pair.domain, pair.key) for pair in images}),
        largest=max(pair.difference for pair in images),
        largest_mean=max(shifts.values()),
        further_prompts=further_prompts,
        faults=tuple(faults),
    )
