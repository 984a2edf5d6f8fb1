"""The experts of a run or a merge, read from files of any known form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.experts.peft_adapter import is_peft_folder, read_peft_folder
from cosam_bench.experts.published_modules import read_published_module
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import check_fits
from cosam_bench.sam.update_files import UPDATE_FILE, read_update
from cosam_bench.training.given_experts import GivenExperts, given_experts


def read_experts(sources: Mapping[str, Path], *, sam: Sam, adapter: AdapterSettings) -> GivenExperts:
    """The experts that files and folders hold, made alike so that every rule can merge them.

    Args:
        sources: by the domain's name, a folder of peft, a folder with an ``update.safetensors``, such a file, or a
            checkpoint of RegCL's or SAMCL's code.
        sam: the model that they change.
        adapter: the protocol's; it must be of the experts' kind.

    Raises:
        CosamError: a file is missing or damaged, cannot be understood, or does not fit the model or the adapter.
    """
    updates = {domain: read_expert(path, sam=sam, adapter=adapter) for domain, path in sources.items()}
    return given_experts(updates, sam=sam)


def read_expert(path: Path, *, sam: Sam, adapter: AdapterSettings) -> Update:
    """One expert as an update of the model.

    Raises:
        CosamError: as for ``read_experts``.
    """
    update = _read(path, sam=sam, adapter=adapter)
    try:
        check_fits(sam, update)
    except CosamError as error:
        raise CosamError(f"{path}: {error}") from None
    wrong = [name for name, tensor in update.tensors().items() if not torch.isfinite(tensor.float()).all()]
    if wrong:
        raise CosamError(f"{path} has numbers that are not finite, first in {wrong[0]}: its training diverged.")
    return update


def _read(path: Path, *, sam: Sam, adapter: AdapterSettings) -> Update:
    if path.is_dir() and is_peft_folder(path):
        return _lora_only(path, read_peft_folder(path, sam=sam), adapter)
    if path.is_dir() and (path / UPDATE_FILE).is_file():
        return _lora_only(path, _read_expert_update(path / UPDATE_FILE), adapter)
    if path.is_dir():
        raise CosamError(
            f"{path} is a folder without adapter_config.json or {UPDATE_FILE}. Give a folder that peft saved, or one "
            "that `cosam-bench export --format safetensors` wrote."
        )
    if path.suffix == ".safetensors":
        return _lora_only(path, _read_expert_update(path), adapter)
    return read_published_module(path).update(sam, adapter)


def _lora_only(path: Path, update: Update, adapter: AdapterSettings) -> Update:
    if adapter.kind not in ("lora", "decoder"):
        raise CosamError(
            f"{path} changes the model's own layers, but the protocol's adapter is {adapter.kind!r}. "
            "Set adapter.kind=lora."
        )
    return update


def _read_expert_update(path: Path) -> Update:
    """The update in a file of its own, which must change layers, and only SAM's own."""
    update = read_update(path)
    changed = (*update.low_rank, *update.dense)
    if not changed:
        raise CosamError(f"{path} is empty: it changes no layer. Write it again.")
    if beside := next((name for name in changed if name.startswith(SIDE)), None):
        raise CosamError(
            f"{path} holds the change of {beside!r}, a layer beside SAM, whose first weights it lacks. Give experts "
            "that change SAM's own layers, or checkpoints of RegCL's code."
        )
    return update
