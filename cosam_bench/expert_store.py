"""Trained experts as files, so that each is trained once and read back by whoever asks for the same training."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cosam_bench.files import write_atomically
from cosam_bench.fit import Fitted
from cosam_bench.updates import Update


def write_expert(path: Path, fitted: Fitted) -> None:
    """Write an expert with the facts of its training."""
    facts = {
        "epoch_losses": list(fitted.epoch_losses),
        "trainable_parameters": fitted.trainable_parameters,
        "seconds": fitted.seconds,
    }
    write_atomically(path, save(fitted.update.tensors(), metadata={"facts": json.dumps(facts)}))


def read_expert(path: Path) -> Fitted | None:
    """The stored expert, or None where there is none that can be read: it is then trained again."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            facts = json.loads(file.metadata()["facts"])
        return Fitted(
            update=Update.from_tensors(tensors),
            epoch_losses=tuple(facts["epoch_losses"]),
            trainable_parameters=int(facts["trainable_parameters"]),
            seconds=float(facts["seconds"]),
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
