"""Settings: frozen pydantic models read from TOML, with errors a user can act on."""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cosam_bench.core.errors import CosamError


class Settings(BaseModel):
    """Base of every settings model: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoSettings(Settings):
    """The settings of a method that has none."""


def setting(default: Any, meaning: str, *, source: str = "", **bounds: Any) -> Any:
    """A key of a settings model: what it means, and where its default comes from.

    ``cosam-bench settings`` and ``cosam-bench methods NAME`` show all of it.

    Args:
        default: its value unless it is set; ``...`` for a key that must be given.
        meaning: what it does, in a few words.
        source: of the default: a paper, released code, or this project's reason.
        bounds: pydantic's, such as ``ge=0``, ``lt=1`` and ``pattern="..."``; numbers must be finite.
    """
    if isinstance(default, float):
        bounds.setdefault("allow_inf_nan", False)
    return Field(default, description=meaning, json_schema_extra={"source": source}, **bounds)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        CosamError: the file is missing, is not UTF-8 or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CosamError(f"No file {path}. Give the path of a TOML file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CosamError(f"{path} cannot be read as TOML: {error}.") from None


def validate(model: type[SettingsT], data: object, *, source: str) -> SettingsT:
    """The settings that ``data`` describes; errors name ``source``, a file or an option.

    Raises:
        CosamError: one clause per fault: the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(_fault(model, fault) for fault in error.errors())
        raise CosamError(f"{source}: {faults}.") from None


def _fault(model: type[BaseModel], fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "(top level)"
    if fault["type"] == "extra_forbidden":
        allowed = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"no setting is called {key!r}{hint} (known here: {', '.join(allowed) or 'none'})"
    if fault["type"] == "missing":
        return f"{key!r} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{key!r} is {reprlib.repr(fault.get('input'))}: {message[:1].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The names that are allowed in the table at ``path``, as far as annotations show."""
    for part in path:
        if isinstance(part, int):
            continue  # an index into a list of tables, which all have the same keys
        fields = model.model_fields.items()
        inner = next((_model_within(field.annotation) for name, field in fields if part in (name, field.alias)), None)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The first settings model in an annotation, including ``Model | None`` and ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_within(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)
