"""Methods by name, module and file; plugins are imported when asked for, and break only themselves."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.method import offered_methods
from cosam_bench.method.card import MethodCard
from cosam_bench.method.registry import check_offered, load_method, method_names, method_origin, short_name
from cosam_bench.method.source_reading import read_card

Plug = Callable[..., None]

SOURCE = """
from cosam_bench.method.card import MethodCard
from cosam_bench.methods.frozen import Frozen


class Mine(Frozen):
    card = {card}
"""


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Installs a package of one module and its entry point, as pip would leave them."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(dist: str, source: str, *, name: str, module: str) -> None:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{dist}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cosam_bench.methods]\n{name} = {module}:Mine\n")
        importlib.invalidate_caches()  # files may come within one tick of the folder's clock

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


def test_a_plugin_is_listed_read_and_loaded(plug: Plug) -> None:
    plug("far", SOURCE.format(card="MethodCard(title='Far', state='none')"), name="far", module="plug_far")
    assert {"far", "frozen", "regcl"} <= set(method_names())
    assert read_card("far") == MethodCard(title="Far", state="none")
    assert "plug_far" not in sys.modules, "a card is read without importing the plugin"
    assert method_origin("far") == "far"
    assert load_method("far").card == read_card("far")
    assert load_method("plug_far:Mine") is load_method("far")


def test_entry_points_are_read_again_only_after_an_installation(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def counted(*, group: str) -> EntryPoints:
        reads.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(offered_methods, "entry_points", counted)
    plug("first", SOURCE.format(card="MethodCard(title='F')"), name="first", module="plug_first")
    for _ in range(3):
        assert "first" in method_names()
        assert load_method("average").card == read_card("average")
    assert len(reads) == 1
    time.sleep(0.02)  # a tick of the folder's clock
    plug("second", SOURCE.format(card="MethodCard(title='S')"), name="second", module="plug_second")
    assert {"first", "second"} <= set(method_names())
    assert len(reads) == 2


def test_a_broken_plugin_breaks_only_itself(plug: Plug) -> None:
    plug("broken", "1 / 0\n" + SOURCE.format(card="MethodCard(title='B')"), name="broken", module="plug_broken")
    assert "broken" in method_names()
    assert read_card("broken").title == "B"
    with pytest.raises(CosamError, match=r"'broken' cannot be imported: plug_broken raised ZeroDivisionError.*not aff"):
        load_method("broken")
    assert load_method("frozen").card.title == "Frozen SAM"


def test_a_file_that_is_given_without_its_suffix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    with pytest.raises(CosamError, match=r"No method is called 'mine'.*given by its path: \./mine\.py\.$"):
        load_method("mine")


def test_two_packages_with_one_name_are_refused_under_this_name_alone(plug: Plug) -> None:
    source = SOURCE.format(card="MethodCard(title='T')")
    plug("one", source, name="twice", module="plug_one")
    plug("two", source, name="twice", module="plug_two")
    assert method_names().count("twice") == 1
    for ask in (load_method, read_card):
        with pytest.raises(
            CosamError, match=r"2 packages offer .* 'twice': one \(plug_one:Mine\), two \(plug_two:Mine"
        ):
            ask("twice")
    assert method_origin("twice") == "one and two"
    assert load_method("frozen").card.title == "Frozen SAM"
    assert load_method("plug_two:Mine").__module__ == "plug_two"


def test_one_method_that_is_found_twice_is_one_method(plug: Plug) -> None:
    """As where an editable install is seen from its own checkout, too."""
    source = SOURCE.format(card="MethodCard(title='T')")
    plug("one", source, name="seen", module="plug_one")
    plug("one.again", source, name="seen", module="plug_one")
    assert load_method("seen").card.title == "T"


@pytest.mark.parametrize(
    "card",
    [
        "MethodCard(title=str('Drawn'))",
        "MethodCard(**{'title': 'Drawn'})",
        "(lambda **facts: MethodCard(title='Drawn'))(title='wrong')",
        "[MethodCard(title='Drawn')][0]",
    ],
)
def test_a_card_that_is_no_literal_is_read_by_importing(plug: Plug, card: str) -> None:
    plug("drawn", SOURCE.format(card=card), name="drawn", module="plug_drawn")
    assert read_card("drawn").title == "Drawn"
    assert "plug_drawn" in sys.modules


def test_an_annotated_card_of_an_aliased_module_is_a_literal(plug: Plug) -> None:
    source = (
        "import nothing_of_this_name\n\nclass Mine:\n    card: object = card.MethodCard(title='A', needs=('inputs',))\n"
    )
    plug("typed", source, name="typed", module="plug_typed")
    assert read_card("typed") == MethodCard(title="A", needs=("inputs",))


@pytest.mark.parametrize("ask", [load_method, read_card])
def test_a_module_that_is_not_there_is_named(plug: Plug, tmp_path: Path, ask: Callable[[str], object]) -> None:
    plug("gone", "", name="gone", module="plug_gone")
    (tmp_path / "plug_gone.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(CosamError, match=r"Method 'gone'.*plug_gone"):
        ask("gone")
    with pytest.raises(CosamError, match=r"No method is called 'regcll'. Did you mean 'regcl'\?"):
        ask("regcll")


def test_a_class_without_a_card_is_named(plug: Plug) -> None:
    bare = SOURCE.replace("    card = {card}", "    pass").replace("Frozen)", "Method)")
    bare = bare.replace("from cosam_bench.methods.frozen import Frozen", "from cosam_bench import Method")
    bare += "".join(f"    def {name}(self, *args, **kwargs): ...\n" for name in ("learn", "predict", "state", "load"))
    plug("bare", bare, name="bare", module="plug_bare")
    with pytest.raises(CosamError, match=r"its class has no card"):
        read_card("bare")


def test_a_file_with_several_methods_needs_a_name(tmp_path: Path) -> None:
    path = tmp_path / "several.py"
    path.write_text(SOURCE.format(card="MethodCard(title='M')") + "\n\nclass Other(Mine):\n    pass\n")
    with pytest.raises(CosamError, match=r"defines 2 methods \(Mine, Other\)\. Choose one, as in .*:Mine\."):
        load_method(str(path))
    assert load_method(f"{path}:Other").__name__ == "Other"
    assert load_method(f"{path}:Frozen").__name__ == "Frozen"  # imported there, and named
    with pytest.raises(CosamError, match="MethodCard is not a concrete subclass"):
        load_method(f"{path}:MethodCard")


def test_a_file_that_fails_leaves_no_half_module(tmp_path: Path) -> None:
    path = tmp_path / "halfway.py"
    path.write_text("x = 1\nraise SystemError('no')\n")
    with pytest.raises(CosamError, match=r"halfway\.py raised SystemError while loading: no"):
        load_method(str(path))
    assert "cosam_bench_method_halfway" not in sys.modules
    with pytest.raises(CosamError, match=r"No file .*none\.py"):
        load_method(str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", r"none\.py defines no method\. Write one there"),
        ("import sys\nsys.exit(3)\n", r"none\.py raised SystemExit while loading: 3"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])\n", "raised SystemExit while loading: 2"),
    ],
)
def test_a_file_without_a_method_or_that_ends_the_program_is_told(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text(source)
    with pytest.raises(CosamError, match=said):
        load_method(str(tmp_path / "none.py"))


def test_a_file_that_needs_one_beside_it_gets_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, helper = tmp_path / "needs.py", tmp_path / "its_helper.py"
    path.write_text("from its_helper import CARD\n" + SOURCE.format(card="CARD"))
    with pytest.raises(CosamError, match=r"No module named 'its_helper'\.$"):
        load_method(str(path))
    helper.write_text("from cosam_bench import MethodCard\n\nCARD = MethodCard(title='M')\n")
    said = rf"its_helper\.py is beside it, .* Set PYTHONPATH={re.escape(str(tmp_path))}, or make a package"
    with pytest.raises(CosamError, match=said):
        load_method(str(path))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_method(f"{path}:Mine").card.title == "M"


def test_short_names() -> None:
    asked = ("regcl", "pkg.module:Class", "/a/b.c/mine.py", "./mine.py:Mine")
    assert [short_name(name) for name in asked] == ["regcl", "pkg.module:Class", "mine", "mine:Mine"]


def test_a_file_with_the_name_of_a_registered_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "average.py"
    path.write_text("from cosam_bench.methods.average import Average\n\n\nclass Mine(Average):\n    pass\n")
    for look in (load_method, check_offered):
        with pytest.raises(CosamError, match=r"has the name of the method 'average'.*Rename the file"):
            look(str(path))
    assert load_method(f"{path}:Mine").__name__ == "Mine"
