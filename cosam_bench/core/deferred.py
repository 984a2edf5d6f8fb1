"""A package whose own modules can be imported without all that its ``__init__`` imports."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_lock = RLock()
_running: set[str] = set()


def defer(package: str) -> None:
    """Run a package's ``__init__`` when one of its names is first asked for, not when one of its modules is imported.

    A package that is imported already, or is not installed, is left alone.

    Args:
        package: a top-level package. Its modules must import one another by their own paths.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is not None and spec.submodule_search_locations is not None:
        deferred = module_from_spec(spec)
        deferred.__class__ = _Deferred
        sys.modules[package] = deferred


class _Deferred(ModuleType):
    """The package before its ``__init__`` has run; afterwards it is an ordinary module."""

    def __getattr__(self, name: str) -> Any:
        """A name that ``__init__`` defines; special ones, for which programs look in all modules, do not run it."""
        is_special = name.startswith("__") and name.endswith("__") and name != "__all__"
        with _lock:
            if type(self) is _Deferred and not is_special and self.__name__ not in _running:
                _running.add(self.__name__)
                try:
                    assert self.__spec__ is not None
                    assert self.__spec__.loader is not None
                    self.__spec__.loader.exec_module(self)
                    object.__setattr__(self, "__class__", ModuleType)
                finally:
                    _running.discard(self.__name__)
        return ModuleType.__getattribute__(self, name)  # by name: the class may have changed
