"""What makes two runs comparable, what makes them the same, and what is refused before any data is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.fingerprint import run_conditions
from cosam_bench.experiments.protocol import Protocol, resolve_run
from cosam_bench.methods.regcl import RegCL
from cosam_bench.sam.adapters.hq import HQLayers
from cosam_bench.sam.build import build_sam
from cosam_bench.training.fit_settings import FitSettings


def test_a_rate_of_a_domain_that_the_stream_has_not_is_refused(quick_protocol: Path, tmp_path: Path) -> None:
    run = resolve_run(method="finetune", protocol=str(quick_protocol), overrides=("fit.rates={polip = 0.1}",))
    with pytest.raises(CosamError, match=r"No domain of this stream, as fit\.rates has it, is called 'polip'"):
        open_experiment(run, tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("model.name=vitb",), "No model is called 'vitb'"),
        (("model.name=mobile_sam", "adapter.kind=augmodule"), "mobile_sam does not have"),
        (("adapter.kind=hq", "adapter.start=gone.pth"), r"No file .*gone\.pth of initial weights"),
    ],
)
def test_what_a_model_cannot_take_is_said_before_any_data_is_read(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(
        "cosam_bench.experiments.run_data.open_stream", lambda *_, **__: pytest.fail("the data was read")
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


def test_a_key_that_is_set_to_its_default_is_the_same_run(quick_protocol: Path, tmp_path: Path) -> None:
    def digests(*overrides: str) -> tuple[str, str]:
        run = resolve_run(method="regcl", protocol=str(quick_protocol), overrides=overrides)
        found = open_experiment(run, tmp_path)
        return found.conditions.digest, found.digest

    ridge = RegCL.Settings.model_fields["ridge"].default
    assert digests() == digests("fit.jitter=false", "score.size='original'", f"method.ridge={ridge}")
    assert digests()[0] == digests("method.ridge=0.5")[0]
    assert digests()[1] != digests("method.ridge=0.5")[1]
    assert digests()[0] != digests("score.size='model'")[0]


class LaterFit(FitSettings):
    """The settings of training after somebody added one."""

    warmup_steps: int = 0


class LaterProtocol(Protocol):
    """A protocol with such training."""

    fit: LaterFit = LaterFit()


@pytest.mark.parametrize("name", ["mini", "cosam", "regcl", "union"])
def test_a_new_key_at_its_default_leaves_conditions_as_they_were(name: str, tmp_path: Path) -> None:
    protocol = resolve_run(method="frozen", protocol=name).protocol
    sam = build_sam("tiny")
    later = LaterProtocol(**protocol.model_dump())
    assert run_conditions(later, columns=(), sam=sam) == run_conditions(protocol, columns=(), sam=sam)
    changed = later.model_copy(update={"fit": later.fit.model_copy(update={"warmup_steps": 5})})
    assert run_conditions(changed, columns=(), sam=sam) != run_conditions(protocol, columns=(), sam=sam)


def test_an_edited_helper_of_a_methods_file_is_another_run(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from cosam_bench.methods.finetune import Finetune\nimport edited_helper\n\n\n"
        "class Mine(Finetune):\n    weight = edited_helper.WEIGHT\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(helper: str) -> tuple[str, object]:
        (tmp_path / "edited_helper.py").write_text(helper)
        found = open_experiment(
            resolve_run(method=str(tmp_path / "mine.py"), protocol=str(quick_protocol)), tmp_path / "results"
        )
        return found.digest, vars(found.method)["weight"]

    first = run("WEIGHT = 1\n")
    assert run("# a comment\nWEIGHT = 1\n") == first
    digest, weight = run("WEIGHT = 22\n")
    assert digest != first[0]
    assert weight == 22
