"""A record as a run of an experiment tracker: Weights & Biases, or trackio."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.records import MATRIX_FILE, Record, read_cells


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a record; no value is NaN, which trackers show as a number or refuse.

    Attributes:
        name: of the run.
        config: the resolved configuration, and where the scores come from.
        steps: by the number of domains learned, values by name: ``iou/pill`` and costs of the step.
        summary: values by name: ``summary/iou/last``, ``final/iou/pill`` after the last step, total costs.
    """

    name: str
    config: Mapping[str, Any]
    steps: tuple[Mapping[str, float], ...]
    summary: Mapping[str, float]


def tracked_run(record: Record, *, name: str | None = None) -> TrackedRun:
    """What a tracker is told about a complete record.

    Args:
        name: of the run; None: the record's.

    Raises:
        CosamError: the run is not complete, or its ``matrix.csv`` is missing or damaged.
    """
    info, cost = record.info, record.cost
    if info.status != "complete":
        raise CosamError(f"The run {record.name} is {info.status}. Complete it by the same command, then log it.")
    steps: list[dict[str, float]] = [{} for _ in range(len(info.order) + 1)]
    for cell in read_cells(record.checked_file(MATRIX_FILE)):
        if not 0 <= cell.step < len(steps):
            raise CosamError(f"{record.folder / MATRIX_FILE} has step {cell.step}, which is not part of this run.")
        if cell.metric in METRICS:
            steps[cell.step][f"{cell.metric}/{cell.domain}"] = cell.value
    summary = {f"final/{place}": value for place, value in steps[-1].items()}
    for column in ("train_seconds", "merge_seconds", "state_bytes"):
        for values, value in zip(steps[1:], getattr(cost, column), strict=False):
            values[f"cost/{column}"] = float(value)
    summary |= {f"summary/{metric}/{key}": value for metric, own in info.summary.items() for key, value in own.items()}
    for total in ("total_train_seconds", "total_merge_seconds", "peak_memory_bytes", "encoder_passes_per_image"):
        summary[f"cost/{total}"] = _number(getattr(cost, total))
    summary["cost/trainable_parameters"] = _number(cost.trainable_parameters)
    config = dict(info.config) | {
        "record": record.name,
        "order": list(info.order),
        "retention": list(info.retention),
        "conditions": info.conditions.digest,
        "marks": list(info.marks),
        "differs": record.differs,
        "budget": info.budget,
        "tuned": info.tuned,
        "commit": info.commit,
        "versions": dict(info.versions),
        "hardware": dict(info.hardware),
        "device": info.device,
        "started": info.started,
    }
    return TrackedRun(name or record.name, config, tuple(map(_defined, steps)), _defined(summary))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _defined(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def log_records(
    records: Sequence[Record], *, to: str, project: str = "cosam-bench", name: str | None = None
) -> list[str]:
    """Send each record to a tracker as a run of its own; every call makes new runs.

    All records are read before the first is sent.

    Args:
        to: ``trackio`` or ``wandb``.
        project: of the tracker.
        name: of the run, if there is one record; None: the record's name.

    Returns:
        The runs' names.

    Raises:
        CosamError: no tracker has this name or it is not installed; a record is not complete or damaged; one name for
            several records; the tracker refused.
    """
    if to not in _TRACKERS:
        raise unknown_name("tracker", to, _TRACKERS)
    if name is not None and len(records) != 1:
        raise CosamError(f"One name was given for {len(records)} records. Log them one by one, or without a name.")
    if not project.strip() or (name is not None and not name.strip()):
        raise CosamError("The name of a project or run is empty. Give one, or leave the option out.")
    runs = [tracked_run(record, name=name) for record in records]
    for run in runs:
        _TRACKERS[to](run, project)
    return [run.name for run in runs]


def _to_trackio(run: TrackedRun, project: str) -> None:
    try:
        import trackio
    except ImportError:
        raise _not_installed("trackio") from None
    # It prints as it goes, and warns instead of raising if it cannot store what it was given.
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            started = trackio.init(
                project, name=run.name, config=dict(run.config), embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
            for step, values in enumerate(run.steps):
                is_last = step == len(run.steps) - 1
                started.log({**values, **(run.summary if is_last else {})}, step=step)  # it has no summary of its own
            trackio.finish()  # type: ignore[no-untyped-call]  # trackio ships it without types
        except Exception as error:  # an error of another program, which has no common class
            raise CosamError(f"trackio could not log {run.name}: {error}") from error
    if caught:
        raise CosamError(f"trackio could not log {run.name}: {caught[0].message}")


def _to_wandb(run: TrackedRun, project: str) -> None:
    try:
        import wandb
    except ImportError:
        raise _not_installed("wandb") from None
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
    )
    try:
        started = wandb.init(project=project, name=run.name, config=dict(run.config), settings=settings)
        for step, values in enumerate(run.steps):
            started.log(dict(values), step=step)
        started.summary.update(dict(run.summary))
        started.finish()
    except Exception as error:  # as above
        raise CosamError(
            f"wandb could not log {run.name}: {error} Log in with `wandb login`, or set WANDB_MODE=offline and "
            "upload later with `wandb sync`."
        ) from error


def _not_installed(package: str) -> CosamError:
    return CosamError(f'{package} is not installed. Install it: pip install "cosam-bench[{package}]".')


_TRACKERS: Mapping[str, Callable[[TrackedRun, str], None]] = MappingProxyType(
    {"trackio": _to_trackio, "wandb": _to_wandb}
)
