"""Module paths that plugins imported from before 0.2: they work for one more version, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "batches": "sam.inputs",
    "card": "method.card",
    "config": "core.settings",
    "domains.prompts": "data.prompts",
    "domains.samples": "data.samples",
    "errors": "core.errors",
    "fit": "training.fit",
    "merging.fisher": "merging.fisher_average",
    "merging.selection": "merging.order_statistics",
    "merging.ties": "merging.sign_election",
    "prefix_cache": "sam.feature_cache",
    "registry": "method.registry",
    "sam.tokens": "methods.moda_tokens",
    "testing": "method.contract_check",
    "training_domain": "method.training_domain",
    "updates": "merging.updates",
    "workbench": "method.workbench",
}
"""Old name to new name, both within the package. ``domains`` itself has nothing to import."""

_PACKAGE = "cosam_bench."
_EMPTY = "domains"


class _OldPaths(MetaPathFinder, Loader):
    """Finds a moved module by its old path; consulted only after all ordinary finders have found nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        inner = fullname.removeprefix(_PACKAGE)
        if inner == fullname or inner not in (*MOVED, _EMPTY):
            return None
        return ModuleSpec(fullname, self, is_package=inner == _EMPTY)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(_PACKAGE)
        if old != _EMPTY:
            module.__getattr__ = forwarding(_PACKAGE + old, _PACKAGE + MOVED[old])  # type: ignore[method-assign]


def forwarding(old: str, new: str) -> _Forward:
    """A ``__getattr__`` for the module ``old``: it takes names from the module ``new``, with a warning."""
    return _Forward(old, new)


class _Forward:
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def __call__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = getattr(importlib.import_module(self._new), name)
        except AttributeError:
            raise AttributeError(f"module {self._old!r} has no attribute {name!r}") from None
        public = name in sys.modules["cosam_bench"].__all__
        better = "cosam_bench" if public else self._new
        warnings.warn(
            f"{self._old} has moved, and the next version will drop this path. Write: from {better} import {name}",
            DeprecationWarning,
            stacklevel=2,
        )
        return value


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
