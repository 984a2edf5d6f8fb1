"""Progress as lines, as a bar, and as a widget."""

from __future__ import annotations

import builtins
import io
import sys
from types import ModuleType

import pytest
from rich.console import Console
from support.command_line import words

from cosam_bench.experiments import progress
from cosam_bench.experiments.progress import BarReporter, LineReporter, SilentReporter, make_reporter


def test_plain_progress_is_a_line_for_each_activity_and_one_every_20_seconds() -> None:
    now = 100.0
    stream = io.StringIO()
    with progress.LineReporter(stream, clock=lambda: now) as reporter:
        reporter.say("Opening")
        reporter.begin(100)
        reporter.say("Learning pill")
        for _ in range(50):
            now += 1
            reporter.advance(1)
        reporter.advance(1000)
        reporter.say("Scoring")
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["0:00", "0:00", "0:20", "0:40", "0:50"]
    assert [words(line) for line in stream.getvalue().splitlines()] == [
        "0:00 0% Opening",
        "0:00 0% Learning pill",
        "0:20 20% 1:20 left Learning pill",
        "0:40 40% 1:00 left Learning pill",
        "0:50 99% 0:01 left Scoring",
    ]


def test_the_bar_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(progress, "notes_console", lambda: console)
    with progress.BarReporter() as reporter:
        reporter.say("Opening [data]")
        reporter.begin(4)
        reporter.advance(1)
    text = stream.getvalue()
    assert "Opening [data]" in text
    assert "25%" in text
    assert text.endswith("\x1b[2K")


class ZMQInteractiveShell:
    """The class whose name tells rich that it is in a notebook."""


def test_a_notebook_gets_a_bar_or_without_widgets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_reporter(None)) is SilentReporter
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    assert type(make_reporter(None)) is LineReporter
    monkeypatch.setattr(progress, "find_spec", lambda name: object())
    assert type(make_reporter(None)) is type(make_reporter(True)) is BarReporter
    assert type(make_reporter(False)) is SilentReporter


def test_the_bar_is_drawn_as_a_widget_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """With imitations of the two modules through which rich draws."""
    shown: list[str] = []

    class Output:
        is_open = True

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...
        def clear_output(self, *, wait: bool) -> None: ...
        def close(self) -> None:
            self.is_open = False

    widgets, ipython, display = ModuleType("ipywidgets"), ModuleType("IPython"), ModuleType("IPython.display")
    outputs: list[Output] = []

    def show(thing: object) -> None:
        outputs.append(thing) if isinstance(thing, Output) else shown.append(str(vars(thing)))

    widgets.Output = Output  # type: ignore[attr-defined]
    display.display = show  # type: ignore[attr-defined]
    for module in (widgets, ipython, display):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    with BarReporter() as reporter:
        reporter.begin(4)
        reporter.say("Learning pill")
        reporter.advance(1)
        reporter._progress.refresh()
    assert any("Learning pill" in text and "25%" in text for text in shown)
    assert [output.is_open for output in outputs] == [False]
