"""Trained experts as files: each is trained once, and read back for every run that needs the same training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cosam_bench.core.arithmetic import arithmetic
from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.environment import versions
from cosam_bench.core.files import exclusive, mark_used
from cosam_bench.core.hashing import sha256_json
from cosam_bench.core.reusable import Reusable
from cosam_bench.core.sealed_files import read_sealed, write_sealed
from cosam_bench.core.tensor_files import CannotRead
from cosam_bench.core.version import __version__
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.targets import touched_layers
from cosam_bench.sam.encoder_sections import frozen_depth
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import Fitted
from cosam_bench.training.fit_settings import FitSettings


def expert_name(
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
    has_kept_features: bool = True,
) -> str:
    """The name of an expert: a hash of all that decides the bits of its training.

    Args:
        data: digest of the training samples and their prompts.
        sam: the frozen model; its digest covers ``adapter.start``, too.
        fit: with the learning rate of this domain.
        view: how samples become model input; its precision does not count, since training uses that of ``fit``.
        start: the update that training begins from.
        from_scratch: whether training adds a fresh adapter on top of ``start``.
        has_kept_features: whether what the blocks before the adapter compute is kept; kept features are computed
            image by image, and on a GPU rounded to the precision of the training.
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
        "arithmetic": arithmetic(view.device),
        "seed": seed,
        "start": start.digest() if start is not None else None,
        "versions": versions(),
        "harness": __version__,
    }
    if from_scratch and start is not None:  # without a start it makes no difference
        facts["from_scratch"] = True
    if not has_kept_features and frozen_depth(sam.image_encoder, touched_layers(sam, adapter)) is not None:
        facts["first blocks"] = "computed each time"
    return sha256_json(facts)[:32]


class ExpertStore:
    """The experts in a folder, which processes share: the first that needs an expert trains it, the others wait.

    A file that was damaged, changed or copied under another name is trained again.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Use a folder, which need not exist.

        Args:
            fresh: read only experts that this object has trained.
        """
        self._folder = folder
        self._reusable = Reusable(fresh=fresh)

    def read_or_train(self, name: str, train: Callable[[], Fitted]) -> tuple[Fitted, bool]:
        """The expert of a name from ``expert_name``, and whether it was trained now.

        One that was trained now is read back, too: sums over its layers depend in their last bits on the layers'
        order and on how tensors lie in memory, and both are to be the same for whoever comes later.

        Raises:
            CannotWrite: the folder cannot be written or the disk is full.
        """
        path = self.path(name)
        if (found := self._read(path)) is not None:
            return found, False
        with exclusive(path.with_suffix(".lock")):
            if (found := self._read(path)) is not None:  # another process has trained it meanwhile
                return found, False
            fitted = train()
            write_sealed(path, fitted.update.tensors(), fitted.facts)
            self._reusable.add(name)
            return self._read(path) or fitted, True

    def path(self, name: str) -> Path:
        """The file of an expert, whether it is there or not."""
        return self._folder / f"{name}.safetensors"

    def _read(self, path: Path) -> Fitted | None:
        if path.stem not in self._reusable:
            return None
        try:
            tensors, facts = read_sealed(path)
            found = Fitted.from_facts(Update.from_tensors(tensors), facts)
        except (CannotRead, KeyError, ValueError, TypeError):
            return None
        mark_used(path)
        return found
