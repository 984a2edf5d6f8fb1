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
from cosam_bench.core.settings import validate
from cosam_bench.evaluation.scoring import ImageScore, score_split
from cosam_bench.experiments.experiment import Experiment, open_experiment
from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.experiments.progress import Reporter, SilentReporter
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.merging.updates import Update
from cosam_bench.method.interface import State
from cosam_bench.results.records import SCORES_FILE, Record
from cosam_bench.results.run_info import RunInfo
from cosam_bench.results.score_lines import Fault, ScoreLines, read_score_lines
from cosam_bench.sam.build import read_checkpoint
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.serving import check_fits

MEAN_TOLERANCE = 0.005
"""Allowed in a domain's mean on another kind of machine, where the last bits of the logits differ, and with them
single pixels at the masks' borders. A choice, not a measured bound: bfloat16 moved a cell of four images by .0039."""

_SERVED = ("update.safetensors", "state.safetensors")
_MACHINE = ("processor", "threads", "gpu")


@dataclass(frozen=True)
class Rescoring:
    """What came of scoring a record's final model again.

    Attributes:
        served: the file of the record that was served.
        is_exact: whether equal bits were asked for: the machine and the libraries are those of the run.
        differing: how many of the images have another score by some metric.
        images: the number of images.
        largest: the largest difference of an image's score.
        largest_mean: the largest difference of a domain's mean.
        faults: scores that are not those of the model.
    """

    served: str
    is_exact: bool
    differing: int
    images: int
    largest: float
    largest_mean: float
    faults: tuple[Fault, ...]


def rescore(record: Record, *, device: str | None = None, reporter: Reporter | None = None) -> Rescoring:
    """Serve the record's update, or its state if it has none, and compare with the last row of ``scores.csv``.

    The scores must be the same bits if the processor, its threads, the GPU and all libraries are those of the run;
    otherwise each domain's mean may differ by ``MEAN_TOLERANCE``.

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
    source = f"The settings in {record.folder / 'run.json'}"
    config = validate(RunConfig, record.info.config, source=source)
    if device is not None:
        config = config.model_copy(update={"device": device})
    with tempfile.TemporaryDirectory(prefix="cosam-bench-rescore-") as folder:
        reporter.say("Opening data and model")
        experiment = open_experiment(config, Path(folder), isolated=None)
        _check_same_inputs(experiment, record.info)
        with _predictor(experiment, record.folder / served) as predict:
            reporter.begin(sum(len(domain.test) for domain in experiment.columns))
            found = _scored(experiment, predict, reporter)
    return _compared(recorded, found, record.info, served=served, is_exact=_is_same_machine(experiment, record.info))


def _recorded(record: Record) -> ScoreLines:
    path = record.folder / SCORES_FILE
    try:
        recorded = read_score_lines(record.folder, record.info)
    except CosamError as error:
        raise CosamError(f"{path}: {error}") from None
    if recorded.faults:
        raise CosamError(f"{record.folder / str(recorded.faults[0])} Verify the record without --rescore first.")
    return recorded


def _check_same_inputs(experiment: Experiment, info: RunInfo) -> None:
    """Refuse data, prompts, weights and experts that are not those of the run."""
    here, there = experiment.conditions, info.conditions
    names = [f"the images or masks of {name}" for name in here.data if here.data[name] != there.data.get(name)]
    prompts = experiment.prompt_digests
    names += [f"the prompts of {name}" for name in info.prompts if info.prompts[name] != prompts.get(name)]
    names += ["the model's weights"] if here.checkpoint != there.checkpoint else []
    names += ["the experts"] if here.experts != there.experts else []
    if names:
        raise CosamError(
            f"This cannot be scored again with what is here: {', '.join(names)} are not those of the run. "
            "Get the data and weights that it used."
        )


@contextmanager
def _predictor(experiment: Experiment, path: Path) -> Iterator[Callable[[Batch], Tensor]]:
    """The served update's predictions, or those of the method in its final state."""
    bench, name = experiment.bench, experiment.method_name
    if path.name == "update.safetensors":
        try:
            update = Update.from_tensors(read_checkpoint(path))
        except KeyError as error:
            raise CosamError(f"{path} is not an update: {error} is missing.") from None
        check_fits(bench.sam, update)
        yield lambda batch: bench.predict(update, batch)
        return
    State.read(path)  # a damaged one is not the method's fault
    watch = FaultWatch(name, sam=bench.sam)
    with experiment.host(bench, watch=watch).predicting(path) as prediction:
        yield prediction


