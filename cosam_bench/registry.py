"""Finding methods by name: entry points, ``package.module:Class`` or a file of Python."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cosam_bench.card import MethodCard
from cosam_bench.errors import CosamError, unknown_name

if TYPE_CHECKING:
    from cosam_bench.method import Method

GROUP = "cosam_bench.methods"


def method_names() -> list[str]:
    """The registered names in alphabetical order; no method is imported."""
    return sorted(_registered())


def _registered() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise CosamError(
                f"Two plugins offer a method called {point.name!r}: {_origin(other)} and {_origin(point)}. "
                "Uninstall or rename one of them."
            )
        found[point.name] = point
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else 'an unknown package'} ({point.value})"


def load_method(asked: str) -> type[Method]:
    """The class behind a name, a ``package.module:Class`` or a path ``file.py`` or ``file.py:Class``.

    Raises:
        CosamError: nobody offers it, its module fails to import, or it is no concrete ``Method``.
    """
    path, _, class_name = asked.partition(":")
    if path.endswith(".py"):
        return _from_module(_import_file(Path(path)), class_name, asked)
    if ":" in asked:
        return _from_module(_import(path, asked), class_name, asked)
    registered = _registered()
    if asked not in registered:
        raise unknown_name("method", asked, registered)
    module_name, _, class_name = registered[asked].value.partition(":")
    return _from_module(_import(module_name, asked), class_name, asked)


def _import(module_name: str, asked: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a plugin may raise anything while it is imported
        raise CosamError(
            f"Method {asked!r} cannot be imported: {module_name} raised {type(error).__name__}: {error}. "
            "Other methods are not affected."
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CosamError(f"No file {path}. Give the path of a Python file that defines one Method.")
    name = f"cosam_bench_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CosamError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise CosamError(f"{path} raised {type(error).__name__} while loading: {error}.") from error
    return module


def _from_module(module: ModuleType, class_name: str, asked: str) -> type[Method]:
    from cosam_bench.method import Method

    own = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and not inspect.isabstract(value)
        and (value.__module__ == module.__name__ or name == class_name)
    }
    if class_name:
        found = vars(module).get(class_name)
        if found is None:
            raise CosamError(f"{asked}: {module.__name__} has no {class_name!r}. Methods there: {_listed(own)}.")
        if class_name not in own:
            raise CosamError(f"{asked}: {class_name} is not a concrete subclass of cosam_bench.method.Method.")
        return own[class_name]
    if len(own) != 1:
        raise CosamError(
            f"{asked} defines {len(own)} methods ({_listed(own)}); name the one you mean as {asked}:ClassName."
        )
    return next(iter(own.values()))


def _listed(classes: dict[str, type[Method]]) -> str:
    return ", ".join(sorted(classes)) or "none"


def method_origin(name: str) -> str:
    """The distribution that registers ``name``."""
    point = _registered()[name]
    return point.dist.name if point.dist else "unknown"


def read_card(name: str) -> MethodCard:
    """The card of a registered method, read from its source without importing it.

    A card that is no literal is read by importing the method.

    Raises:
        CosamError: the name is not registered, or its module is not there.
    """
    registered = _registered()
    if name not in registered:
        raise unknown_name("method", name, registered)
    module_name, _, class_name = registered[name].value.partition(":")
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception as error:  # finding a module imports its parent packages, which may raise anything
        raise CosamError(f"Method {name!r}: {module_name} cannot be found: {error}.") from error
    if spec is None or spec.origin is None:
        raise CosamError(f"Method {name!r}: no module {module_name} is installed ({_origin(registered[name])}).")
    card = _literal_card(Path(spec.origin), class_name)
    return card if card is not None else load_method(name).card


def _literal_card(source: Path, class_name: str) -> MethodCard | None:
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                call = _card_call(statement)
                if call is not None:
                    try:
                        arguments = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
                        return MethodCard(**arguments)
                    except (ValueError, TypeError):
                        return None
    return None


def _card_call(statement: ast.stmt) -> ast.Call | None:
    """The call in ``card = MethodCard(...)``, with or without an annotation."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return None
    named_card = any(isinstance(target, ast.Name) and target.id == "card" for target in targets)
    return value if named_card and isinstance(value, ast.Call) else None
