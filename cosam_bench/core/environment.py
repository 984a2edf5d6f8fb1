"""Facts about the machine and the software, for the record of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cosam_bench.core.devices import machine_memory_bytes

_PACKAGES = ("cosam-bench", "torch", "torchvision", "segment-anything-py", "timm", "numpy", "pillow", "scipy")


def versions() -> dict[str, str]:
    """The versions of Python and of each package that scores depend on."""
    return dict(_versions())


@cache  # reading the installed packages takes longer than what it is asked for: names of experts and rows
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout this package runs from, ``-dirty`` appended if files differ; or empty."""
    folder = Path(__file__).resolve().parent
    try:
        # Only a checkout of this package counts, not a repository that happens to contain the environment.
        tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(tracked, capture_output=True, check=True, timeout=10)
        describe = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware(device: torch.device) -> dict[str, str | int | float]:
    """The processor, its threads in use, the memory, and the GPU if the run uses one."""
    facts: dict[str, str | int | float] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }
    if memory_bytes := machine_memory_bytes():
        facts["memory_bytes"] = memory_bytes
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        facts |= {"gpu": gpu.name, "gpu_memory_bytes": gpu.total_memory}
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's own name has to do
    return platform.processor() or platform.machine()


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
