"""The served model as one checkpoint in the layout of the base model's own."""

from __future__ import annotations

from pathlib import Path

import torch

from cosam_bench.results.export.served import ServedModel
from cosam_bench.sam.build import read_checkpoint


def write_merged_weights(served: ServedModel, folder: Path) -> list[str]:
    """Write ``merged.pth``, base plus update, which every program that reads the base checkpoint reads.

    Tensors of the published checkpoint that the model never uses are kept as they are.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    names = served.published_names()
    state = {} if served.checkpoint is None else dict(read_checkpoint(served.checkpoint))
    state |= {names[name]: tensor.contiguous() for name, tensor in served.merged_state().items()}
    try:
        torch.save(state, folder / "merged.pth")
    except RuntimeError as error:  # torch's writer says so if the disk is full
        raise OSError(str(error)) from None
    return [f"{len(state)} tensors, {sum(t.numel() for t in state.values()):,} numbers"]
