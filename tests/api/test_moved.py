"""Plugins written before the modules moved: their imports work, and the warning says what to write."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import cosam_bench
from cosam_bench._moved import MOVED
from cosam_bench.isolation.server_handle import shut_down
from cosam_bench.method.registry import load_method
from cosam_bench.sam.adapters import attachment

# A plugin as the documents of 0.1 taught: each path and name that they, the example and the template had.
OLD_PLUGIN = '''
from __future__ import annotations

from cosam_bench.batches import Batch
from cosam_bench.card import MethodCard
from cosam_bench.config import Settings, setting
from cosam_bench.domains.prompts import Prompts
from cosam_bench.domains.samples import Sample
from cosam_bench.errors import CosamError
from cosam_bench.fit import TrainingHooks
from cosam_bench.method import MergingMethod, Method, State
from cosam_bench.prefix_cache import encode
from cosam_bench.sam.adapters import Adapter, attach
from cosam_bench.sam.sam import Masks
from cosam_bench.testing import check_method
from cosam_bench.training_domain import TrainingDomain
from cosam_bench.updates import LowRank, Update, add, weight_changes
from cosam_bench.workbench import Workbench


class HalfwaySettings(Settings):
    """The settings."""

    share: float = setting(0.5, "share of the way", source="a guess", gt=0, le=1)


class Halfway(MergingMethod):
    """Trains the served adapter on, and goes a share of the way to the result."""

    card = MethodCard(title="Halfway")
    Settings = HalfwaySettings
    start = "served"

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        return TrainingHooks()

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        share, old, new = self.settings.share, weight_changes(self.served or expert), weight_changes(expert)
        return Update(dense={name: (1 - share) * old[name] + share * new[name] for name in new})
'''


def own_names(module: ModuleType) -> list[str]:
    """The names of the functions and classes that a module defines."""
    members = vars(module).items()
    return [name for name, value in members if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"]


MODULES_THAT_ARE_PACKAGES = {"method": "method.interface", "sam.adapters": "sam.adapters.attachment"}


@pytest.mark.parametrize(("old", "new"), (MOVED | MODULES_THAT_ARE_PACKAGES).items())
def test_an_old_path_gives_the_same_objects_and_names_the_new_one(old: str, new: str) -> None:
    home = import_module(f"cosam_bench.{new}")
    former = import_module(f"cosam_bench.{old}")
    names = own_names(home)
    assert names
    for name in names:
        better = "cosam_bench" if name in cosam_bench.__all__ else f"cosam_bench.{new}"
        said = re.escape(f"cosam_bench.{old} has moved") + ".*" + re.escape(f"from {better} import {name}")
        with pytest.warns(DeprecationWarning, match=said):
            assert getattr(former, name) is getattr(home, name)
    with pytest.raises(AttributeError, match=f"'cosam_bench.{old}' has no attribute 'nothing'"):
        _ = former.nothing


def test_attach_is_a_function_by_its_old_path_and_no_module_shadows_it() -> None:
    import_module("cosam_bench.sam.adapters.attachment")
    with pytest.warns(DeprecationWarning, match=r"from cosam_bench\.sam\.adapters\.attachment import attach$"):
        from cosam_bench.sam.adapters import attach
    assert attach is attachment.attach
    assert find_spec("cosam_bench.sam.adapters.attach") is None


def test_a_path_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("cosam_bench.cards")


@pytest.mark.filterwarnings("ignore:cosam_bench:DeprecationWarning")
def test_a_plugin_with_the_old_imports_runs(tmp_path: Path, quick_protocol: Path) -> None:
    path = tmp_path / "halfway.py"
    path.write_text(OLD_PLUGIN, encoding="utf-8")
    shut_down()  # a server that an earlier test forked has that test's filters of warnings
    record = cosam_bench.run(path, protocol=quick_protocol, settings={"method.share": 0.25}, results=tmp_path / "out")
    assert (record.status, record.settings) == ("complete", {"share": 0.25})


def test_a_plugin_with_the_old_imports_warns_where_it_imports(tmp_path: Path) -> None:
    path = tmp_path / "warns.py"
    path.write_text(OLD_PLUGIN, encoding="utf-8")
    with pytest.warns(DeprecationWarning, match="has moved") as caught:
        load_method(str(path))
    assert {warning.filename for warning in caught} == {str(path)}
