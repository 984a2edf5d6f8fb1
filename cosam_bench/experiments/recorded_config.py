"""The settings of a record, as those of a run."""

from __future__ import annotations

import copy
from typing import Any

from cosam_bench.core.settings import validate
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.results.records import Record

_OF_STEPS = ("step_epochs", "step_factor")


def recorded_config(record: Record) -> RunConfig:
    """The settings of a record's run, without those that earlier versions took though they had no effect.

    Raises:
        CosamError: a key or value does not fit.
    """
    config: dict[str, Any] = copy.deepcopy(dict(record.info.config))
    protocol = config.get("protocol")
    fit = protocol.get("fit") if isinstance(protocol, dict) else None
    if isinstance(fit, dict) and fit.get("schedule", "step") != "step":
        for key in _OF_STEPS:
            fit.pop(key, None)
    return validate(RunConfig, config, source=f"The settings in {record.folder / 'run.json'}")
