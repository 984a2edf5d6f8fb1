"""Trained experts as files: each is trained once, and read back for every run that needs the same training."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.hashing import sha256_json
from cosam_bench.core.tensor_files import CannotRead, read_tensors, write_tensors
from cosam_bench.core.version import __version__
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import Fitted
from cosam_bench.training.fit_settings import FitSettings


def expert_file(
    data: str,
    *,
    sam: Sam,
    adapter: AdapterSettings,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    seed: int,
    start: Update | None,
    from_scratch: bool,
) -> str:
    """The name of an expert's file: a hash of all that decides the outcome of training.

    Args:
        data: digest of the training samples and their prompts.
        sam: the frozen model; its digest covers ``adapter.start``, too.
        fit: with the learning rate of this domain.
        view: how samples become model input; its precision does not count, since training uses that of ``fit``.
        start: the update that training begins from.
        from_scratch: whether training adds a fresh adapter on top of ``start``.
    """
    facts = {
        "data": data,
        "model": sam.digest,
        "adapter": {key: value for key, value in counted_settings(adapter).items() if key != "start"},
        "fit": counted_settings(fit),
        "prompt": prompt_kind,
        "resize": view.resize,
        "resampling": view.resampling,
        "mask_levels": view.mask_levels,
        "device": view.device.type,
        "seed": seed,
        "start": start.digest() if start is not None else None,
        "torch": torch.__version__,
        "harness": __version__,
    }
    if from_scratch and start is not None:  # without a start it makes no difference
        facts["from_scratch"] = True
    return f"{sha256_json(facts)[:32]}.safetensors"


def write_expert(path: Path, fitted: Fitted) -> None:
    """Write an expert with the facts of its training."""
    facts = {
        "epoch_losses": list(fitted.epoch_losses),
        "trainable_parameters": fitted.trainable_parameters,
        "seconds": fitted.seconds,
    }
    write_tensors(path, fitted.update.tensors(), {"facts": json.dumps(facts)})


def read_expert(path: Path) -> Fitted | None:
    """The stored expert, or None if none can be read: it is then trained again."""
    try:
        tensors, metadata = read_tensors(path)
        facts = json.loads(metadata["facts"])
        return Fitted(
            update=Update.from_tensors(tensors),
            epoch_losses=tuple(facts["epoch_losses"]),
            trainable_parameters=int(facts["trainable_parameters"]),
            seconds=float(facts["seconds"]),
        )
    except (CannotRead, KeyError, ValueError, TypeError):
        return None
