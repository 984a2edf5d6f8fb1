"""``cosam-bench doctor``: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from cosam_bench.cli.catalogue_commands import TO_FETCH, weights_state
from cosam_bench.cli.records_commands import Results
from cosam_bench.core.console import plain_table, results_console
from cosam_bench.core.errors import CosamError

_GIB = 2**30
_ROOM_BYTES = _GIB  # a default run writes some tens of MiB; real streams with many methods, hundreds


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        subject: what was checked.
        found: its state.
        remedy: what to do; empty if nothing.
        is_needed: whether ``cosam-bench run --method regcl`` fails without it.
    """

    subject: str
    found: str
    remedy: str = ""
    is_needed: bool = False


def doctor(*, results: Results = Path("results")) -> None:
    """Check what works on this machine: device, memory, weights, data and methods."""
    from rich.text import Text

    table = plain_table("", "", "", "what to do")
    is_broken = False
    for finding in _findings(results):
        is_broken = is_broken or bool(finding.remedy and finding.is_needed)
        word, style = ("ok", "green") if not finding.remedy else ("missing", "yellow")
        if finding.remedy and finding.is_needed:
            word, style = "broken", "bold red"
        table.add_row(finding.subject, Text(word, style=style), finding.found, finding.remedy)
    results_console().print(table)
    if is_broken:
        raise typer.Exit(1)


def _findings(results: Path) -> Iterator[Finding]:
    yield from _software()
    yield from _machine()
    yield _room(results)
    yield from _weights()
    yield from _protocols()
    yield from _methods()


def _software() -> Iterator[Finding]:
    from cosam_bench.core.environment import versions

    yield Finding("python", platform.python_version())
    for package, version in versions().items():
        if package != "python":
            is_missing = version == "not installed"
            yield Finding(package, version, "pip install cosam-bench" if is_missing else "", is_needed=is_missing)


def _machine() -> Iterator[Finding]:
    import torch

    from cosam_bench.core.devices import machine_memory_bytes

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            yield Finding(f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / _GIB:.0f} GiB")
    else:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        yield Finding("gpu", f"none found; {built}", "not needed for mini; for full-size SAM, use a machine with one")
    yield _bf16()
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    if memory := machine_memory_bytes():
        yield Finding("memory", f"{memory / _GIB:.1f} GiB", "" if memory > 2 * _GIB else "mini needs up to 2 GiB")


def _bf16() -> Finding:
    """How fast the device that a run takes by itself computes in bfloat16."""
    import torch

    from cosam_bench.core.arithmetic import bf16_slowdown
    from cosam_bench.experiments.base_model import slow_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slowness = slow_bf16(device)
    remedy = "keep fit.precision and score.precision at fp32, or set them to auto" if slowness else ""
    if device.type == "cuda":
        return Finding("bf16", slowness or "the GPU has instructions for it", remedy)
    return Finding("bf16", f"a product takes {bf16_slowdown(device):.2g} times as long as in fp32 on cpu", remedy)


def _room(results: Path) -> Finding:
    """Whether records can be written, and how much space is left."""
    folder = results.absolute()
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return Finding("results", f"{results} cannot be written", "give another --results DIR", is_needed=True)
    free = shutil.disk_usage(folder).free
    remedy = "" if free > _ROOM_BYTES else "free space or give another --results DIR"
    return Finding("results", f"{results}: {free / _GIB:,.0f} GiB free", remedy)


def _weights() -> Iterator[Finding]:
    from cosam_bench.sam.models import MODELS

    yield _tried("model tiny", _build_tiny, "in the package", is_needed=True)
    for spec in MODELS.values():
        if spec.file_name is not None:
            state = weights_state(spec)
            remedy = f"cosam-bench models --fetch {spec.name}" if state == TO_FETCH else ""
            yield Finding(f"model {spec.name}", state, remedy)


def _build_tiny() -> None:
    from cosam_bench.sam.build import build_sam

    build_sam("tiny")


def _protocols() -> Iterator[Finding]:
    from cosam_bench.data.overview import domain_overview
    from cosam_bench.data.streams import load_stream
    from cosam_bench.experiments.protocol import protocol_names, resolve_run

    for name in protocol_names():
        try:
            protocol = resolve_run(method="frozen", protocol=name).protocol
            if not protocol.stream:
                yield Finding(f"protocol {name}", f"model {protocol.model.name}, for any --stream FILE", "")
                continue
            rows = domain_overview(load_stream(protocol.stream))
        except CosamError as error:
            yield Finding(f"protocol {name}", "broken", str(error), is_needed=name == "mini")
            continue
        absent = [row.name for row in rows if row.fault]
        found = f"model {protocol.model.name}, {len(rows) - len(absent)} of {len(rows)} domains here"
        remedy = f"cosam-bench domains {protocol.stream} shows what is missing" if absent else ""
        yield Finding(f"protocol {name}", found, remedy, is_needed=name == "mini")


def _methods() -> Iterator[Finding]:
    from cosam_bench.method.registry import load_method, method_names, method_origin

    for name in method_names():
        yield _tried(f"method {name}", partial(load_method, name), method_origin(name), is_needed=name == "regcl")


def _tried(subject: str, attempt: Callable[[], object], found: str, *, is_needed: bool) -> Finding:
    try:
        attempt()
    except Exception as error:  # any failure here is a finding, and must not hide the others
        return Finding(subject, "does not load", str(error), is_needed=is_needed)
    return Finding(subject, found)
