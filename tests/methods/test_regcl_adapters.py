"""RegCL's own adapters: the merge in running sums against the published batch form, and other methods on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.method.contract_check import check_method
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.method.registry import load_method
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_split, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.training.fit_settings import FitSettings

KINDS = ("augmodule", "regcl_lora")
# Each looks at an adapter in a way of its own; the others only at whole changes.
METHODS: dict[str, dict[str, Any]] = {
    "became": {},
    "dop": {},
    "ewc": {},
    "knots": {},
    "lwf": {},
    "nullfilter": {},
    "opcm": {},
    "perturb_merge": {},
    "regcl": {"start": "previous"},
    "regmean": {},
    "trm": {"passes": 1},
}


def workbench(kind: Any) -> Workbench:
    bench = trial_workbench(
        build_sam("tiny"),
        adapter=AdapterSettings(kind=kind) if kind in ("hq", "decoder") else AdapterSettings(kind=kind, rank=4),
        fit=FitSettings(epochs=3, batch_size=2, learning_rate=1e-2, flip=False),
        prompt_kind="points",
        resize="squash",
    )
    # What a fresh norm gives sums to zero, and without a ridge each Gram sum must have an inverse.
    draws = torch_generator(0, "norms")
    with torch.no_grad():
        for name, parameter in bench.sam.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    return bench


def domain(number: int) -> TrainingDomain:
    return trial_domain(trial_split(f"domain {number}", shift=number))


def batch_form(bench: Workbench, experts: list[Update], grams: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The released code's merge of all whole weights at once: the inverse of the sum, without a ridge; else means."""
    merged = {}
    for name in weight_changes(experts[0]):
        base = bench.sam.get_parameter(name).detach().double()
        weights = [base + weight_changes(expert)[name].double() for expert in experts]
        layer = name.removesuffix(".weight")
        if layer in grams[0]:
            total = sum(gram[layer] for gram in grams)
            products = sum(gram[layer] @ weight.T for gram, weight in zip(grams, weights, strict=True))
            assert isinstance(total, Tensor)
            merged[name] = (torch.linalg.inv(total) @ products).T
        else:
            merged[name] = torch.stack(weights).mean(0)
    return merged


@pytest.mark.parametrize("name", ["regcl", "regmean"])
@pytest.mark.parametrize("kind", KINDS)
def test_running_sums_are_the_published_merge_of_all_experts_at_once(kind: Any, name: str) -> None:
    bench = workbench(kind)
    options: dict[str, Any] = {"ridge": 0.0} | ({"off_diagonal": 1.0} if name == "regmean" else {})
    cls: Any = load_method(name)
    method: MergingMethod = cls(cls.Settings(**options), bench)
    experts, grams = [], []
    for step in (1, 2, 3):
        method.learn(domain(step), step=step)
        expert = bench.train(domain(step)).update
        experts.append(expert)
        grams.append(bench.input_grams(domain(step), expert))
        assert method.served is not None
        served = weight_changes(method.served)
        for parameter, expected in batch_form(bench, experts, grams).items():
            base = bench.sam.get_parameter(parameter).detach().double()
            error = (base + served[parameter].double() - expected).norm() / expected.norm().clamp(min=1e-12)
            assert error < 1e-6, (step, parameter, error.item())
    moved = [name for name, change in served.items() if change.abs().max() > 1e-4]
    assert any("mix" in name or "down" in name for name in moved)
    assert set(grams[0]) == set(bench.layers)


@pytest.mark.parametrize("kind", ["hq", "decoder"])
def test_linear_layers_of_the_decoder_are_regressed_and_the_rest_averaged(kind: Any) -> None:
    bench = workbench(kind)
    cls: Any = load_method("regcl")
    method: MergingMethod = cls(cls.Settings(ridge=1e-6), bench)
    experts = []
    for step in (1, 2):
        method.learn(domain(step), step=step)
        experts.append(bench.train(domain(step)).update)
    assert method.served is not None
    assert set(method.served.low_rank) == set(bench.layers) == set(experts[0].low_rank)
    for name, change in method.served.dense.items():
        mean = (experts[0].dense[name] + experts[1].dense[name]) / 2
        torch.testing.assert_close(change, mean, rtol=1e-5, atol=1e-7)
    first = bench.layers[0]
    mean = (experts[0].low_rank[first].dense() + experts[1].low_rank[first].dense()) / 2
    assert not torch.allclose(method.served.low_rank[first].dense(), mean, rtol=1e-3, atol=1e-6)


def test_an_expert_may_start_from_the_one_before_which_is_kept_unmerged(tmp_path: Path) -> None:
    bench = workbench("regcl_lora")
    cls: Any = load_method("regcl")
    method: MergingMethod = cls(cls.Settings(start="previous"), bench)
    method.learn(domain(1), step=1)
    first = bench.train(domain(1)).update
    method.state().save(tmp_path / "state")
    method = cls(cls.Settings(start="previous"), bench)
    method.load(State.read(tmp_path / "state"))
    trained: list[Update | None] = []

    class Spy(Workbench):
        def train(self, *args: Any, start: Update | None = None, **kwargs: Any) -> Any:
            trained.append(start)
            return super().train(*args, start=start, **kwargs)

    method.bench = Spy(**{name: getattr(bench, name) for name, one in bench.__dataclass_fields__.items() if one.init})
    method.learn(domain(2), step=2)
    (start,) = trained
    assert start is not None
    assert start.digest() == first.digest()
    sizes = [method.state().save(tmp_path / "again")]
    method.learn(domain(3), step=3)
    assert [method.state().save(tmp_path / "again")] == sizes


@pytest.mark.parametrize("name", METHODS)
def test_methods_keep_the_contract_on_augmodule(name: str) -> None:
    check_method(load_method(name), settings=METHODS[name], adapter=AdapterSettings(kind="augmodule", rank=2))


def test_moda_keeps_the_contract_on_hq_layers() -> None:
    options = {"router_epochs": 1, "memory": 1, "tokens": 2}
    check_method(load_method("moda"), settings=options, adapter=AdapterSettings(kind="hq"))


def test_rules_about_loras_factors_refuse_other_adapters(quick_protocol: Path, tmp_path: Path) -> None:
    overrides = ("adapter.kind=augmodule", "adapter.alpha=8.0")
    run = resolve_run(method="lorm", protocol=str(quick_protocol), overrides=overrides)
    with pytest.raises(CosamError, match=r"'lorm' is a rule about LoRA's factors.*'augmodule'.*adapter\.kind=lora"):
        open_experiment(run, tmp_path)
    cls: Any = load_method("task_arithmetic")
    with pytest.raises(CosamError, match="first_factors=osrm initialises LoRA's A, but"):
        cls(cls.Settings(first_factors="osrm"), replace(workbench("augmodule")))
