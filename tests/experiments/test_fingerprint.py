"""What makes two runs of one method the same: the files its rule is made of."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.fingerprint import _rule_modules, _source_digest
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.method.registry import load_method
from cosam_bench.sam.adapters.hq import HQLayers

METHOD = """
from cosam_bench.methods.finetune import Finetune
from {package} import rule
class Mine(Finetune):
    weight = rule.WEIGHT
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable package with a method and a helper module."""
    name = "somebodys_method"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "rule.py").write_text("WEIGHT = 1\n")
    (folder / "unused.py").write_text("WEIGHT = 1\n")
    (folder / "method.py").write_text(METHOD.format(package=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (name, f"{name}.rule", f"{name}.method"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module(f"{name}.method")
    return name


def test_a_built_in_rule_is_its_file_and_the_merge_algebra_it_uses() -> None:
    assert _rule_modules(load_method("finetune").__module__) == {"cosam_bench.methods.finetune"}
    assert _rule_modules(load_method("regcl").__module__) == {
        "cosam_bench.methods.regcl",
        "cosam_bench.merging.regression",
    }


def test_a_rate_of_a_domain_that_the_stream_has_not_is_refused(quick_protocol: Path, tmp_path: Path) -> None:
    run = resolve_run(method="finetune", protocol=str(quick_protocol), overrides=("fit.rates={polip = 0.1}",))
    with pytest.raises(CosamError, match=r"No domain of this stream, as fit\.rates has it, is called 'polip'"):
        open_experiment(run, tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("model.name=vitb",), "No model is called 'vitb'"),
        (("model.name=mobile_sam", "adapter.kind=augmodule"), "mobile_sam has none"),
        (("adapter.kind=hq", "adapter.start=gone.pth"), r"No file .*gone\.pth of first weights"),
    ],
)
def test_what_a_model_cannot_take_is_said_before_any_data_is_read(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(
        "cosam_bench.experiments.experiment.open_stream", lambda *_, **__: pytest.fail("the data was read")
    )
    defaults = ("adapter.rank=8", "adapter.alpha=8.0")
    run = resolve_run(method="finetune", protocol=str(quick_protocol), overrides=(*defaults, *asked))
    with pytest.raises(CosamError, match=message):
        open_experiment(run, tmp_path)


def test_first_weights_count_by_their_content_and_global_attention_counts(quick_protocol: Path, tmp_path: Path) -> None:
    """What a checkpoint's path is, no condition depends on; what is in it, all do."""
    donor = HQLayers(width=64, early_width=96).state_dict()
    for name in ("one", "same"):
        save_file(donor, tmp_path / f"{name}.safetensors")
    save_file({name: tensor + 1 for name, tensor in donor.items()}, tmp_path / "other.safetensors")

    def conditions(*overrides: str) -> str:
        keys = ("adapter={kind = 'hq'}", *overrides)
        return open_experiment(
            resolve_run(method="finetune", protocol=str(quick_protocol), overrides=keys), tmp_path
        ).conditions.digest

    one, same, other = (conditions(f"adapter.start={tmp_path / name}.safetensors") for name in ("one", "same", "other"))
    assert one == same
    assert len({one, other, conditions(), conditions("model.global_attention=true")}) == 4


def test_a_plugins_helper_modules_count(package: str, tmp_path: Path) -> None:
    method = load_method(f"{package}.method:Mine")
    first = _source_digest(method)
    (tmp_path / package / "unused.py").write_text("WEIGHT = 2\n")
    assert _source_digest(method) == first
    (tmp_path / package / "rule.py").write_text("WEIGHT = 2\n")
    assert _source_digest(method) != first
