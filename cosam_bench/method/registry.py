"""Find methods by name: entry points, ``package.module:Class`` or a Python file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

from cosam_bench.core.errors import CosamError, lacks_resources, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.method.edited_modules import unload_edited_modules
from cosam_bench.method.offered_methods import offered_methods
from cosam_bench.method.places import place_of

if TYPE_CHECKING:
    from cosam_bench.method.interface import Method

FILE_MODULE = "cosam_bench_method_"  # what the names of modules loaded from a file's path begin with


def method_names() -> list[str]:
    """The registered names in alphabetical order; no method is imported."""
    return sorted(offered_methods().names)


def _registered(name: str) -> EntryPoint:
    """The entry point of that name.

    A package that is found twice, such as an editable install seen from its own checkout, offers one method. If two
    packages offer different methods, only this name is refused.
    """
    points = list(offered_methods().select(name=name))
    if not points:
        error = unknown_name("method", name, method_names())
        file = Path(f"{name}.py")
        raise CosamError(f"{error} A file is given by its path: ./{file}.") if file.is_file() else error
    if len({point.value for point in points}) > 1:
        offers = sorted(_origin(point) for point in points)
        raise CosamError(
            f"{len(offers)} packages offer a method called {name!r}: {', '.join(offers)}. "
            "Uninstall one, or give the class as package.module:Class."
        )
    return points[0]


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else 'an unknown package'} ({point.value})"


def short_name(asked: str) -> str:
    """What a method is called in records: a file's name without folder and suffix, else the name as given.

    >>> short_name("~/trials/mine.py:Mine"), short_name("mine.py"), short_name("regcl")
    ('mine:Mine', 'mine', 'regcl')
    """
    path, colon, class_name = asked.partition(":")
    return f"{Path(path).stem}{colon}{class_name}" if path.endswith(".py") else asked


def is_built_in(asked: str) -> bool:
    """Whether a method is one of this package's own, of which the name or ``package.module:Class`` was asked for."""
    if asked.partition(":")[0].endswith(".py"):
        return False
    try:
        module_name, _ = class_place(asked)
    except CosamError:
        return False
    return module_name.startswith("cosam_bench.methods.")


def check_offered(asked: str) -> None:
    """Refuse a name that nobody offers and a file that is not there; nothing is imported.

    Raises:
        CosamError: there is no such method.
    """
    path = asked.partition(":")[0]
    if not path.endswith(".py"):
        class_place(asked)
    elif not expanded(path).is_file():
        raise _no_file(expanded(path))
    else:
        _check_own_name(asked)


def _check_own_name(asked: str) -> None:
    """Refuse a file whose records would bear the name of a registered method."""
    if short_name(asked) in method_names():
        raise CosamError(
            f"{asked} has the name of the method {short_name(asked)!r}, whose records it would join. Rename the file, "
            f"or name its class: {asked}:ClassName."
        )


def _no_file(path: Path) -> CosamError:
    return CosamError(f"No file {path}. Give the path of a Python file that defines one Method.")


def absolute_reference(asked: str) -> str:
    """The same method, wherever it is asked for: a file's path made absolute, anything else as it is."""
    path, colon, class_name = asked.partition(":")
    return f"{expanded(path).absolute()}{colon}{class_name}" if path.endswith(".py") else asked


def load_method(asked: str) -> type[Method]:
    """The class behind a name, a ``package.module:Class`` or a path ``file.py`` or ``file.py:Class``.

    Raises:
        CosamError: nobody offers it, its module fails to import, or it is not a concrete ``Method``.
    """
    unload_edited_modules()
    path, _, class_name = asked.partition(":")
    if path.endswith(".py"):
        _check_own_name(asked)
        return _from_module(_import_file(expanded(path)), class_name, asked)
    module_name, class_name = class_place(asked)
    return _from_module(_import(module_name, asked), class_name, asked)


