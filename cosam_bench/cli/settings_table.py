"""A settings model as a table: each key with its type, default and meaning."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class SettingRow:
    """One key of a settings model, in words."""

    name: str
    type: str
    default: str
    meaning: str
    source: str


def setting_rows(model: type[BaseModel]) -> list[SettingRow]:
    """The keys of a model in the order of their definition.

    A key's meaning is its field's description, else what stands for it under ``Attributes:`` in the docstring;
    its source is what ``config.setting`` was told of the default.
    """
    documented = _documented(inspect.getdoc(model) or "")
    return [
        SettingRow(name, _type(field), _default(field), field.description or documented.get(name, ""), _source(field))
        for name, field in model.model_fields.items()
    ]


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(constraint, bound)}"
        for constraint in field.metadata
        for bound, sign in _BOUNDS.items()
        if getattr(constraint, bound, None) is not None
    ]
    return " ".join([_spelled(field.annotation), *bounds])


def _spelled(annotation: Any) -> str:
    """A type as a user writes it: ``one of a, b`` for a literal, ``none`` for None.

    >>> _spelled(int | None), _spelled(tuple[int, ...])
    ('int or none', 'list of int')
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _spelled(parts[0])
    if origin is Literal:
        return "one of " + ", ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_spelled(part) for part in parts)
    if origin in (tuple, list):
        return "list of " + ", ".join(dict.fromkeys(_spelled(part) for part in parts if part is not Ellipsis))
    if annotation is type(None):
        return "none"
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=False)
    return "none" if value is None else str(value)


def _source(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("source", "")) if isinstance(extra, dict) else ""


def _documented(docstring: str) -> dict[str, str]:
    """By name, what the docstring's ``Attributes:`` section says."""
    _, found, section = docstring.partition("Attributes:\n")
    if not found:
        return {}
    section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def reflowed(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring, one line each (a list: an item) for a terminal to wrap; formulas as they are.

    >>> list(reflowed("One\\ntwo.\\n\\n1. a\\n   b\\n2. c\\n\\n    x = y"))
    ['One two.', '1. a b\\n2. c', 'x = y']
    """
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if re.match(r"(\d+\.|[-*]) ", paragraph):
            yield "\n".join(" ".join(item.split()) for item in re.split(r"\n(?=\S)", paragraph))
        elif any(line.startswith(" ") for line in lines):
            yield textwrap.dedent(paragraph)
        else:
            yield " ".join(paragraph.split())
