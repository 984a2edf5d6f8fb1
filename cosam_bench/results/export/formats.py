"""The formats that a record can be exported to, by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import new_folder
from cosam_bench.results.records import Record

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "peft": "an adapter folder for peft on stock segment-anything",
        "transformers": "a folder for transformers' SamModel",
        "merged": "whole weights, base plus update, in the base checkpoint's layout",
        "onnx": "image encoder and mask decoder as ONNX (extra: onnx)",
        "safetensors": "the served change of the weights as it is, side layers included",
    }
)


@dataclass(frozen=True)
class Exported:
    """What an export or a merge wrote.

    Attributes:
        folder: where it is.
        files: the names of its files, sorted.
        notes: what a reader should know, such as ranks and discarded energy.
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def to(cls, folder: Path, notes: Iterable[str]) -> Exported:
        """What the folder, which is now whole, holds."""
        return cls(folder, tuple(sorted(path.name for path in folder.iterdir())), tuple(notes))


def check_rank(rank: int | None, *, format_name: str) -> None:
    """Refuse a rank for a format that has none.

    Raises:
        CosamError: the format is not ``peft``.
    """
    if rank is not None and format_name != "peft":
        raise CosamError(f"A rank was given for the format {format_name!r}, which has none. Leave it out.")


def export_record(record: Record, folder: Path, *, format_name: str, rank: int | None = None) -> Exported:
    """Write the served model of a complete record to a new folder; it appears whole or not at all.

    Args:
        record: of a merging method.
        folder: does not exist, or is empty.
        format_name: a name in ``FORMATS``.
        rank: for ``peft``: at most this many factors per layer.

    Raises:
        CosamError: unknown format, a folder with contents, a record without an update, or an update or base model that
            the format cannot hold.
    """
    if format_name not in FORMATS:
        raise unknown_name("export format", format_name, FORMATS)
    check_rank(rank, format_name=format_name)
    with new_folder(folder) as temporary:
        notes = _write(record, temporary, format_name=format_name, rank=rank)
    return Exported.to(folder, notes)


def _write(record: Record, folder: Path, *, format_name: str, rank: int | None) -> Sequence[str]:
    from cosam_bench.results.export.model_card import write_model_card
    from cosam_bench.results.export.served import load_served, pads_images, preparation_notes, recorded_update
    from cosam_bench.sam.update_files import UPDATE_FILE

    preparation = preparation_notes(record)
    if format_name == "safetensors":
        recorded_update(record)  # refuses a damaged or missing file
        shutil.copyfile(record.folder / UPDATE_FILE, folder / UPDATE_FILE)
        write_model_card(record, folder, format_name=format_name, notes=preparation, served=None)
        return preparation
    served, is_cut = load_served(record), False
    notes: Sequence[str]
    if format_name == "peft":
        from cosam_bench.results.export.peft_folder import write_peft_folder

        notes, is_cut = write_peft_folder(served, folder, rank=rank)
    elif format_name == "transformers":
        from cosam_bench.results.export.transformers_folder import write_transformers_folder

        notes = write_transformers_folder(served, folder, is_padded=pads_images(record))
    elif format_name == "onnx":
        from cosam_bench.results.export.onnx_models import write_onnx_models

        notes = write_onnx_models(served, folder)
    else:
        from cosam_bench.results.export.merged_weights import write_merged_weights

        notes = write_merged_weights(served, folder)
    notes = [*notes, *preparation]
    write_model_card(record, folder, format_name=format_name, notes=notes, served=served, is_cut=is_cut)
    return notes