def _import(module_name: str, asked: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported, or exit
        if lacks_resources(error) or isinstance(error, CosamError):
            raise  # not the plugin's fault, and the next one would fail likewise; or the message says it all
        raise CosamError(
            f"Method {asked!r} cannot be imported: {module_name} raised {type(error).__name__}: {error}. "
            "Other methods are not affected."
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _no_file(path)
    name = f"{FILE_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CosamError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look up their own module while it loads
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything, or exit
        del sys.modules[name]
        if lacks_resources(error) or isinstance(error, CosamError):
            raise
        advice = _advice_on_path(error, path.parent)
        raise CosamError(f"{path} raised {type(error).__name__} while loading: {error}.{advice}") from error
    return module


def _advice_on_path(error: BaseException, folder: Path) -> str:
    """What to do if a module was not found though it is in the folder of the file that needs it; else empty."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or name in sys.modules:
        return ""
    beside = next((path for path in (folder / f"{name}.py", folder / name) if path.exists()), None)
    if beside is None:
        return ""
    return (
        f" {beside.name} is beside it, but their folder is not on Python's path. Set PYTHONPATH={folder.absolute()}, "
        "or make a package of both, as `cosam-bench new-method NAME` writes one."
    )


def _from_module(module: ModuleType, class_name: str, asked: str) -> type[Method]:
    if not class_name:
        own = _methods_of(module)
        if not own and (unfinished := _unfinished_methods(module)):
            raise _lacks_functions(unfinished[0])
        if not own:
            raise CosamError(
                f"{asked} defines no method. Write one there: a function under @merge_rule, or a subclass of "
                "cosam_bench.MergingMethod."
            )
        if len(own) != 1:
            raise CosamError(
                f"{asked} defines {len(own)} methods ({_listed(own)}). Choose one, as in {asked}:{min(own)}."
            )
        return next(iter(own.values()))
    found = getattr(module, class_name, None)
    if found is None:
        offered = _listed(_methods_of(module))
        raise CosamError(f"{asked}: {module.__name__} has no {class_name!r}. Its methods: {offered}.")
    if _is_unfinished(found):
        raise _lacks_functions(found)
    if not _is_method(found):
        raise CosamError(f"{asked}: {class_name} is not a concrete subclass of cosam_bench.Method.")
    return found


def _methods_of(module: ModuleType) -> dict[str, type[Method]]:
    """The methods that a module defines itself, without those that it only imports."""
    members = vars(module).items()
    return {name: value for name, value in members if _is_method(value) and value.__module__ == module.__name__}


def _is_method(value: object) -> TypeGuard[type[Method]]:
    from cosam_bench.method.interface import Method

    return inspect.isclass(value) and issubclass(value, Method) and not inspect.isabstract(value)


def _is_unfinished(value: object) -> TypeGuard[type[Method]]:
    from cosam_bench.method.interface import Method

    return inspect.isclass(value) and issubclass(value, Method) and inspect.isabstract(value)


def _unfinished_methods(module: ModuleType) -> list[type[Method]]:
    return [value for value in vars(module).values() if _is_unfinished(value) and value.__module__ == module.__name__]


def _lacks_functions(method: type[Method]) -> CosamError:
    """The error for a class that leaves out what every method must have; a function of nearly that name is named."""
    missing = sorted(method.__abstractmethods__)
    near = [
        f"Did you mean {missed!r} by {found[0]!r}?"
        for missed in missing
        if (found := difflib.get_close_matches(missed, [name for name in vars(method) if name[0] != "_"], n=1))
    ]
    return CosamError(
        f"{method.__name__} ({place_of(method)}) does not define {', '.join(missing)}. "
        f"{near[0] if near else f'Write {missing[0]}() in the class.'}"
    )


def _listed(classes: dict[str, type[Method]]) -> str:
    return ", ".join(sorted(classes)) or "none"


def method_origin(name: str) -> str:
    """The distribution that registers ``name``; all of them if several conflict."""
    found = {point.dist.name for point in offered_methods().select(name=name) if point.dist}
    return " and ".join(sorted(found)) or "unknown"


def class_place(asked: str) -> tuple[str, str]:
    """The module and the class behind a name, without importing either; two empty strings for a file.

    Raises:
        CosamError: the name is not registered, or several packages offer it.
    """
    if asked.partition(":")[0].endswith(".py"):
        return "", ""
    module_name, _, class_name = (asked if ":" in asked else _registered(asked).value).partition(":")
    return module_name, class_name
