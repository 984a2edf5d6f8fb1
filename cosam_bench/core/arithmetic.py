"""What decides, beside the libraries, how torch rounds sums: looked up, stated as facts, and set again elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch


def rounding_settings() -> dict[str, Any]:
    """The settings of torch that decide how sums are rounded."""
    cudnn = torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": cudnn.allow_tf32,
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
        "fused_attention": torch.backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
    }


def round_as(settings: Mapping[str, Any]) -> None:
    """Set what another process's ``rounding_settings`` returned."""
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision(settings["matmul"])
    _use_deterministic(settings["deterministic"])
    torch.backends.cudnn.allow_tf32 = settings["tf32"]
    torch.backends.cudnn.deterministic = settings["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = settings["cudnn_benchmark"]
    _use_fused_attention(settings["fused_attention"])


@contextmanager
def restored_rounding() -> Iterator[None]:
    """At the end of the context, the process rounds again as it did before."""
    before, warns_only = rounding_settings(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        round_as(before)
        torch.use_deterministic_algorithms(before["deterministic"], warn_only=warns_only)


def arithmetic(device: torch.device) -> dict[str, Any]:
    """The settings that count on a device, and its processor: equal facts give equal bits.

    Files that runs share count them, since with 2 threads instead of 1 a score may differ by 2e-8.
    """
    settings = rounding_settings()
    if device.type == "cuda":
        return settings | {"processor": torch.cuda.get_device_name(device)}
    on_cpu = {name: settings[name] for name in ("threads", "matmul", "deterministic")}
    return on_cpu | {"processor": torch.backends.cpu.get_cpu_capability()}


def described_arithmetic(device: torch.device) -> str:
    """What decides how a GPU rounds, as one line for a record; empty for the CPU, whose records do not differ by it."""
    if device.type != "cuda":
        return ""
    facts = arithmetic(device)
    flags = [name for name in ("deterministic", "cudnn_deterministic", "cudnn_benchmark", "tf32") if facts[name]]
    products = f"products {facts['matmul']}"
    return ", ".join([facts["processor"], f"torch {torch.__version__}", products, *flags])


def use_arithmetic(device: torch.device, *, is_tf32: bool, is_deterministic: bool) -> None:
    """Set, for this process, how a GPU rounds products and convolutions, and whether equal work gives equal bits.

    The CPU has no TF32. Operations that have no deterministic form warn and run as they are. Torch's fused attention
    has one for gradients, but takes it only where its absence elsewhere is an error, so that it is not used.
    """
    _use_deterministic(is_deterministic)
    if device.type == "cuda":
        _set_tf32(is_tf32)
        torch.backends.cudnn.deterministic = is_deterministic
        torch.backends.cudnn.benchmark = False
        _use_fused_attention(not is_deterministic)


def _use_deterministic(is_deterministic: bool) -> None:
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs, read when it starts
    if is_deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(is_deterministic, warn_only=True)


def _use_fused_attention(is_allowed: bool) -> None:
    """Whether ``scaled_dot_product_attention`` may use its fused forms, or plain products alone."""
    torch.backends.cuda.enable_flash_sdp(is_allowed)
    torch.backends.cuda.enable_mem_efficient_sdp(is_allowed)
    torch.backends.cuda.enable_cudnn_sdp(is_allowed)


@contextmanager
def tf32(is_tf32: bool) -> Iterator[None]:
    """Within the context, a GPU's products and convolutions round their factors to TF32, or neither does."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_tf32(is_tf32)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def tf32_on(device: torch.device, *, is_tf32: bool) -> AbstractContextManager[None]:
    """The context of ``tf32`` on a GPU, gradients included; nothing on the CPU, which has no TF32."""
    return tf32(is_tf32) if device.type == "cuda" else nullcontext()


def _set_tf32(is_tf32: bool) -> None:
    torch.set_float32_matmul_precision("high" if is_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = is_tf32


SLOW_BF16 = 1.2
"""How many times as long as float32 bfloat16 may take before it counts as slow; two measurements differ by less."""

_SIDE = 192  # of the matrices: a processor without bfloat16 takes tenths of a second for their product


@cache
def bf16_slowdown(device: torch.device) -> float:
    """How many times as long as in float32 a product of matrices takes in bfloat16; below 1: it is faster."""
    bf16, fp32 = (_product_seconds(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    return bf16 / fp32


def _product_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The shortest of three products after a first one, which may compile or load something."""
    factor = torch.full((_SIDE, _SIDE), 0.5, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        float((factor @ factor)[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
