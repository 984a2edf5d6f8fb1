"""What a method's rule is: which modules it covers, and what of them counts; for all ways to give a method."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import cosam_bench.merging
from cosam_bench.method.registry import load_method
from cosam_bench.method.rule_digest import Rule, rule_digest

NAME = "somebodys_rule"
KINDS = ("file", "module", "entry_point", "editable")

METHOD = """
from cosam_bench import MergingMethod, MethodCard, Update, weight_changes
from {at}rule import WEIGHT

try:
    from {at}fast import quick
except ImportError:
    quick = None


class Mine(MergingMethod):
    card = MethodCard(title="Mine")

    def merge(self, expert, domain, *, step):
        from {at}late import factor

        return Update(dense={{n: factor() * WEIGHT * t for n, t in weight_changes(expert).items()}})
"""
FILES = {
    "method": METHOD,
    "rule": "from {at}deep import BASE\nWEIGHT = BASE * 1\n",
    "deep": "BASE = 1\n",
    "late": "import importlib\n\ndef factor():\n    return importlib.import_module('{at}chosen').FACTOR\n",
    "chosen": "FACTOR = 2\n",
    "unused": "WEIGHT = 1\n",
}
DIST_INFO = {
    "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
    "entry_points.txt": f"[cosam_bench.methods]\n{NAME} = {NAME}.method:Mine\n",
    "top_level.txt": f"{NAME}\n",
}


@dataclass(frozen=True)
class Written:
    """A method in files.

    Attributes:
        asked: what ``--method`` is given.
        folder: of the files.
        at: what the names of its modules begin with.
    """

    asked: str
    folder: Path
    at: str

    def write(self, name: str, text: str) -> None:
        path = self.folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{at}", self.at).replace("{{", "{").replace("}}", "}"))

    def digest(self) -> str:
        """The digest of the rule as a new process finds it."""
        forget()
        return rule_digest(load_method(self.asked))


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in (NAME, *FILES, "fast", "v1", "v2", "sub")]:
        del sys.modules[name]


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    kind = request.param
    installed = tmp_path / "site-packages"
    installed.mkdir()
    code = {"entry_point": installed / NAME}.get(kind, tmp_path / "src" / NAME)
    asked = {"file": str(code / "method.py"), "module": f"{NAME}.method:Mine"}.get(kind, NAME)
    made = Written(asked, code, "" if kind == "file" else f"{NAME}.")
    for name, text in FILES.items():
        made.write(name, text)
    if kind != "file":
        made.write("__init__", "")
    if kind in ("entry_point", "editable"):
        files = [f"{NAME}/{path.name}" for path in code.glob("*.py")] if kind == "entry_point" else [f"{NAME}.pth"]
        info = installed / f"{NAME}-1.0.dist-info"
        info.mkdir()
        for name, text in (DIST_INFO | {"RECORD": "".join(f"{file},,\n" for file in files)}).items():
            (info / name).write_text(text)
        monkeypatch.syspath_prepend(str(installed))
    monkeypatch.syspath_prepend(str(code if kind == "file" else code.parent))
    forget()
    yield made
    forget()


CHANGES = {
    "its own code": ("method", METHOD.replace("WEIGHT * t", "WEIGHT + t")),
    "a module that it imports": ("rule", FILES["rule"].replace("* 1", "* 2")),
    "what that imports": ("deep", "BASE = 2\n"),
    "an import within a function": ("late", FILES["late"].replace("def factor", "SIZE = 1\ndef factor")),
    "a module loaded by its name": ("chosen", "FACTOR = 3\n"),
    "an optional module that was missing": ("fast", "quick = True\n"),
}
SAME = {
    "a comment": ("rule", FILES["rule"] + "# a comment\n"),
    "a docstring": ("deep", '"""What all begins with."""\nBASE = 1\n'),
    "the form": ("deep", "BASE = (\n    1\n)\n"),
    "the path of a public name": (
        "method",
        METHOD.replace(
            "from cosam_bench import MergingMethod, MethodCard, Update, weight_changes",
            "from cosam_bench.merging.updates import Update, weight_changes\n"
            "from cosam_bench.method.interface import MergingMethod\n"
            "from cosam_bench.method.card import MethodCard",
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_module_that_its_own_code_loads_counts(written: Written, change: str) -> None:
    before = written.digest()
    written.write(*CHANGES[change])
    assert written.digest() != before


@pytest.mark.parametrize("change", SAME)
def test_what_means_the_same_does_not_count(written: Written, change: str) -> None:
    before = written.digest()
    written.write(*SAME[change])
    assert written.digest() == before


@pytest.mark.filterwarnings("ignore:cosam_bench.* has moved:DeprecationWarning")
def test_old_paths_of_this_package_are_the_new_ones(written: Written) -> None:
    before = written.digest()
    old = "from cosam_bench.updates import Update, weight_changes\nfrom cosam_bench.method import MergingMethod\n"
    written.write(
        "method",
        METHOD.replace(
            "from cosam_bench import MergingMethod, MethodCard, Update, weight_changes",
            old + "from cosam_bench.card import MethodCard",
        ),
    )
    assert written.digest() == before


def test_all_of_an_installed_plugin_counts_and_else_only_what_is_loaded(written: Written) -> None:
    before = written.digest()
    written.write("unused", "WEIGHT = 2\n")
    is_plugin = written.asked == NAME
    assert (written.digest() != before) == is_plugin


def test_a_moved_module_is_the_same_rule(written: Written) -> None:
    before = written.digest()
    (written.folder / "deep.py").unlink()
    written.write("sub/__init__", '"""A folder."""\n')
    written.write("sub/deeper", "BASE = 1\n")
    written.write("rule", FILES["rule"].replace("{at}deep", "{at}sub.deeper"))
    if "site-packages" in str(written.folder):
        record = next(written.folder.parent.glob("*.dist-info")) / "RECORD"
        names = ("sub/__init__.py", "sub/deeper.py")
        record.write_text(record.read_text() + "".join(f"{NAME}/{name},,\n" for name in names))
    assert written.digest() == before


def test_which_of_two_modules_a_name_comes_from_counts(written: Written) -> None:
    for name, value in (("v1", 1), ("v2", 2)):
        written.write(name, f"BASE = {value}\n")
    written.write("rule", "from {at}v1 import BASE as WEIGHT\nfrom {at}v2 import BASE as OTHER\n")
    before = written.digest()
    written.write("rule", "from {at}v2 import BASE as WEIGHT\nfrom {at}v1 import BASE as OTHER\n")
    assert written.digest() != before


def test_libraries_count_by_name(written: Written) -> None:
    written.write("late", "from statistics import mean as factor\n")
    before = written.digest()
    written.write("late", "from numpy import mean as factor\n")
    assert written.digest() != before
    assert not {path.name for path in Rule(load_method(written.asked)).files} & {"statistics.py", "numpy.py"}


def test_a_plugin_on_a_built_in_method_and_on_merge_rules_covers_them(written: Written) -> None:
    base = METHOD.replace("(MergingMethod)", "(OPCM)") + "\nfrom cosam_bench.methods.opcm import OPCM as _\n"
    written.write("method", "from cosam_bench.methods.opcm import OPCM\n" + base)
    forget()
    found = {path.stem for path in Rule(load_method(written.asked)).files}
    assert {"method", "rule", "deep", "late", "chosen", "opcm", "spectral", "updates"} <= found
    assert "interface" not in found


def test_modules_reached_as_attributes_and_by_a_namespace_count(written: Written) -> None:
    text = "import cosam_bench as cb\nimport {at}sub.two\n{shown}BASE = {at}sub.two.VALUE\ncb.weight_changes\n"
    written.write("deep", text.replace("{shown}", "from {at}sub import one\n"))
    written.write("sub/one", "VALUE = 1\n")
    written.write("sub/two", "VALUE = 1\n")
    for name in ("sub/one", "sub/two"):
        before = written.digest()
        written.write(name, "VALUE = 5\n")
        assert written.digest() != before


def test_a_compiled_module_counts_by_its_bytes(written: Written) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    path = written.folder / f"fast{EXTENSION_SUFFIXES[0]}"
    path.write_bytes(b"\x7fELF one")
    before = written.digest()
    path.write_bytes(b"\x7fELF two")
    assert written.digest() != before


def test_what_is_installed_beside_it_does_not_count(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "target"
    (place / "v1-1.0.dist-info").mkdir(parents=True)
    (place / "v1.py").write_text("BASE = 1\n")
    monkeypatch.syspath_prepend(str(place))
    written.write("late", "from v1 import BASE as factor\n")
    before = written.digest()
    (place / "v1.py").write_text("BASE = 2\n")
    assert written.digest() == before


def test_circular_imports_come_to_an_end(written: Written) -> None:
    written.write("deep", "def base():\n    from {at}rule import WEIGHT\n    return WEIGHT\nBASE = 1\n")
    before = written.digest()
    written.write("deep", "def base():\n    from {at}rule import WEIGHT\n    return WEIGHT\nBASE = 2\n")
    assert written.digest() != before


def test_what_is_edited_in_a_running_process_is_imported_again(written: Written) -> None:
    def weight() -> object:
        method = load_method(written.asked)
        rule_digest(method)
        return vars(sys.modules[method.__module__])["WEIGHT"]

    forget()
    assert weight() == weight() == 1
    written.write("deep", "BASE = 30\n")
    assert weight() == 30


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("frozen", {"frozen"}),
        ("finetune", {"finetune", "updates"}),
        ("regcl", {"regcl", "regression", "updates"}),
        ("moda", {"moda", "moda_tokens", "updates"}),
    ],
)
def test_a_built_in_rule_is_its_module_and_the_methods_and_merge_rules_it_uses(name: str, files: set[str]) -> None:
    found = {path.stem for path in Rule(load_method(name)).files}
    merging = {path.stem for path in Path(cosam_bench.merging.__path__[0]).glob("*.py")}
    assert files <= found <= files | merging - {"__init__"}
