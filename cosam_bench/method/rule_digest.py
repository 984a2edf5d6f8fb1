"""The hash of a method's rule: all code that the method loads of its own, by what it means."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from cosam_bench.core.hashing import sha256_json
from cosam_bench.method.edited_modules import remember_modules
from cosam_bench.method.module_files import ModuleFiles, current_name, is_harness
from cosam_bench.method.syntax import Import, Syntax, read_syntax

if TYPE_CHECKING:
    from cosam_bench.method.interface import Method

_ROUNDS = 8  # imports of imports that are told apart by what they lead to; all files count by themselves, too

_Name = tuple[str, str]
"""A module, and a name in it; the name is empty if the module itself is meant."""


def rule_digest(method: type[Method]) -> str:
    """The hash of a method's rule: another hash, another rule.

    The rule is every module that the method's own code imports, directly or not and within functions too, that
    belongs neither to the standard library nor to another's installed distribution. For an installed plugin it is
    all of its distribution. Of this package ``merging`` and ``methods`` can be part of a rule; the version covers
    the rest. A module counts by its ``Syntax`` and by what its imports lead to, not by its name or place.
    """
    rule = Rule(method)
    remember_modules({name: path for path, name in rule.names.items() if not name.startswith("cosam_bench.")})
    digests = rule.digests()
    others = {digest for path, digest in digests.items() if path != rule.main and not rule.files[path].is_empty}
    return sha256_json([digests.get(rule.main), sorted(others)])


class Rule:
    """The files of a method's rule, found by following imports from file to file.

    Attributes:
        main: the file with the method's class.
        names: every file of the rule, with its module's name.
        files: the same files, with their syntax.
    """

    def __init__(self, method: type[Method]) -> None:
        self._modules = ModuleFiles(method.__module__)
        self._read: dict[Path, Syntax] = {}
        self.names: dict[Path, str] = {}
        self._items: dict[Path, list[list[tuple[str, _Name]]]] = {}
        self.main = self._modules.find(method.__module__) or Path()
        waiting = [*(base.__module__ for base in method.__mro__), *self._modules.distribution]
        while waiting:
            waiting.extend(self._add(waiting.pop()))
        self.files = {path: self._syntax(path) for path in self.names}

    def digests(self) -> dict[Path, str]:
        """The digest of each file: of its own syntax, and of the digests of what it imports."""
        targets = {
            path: [[(bound, name, self._target(module)) for bound, (module, name) in run] for run in runs]
            for path, runs in self._items.items()
        }
        found: dict[Path | str, str] = {path: syntax.digest for path, syntax in self.files.items()}
        for _ in range(min(len(found), _ROUNDS)):
            found = {
                path: sha256_json([self.files[path].digest, [sorted(_named(run, found)) for run in runs]])
                for path, runs in targets.items()
            }
        return {path: found[path] for path in targets}

    def _target(self, module: str) -> Path | str:
        """The file of a module of the rule, or what another is called."""
        path = self._modules.find(module)
        return path if path in self._items else "cosam_bench" if is_harness(module) else module

    def _add(self, module: str) -> set[str]:
        """Take a module in, unless it is none of the rule or there already; returns the modules that it loads."""
        path = self._modules.find(module)
        if path is None or path in self._items or is_harness(current_name(module)):
            return set()
        syntax = self._syntax(path)
        runs = [[(one.bound, self._origin(*_imported(one, module, path))) for one in run] for run in syntax.imports]
        runs.append([(name, (name, "")) for name in syntax.loaded])
        runs.append([(".".join(chain), origin) for chain, origin in self._chains(syntax, module, path)])
        self.names[path], self._items[path] = module, runs
        loaded = {_imported(one, module, path)[0] for run in syntax.imports for one in run}
        loaded |= {origin for run in runs for _, (origin, _) in run}
        return {parent for name in loaded | _shown(module) for parent in _with_parents(name)}

    def _origin(self, module: str, name: str, seen: tuple[_Name, ...] = ()) -> _Name:
        """Where a name that is imported from a module really comes from, through modules that only pass it on."""
        module = current_name(module)
        path = self._modules.find(module)
        if name in ("", "*") or (module, name) in seen:
            return module, name
        if path is None:
            return f"{module}.{name}", ""
        imports = {one for run in self._syntax(path).imports for one in run if one.bound == name}
        if len(imports) == 1:
            return self._origin(*_imported(imports.pop(), module, path), seen=(*seen, (module, name)))
        return (f"{module}.{name}", "") if self._modules.find(f"{module}.{name}") else (module, name)

    def _chains(self, syntax: Syntax, module: str, path: Path) -> Iterator[tuple[tuple[str, ...], _Name]]:
        """What ``module.attribute`` leads to, for modules that the file imports."""
        imports = {one.bound: one for run in syntax.imports for one in run}
        for chain in syntax.chains & {chain for chain in syntax.chains if chain[0] in imports}:
            source, name = _imported(imports[chain[0]], module, path)
            if not name and source.startswith(f"{chain[0]}."):  # ``import a.b`` binds a
                source = chain[0]
            origin = self._origin(source, name)
            for end, attribute in enumerate(chain[1:], start=2):
                if origin[1] or self._modules.find(origin[0]) is None:
                    break
                origin = self._origin(origin[0], attribute)
                yield chain[:end], origin

    def _syntax(self, path: Path) -> Syntax:
        if path not in self._read:
            self._read[path] = read_syntax(path.read_bytes())
        return self._read[path]


def _named(run: list[tuple[str, str, Path | str]], digests: dict[Path | str, str]) -> list[tuple[str, str, str]]:
    return [(bound, name, digests.get(target, str(target))) for bound, name, target in run]


def _imported(one: Import, module: str, path: Path) -> _Name:
    """The module and the name in an import of ``module``, whose file is ``path``; relative names made absolute."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    try:
        return resolve_name(one.module, package), one.name
    except ImportError:  # beyond the top, which fails when it runs, too
        return one.module, one.name


def _with_parents(module: str) -> Iterable[str]:
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _shown(module: str) -> set[str]:
    """The modules of what a loaded module has in its namespace, whichever way it got there."""
    values = list(getattr(sys.modules.get(module), "__dict__", {}).values())
    modules = {value.__name__ for value in values if isinstance(value, ModuleType)}
    modules |= {value.__module__ for value in values if isinstance(value, type | FunctionType)}
    return {name for name in modules if not name.startswith(f"{module}.")}  # a package has what others loaded of it
