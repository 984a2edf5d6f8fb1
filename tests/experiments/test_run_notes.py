"""What is said before a run: here, which folders stay readable to isolated methods."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.quick_protocol import write_quick_protocol

import cosam_bench as cb
from cosam_bench.experiments import run_methods as module
from cosam_bench.experiments.method_faults import MethodFailed
from cosam_bench.experiments.progress import SilentReporter
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.experiments.run_methods import run_methods
from cosam_bench.experiments.run_notes import exposure_notes
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.isolation.sandbox import HIDDEN
from cosam_bench.method.card import MethodCard
from cosam_bench.results.records import Record

CODE = """from cosam_bench import MergingMethod, MethodCard


class Mine(MergingMethod):
    card = MethodCard(title="Mine")

    def merge(self, expert, domain, *, step):
        return expert
"""


class Notes(SilentReporter):
    """Keeps the notes of all methods."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


class NoRunner:
    """Measures nothing."""

    def __init__(self, *given: object, **named: object) -> None:
        """Take all."""

    def finished(self) -> Record | None:
        """Nothing is."""
        return None

    def run(self, *, fresh: bool) -> Record:
        """No record."""
        raise MethodFailed("not measured")


def facts_of(method: str, given_up: tuple[str, ...] = (HIDDEN,)) -> MethodFacts:
    """What a process that has given up these rights says of a method."""
    return MethodFacts(method, MethodCard(title="Mine"), {}, {}, {}, "", given_up=given_up)


def test_each_isolated_method_that_can_read_private_folders_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Runner", NoRunner)
    results, protocol = tmp_path / "results", write_quick_protocol(tmp_path, domains=["pill"])
    results.mkdir()
    mine, other, outside = results / "mine.py", results / "other.py", tmp_path / "outside.py"
    for file in (mine, other, outside):
        file.write_text(CODE)
    configs = [
        resolve_run(method=name, protocol=str(protocol)) for name in map(str, ("average", mine, outside, mine, other))
    ]
    notes = Notes()
    outcomes = list(run_methods(configs, results=results, fresh=False, isolated=None, make_reporter=lambda: notes))
    assert [outcome.method for outcome in outcomes] == ["average", "mine", "outside", "mine", "other"]
    assert [text for text in notes.texts if "can read" in text] == [
        f"The isolated method {name!r} can read {results}: its own code is in there. Keep methods and Python's folders "
        "out of the folders of data and results."
        for name in ("mine", "other")
    ]


def test_tune_says_so_before_its_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    results, protocol = tmp_path / "results", write_quick_protocol(tmp_path, domains=["pill"])
    results.mkdir()
    mine = results / "mine.py"
    mine.write_text(
        "from cosam_bench import merge_rule, setting\n\n\n"
        "@merge_rule(title='Mine')\n"
        "def mine(old, new, step, *, share: float = setting(0.5, 'a share', search=(0.1, 0.9))):\n"
        "    return new\n"
    )
    cb.tune(str(mine), trials=1, protocol=protocol, results=results, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "can read" in line] == [
        f"The isolated method 'mine' can read {results}: its own code is in there. Keep methods and Python's folders "
        "out of the folders of data and results."
    ]


def test_the_note_names_the_folder_of_temporary_files_where_that_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "data/temporary", tmp_path / "both/temporary", tmp_path / "elsewhere"]
    for place in places:
        place.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(places[0]))
    (tmp_path / "data/images").symlink_to(places[2])
    assert exposure_notes(facts_of("average"), [tmp_path / "data", places[2]]) == [
        f"The isolated method 'average' can read {tmp_path / 'data'}: the folder of temporary files is in there. Set "
        "TMPDIR to a folder outside of data and results."
    ]
    monkeypatch.setattr("tempfile.tempdir", str(places[1]))
    method = tmp_path / "both/mine.py"
    method.touch()
    assert exposure_notes(facts_of(str(method)), [tmp_path / "both"]) == [
        f"The isolated method 'mine' can read {tmp_path / 'both'}: its own code and the folder of temporary files are "
        "in there. Keep methods and Python's folders out of the folders of data and results. Set TMPDIR to a folder "
        "outside of data and results."
    ]


def test_where_nothing_can_be_hidden_one_note_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for given_up in ((), ("network", "shared memory"), ("writing",)):
        [note] = exposure_notes(facts_of("average", given_up), [tmp_path / "data"])
        assert note.startswith("The isolated method 'average' can read the folders of data and results, as this system")
    assert exposure_notes(facts_of("average"), [tmp_path / "data"]) == []