def _scored(
    experiment: Experiment, predict: Callable[[Batch], Tensor], reporter: Reporter
) -> dict[str, list[ImageScore]]:
    protocol, found = experiment.config.protocol, {}
    for domain in experiment.columns:
        reporter.say(f"Scoring {domain.name} again")
        found[domain.name] = score_split(
            predict,
            domain.test,
            experiment.test_prompts[domain.name],
            kind=protocol.prompts.test,
            view=experiment.bench.view,
            batch_size=experiment.bench.batch_size,
            size=protocol.score.size,
            upsampling=protocol.score.upsampling,
            tell_domain=experiment.method.card.receives_domain,
            loader=experiment.loader,
            advance=reporter.advance,
        )
    return found


def _is_same_machine(experiment: Experiment, info: RunInfo) -> bool:
    """Whether scores must be the same bits: all that may change the last ones is as it was."""
    device = experiment.bench.view.device
    here, libraries = hardware(device), versions()
    same_machine = all(here.get(name) == info.hardware.get(name) for name in _MACHINE)
    ignored = ("python", "cosam-bench")
    same_libraries = all(libraries[name] == info.versions.get(name) for name in libraries if name not in ignored)
    return same_machine and same_libraries and device.type == info.device.partition(":")[0]


@dataclass(frozen=True)
class _Pair:
    """A recorded score and the one found now."""

    line: int
    domain: str
    key: str
    metric: str
    recorded: float
    found: float

    @property
    def difference(self) -> float:
        return abs(self.recorded - self.found)


def _pairs(recorded: ScoreLines, found: Mapping[str, list[ImageScore]], *, step: int) -> Iterator[_Pair]:
    for domain, scores in found.items():
        group = recorded.groups[step, domain]
        if list(group.scores) != [score.key for score in scores]:
            raise CosamError(f"The test images of {domain!r} are not those in {SCORES_FILE}. Verify the record first.")
        for line, score in enumerate(scores, start=group.first_line):
            for metric, value in zip(recorded.metrics, group.scores[score.key], strict=True):
                yield _Pair(line, domain, score.key, metric, value, score.values[metric])


def _compared(
    recorded: ScoreLines, found: Mapping[str, list[ImageScore]], info: RunInfo, *, served: str, is_exact: bool
) -> Rescoring:
    step = len(info.order)
    pairs = list(_pairs(recorded, found, step=step))
    differing = [pair for pair in pairs if pair.difference]
    means: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        means.setdefault((pair.domain, pair.metric), []).append(pair)
    shifts = {place: abs(fmean(one.recorded - one.found for one in group)) for place, group in means.items()}
    if is_exact:
        faults = [
            Fault(
                SCORES_FILE,
                f"{pair.metric} of image {pair.key!r} of {pair.domain!r} after step {step} is {pair.recorded!r}, "
                f"scored again it is {pair.found!r}.",
                pair.line,
            )
            for pair in differing
        ]
    else:
        faults = [
            Fault(
                SCORES_FILE,
                f"the mean {metric} of {domain!r} after step {step} differs by {shift:.4g} from that scored again, "
                f"allowed are {MEAN_TOLERANCE}.",
                means[domain, metric][0].line,
            )
            for (domain, metric), shift in shifts.items()
            if shift > MEAN_TOLERANCE
        ]
    return Rescoring(
        served=served,
        is_exact=is_exact,
        differing=len({(pair.domain, pair.key) for pair in differing}),
        images=sum(len(scores) for scores in found.values()),
        largest=max(pair.difference for pair in pairs),
        largest_mean=max(shifts.values()),
        faults=tuple(faults),
    )
