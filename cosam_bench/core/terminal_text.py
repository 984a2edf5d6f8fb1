"""Text as a terminal may show it: no control characters, and only characters that its encoding has."""

from __future__ import annotations

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# Control characters but tab and line feed, marks that change the direction of writing, and bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# One character each, so that tables keep their columns.
_STAND_INS = str.maketrans(
    {
        "│": "|",
        "─": "-",
        "━": "-",
        "•": "*",
        "·": ".",
        "…": "~",
        "†": "+",
        "‡": "#",
        "§": "$",
        "±": "~",
        "↑": "^",
        "→": ">",
        "–": "-",  # noqa: RUF001
        "−": "-",  # noqa: RUF001
        "\N{NO-BREAK SPACE}": " ",
    }
)


def terminal_text(text: str, encoding: str = "utf-8") -> str:
    r"""The text with unsafe characters, and those that the encoding lacks, replaced by one character each.

    Args:
        text: of any origin: titles, file names and messages may hold escape sequences.
        encoding: of the terminal.

    >>> terminal_text("a\x1b]52;c;\x07b"), terminal_text("0.5 ±0.1 ↑ ü", "ascii")
    ('a�]52;c;�b', '0.5 ~0.1 ^ ?')
    """
    text = _UNSAFE.sub(REPLACEMENT, text.replace("\r\n", "\n"))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_STAND_INS).encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "replace").decode("ascii")
    return text
