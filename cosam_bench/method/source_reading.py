"""What a method's source file says about it: card, settings and documentation, without importing the method."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import NoSettings, Settings
from cosam_bench.method.card import MethodCard
from cosam_bench.method.registry import class_place, load_method

_BASES = ("Method", "MergingMethod")


@dataclass(frozen=True)
class MethodDescription:
    """What is shown about a method.

    Attributes:
        card: the method's facts.
        settings: the class of its settings.
        documentation: the docstring of its module, then that of its class.
        place: ``module:Class``.
    """

    card: MethodCard
    settings: type[Settings]
    documentation: str
    place: str


def describe(asked: str) -> MethodDescription:
    """The description of a method, read from its source if that says everything, else by importing it.

    Args:
        asked: a registered name, ``package.module:Class`` or ``file.py``.

    Raises:
        CosamError: nobody offers the method, it cannot be imported, or it has no card.
    """
    found = _read(asked)
    if found is not None:
        return found
    method = load_method(asked)
    return MethodDescription(
        card=_checked(getattr(method, "card", None), asked),
        settings=method.Settings,
        documentation=f"{inspect.getdoc(sys.modules[method.__module__]) or ''}\n\n{inspect.getdoc(method) or ''}",
        place=f"{method.__module__}:{method.__qualname__}",
    )


def read_card(name: str) -> MethodCard:
    """The card of a method, read from its source; one that is not a literal is read by importing the method.

    Raises:
        CosamError: the name is not registered, its module is missing, or the class has no card.
    """
    node = _class_node(name)
    card = _literal_card(node[1]) if node else None
    return card or _checked(getattr(load_method(name), "card", None), name)


def _checked(card: object, asked: str) -> MethodCard:
    if not isinstance(card, MethodCard):
        raise CosamError(f"Method {asked!r}: its class has no card. Write card = MethodCard(title='...', ...) in it.")
    return card


def _read(asked: str) -> MethodDescription | None:
    found = _class_node(asked)
    if found is None:
        return None
    tree, node = found
    card, settings = _literal_card(node), _settings_class(tree, node)
    if card is None or settings is None:
        return None
    documentation = f"{ast.get_docstring(tree) or ''}\n\n{ast.get_docstring(node) or ''}"
    return MethodDescription(card, settings, documentation, f"{class_place(asked)[0]}:{node.name}")


def _class_node(asked: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """The parsed source and the method's class in it; None if only importing it can tell."""
    module_name, class_name = class_place(asked)
    if not module_name:
        return None
    try:
        spec = importlib.util.find_spec(module_name)
    except (Exception, SystemExit) as error:  # finding a module imports its parent packages, which may raise anything
        fault = f"{type(error).__name__}: {error}"
        raise CosamError(f"Method {asked!r}: {module_name} cannot be found: {fault}.") from error
    if spec is None or spec.origin is None:
        raise CosamError(f"Method {asked!r}: no module {module_name} is installed.")
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # ValueError: not UTF-8, or null bytes
        return None
    nodes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    return next(((tree, node) for node in nodes), None)


def _literal_card(node: ast.ClassDef) -> MethodCard | None:
    """The card in the class's body; None unless it is a call with literals alone."""
    call = next((call for statement in node.body if (call := _card_call(statement))), None)
    if call is None or call.args:
        return None
    try:
        # A word without a name is **facts, which ast cannot know.
        return MethodCard(**{word.arg or "": ast.literal_eval(word.value) for word in call.keywords})
    except (ValueError, TypeError):
        return None


def _card_call(statement: ast.stmt) -> ast.Call | None:
    """The call in ``card = MethodCard(...)``, with or without an annotation."""
    if "card" not in _bound_names(statement) or not isinstance(statement, ast.Assign | ast.AnnAssign):
        return None
    value = statement.value
    return value if isinstance(value, ast.Call) and _last_name(value.func) == MethodCard.__name__ else None


def _settings_class(tree: ast.Module, node: ast.ClassDef) -> type[Settings] | None:
    """The class of the method's settings; None if the source does not say it plainly."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and "Settings" in _bound_names(statement):
            return _executed(tree, _last_name(statement.value))
    for base in node.bases:
        if isinstance(base, ast.Subscript) and _last_name(base.value) in _BASES:
            return _executed(tree, _last_name(base.slice))
    return NoSettings if all(_last_name(base) in _BASES for base in node.bases) else None


def _executed(tree: ast.Module, name: str) -> type[Settings] | None:
    """The settings class that the module calls ``name``, made by running only the statements that it needs."""
    scratch = ModuleType("cosam_bench_settings_only")
    sys.modules[scratch.__name__] = scratch  # pydantic looks up the names of annotations in the class's module
    try:
        exec(compile(ast.Module(_needed(tree, name), type_ignores=[]), "<settings>", "exec"), vars(scratch))
    except (Exception, SystemExit):  # whatever a part of the module raises, importing the whole of it tells the truth
        return None
    finally:
        del sys.modules[scratch.__name__]
    found = getattr(scratch, name, None)
    return found if isinstance(found, type) and issubclass(found, Settings) else None


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a module that define ``name`` and all names that they use, in their order."""
    wanted, pending = {name}, [name]
    while pending:
        one = pending.pop()
        for statement in tree.body:
            if one in _bound_names(statement):
                used = {inner.id for inner in ast.walk(statement) if isinstance(inner, ast.Name)} - wanted
                wanted |= used
                pending += used
    return [kept for statement in tree.body for kept in _kept(statement, wanted)]


def _kept(statement: ast.stmt, wanted: set[str]) -> Iterator[ast.stmt]:
    if isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
        aliases = [alias for alias in statement.names if (alias.asname or alias.name) in wanted]
        if aliases:
            yield ast.copy_location(ast.ImportFrom(statement.module, aliases, statement.level), statement)
    elif isinstance(statement, ast.ImportFrom) or wanted & _bound_names(statement):
        yield statement


def _bound_names(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning to, as far as they are plain."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return set()
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _last_name(expression: ast.expr) -> str:
    """``C`` of ``C`` and of ``a.b.C``; empty for anything else."""
    return expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")
