"""Encoding, decoding, scoring, training, all hooks and all adapters on a GPU that is not there.

Nothing is computed, so that only shapes, types and devices are tested: a mixture of devices raises an error, and so
does anything that needs a tensor's numbers, for which a program waits on a real GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.fake_gpu import PretendDevice, pretend_device
from torch import Tensor

from cosam_bench.core.precision_choices import Precision
from cosam_bench.data.prompt_settings import PromptKind
from cosam_bench.evaluation.scoring import measure_batch
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method import workbench as workbench_module
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_split, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.became import GradientProjection
from cosam_bench.methods.er import Replay
from cosam_bench.methods.ewc import QuadraticPenalty
from cosam_bench.methods.lorm import FrozenA
from cosam_bench.methods.lwf import LwFSettings, Teacher
from cosam_bench.methods.perturb_merge import Perturbation
from cosam_bench.methods.task_arithmetic import OsrmFactors
from cosam_bench.methods.trm import Snapshots
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.inputs import collate
from cosam_bench.training import fit as fit_module
from cosam_bench.training.epoch_losses import EpochLosses
from cosam_bench.training.fit import TrainingHooks
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.training_batch import HostBatch

ADAPTERS = {
    "lora": AdapterSettings(rank=2, alpha=2.0, blocks=(4, 5)),
    "lora and decoder": AdapterSettings(rank=2, alpha=2.0, decoder=True),
    "hq": AdapterSettings(kind="hq"),
    "augmodule": AdapterSettings(kind="augmodule", rank=2),
    "regcl_lora": AdapterSettings(kind="regcl_lora", rank=2),
    "decoder": AdapterSettings(kind="decoder"),
}
LOSSES = {
    "grid": FitSettings(epochs=2, batch_size=3),
    "points": FitSettings(epochs=1, batch_size=3, jitter=True, loss_points=16),
    "focal": FitSettings(epochs=1, batch_size=3, loss="focal_dice_iou", loss_grid="model", sum_over_batch=True),
}


@pytest.fixture(scope="module")
def domain() -> TrainingDomain:
    return trial_domain(trial_split("a", shift=0))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PretendDevice:
    return pretend_device(monkeypatch)


def bench_on(pretend: PretendDevice, adapter: AdapterSettings, **settings: Any) -> Workbench:
    bench = trial_workbench(build_sam("tiny", checkpoint="random"), adapter=adapter, prompt_kind="mix", **settings)
    return replace(bench, sam=pretend.module(bench.sam), view=replace(bench.view, device=pretend.device))


def draw_on(pretend: PretendDevice, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Draw batches for the device; the epochs' ends at which losses are read."""
    monkeypatch.setattr(HostBatch, "placed", pretend.drawn(HostBatch.placed))
    monkeypatch.setattr(workbench_module, "draw_batch", pretend.drawn(workbench_module.draw_batch))
    monkeypatch.setattr(fit_module, "training_feed", pretend.fed(fit_module.training_feed))
    monkeypatch.setattr(fit_module, "_is_finite", lambda update: True)
    reads: list[int] = []

    class Unread(EpochLosses):
        def _read(self) -> float:
            reads.append(len(self._unread))
            self._images = [1] * len(self._images)
            self._unread.clear()
            return 0.0

    monkeypatch.setattr(fit_module, "EpochLosses", Unread)
    return reads


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encode_decode_and_score_with_every_prompt(
    pretend: PretendDevice, domain: TrainingDomain, precision: Precision
) -> None:
    bench = bench_on(pretend, ADAPTERS["lora"], precision=precision)
    cache = PrefixCache.on_gpu(FeatureMemory(limit_bytes=2**30), sam=bench.sam, depth=4)
    bench = replace(bench, prefixes=cache)
    masks = [pretend.of(domain[row].mask, device=torch.device("cpu")) for row in range(3)]
    mixtures: list[list[PromptKind]] = [["box"] * 3, ["points"] * 3, ["mask"] * 3, ["mask", "points", "box"]]
    samples, prompts = [domain[row] for row in range(3)], domain.prompts.take(range(3))
    for kinds in mixtures:
        batch, frames = collate(samples, prompts, kinds=kinds, view=replace(bench.view, device=torch.device("cpu")))
        batch, _ = pretend.batch(batch, torch.zeros(1))
        with pretend.active(), torch.inference_mode():
            logits = bench.predict(an_update(bench), batch)
            measured = measure_batch(
                logits, frames, masks, keys=["a", "b", "c"], size="original", upsampling="bilinear"
            )
        assert logits.device == measured.numbers.device == pretend.device
        assert (logits.shape, logits.dtype) == ((3, bench.view.grid, bench.view.grid), torch.float32)
    assert cache.spared_seconds > 0  # the later kinds found the features of the first


