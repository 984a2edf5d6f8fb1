"""Write the skeleton of a method as a package of its own."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.method.registry import method_names

_FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "{module}.py": "module.py.jinja",
    "tests/test_{name}.py": "test_module.py.jinja",
}


def write_method_package(name: str, folder: Path) -> list[Path]:
    """Write a package that offers a working method called ``name``, and return its files.

    Args:
        name: lower case, digits and underscores; not yet registered.
        folder: must be missing or empty.

    Raises:
        CosamError: the name cannot be used, the folder is not empty, or it cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise CosamError(
            f"A method cannot be called {name!r}. Use lower-case letters and digits, with single underscores between "
            "words and a letter first."
        )
    if name in method_names():
        raise CosamError(f"A method called {name!r} is already registered. Choose another name.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CosamError(f"{folder} already exists and is not empty. Give another --folder, or remove it.")
    from jinja2 import Environment, StrictUndefined

    words = {
        "name": name,
        "module": f"cosam_bench_{name}",
        "class_name": "".join(word.capitalize() for word in name.split("_")) + "Method",
        "title": name.replace("_", " ").capitalize(),
    }
    templates = files("cosam_bench.method") / "template"
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    written = []
    for place, template in _FILES.items():
        path = folder / place.format(**words)
        text = environment.from_string((templates / template).read_text(encoding="utf-8")).render(words)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CosamError(f"{path} cannot be written: {error.strerror or error}.") from None
        written.append(path)
    return written
