"""Where modules are, and which of them belong to a method's rule."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from functools import cache, cached_property
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path, PurePath

from cosam_bench._moved import MOVED
from cosam_bench.method.offered_methods import offered_methods

_PACKAGE = "cosam_bench"
_RULES = (f"{_PACKAGE}.merging.", f"{_PACKAGE}.methods.")
_SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_EDITABLE = ("__editable__", "_editable_")  # begins the finder that an editable install puts in place of modules
_STANDARD_LIBRARY = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}


class ModuleFiles:
    """Finds the files of modules without importing them, for the rule of one method."""

    def __init__(self, module: str) -> None:
        """Look from the method in ``module``."""
        self._module = module
        self._specs: dict[str, ModuleSpec | None] = {}
        importlib.invalidate_caches()  # files that were written a moment ago

    def find(self, module: str) -> Path | None:
        """The file of a module of this package or of a rule; None for all others.

        Others are the standard library and installed distributions, except for the method's own and those that
        offer methods.
        """
        path = self._path(module)
        if path is None or _top(module) in self._tops:
            return path
        return None if _is_installed(module, path) or _STANDARD_LIBRARY & set(path.parents) else path

    @cached_property
    def distribution(self) -> set[str]:
        """All modules of the distribution that the method comes with, this package aside."""
        own = () if _top(self._module) == _PACKAGE else self._own
        return {name for one in own for name in self._modules(one)}

    def _path(self, module: str) -> Path | None:
        spec = self._spec(current_name(module))
        is_file = spec is not None and spec.has_location and str(spec.origin).endswith(_SUFFIXES)
        return Path(str(spec.origin)).resolve() if spec and is_file else None

    def _spec(self, module: str) -> ModuleSpec | None:
        if module not in self._specs:
            self._specs[module] = self._found(module)
        return self._specs[module]

    def _found(self, module: str) -> ModuleSpec | None:
        loaded: ModuleSpec | None = getattr(sys.modules.get(module), "__spec__", None)
        if loaded is not None:
            return loaded
        parent = module.rpartition(".")[0]
        above = self._spec(parent) if parent else None
        if parent and (above is None or above.submodule_search_locations is None):
            return None
        places = list(above.submodule_search_locations or ()) if above else None
        found = (finder.find_spec(module, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        return next((spec for spec in found if spec is not None), None)

    @cached_property
    def _tops(self) -> set[str]:
        """The top-level names of this package, of all that offer methods, and of the method's own distribution."""
        offering = {_top(point.module) for point in offered_methods()}
        return {_PACKAGE, _top(self._module)} | offering | {top for one in self._own for top in _tops_of(one)}

    @cached_property
    def _own(self) -> list[Distribution]:
        top = _top(self._module)
        offering = (point.dist for point in offered_methods() if _top(point.module) == top)
        found = {distribution.name: distribution for distribution in offering if distribution}
        if not found and (path := self._path(self._module)) and _is_installed(self._module, path):
            found = {name: Distribution.from_name(name) for name in packages_distributions().get(top, ())}
        return list(found.values())

    def _modules(self, distribution: Distribution) -> set[str]:
        listed = _listed(distribution)
        if self._module in listed:
            return listed
        # An editable install lists none of its modules: they are in the packages at its top.
        return {name for root in (self._root, *_tops_of(distribution)) for name in self._within(root)}

    @property
    def _root(self) -> str:
        """The method's outermost package that has a file, so none that other distributions share."""
        parts = self._module.split(".")
        names = (".".join(parts[:end]) for end in range(1, len(parts)))
        return next((name for name in names if self._path(name)), self._module)

    def _within(self, name: str) -> set[str]:
        """A module and, if it is a package, all modules in its folder."""
        path = self._path(name)
        if path is None or path.stem != "__init__":
            return {name}
        inner = (found.relative_to(path.parent) for found in path.parent.rglob("*"))
        return {f"{name}.{_module_name(found)}".rstrip(".") for found in inner if found.name.endswith(_SUFFIXES)}


def current_name(module: str) -> str:
    """A module's name; today's for one that this package has moved."""
    inner = module.removeprefix(f"{_PACKAGE}.")
    return f"{_PACKAGE}.{MOVED[inner]}" if inner != module and inner in MOVED else module


def is_harness(module: str) -> bool:
    """Whether a module is one of this package that its version covers."""
    return _top(module) == _PACKAGE and not module.startswith(_RULES)


def _is_installed(module: str, path: Path) -> bool:
    """Whether a module is in a folder that an installer writes to."""
    depth = module.count(".") + (path.stem == "__init__")
    return depth < len(path.parents) and _holds_distributions(path.parents[depth])


@cache
def _holds_distributions(folder: Path) -> bool:
    return folder.name in ("site-packages", "dist-packages") or any(folder.glob("*.dist-info"))


def _top(module: str) -> str:
    return module.partition(".")[0]


def _listed(distribution: Distribution) -> set[str]:
    """The modules among the files that a distribution installed."""
    if distribution.read_text("RECORD") is None:
        return set()
    files = [file for file in distribution.files or () if file.name.endswith(_SUFFIXES) and ".." not in file.parts]
    return {_module_name(file) for file in files if not file.name.startswith(_EDITABLE)}


def _tops_of(distribution: Distribution) -> set[str]:
    named = (distribution.read_text("top_level.txt") or "").split()
    return {_top(module) for module in _listed(distribution)} | set(named)


def _module_name(file: PurePath) -> str:
    """The name of a module whose file is at this relative path; empty for a package's own ``__init__``."""
    *folders, name = file.parts
    stem = _top(name)
    return ".".join(folders if stem == "__init__" else [*folders, stem])
