"""Settings: frozen pydantic models read from TOML, with errors a user can act on."""

from __future__ import annotations

import reprlib
import tomllib
import types
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cosam_bench.core.errors import CosamError, nearest
from cosam_bench.core.reading import read_text
from cosam_bench.core.search_ranges import Declared

TOML_BYTES = 1 << 22  # the largest stream of this package has 4 KB
TOML_DEPTH = 32  # tables and lists within each other; a run's settings have 6 levels
TOML_INTEGER = 1 << 63  # TOML 1.0: whole numbers have 64 bits


class Settings(BaseModel):
    """Base of every settings model: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse sets, whose order is another in each process, and with it the hash of a run.

        Raises:
            CosamError: a setting is one or holds one.
        """
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if _holds_set(field.annotation):
                raise CosamError(
                    f"The setting {name!r} of {cls.__name__} is a set, whose order is another in each process. Declare "
                    "a tuple, such as tuple[str, ...]."
                )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1, which is never what was meant."""
        if _holds_truth_value(value) and not _takes_truth_value(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("true and false are not numbers")
        return value


def _holds_set(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return (isinstance(kind, type) and issubclass(kind, AbstractSet)) or any(map(_holds_set, get_args(annotation)))


class NoSettings(Settings):
    """The settings of a method that has none."""


def setting(
    default: Any, meaning: str, *, source: str = "", search: Declared | Literal["bounds"] = "bounds", **bounds: Any
) -> Any:
    """A key of a settings model: what it means, and where its default comes from.

    ``cosam-bench settings`` and ``cosam-bench methods NAME`` show all of it.

    Args:
        default: its value unless it is set; ``...`` for a key that must be given.
        meaning: what it does, in a few words.
        source: of the default: a paper, released code, or this project's reason.
        search: in which range `cosam-bench tune` searches a number: ``(low, high)``, or ``(low, high, "log")`` by order
            of magnitude; None to never tune the setting; ``bounds`` for the range that its type and bounds have, if
            they have one.
        bounds: pydantic's, such as ``ge=0``, ``lt=1`` and ``pattern="..."``; numbers must be finite.
    """
    if isinstance(default, float):
        bounds.setdefault("allow_inf_nan", False)
    extra: dict[str, Any] = {"source": source}
    if search != "bounds":
        extra["search"] = None if search is None else list(search)
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        CosamError: the file is missing, larger than ``TOML_BYTES``, is not UTF-8, is not TOML, or has content that
            ``parse_toml`` refuses.
    """
    try:
        return parse_toml(read_text(path, limit_bytes=TOML_BYTES))
    except FileNotFoundError:
        raise CosamError(f"No file {path}. Give the path of a TOML file.") from None
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror or error}. Give the path of a TOML file.") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise CosamError(f"{path} cannot be read as TOML: {error}.") from None


class BeyondLimits(ValueError):
    """A TOML text that nobody has written by hand: nested too deeply, or with a number that no machine has."""


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        TOMLDecodeError: it is not TOML; a ValueError.
        BeyondLimits: a whole number has more than 64 bits, or tables and lists are nested more than ``TOML_DEPTH``
            deep; a ValueError, too.
    """
    too_deep = f"tables and lists are nested more than {TOML_DEPTH} deep"
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise BeyondLimits(too_deep) from None
    except ValueError:  # Python's limit on the digits of a number
        raise BeyondLimits("a whole number has more than 64 bits") from None
    level: list[Any] = [tables]
    for _ in range(TOML_DEPTH):
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values]
        if any(isinstance(value, int) and not -TOML_INTEGER <= value < TOML_INTEGER for value in level):
            raise BeyondLimits("a whole number has more than 64 bits")
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return tables
    raise BeyondLimits(too_deep)


def validate(model: type[SettingsT], data: object, *, source: str) -> SettingsT:
    """The settings that ``data`` describes; errors name ``source``, a file or an option.

    Raises:
        CosamError: one clause per fault: the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(_fault(model, alternatives) for alternatives in _by_value(model, error.errors()))
        raise CosamError(f"{source}: {faults}.") from None


_FORMS: dict[str, str] = {}


def form(pattern: str, words: str) -> str:
    """The pattern of a text setting, after noting how an error names the form that it allows.

    Args:
        pattern: a regular expression.
        words: the form as an instruction, such as "use digits only".
    """
    _FORMS[pattern] = words
    return pattern


