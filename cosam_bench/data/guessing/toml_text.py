"""Values and comments of TOML, as somebody would write them by hand."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from cosam_bench.core.errors import CosamError
from cosam_bench.data.file_patterns import is_utf8

WIDTH = 116  # of a comment


def toml_value(value: object) -> str:
    r"""A value on one line; tables are inline.

    >>> toml_value({"values": [1, 2], "of": "a\"b"})
    '{ values = [1, 2], of = "a\\"b" }'

    Raises:
        CosamError: a text is not UTF-8, as names of files may be.
    """
    if isinstance(value, str):
        if not is_utf8(value):
            raise CosamError(f"The name {value!r} is not UTF-8, so it cannot be written into a TOML file. Rename it.")
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml_value(one)}' for key, one in value.items())} }}"
    return str(value)


def toml_line(key: str, value: object) -> str:
    """A key and its value.

    >>> toml_line("ignore", 255)
    'ignore = 255'
    """
    return f"{key} = {toml_value(value)}"


def comment(text: str) -> list[str]:
    r"""The lines of a comment; control characters are escaped.

    >>> comment("a\tb")
    ['# a\\tb']
    """
    legible = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    lines = textwrap.wrap(legible, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]
