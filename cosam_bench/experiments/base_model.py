"""The frozen base model that a run's settings ask for, and how images enter it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.experiments.protocol import Protocol, RunConfig
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.inputs import RAW_MASK_LEVELS, View
from cosam_bench.sam.sam import Sam


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
    """The protocol's model with the layers that its adapter puts beside it.

    Raises:
        CosamError: the weights are missing or do not fit, or the model cannot take the adapter.
    """
    protocol = config.protocol
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
