"""The commands and files that the documents show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
_LOOP = re.compile(r"for (\w+) in ([^;]+); do (.+); done")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str, language: str) -> list[str]:
    """The fenced blocks of one language, from the first to the last, without their indentation."""
    return [
        re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        for indent, kind, body in _FENCED.findall(text_of(document))
        if kind == language
    ]


def prose_of(document: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", text_of(document))


def shown_commands(document: str) -> list[str]:
    """Every ``cosam-bench ...`` in the document's blocks of commands, in their order; of a loop, each turn."""
    lines = [line for body in blocks_of(document, "sh") for line in body.splitlines()]
    parts = [part.strip() for line in lines for turn in _turns(line) for part in turn.split("&&")]
    return [part for part in parts if part.startswith("cosam-bench ")]


def _turns(line: str) -> Iterator[str]:
    line = re.sub(r"\s+# .*", "", line)
    loop = _LOOP.fullmatch(line)
    if not loop:
        yield line
        return
    name, values, command = loop.groups()
    for value in values.split():
        yield command.replace(f"${name}", value)
