"""The precision of a run: what auto means, what is refused, what is said, and what a record keeps of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_gpu import pretend_device

import cosam_bench as cb
from cosam_bench.core import arithmetic as arithmetic_module
from cosam_bench.core.arithmetic import (
    bf16_slowdown,
    described_arithmetic,
    restored_rounding,
    round_as,
    rounding_settings,
    tf32,
    use_arithmetic,
)
from cosam_bench.core.errors import CosamError
from cosam_bench.experiments import base_model
from cosam_bench.experiments.base_model import precision_notes, with_precision
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import RunConfig, resolve_run
from cosam_bench.results.run_info import Conditions
from cosam_bench.sam.inputs import View

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with restored_rounding():
        yield


def configured(protocol: Path, *overrides: str) -> RunConfig:
    return resolve_run(method="frozen", protocol=str(protocol), overrides=overrides)


@pytest.mark.parametrize(("slowdown", "meant"), [(0.4, "bf16"), (500.0, "fp32")])
def test_auto_is_bf16_where_that_is_faster(
    quick_protocol: Path, slowdown: float, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "bf16_slowdown", lambda device: slowdown)
    config = configured(quick_protocol, "fit.precision=auto", "score.precision=fp32")
    found = with_precision(config, CPU).protocol
    assert (found.fit.precision, found.score.precision) == (meant, "fp32")
    config = configured(quick_protocol, "fit.precision=fp32", "score.precision=auto")
    found = with_precision(config, CPU).protocol
    assert (found.fit.precision, found.score.precision) == ("fp32", meant)


@pytest.mark.parametrize(("capability", "meant"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_auto_on_a_gpu_follows_its_generation_and_no_clock(
    quick_protocol: Path, capability: tuple[int, int], meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delattr(base_model, "bf16_slowdown")
    config = configured(quick_protocol, "fit.precision=auto", "score.precision=auto")
    assert with_precision(config, CUDA).protocol.fit.precision == meant


def test_what_is_not_compared_takes_fp32_where_there_is_no_tf32(quick_protocol: Path) -> None:
    config = configured(quick_protocol, "fit.precision=tf32", "score.precision=tf32")
    found = with_precision(config, CPU, may_differ=True).protocol
    assert (found.fit.precision, found.score.precision) == ("fp32", "fp32")


def test_another_process_sets_what_cublas_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    round_as(rounding_settings())
    assert "CUBLAS_WORKSPACE_CONFIG" not in arithmetic_module.os.environ
    round_as(rounding_settings() | {"deterministic": True})
    assert arithmetic_module.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_run_with_auto_is_recorded_as_what_it_means(
    quick_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "bf16_slowdown", lambda device: 0.5)
    auto = configured(quick_protocol, "fit.precision=auto", "score.precision=auto")
    plain = configured(quick_protocol, "fit.precision=bf16", "score.precision=bf16")
    opened, expected = open_experiment(auto, tmp_path), open_experiment(plain, tmp_path)
    assert opened.config == expected.config == plain
    assert opened.conditions == expected.conditions
    assert opened.digest == expected.digest
    assert opened.bench.view.precision == opened.bench.fit.precision == "bf16"
    assert opened.with_method(auto).config == plain
    assert opened.conditions.arithmetic == ""  # records of the CPU stay comparable with those of earlier versions


def test_tf32_without_such_a_gpu_is_refused(quick_protocol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(quick_protocol, "score.precision=tf32")
    with pytest.raises(CosamError, match=r"tf32 needs an NVIDIA GPU .* this run is on cpu\. Use fp32, or auto"):
        with_precision(config, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(CosamError, match=r"on cuda:0\. Use fp32"):
        with_precision(config, CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert with_precision(config, CUDA) is config


def test_slow_bf16_is_said_once_with_the_remedy(quick_protocol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "bf16_slowdown", lambda device: 512.34)
    both = configured(quick_protocol, "fit.precision=bf16", "score.precision=bf16").protocol
    [said] = precision_notes(both, CPU)
    assert said.startswith("bf16 takes 512 times as long as fp32 on this machine's cpu")
    assert said.endswith("Use --set fit.precision=fp32 --set score.precision=fp32.")
    one = configured(quick_protocol, "score.precision=bf16").protocol
    assert precision_notes(one, CPU)[0].endswith("Use --set score.precision=fp32.")
    assert precision_notes(configured(quick_protocol).protocol, CPU) == []
    monkeypatch.setattr(base_model, "bf16_slowdown", lambda device: 1.1)
    assert precision_notes(both, CPU) == []


@pytest.mark.parametrize(("capability", "is_slow"), [((7, 5), True), ((8, 0), False)])
def test_a_gpus_bf16_is_judged_by_its_generation(
    quick_protocol: Path, capability: tuple[int, int], is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delattr(base_model, "bf16_slowdown")
    found = precision_notes(configured(quick_protocol, "score.precision=bf16").protocol, CUDA)
    assert len(found) == is_slow
    assert all(note.endswith("has no instructions for it. Use --set score.precision=fp32.") for note in found)


def test_slowdown_is_the_ratio_of_the_shortest_products(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 10, 13, 20, 22, 30, 34, 40, 48, 50, 54, 60, 66, 70, 75])  # bf16: 9 3 2 4; fp32: 8 4 6 5
    monkeypatch.setattr(arithmetic_module.time, "perf_counter", lambda: next(clock))
    assert bf16_slowdown.__wrapped__(CPU) == 2 / 4


def test_fp32_means_no_tf32_in_products_and_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_device(monkeypatch)
    torch.backends.cudnn.allow_tf32 = True  # torch's own choice
    before = rounding_settings()

    def seen(device: torch.device, precision: Any) -> tuple[str, bool, bool]:
        with View(128, 64, "pad", device, precision).autocast():
            is_bf16 = torch.is_autocast_enabled(device.type)
            return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, is_bf16

    assert seen(CUDA, "fp32") == ("highest", False, False)
    assert seen(CUDA, "tf32") == ("high", True, False)
    assert seen(CUDA, "bf16") == ("highest", False, True)
    assert seen(CPU, "fp32") == (before["matmul"], True, False)  # of the CPU, nothing is changed
    assert rounding_settings() == before
    with pytest.raises(KeyError), tf32(True):
        raise KeyError
    assert rounding_settings() == before


def test_flags_of_a_gpu_are_set_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_device(monkeypatch)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    known = f"a GPU that is not there, torch {torch.__version__}"
    use_arithmetic(CUDA, is_tf32=False, is_deterministic=False)
    assert rounding_settings()["fused_attention"]
    assert described_arithmetic(CUDA) == f"{known}, products highest"
    use_arithmetic(CUDA, is_tf32=True, is_deterministic=True)
    assert described_arithmetic(CUDA) == f"{known}, products high, deterministic, cudnn_deterministic, tf32"
    assert arithmetic_module.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    cuda = torch.backends.cuda
    assert not any((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()))
    assert cuda.math_sdp_enabled()
    assert described_arithmetic(CPU) == ""
    use_arithmetic(CPU, is_tf32=False, is_deterministic=False)  # whose attention these flags would change, too
    assert not rounding_settings()["fused_attention"]


def test_a_deterministic_run_is_another_run(quick_protocol: Path, tmp_path: Path) -> None:
    plain = open_experiment(configured(quick_protocol), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
    strict = open_experiment(configured(quick_protocol, "deterministic=true"), tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert strict.digest != plain.digest
    assert strict.conditions == plain.conditions
    open_experiment(configured(quick_protocol), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_leaves_the_callers_rounding_as_it_was(quick_protocol: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"protocol": quick_protocol, "results": tmp_path, "progress": False}
    before = rounding_settings()
    record = cb.run("frozen", settings={"deterministic": True}, **options)
    assert rounding_settings() == before
    torch.use_deterministic_algorithms(True)
    cb.run("frozen", seed=1, **options)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    cb.load_predictor(record)
    assert torch.are_deterministic_algorithms_enabled()


def test_conditions_name_the_gpu_and_keep_their_digest_without_one() -> None:
    facts: dict[str, Any] = {"data": {"a": "1"}, "checkpoint": "2", "config": "3", "keys": "changed"}
    on_cpu, on_gpu = Conditions(**facts), Conditions(**facts, arithmetic="H100, torch 2.15.0, products highest")
    assert Conditions(**facts, arithmetic="") == on_cpu
    assert on_gpu.digest != on_cpu.digest