def _by_value(model: type[BaseModel], faults: Iterable[Any]) -> list[list[Any]]:
    """The faults by value; of a value that may have several types, only those of the type that it is most like.

    The places of the faults lose the names that pydantic gives to such types.
    """
    values: dict[tuple[Any, ...], dict[str, list[Any]]] = {}
    for number, fault in enumerate(faults):
        loc, depth = fault["loc"], _depth_of_choice(model, fault["loc"])
        if depth is None:
            values[(number,)] = {"": [fault]}
        else:
            by_type = values.setdefault(("", *loc[:depth]), {})
            by_type.setdefault(loc[depth], []).append(fault | {"loc": loc[:depth] + loc[depth + 1 :]})
    found: dict[tuple[Any, ...], list[Any]] = {}
    for value, by_type in values.items():
        most = max(map(_likeness, by_type.values()))
        for fault in (fault for faults in by_type.values() if _likeness(faults) == most for fault in faults):
            found.setdefault((value, fault["loc"]), []).append(fault)
    return list(found.values())


def _likeness(faults: Iterable[Any]) -> tuple[int, bool]:
    """How far a type fits a value: to which depth, and whether the value there is of that type, out of its range."""
    return max((len(fault["loc"]), not fault["type"].endswith(("_type", "_parsing"))) for fault in faults)


def _depth_of_choice(model: type[BaseModel], loc: tuple[Any, ...]) -> int | None:
    """The index in ``loc`` of the name of a type among several, which pydantic puts after the key; None without one."""
    annotation: Any = model
    for depth, part in enumerate(loc):
        choices = _choices(annotation)
        if len(choices) > 1:
            return depth
        annotation = _at(choices[0], part) if choices else None
    return None


def _choices(annotation: Any) -> list[Any]:
    """The types that a value of this annotation may have, other than None."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for one in get_args(annotation) if one is not types.NoneType]
    return [annotation]


def _at(annotation: Any, part: Any) -> Any:
    """The annotation of what a key or an index leads to; None if that is not known."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return next((field.annotation for name, field in fields if part in (name, field.alias)), None)
    inner = [one for one in get_args(annotation) if one is not Ellipsis]
    if not inner:
        return None
    return inner[part] if isinstance(part, int) and part < len(inner) else inner[-1]


def _fault(model: type[BaseModel], alternatives: Sequence[Any]) -> str:
    """One value's fault, with the advice of each type that it may have."""
    fault = alternatives[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        allowed = _fields_at(model, fault["loc"][:-1])
        near = _nearest_key(model, fault["loc"])
        hint = f", did you mean {near!r}?" if near else ""
        return f"no setting is called {key!r}{hint} (known here: {', '.join(allowed) or 'none'})"
    if fault["type"] == "missing":
        return f"{key!r} is missing"
    if not key and isinstance(fault.get("input"), dict):
        return _advice(model, fault)  # about several of its keys, which the user has just written
    advice = ", or ".join(dict.fromkeys(_advice(model, one) for one in alternatives))
    return f"{repr(key) if key else 'it'} is {reprlib.repr(fault.get('input'))}: {advice}"


def _advice(model: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "string_unicode":
        return "it is not valid Unicode"
    if fault["type"] == "string_pattern_mismatch":
        return _FORMS.get(fault["ctx"]["pattern"], "it has another form than this setting allows")
    if fault["type"] in ("model_type", "dict_type"):
        keys = ", ".join(_fields_at(model, fault["loc"]))
        return f"write a table of settings{f' with the keys {keys}' if keys else ''}"
    if fault["type"] == "tuple_type":
        return "write a list in square brackets"
    if fault["type"] == "too_short":
        return f"list at least {fault['ctx']['min_length']}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _nearest_key(model: type[BaseModel], path: tuple[Any, ...]) -> str:
    """The key that an unknown one stands for: of the same name in an inner table, or of nearly that name."""
    asked, fields = str(path[-1]), _fields_at(model, path[:-1])
    for field in fields:
        if asked in _fields_at(model, (*path[:-1], field)):
            return f"{field}.{asked}"
    return nearest(asked, fields)


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


def _holds_truth_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_truth_value, value))
    return any(map(_holds_truth_value, value.values())) if isinstance(value, dict) else isinstance(value, bool)


def _takes_truth_value(annotation: Any) -> bool:
    """Whether a value of this type may be, or hold, true or false; False only for numbers, text and lists of these."""
    if get_origin(annotation) is Literal:
        return any(isinstance(choice, bool) for choice in get_args(annotation))
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        parts = parts[:1]
    if parts:
        return any(_takes_truth_value(part) for part in parts)
    return annotation not in (int, float, str, Path, types.NoneType, Ellipsis)
