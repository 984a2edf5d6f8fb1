"""What a record says of the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cosam_bench.core.devices import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")
LARGE = 400 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a process's peak")
def test_the_peak_of_an_earlier_run_in_the_process_is_forgotten() -> None:
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    torch.zeros(LARGE, dtype=torch.uint8).fill_(1)
    assert peak_memory_bytes(CPU) > before + LARGE * 3 // 4
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < before + LARGE // 2


def test_elsewhere_the_highest_use_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *args: object, **kwargs: object) -> str:
        raise FileNotFoundError(path)

    known = peak_memory_bytes(CPU)
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(Path, "write_text", missing)
    monkeypatch.setattr(sys, "platform", "linux")
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) >= known // 2
