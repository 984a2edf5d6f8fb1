"""What is read of a method's source is what importing it would say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.core.setting_keys import setting_keys
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.source_reading import describe

HEAD = """
import missing_module_of_a_gpu_library
from pydantic import model_validator

from cosam_bench import MergingMethod, Method, MethodCard, Settings, setting

OURS = "a guess"


def at_least(value):
    return value >= 1


class Base(Settings):
    first: int = setting(1, "the first", source=OURS)


class Mine(Base):
    second: int = setting(2, "the second", source=OURS)

    @model_validator(mode="after")
    def _fits(self):
        if not at_least(self.second):
            raise ValueError("too small")
        return self

"""


@pytest.mark.parametrize("name", method_names())
def test_a_built_in_method_is_described_from_its_source_as_it_is(name: str) -> None:
    found, method = describe(name), load_method(name)
    assert found.settings.__module__ == "cosam_bench_settings_only" or not found.settings.model_fields
    assert list(setting_keys(found.settings)) == list(setting_keys(method.Settings))
    assert found.card == method.card
    assert found.place == f"{method.__module__}:{method.__name__}"
    assert (sys.modules[method.__module__].__doc__ or "").strip().splitlines()[0] in found.documentation
    assert (method.__doc__ or "").strip().splitlines()[0] in found.documentation


def test_no_built_in_method_needs_torch_to_be_described() -> None:
    code = (
        "import sys\nfrom cosam_bench.method.registry import method_names\n"
        "from cosam_bench.method.source_reading import describe\n"
        "for name in method_names():\n    describe(name)\n    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "body",
    [
        "class Rule(MergingMethod[Mine]):\n    card = MethodCard(title='Rule')\n",
        "class Rule(Method):\n    card = MethodCard(title='Rule')\n    Settings = Mine\n",
    ],
)
def test_settings_with_their_base_constants_and_functions_are_run_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "read_only_rule.py").write_text(HEAD + body)
    found = describe("read_only_rule:Rule")
    assert [(key.name, key.source) for key in setting_keys(found.settings)] == [
        ("first", "a guess"),
        ("second", "a guess"),
    ]
    with pytest.raises(ValueError, match="too small"):
        found.settings(second=0)  # type: ignore[call-arg]
    assert "read_only_rule" not in sys.modules


def test_what_the_source_does_not_say_plainly_is_found_by_importing(tmp_path: Path) -> None:
    path = tmp_path / "indirect.py"
    path.write_text("from cosam_bench.methods.ties import Ties\n\n\nclass Mine(Ties):\n    'TIES by another name.'\n")
    found = describe(str(path))
    assert found.settings is load_method("ties").Settings
    assert found.card.title == "TIES"
    assert found.documentation.strip() == "TIES by another name."


def test_a_package_that_exits_when_it_is_imported_is_an_error_of_that_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exits").mkdir()
    (tmp_path / "exits" / "__init__.py").write_text("import sys\nsys.exit('no licence')\n")
    with pytest.raises(CosamError, match=r"exits\.rule cannot be found: SystemExit: no licence"):
        describe("exits.rule:Rule")


def test_settings_that_exit_when_they_are_read_are_an_error_of_that_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    body = "class Rule(MergingMethod[Mine]):\n    card = MethodCard(title='Rule')\n"
    head = HEAD.replace("import missing_module_of_a_gpu_library", "").replace('"a guess"', '__import__("sys").exit(3)')
    (tmp_path / "exiting_rule.py").write_text(head + body)
    with pytest.raises(CosamError, match="SystemExit: 3"):
        describe("exiting_rule:Rule")
