"""Arguments of public functions, checked by the types in their signatures before anything else happens."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

from cosam_bench.core.errors import CosamError

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Kind:
    """One of the types that an argument may have.

    Attributes:
        one: a value of it, in words.
        several: the plural.
        read: the value as the function expects it; raises TypeError for a value of another type.
    """

    one: str
    several: str
    read: Callable[[object], object]


Kinds: TypeAlias = tuple[Kind, ...] | None
"""The alternatives of one argument; None: the function checks it itself."""


def checked_arguments(**words: str) -> Callable[[Callable[P, ResultT]], Callable[P, ResultT]]:
    """A decorator: refuse arguments of another type than the signature states, with one error that names them.

    Types are read from the annotations, which must not be evaluated (``from __future__ import annotations``), so that
    names imported for type checkers alone may be used. Arguments whose annotation has a name that is not known here
    are left to the function, and so are ranges of values.

    NumPy's scalars become Python's; arrays, generators and other iterables that are given for a list become one. Sets
    are refused, because their order is not defined.

    Args:
        words: by argument, what to give, for a better advice than the types alone: "Give ...".

    >>> @checked_arguments(count="how many, such as 3")
    ... def repeated(text: str, *, count: int | None = None) -> str:
    ...     return text * (count or 1)
    >>> repeated("a", count="3")
    Traceback (most recent call last):
    cosam_bench.core.errors.CosamError: count is '3'. Give how many, such as 3.
    >>> repeated(5)
    Traceback (most recent call last):
    cosam_bench.core.errors.CosamError: text is 5. Give text.
    """

    def decorate(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
        signature = inspect.signature(function)

        @functools.cache
        def kinds_of(name: str) -> Kinds:
            annotation = signature.parameters[name].annotation
            return _kinds(annotation, function.__globals__) if isinstance(annotation, str) else None

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> ResultT:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # Python says which argument is missing or unknown
            for name, value in bound.arguments.items():
                kinds = kinds_of(name)
                if kinds is not None:
                    bound.arguments[name] = _read_argument(name, value, kinds, words.get(name) or _advice(kinds))
            return function(*bound.args, **bound.kwargs)

        return checked

    return decorate


def _read_argument(name: str, value: object, kinds: Sequence[Kind], advice: str) -> object:
    try:
        return _read(value, kinds)
    except TypeError:
        raise CosamError(f"{name} is {found_value(value)}. Give {advice}.") from None


def _read(value: object, kinds: Sequence[Kind]) -> object:
    for kind in kinds:
        try:
            return kind.read(value)
        except TypeError:
            continue
    raise TypeError


def found_value(value: object) -> str:
    """A value for a message: as Python writes it, shortened; or its type, if that says more.

    >>> found_value("no"), found_value(object())
    ("'no'", 'of type object')
    """
    if type(value).__module__ == "numpy" and hasattr(value, "shape") and hasattr(value, "tolist"):
        if math.prod(value.shape) > _SHOWN:
            return f"of type {type(value).__name__} and shape {value.shape}"
        value = value.tolist()
    if value is None or isinstance(value, _WRITTEN):
        try:
            return reprlib.repr(value)
        except ValueError:  # a number of more digits than Python writes
            pass
    return f"of type {type(value).__name__}"


_SHOWN = 16  # elements of an array
_WRITTEN = (str, bytes, int, float, list, tuple, dict, set, frozenset, range, Path)


def is_truth_value(value: object) -> bool:
    """Whether a value is true or false, of Python or NumPy; NumPy is not imported."""
    is_numpys = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    return isinstance(value, bool) or is_numpys


def _advice(kinds: Sequence[Kind]) -> str:
    return _joined([kind.one for kind in kinds])


def _joined(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _kinds(annotation: str, names: Mapping[str, object]) -> Kinds:
    return _parsed(ast.parse(annotation, mode="eval").body, names)


def _parsed(node: ast.expr, names: Mapping[str, object]) -> Kinds:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _parsed(left, names), _parsed(right, names)
            return None if one is None or other is None else one + other
        case ast.Constant(value=None):
            return (_NOTHING,)
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Name(id=name) if isinstance(alias := names.get(name), str):  # an alias of types
            return _kinds(alias, names)
        case ast.Name(id=name) if isinstance(found := names.get(name), type):  # a class that the module has imported
            return (Kind(f"a value of type {name}", f"values of type {name}", _of(found)),)
        case ast.Subscript(value=ast.Name(id="Sequence"), slice=inner):
            elements = _parsed(inner, names)
            return None if elements is None else (_sequence(elements),)
        case ast.Subscript(value=ast.Name(id="Mapping"), slice=ast.Tuple(elts=[_, inner])):
            values = _parsed(inner, names)
            return None if values is None else (_mapping(values),)
        case ast.Subscript(value=ast.Name(id=name)) if name in _OUTER:
            return (_OUTER[name],)
    return None


def _sequence(elements: Sequence[Kind]) -> Kind:
    def read(value: object) -> object:
        if isinstance(value, str | bytes | bytearray | Mapping | set | frozenset) or not isinstance(value, Iterable):
            raise TypeError
        return [_read(element, elements) for element in value]

    words = _joined([kind.several for kind in elements])
    return Kind(f"a list of {words}", f"lists of {words}", read)


def _mapping(values: Sequence[Kind]) -> Kind:
    def read(value: object) -> object:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError
        return {key: _read(inner, values) for key, inner in value.items()}

    return Kind("a dictionary", "dictionaries", read)


def _of(*types: type) -> Callable[[object], object]:
    return functools.partial(_instance, types)


def _instance(types: tuple[type, ...], value: object) -> object:
    if not isinstance(value, types):
        raise TypeError
    return value


def _truth(expected: bool, value: object) -> object:
    if not is_truth_value(value) or bool(value) is not expected:
        raise TypeError
    return expected


def _whole_number(value: object) -> object:
    if is_truth_value(value) or hasattr(value, "__len__"):  # an array
        raise TypeError
    number = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for what has no __index__
    if number.bit_length() > _BITS:
        raise TypeError
    return number


_BITS = 1024
"""Of whole numbers: Python does not write or convert much larger ones; functions have narrower limits."""


def _number(value: object) -> object:
    if is_truth_value(value) or hasattr(value, "__len__") or not hasattr(value, "__float__"):
        raise TypeError
    try:
        return float(value)
    except OverflowError:
        raise TypeError from None


def _path(value: object) -> object:
    place = os.fspath(value)  # type: ignore[call-overload]  # raises TypeError for what is no path
    if not isinstance(value, os.PathLike) or not isinstance(place, str):
        raise TypeError
    return value if isinstance(value, Path) else Path(place)


def _record(value: object) -> object:
    """By name, because the class has not been imported while nobody holds a record."""
    if not any(
        base.__name__ == "Record" and base.__module__.startswith("cosam_bench.") for base in type(value).__mro__
    ):
        raise TypeError
    return value


_NOTHING = Kind("None", "None", _of(type(None)))
_TEXT = Kind("text", "texts", _of(str))
_ANYTHING = Kind("any value", "values", _of(object))
_PLAIN: dict[str, tuple[Kind, ...]] = {
    "str": (_TEXT,),
    "bool": tuple(Kind(str(one), "truth values", functools.partial(_truth, one)) for one in (True, False)),
    "int": (Kind("a whole number", "whole numbers", _whole_number),),
    "float": (Kind("a number", "numbers", _number),),
    "Path": (Kind("a path", "paths", _path),),
    "Record": (Kind("a record", "records", _record),),
    "Any": (_ANYTHING,),
    "object": (_ANYTHING,),
}
_OUTER = {"type": Kind("a class", "classes", _of(type)), "Literal": _TEXT}
