"""Writes docs/commands.md and docs/method-reference.md from the command line and the methods themselves.

Usage: python tools/write_reference.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from cosam_bench.cli.main import app
from cosam_bench.core.files import write_atomically
from cosam_bench.core.setting_keys import setting_keys
from cosam_bench.method.registry import class_place, method_names
from cosam_bench.method.source_reading import MethodDescription, describe

DOCS = Path(__file__).resolve().parents[1] / "docs"
BUILT_IN = "cosam_bench.methods."


def main() -> None:
    """Replace both pages."""
    for name, page in PAGES.items():
        write_atomically(DOCS / name, page())


def commands_page() -> str:
    """Every command with its help, arguments and options."""
    head = """# The commands

This page is what `cosam-bench COMMAND --help` says, for every command. Messages go to the standard error, results to
the standard output.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a method failed, a check found a fault, or memory or open files ran out |
| 2 | something you can correct: an option, a file, a name; the message says what |
| 70 | a defect in cosam-bench; the message says where the traceback is |
| 130, 143, 129 | stopped by Ctrl-C, SIGTERM or SIGHUP; give the same command again to continue a run |"""
    return _joined([head, *_command_parts("cosam-bench", typer.main.get_command(app))])


def _command_parts(name: str, command: Any) -> Iterator[str]:
    """The section of a command; of a group, those of its commands."""
    for short, inner in getattr(command, "commands", {}).items():
        yield from _command_parts(f"{name} {short}", inner)
    if hasattr(command, "commands"):
        return
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"## {name}"
    yield from (" ".join(part.split()) for part in inspect.cleandoc(command.help).split("\n\n"))
    yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
    records = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    rows = [f"| `{usage.replace(' <path>', '')}` | {_cell(meaning)} |" for usage, meaning in records]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows])


def _cell(text: str) -> str:
    text = re.sub(r"\[(default: [^]]*|required|x[<>]=?[^]]*)\]", r"(\1)", " ".join(text.split()))
    return _escaped(text).replace("|", r"\|")


def methods_page() -> str:
    """Every built-in method: its documentation, deviations and settings."""
    head = """# Formulas, sources and deviations

For each built-in method: the paper, the rule with its equations, every deviation from the paper or its released code,
and the settings with their defaults. `cosam-bench methods NAME` prints the same. [methods.md](methods.md) compares the
methods and says when to use which."""
    built_in = [name for name in method_names() if class_place(name)[0].startswith(BUILT_IN)]
    return _joined([head, *(part for name in built_in for part in _method_parts(name, describe(name)))])


def _method_parts(name: str, method: MethodDescription) -> Iterator[str]:
    card = method.card
    yield f"## {name}"
    marks = f" Marked: {', '.join(card.marks)}." if card.marks else ""
    yield f"**{card.title}.** Source: {card.paper or 'none, a control'}.{marks}"
    yield from _markdown(method.documentation)
    if card.deviations:
        yield "**Deviations from the paper or its released code**"
        yield "\n".join(f"- {_escaped(deviation)}" for deviation in card.deviations)
    else:
        yield "**Deviations:** none."
    if method.settings.model_fields:
        head = "| setting | default | meaning | default from | tuned in |"
        yield "\n".join([head, "|---|---|---|---|---|", *_settings(method)])


def _settings(method: MethodDescription) -> Iterator[str]:
    for key in setting_keys(method.settings, prefix="method."):
        words = map(_cell, (key.meaning, key.source, key.search or "not tuned"))
        cells = (f"`{key.name}`", f"`{key.default}`", *words)
        yield f"| {' | '.join(cells)} |"


def _markdown(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring as Markdown: what is indented becomes a block of text, unchanged."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if re.match(r"(\d+\.|[-*]) ", paragraph):
            yield "\n".join(_escaped(" ".join(item.split()), start=2) for item in re.split(r"\n(?=\S)", paragraph))
        elif any(line.startswith(" ") for line in lines):
            yield f"```text\n{textwrap.dedent(paragraph)}\n```"
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str, *, start: int = 0) -> str:
    """Text in which only spans of code have a meaning in Markdown."""
    spans = re.split(r"(`+[^`]+`+)", text[start:])
    plain = (re.sub(r"([*<\[\]]|(?<!\w)_)", r"\\\1", span) for span in spans[::2])
    code = (f"`{span.strip('`')}`" for span in spans[1::2])
    return text[:start] + "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)


def _joined(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands_page, "method-reference.md": methods_page}

if __name__ == "__main__":
    main()
