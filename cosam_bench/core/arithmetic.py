"""What decides, beside the libraries, how torch rounds sums: looked up, stated as facts, and set again elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
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
    }


def round_as(settings: Mapping[str, Any]) -> None:
    """Set what another process's ``rounding_settings`` returned."""
    torch.set_num_threads(settings["threads"])
    torch.set_float32_matmul_precision(settings["matmul"])
    torch.use_deterministic_algorithms(settings["deterministic"])
    torch.backends.cudnn.allow_tf32 = settings["tf32"]
    torch.backends.cudnn.deterministic = settings["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = settings["cudnn_benchmark"]


def arithmetic(device: torch.device) -> dict[str, Any]:
    """The settings that count on a device, and its processor: equal facts give equal bits.

    Files that runs share count them, since with 2 threads instead of 1 a score may differ by 2e-8.
    """
    settings = rounding_settings()
    if device.type == "cuda":
        return settings | {"processor": torch.cuda.get_device_name(device)}
    on_cpu = {name: settings[name] for name in ("threads", "matmul", "deterministic")}
    return on_cpu | {"processor": torch.backends.cpu.get_cpu_capability()}
