"""The frozen base model that a run's settings ask for, and how images enter it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from cosam_bench.core.arithmetic import SLOW_BF16, bf16_slowdown, use_arithmetic
from cosam_bench.core.errors import CosamError
from cosam_bench.core.precision_choices import Precision
from cosam_bench.core.seeds import torch_generator
from cosam_bench.experiments.protocol import Protocol, RunConfig
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.inputs import RAW_MASK_LEVELS, View
from cosam_bench.sam.sam import Sam

_AMPERE = (8, 0)  # NVIDIA's compute capability of the first generation with TF32 and bf16


def model_facts(config: RunConfig) -> dict[str, Any]:
    """What the model of a run's isolated processes is built from, as plain data."""
    protocol = config.protocol
    checkpoint = _checkpoint(protocol)
    return {
        "name": protocol.model.name,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "global_attention": protocol.model.global_attention,
        "adapter": protocol.adapter.model_dump(mode="json"),
        "seed": config.seed,
    }


def build_base_model(config: RunConfig, *, device: torch.device) -> Sam:
    """The protocol's model with the layers that its adapter puts beside it; sets how the process rounds on a GPU.

    Raises:
        CosamError: the weights are missing or do not fit, or the model cannot take the adapter.
    """
    protocol = config.protocol
    use_arithmetic(device, is_tf32=protocol.fit.precision == "tf32", is_deterministic=config.deterministic)
    sam = build_sam(
        protocol.model.name,
        checkpoint=_checkpoint(protocol),
        device=device,
        seed=0,
        global_attention=protocol.model.global_attention,
    )
    add_side_layers(sam, protocol.adapter, generator=torch_generator(config.seed, "adapter"))
    return sam


def _checkpoint(protocol: Protocol) -> Path | Literal["random"] | None:
    asked = protocol.model.checkpoint
    if asked == "random":
        return "random"
    return Path(asked) if asked else None


def view_of(protocol: Protocol, sam: Sam, device: torch.device) -> View:
    """How the protocol's images and prompts become input of the model."""
    return View(
        size=sam.image_size,
        grid=sam.logits_size,
        resize=protocol.resize,
        device=device,
        precision=protocol.score.precision,
        resampling=protocol.resampling,
        mask_levels=RAW_MASK_LEVELS if protocol.prompts.masks == "raw" else None,
        grid_side=protocol.prompts.grid,
    )


def with_precision(config: RunConfig, device: torch.device, *, may_differ: bool = False) -> RunConfig:
    """The run with the precision that ``auto`` means on a device.

    That is bf16 on an NVIDIA GPU from the Ampere generation on, and on a CPU that is measured to compute it faster than
    fp32; else fp32.

    Args:
        config: of the run.
        device: that it is to run on.
        may_differ: take fp32 where TF32 is asked of a device that does not have it.

    Raises:
        CosamError: TF32 is asked of a device that does not have it.
    """
    protocol = config.protocol
    asked: tuple[Precision, ...] = (protocol.fit.precision, protocol.score.precision)
    if may_differ and not is_ampere(device):
        asked = tuple("fp32" if one == "tf32" else one for one in asked)
    fit, score = (_precision_on(device, one) for one in asked)
    if (fit, score) == (protocol.fit.precision, protocol.score.precision):
        return config
    chosen = {
        "fit": protocol.fit.model_copy(update={"precision": fit}),
        "score": protocol.score.model_copy(update={"precision": score}),
    }
    return config.model_copy(update={"protocol": protocol.model_copy(update=chosen)})


def is_ampere(device: torch.device) -> bool:
    """Whether a device is an NVIDIA GPU with instructions for TF32 and bf16: of the Ampere generation or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE


def _precision_on(device: torch.device, asked: Precision) -> Precision:
    if asked == "auto":
        is_faster = is_ampere(device) if device.type == "cuda" else bf16_slowdown(device) < 1
        return "bf16" if is_faster else "fp32"
    if asked == "tf32" and not is_ampere(device):
        raise CosamError(
            f"The precision tf32 needs an NVIDIA GPU of the Ampere generation or later, and this run is on {device}. "
            "Use fp32, or auto for the fastest that the device has."
        )
    return asked


def precision_notes(protocol: Protocol, device: torch.device) -> list[str]:
    """What to know of the precision: one note if bf16 is asked of a device on which it is slower than fp32."""
    asked = [f"{part}.precision" for part in ("fit", "score") if getattr(protocol, part).precision == "bf16"]
    if not asked or not (slowness := slow_bf16(device)):
        return []
    remedy = " ".join(f"--set {key}=fp32" for key in asked)
    return [f"{slowness}. Use {remedy}."]


def slow_bf16(device: torch.device) -> str:
    """Why bf16 is slower than fp32 on a device; empty if it is not.

    A GPU's product of small matrices takes as long in either, so there a measurement would be a matter of chance.
    """
    if device.type == "cuda":
        lacks = "bf16 is slow on this machine's GPU, which is older than NVIDIA's Ampere and has no instructions for it"
        return "" if is_ampere(device) else lacks
    slowdown = bf16_slowdown(device)
    if slowdown <= SLOW_BF16:
        return ""
    return (
        f"bf16 takes {slowdown:.3g} times as long as fp32 on this machine's {device.type}, which has no instructions "
        "for it"
    )


def choose_device(asked: str) -> torch.device:
    """The device of a run; ``auto`` is CUDA if it works, else the CPU.

    Raises:
        CosamError: not the name of a device, or a GPU that torch does not see.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except (RuntimeError, ValueError, OverflowError):  # the last two: an index that no machine has
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise CosamError(f"No device is called {asked!r}. Use cpu, cuda, cuda:N or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CosamError(
            f"The device {asked!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs. Use cpu or auto."
        )
    return device
