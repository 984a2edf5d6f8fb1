"""What the values of every command's options go through before it runs: paths written out, and checks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from typer.models import OptionInfo

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import (
    check_file_to_write,
    check_folder_to_write,
    check_is_folder_name,
    check_new_folder,
    expanded,
)


@dataclass(frozen=True)
class Written:
    """In the annotation of an option: the command writes what the path names.

    Attributes:
        check: refuses a path that cannot be written.
    """

    check: Callable[[Path], None]


FILE_TO_WRITE = Written(check_file_to_write)
FOLDER_TO_WRITE = Written(check_folder_to_write)
NEW_FOLDER = Written(check_new_folder)
RESULTS_TO_ADD_TO = Written(check_is_folder_name)  # may be read-only, if what is asked for is there


def with_checked_values(command: Callable[..., None]) -> Callable[..., None]:
    """The command, called with ``~`` written out in each path, once all values are known to be usable.

    Its call raises a CosamError if a number is not finite, or if a path to write cannot be written.
    """

    @functools.wraps(command)
    def checked(**values: Any) -> None:
        command(**_checked(get_type_hints(command, include_extras=True), values))

    return checked


def _checked(hints: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        marks = getattr(hints.get(name), "__metadata__", ())
        if isinstance(value, float) and not math.isfinite(value):
            raise CosamError(f"{_option(name, marks)} is {value}. Give a finite number.")
        found[name] = value = _expanded(value)
        for written in (mark for mark in marks if isinstance(mark, Written) and isinstance(value, Path)):
            try:
                written.check(value)
            except CosamError as error:
                raise CosamError(f"{_option(name, marks)}: {error}") from None
    return found


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    return expanded(value) if isinstance(value, Path) else value


def _option(name: str, marks: tuple[object, ...]) -> str:
    """The option as it is typed."""
    for mark in marks:
        if isinstance(mark, OptionInfo):
            for text in (mark.default, *(mark.param_decls or ())):  # typer takes the first name as a default
                if str(text).startswith("--"):
                    return str(text)
    return f"--{name.replace('_', '-')}"
