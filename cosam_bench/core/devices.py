"""The device that computes: copying to it, waiting for it, and the memory that it and the machine have."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

_MOST_LOADING_THREADS = 8


def to_device_async(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; if that is a GPU, the program does not wait for the copy."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def select_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """The tensor's rows of these numbers, copied in this order; a GPU is not waited for, as it is with a plain list."""
    return tensor[to_device_async(torch.tensor(rows, dtype=torch.long), tensor.device)]


def pinned_copy(tensor: Tensor) -> Tensor:
    """A copy of a GPU's tensor in the host's pinned memory, from which it is read without waiting; else a copy."""
    if not tensor.is_cuda:
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def pinned_bytes(size_bytes: int) -> int:
    """The pinned memory that so many bytes take: torch pins blocks whose sizes are powers of two.

    >>> pinned_bytes(3 << 20) == 4 << 20
    True
    """
    return 1 << (size_bytes - 1).bit_length()


def synchronise(device: torch.device) -> None:
    """Wait until the GPU has finished its work, so that a clock read next is right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_unused() -> None:
    """Free what only reference cycles hold, and give back what torch holds in reserve of the GPUs in use."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if no GPU is in use


def release_reserve(device: torch.device) -> None:
    """Give a GPU's memory that torch holds in reserve back to other processes."""
    if device.type == "cuda":
        release_unused()


def free_memory_bytes(device: torch.device) -> int:
    """The free memory of a GPU, after torch has returned what it holds in reserve."""
    release_reserve(device)
    return torch.cuda.mem_get_info(device)[0]


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak again: the GPU's, or the process's if the system can reset it, as Linux does."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM


def peak_memory_bytes(device: torch.device) -> int:
    """The GPU's largest allocation since the reset, or the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the peak since the process began has to do
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def loading_threads() -> int:
    """How many threads decode and prepare images for a GPU: one core stays free, and at most eight are used.

    Decoding, resizing and torch's operations release Python's lock.
    """
    return min(_MOST_LOADING_THREADS, max(1, (os.cpu_count() or 1) - 1))


def machine_memory_bytes() -> int:
    """The machine's memory; 0 if the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else 0