def an_update(bench: Workbench) -> Update:
    """Real factors on the CPU, as a merge gives them."""
    changes = {}
    for layer in bench.layers:
        linear = bench.sam.get_submodule(layer)
        assert isinstance(linear, torch.nn.Linear)
        changes[layer] = LowRank(torch.zeros(2, linear.in_features), torch.zeros(linear.out_features, 2))
    return Update(changes)


def train(
    pretend: PretendDevice,
    domain: TrainingDomain,
    monkeypatch: pytest.MonkeyPatch,
    *,
    adapter: str,
    fit: FitSettings,
    hooks: Callable[[Workbench], TrainingHooks] = lambda bench: TrainingHooks(),
) -> None:
    bench, reads = bench_on(pretend, ADAPTERS[adapter], fit=fit), draw_on(pretend, monkeypatch)
    with pretend.active():
        fitted = bench.train(domain, hooks=hooks(bench))
    assert {tensor.device for tensor in fitted.update.tensors().values()} == {torch.device("cpu")}
    assert reads == [2] * fit.epochs  # when the next epoch begins, and at the end
    assert not any(parameter.requires_grad for parameter in bench.sam.parameters())


@pytest.mark.parametrize(
    ("adapter", "loss"), [*((adapter, "grid") for adapter in ADAPTERS), ("lora", "points"), ("lora", "focal")]
)
def test_train_every_adapter(
    pretend: PretendDevice, domain: TrainingDomain, adapter: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(pretend, domain, monkeypatch, adapter=adapter, fit=LOSSES[loss])


def _zeros(bench: Workbench, columns: int | None) -> dict[str, Tensor]:
    """By layer, a matrix with a row per input of the layer."""
    widths = {layer: bench.sam.get_submodule(layer).in_features for layer in bench.layers}
    return {layer: torch.zeros(int(width), columns or int(width)) for layer, width in widths.items()}  # type: ignore[arg-type]


HOOKS: dict[str, Callable[[Workbench, TrainingDomain], TrainingHooks]] = {
    "became": lambda bench, domain: GradientProjection(_zeros(bench, 3)),
    "er": lambda bench, domain: Replay(bench, domain, domain.prompts, order=torch.Generator()),
    "ewc": lambda bench, domain: QuadraticPenalty(
        {f"{layer}.weight": torch.zeros_like(bench.sam.get_parameter(f"{layer}.weight")) for layer in bench.layers},
        strength=1.0,
    ),
    "lorm": lambda bench, domain: FrozenA(),
    "lwf": lambda bench, domain: Teacher(bench, LwFSettings()),
    "perturb_merge": lambda bench, domain: Perturbation(0.5, torch.Generator()),
    "task_arithmetic": lambda bench, domain: OsrmFactors(_zeros(bench, None)),
    "trm": lambda bench, domain: Snapshots(2),
}


@pytest.mark.parametrize("method", HOOKS)
def test_train_with_every_methods_hooks(
    pretend: PretendDevice, domain: TrainingDomain, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randint", pretend.real(torch.randint))  # of the host, which waits for nothing
    monkeypatch.setattr(Replay, "batch", pretend.real(Replay.batch))
    hooks = HOOKS[method]
    train(pretend, domain, monkeypatch, adapter="lora", fit=LOSSES["grid"], hooks=lambda bench: hooks(bench, domain))


def test_no_hooks_of_a_built_in_method_are_left_out() -> None:
    """Of all classes of hooks in the methods' files."""
    classes = {
        name
        for method in method_names()
        for name, found in vars(sys.modules[load_method(method).__module__]).items()
        if isinstance(found, type)
        and issubclass(found, TrainingHooks)
        and found.__module__.startswith("cosam_bench.methods.")
    }
    assert len(classes) == len(HOOKS), classes
