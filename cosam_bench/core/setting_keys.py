"""The keys of a settings model as data: type, default, meaning and source of each."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cosam_bench.core.search_ranges import search_range

REQUIRED = "required"

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class SettingKey:
    """One key of a settings model, in words.

    Attributes:
        name: with the tables that it is in, such as ``fit.epochs``.
        type: as a user writes it, with its bounds.
        default: as in TOML; ``none`` for None, ``required`` for a key that must be given.
        meaning: what it does.
        source: where the default comes from; empty for a required key.
        search: the range in which it is tuned if it is a method's; empty if it is not.
    """

    name: str
    type: str
    default: str
    meaning: str
    source: str
    search: str = ""


def setting_keys(model: type[BaseModel], *, prefix: str = "") -> Iterator[SettingKey]:
    """The keys of a model in the order of their definition, those of its tables included.

    A table is listed by its keys; one that may be left out, such as ``foreground``, is a key as well.
    """
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        table = _table_in(field.annotation)
        if table is not field.annotation or table is None:
            yield SettingKey(
                key, _type(field), _default(field), field.description or "", _source(field), _search(field)
            )
        if table is not None:
            yield from setting_keys(table, prefix=f"{key}.")


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The settings model that a value is, or may be."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def in_toml(value: Any) -> str:
    """A value on one line, as TOML has it; ``none`` for None.

    >>> in_toml(1e-7), in_toml("lora"), in_toml((1, 2)), in_toml(None)
    ('1e-07', '"lora"', '[1, 2]', 'none')
    """
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {in_toml(inner)}' for key, inner in value.items())} }}" if value else "{}"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _default(field: FieldInfo) -> str:
    return REQUIRED if field.is_required() else in_toml(field.get_default(call_default_factory=False))


def _source(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("source", "")) if isinstance(extra, dict) else ""


def _search(field: FieldInfo) -> str:
    found = search_range(field)
    return "" if found is None else str(found)


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(constraint, bound)}"
        for constraint in field.metadata
        for bound, sign in _BOUNDS.items()
        if getattr(constraint, bound, None) is not None
    ]
    return " ".join([_in_words(field.annotation), *bounds])


def _in_words(annotation: Any) -> str:
    """A type as a user writes it.

    >>> _in_words(int | None), _in_words(tuple[int, ...]), _in_words(Literal["a", "b"]), _in_words(dict[str, float])
    ('int or none', 'list of int', 'one of a, b', 'table of float')
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_words(parts[0])
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(part) for part in parts)
    if origin in (tuple, list):
        return "list of " + ", ".join(dict.fromkeys(_in_words(part) for part in parts if part is not Ellipsis))
    if origin is dict:
        return f"table of {_in_words(parts[1])}"
    if annotation is type(None):
        return "none"
    if annotation is Any:
        return "any value"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return str(getattr(annotation, "__name__", annotation))
