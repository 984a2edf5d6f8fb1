"""What a Python file means: its syntax without comments, docstrings, formatting, and the modules' names.

The ranges in which settings are tuned, ``setting(..., search=...)``, decide no score and have no meaning here either.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cosam_bench.core.hashing import sha256_bytes, sha256_json

# What only some Python versions record, or what follows from the place of a node.
_NO_MEANING = {"ctx", "kind", "type_comment", "type_ignores"}


@dataclass(frozen=True, order=True)
class Import:
    """One name that an import statement binds.

    Attributes:
        bound: the name in this file; ``*`` for all.
        name: the name in the module; empty if the module itself is imported.
        module: the module's name, with a leading dot per level if it is relative.
    """

    bound: str
    name: str
    module: str


@dataclass(frozen=True)
class Syntax:
    """A file's meaning, its imports apart.

    Attributes:
        digest: sha256 of the syntax tree, with only the bound names of its imports.
        imports: the import statements that follow each other, as sets, since their order means nothing.
        loaded: modules that the file imports by ``import_module`` and a literal name.
        chains: every dotted expression that begins with a name, such as ``("torch", "nn", "Linear")``.
    """

    digest: str
    imports: tuple[frozenset[Import], ...] = ()
    loaded: frozenset[str] = frozenset()
    chains: frozenset[tuple[str, ...]] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left without comments and docstrings."""
        return self.digest == _EMPTY


@lru_cache(maxsize=1024)  # methods share most files of their rules
def read_syntax(content: bytes) -> Syntax:
    """The meaning of a file; one that is not Python source, such as a compiled module, means its bytes.

    The digest is the same on Python 3.11 to 3.14 for all source that they read alike: a field that is absent
    or empty does not count, so neither does one that a later version added.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of doubtful escapes in strings
            tree = ast.parse(content)
        reader = _Reader()
        digest = sha256_json(reader.form(tree))
    except (SyntaxError, ValueError, RecursionError):  # ValueError: null bytes
        return Syntax(sha256_bytes(content))
    nodes = list(ast.walk(tree))
    chains = frozenset(chain for node in nodes if (chain := _chain(node)))
    loaded = frozenset(name for node in nodes if isinstance(node, ast.Call) and (name := _loaded(node)))
    return Syntax(digest, tuple(reader.imports), loaded, chains)


class _Reader:
    """Turns nodes into nested lists, and collects the imports in the order in which it meets them."""

    def __init__(self) -> None:
        self.imports: list[frozenset[Import]] = []

    def form(self, value: Any) -> Any:
        if isinstance(value, ast.Constant):
            return ["Constant", type(value.value).__name__, repr(value.value)]
        if isinstance(value, ast.AST):
            fields = sorted((name, field) for name, field in _fields(value) if name not in _NO_MEANING)
            forms = ((name, self.form(field)) for name, field in fields if field is not None)
            return [type(value).__name__, *([name, form] for name, form in forms if form != [])]
        if isinstance(value, list):
            return self._statements(value) if value and isinstance(value[0], ast.stmt) else list(map(self.form, value))
        return value

    def _statements(self, statements: list[ast.stmt]) -> list[Any]:
        found: list[Any] = []
        run: set[Import] = set()
        for statement in [*statements, None]:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                run.update(_imports(statement))
                continue
            if run:
                self.imports.append(frozenset(run))
                found.append(["imports", sorted({one.bound for one in run})])
                run = set()
            if statement is not None and not _does_nothing(statement):
                found.append(self.form(statement))
        return found


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields of a node; of the call of ``setting`` without the range of a search."""
    is_setting = isinstance(node, ast.Call) and (_chain(node.func) or (getattr(node.func, "id", ""),))[-1] == "setting"
    for name, field in ast.iter_fields(node):
        if is_setting and name == "keywords":
            yield name, [word for word in field if word.arg != "search" or not _is_range(word.value)]
        else:
            yield name, field


def _is_range(value: ast.expr) -> bool:
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(isinstance(part, ast.Constant) for part in parts)


def _imports(statement: ast.Import | ast.ImportFrom) -> list[Import]:
    if isinstance(statement, ast.ImportFrom):
        module = "." * statement.level + (statement.module or "")
        return [Import(alias.asname or alias.name, alias.name, module) for alias in statement.names]
    return [Import(alias.asname or alias.name.partition(".")[0], "", alias.name) for alias in statement.names]


def _does_nothing(statement: ast.stmt) -> bool:
    """Whether it is a docstring, another constant that stands alone, or ``pass``."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)


def _chain(node: ast.AST) -> tuple[str, ...]:
    """The parts of ``name.attribute.attribute``; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if parts and isinstance(node, ast.Name) else ()


def _loaded(call: ast.Call) -> str:
    """The module that ``import_module("name")`` or ``__import__("name")`` names; empty for any other call."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    if function in ("import_module", "__import__") and isinstance(first, ast.Constant):
        return first.value if isinstance(first.value, str) else ""
    return ""


_EMPTY = read_syntax(b"").digest
