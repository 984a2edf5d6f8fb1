"""Continual adaptation of the Segment Anything Model by model merging, measured.

``import cosam_bench as cb`` takes milliseconds and loads no torch: each public name is imported on first use.

>>> import cosam_bench as cb
>>> record = cb.run("regcl", protocol="mini", seed=0)  # doctest: +SKIP
>>> record.matrix("iou")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cosam_bench import _moved
from cosam_bench.core.version import __version__

if TYPE_CHECKING:
    from cosam_bench.api.models import export, merge, predict
    from cosam_bench.api.results import compare, leaderboard, report
    from cosam_bench.api.runs import run
    from cosam_bench.api.sweeps import sweep, tune
    from cosam_bench.core.errors import CosamError
    from cosam_bench.core.settings import NoSettings, Settings, setting
    from cosam_bench.data.prompts import Prompts
    from cosam_bench.data.samples import Sample
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.predictor import Predictor, load_predictor
    from cosam_bench.merging.updates import LowRank, Update, weight_changes
    from cosam_bench.method.card import MethodCard
    from cosam_bench.method.contract_check import ContractViolation, check_method
    from cosam_bench.method.interface import MergingMethod, Method, State
    from cosam_bench.method.merge_rules import merge_rule
    from cosam_bench.method.training_domain import TrainingDomain
    from cosam_bench.method.workbench import Workbench
    from cosam_bench.results.comparison import Comparison
    from cosam_bench.results.records import Record
    from cosam_bench.results.results_folder import load_record
    from cosam_bench.sam.adapters.attachment import Adapter
    from cosam_bench.sam.inputs import Batch
    from cosam_bench.sam.sam import Features, Masks, Sam
    from cosam_bench.training.fit import TrainingHooks, TrainingStep

__all__ = [
    "Adapter",
    "Batch",
    "Comparison",
    "ContractViolation",
    "CosamError",
    "Features",
    "LowRank",
    "Masks",
    "MergingMethod",
    "Method",
    "MethodCard",
    "MethodFailed",
    "NoSettings",
    "Predictor",
    "Prompts",
    "Record",
    "Sam",
    "Sample",
    "Settings",
    "State",
    "TrainingDomain",
    "TrainingHooks",
    "TrainingStep",
    "Update",
    "Workbench",
    "__version__",
    "check_method",
    "compare",
    "export",
    "leaderboard",
    "load_predictor",
    "load_record",
    "merge",
    "merge_rule",
    "predict",
    "report",
    "run",
    "setting",
    "sweep",
    "tune",
    "weight_changes",
]

_HOMES = {
    "api.models": ("export", "merge", "predict"),
    "api.results": ("compare", "leaderboard", "report"),
    "api.runs": ("run",),
    "api.sweeps": ("sweep", "tune"),
    "core.errors": ("CosamError",),
    "core.settings": ("NoSettings", "Settings", "setting"),
    "data.prompts": ("Prompts",),
    "data.samples": ("Sample",),
    "experiments.method_faults": ("MethodFailed",),
    "experiments.predictor": ("Predictor", "load_predictor"),
    "merging.updates": ("LowRank", "Update", "weight_changes"),
    "method.card": ("MethodCard",),
    "method.contract_check": ("ContractViolation", "check_method"),
    "method.interface": ("MergingMethod", "Method", "State"),
    "method.merge_rules": ("merge_rule",),
    "method.training_domain": ("TrainingDomain",),
    "method.workbench": ("Workbench",),
    "results.comparison": ("Comparison",),
    "results.records": ("Record",),
    "results.results_folder": ("load_record",),
    "sam.adapters.attachment": ("Adapter",),
    "sam.inputs": ("Batch",),
    "sam.sam": ("Features", "Masks", "Sam"),
    "training.fit": ("TrainingHooks", "TrainingStep"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

_moved.install()


def __getattr__(name: str) -> object:
    """A public name, imported from its home on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cosam_bench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"cosam_bench.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
