"""``export``, ``merge`` and ``predict``: merged models as files, and masks from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosam_bench.api.arguments import SETTINGS, MethodLike, method_reference
from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.files import expanded
from cosam_bench.experiments.options import setting_texts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cosam_bench.experiments.image_prompt import Box, ImageLike, Labels, Point
    from cosam_bench.results.export.formats import Exported
    from cosam_bench.results.records import Record


@checked_arguments()
def export(
    record: Record | str | Path,
    folder: str | Path,
    *,
    format: str = "peft",
    rank: int | None = None,
    results: str | Path = "results",
) -> Exported:
    """Write the served model of a merging method's run to a new folder, in the format of another program.

    Args:
        record: a record, its folder, or its name in ``results``.
        folder: does not exist, or is empty.
        format: ``peft``, ``transformers``, ``merged``, ``onnx`` or ``safetensors``; docs/export.md describes them.
        rank: for ``peft``: at most this many factors per layer.
        results: the folder of records.

    Returns:
        The folder, its files and what to know about them, such as ranks and discarded energy.

    Raises:
        CosamError: the record has no served update, or the format cannot hold it; the folder has contents.
    """
    from cosam_bench.results.export.formats import export_record
    from cosam_bench.results.records import Record
    from cosam_bench.results.results_folder import load_record

    found = record if isinstance(record, Record) else load_record(record, results=expanded(results))
    return export_record(found, expanded(folder), format_name=format, rank=rank)


@checked_arguments(experts="a list of paths", method="a method's name, path or class", settings=SETTINGS)
def merge(
    experts: str | Path | Sequence[str | Path],
    *,
    method: MethodLike,
    out: str | Path,
    model: str = "vit_b",
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    format: str = "safetensors",
    rank: int | None = None,
    isolated: bool | None = None,
) -> Exported:
    """Merge experts by a method that needs no data, and write what it serves to a new folder; docs/your-experts.md.

    Args:
        experts: two or more, in the order in which they are merged: folders that peft saved, or files or folders with
            an ``update.safetensors``.
        method: as for ``run``.
        out: does not exist, or is empty.
        model: the base model that they change; its weights are not needed.
        settings: the method's, by their keys: ``{"method.density": 0.5}``, or nested.
        seed: of methods that draw at random.
        format: ``safetensors`` writes ``update.safetensors``, which ``load_predictor`` takes; ``peft`` an adapter
            folder as well.
        rank: for ``peft``: at most this many factors per layer.
        isolated: as for ``run``.

    Returns:
        The folder, its files and what to know about them.

    Raises:
        MethodFailed: the method raised an error or broke its contract.
        CosamError: the method needs data or training; an expert cannot be read or does not fit the model; the folder
            has contents.
    """
    from cosam_bench.core.arithmetic import restored_rounding
    from cosam_bench.experiments.merging import merge_experts

    with restored_rounding():
        return merge_experts(
            [expanded(path) for path in ([experts] if isinstance(experts, str | Path) else experts)],
            method=method_reference(method),
            folder=expanded(out),
            format_name=format,
            rank=rank,
            model=model,
            seed=seed,
            settings=setting_texts(settings or {}),
            isolated=isolated,
        )


@checked_arguments()
def predict(
    record: Record | str | Path,
    image: ImageLike,
    *,
    box: Box | Sequence[float] | None = None,
    points: Sequence[Point] | None = None,
    labels: Labels | None = None,
    mask: NDArray[Any] | None = None,
    domain: str | None = None,
    levels: int | None = None,
    model: str | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    results: str | Path = "results",
) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of the object that a prompt marks in an image, by a run's final model.

    For several images, ``load_predictor`` loads the model once. Its docstring and that of ``Predictor.predict``
    describe the arguments and errors.
    """
    from cosam_bench.experiments.predictor import load_predictor

    predictor = load_predictor(record, model=model, checkpoint=checkpoint, device=device, results=results)
    return predictor.predict(image, box=box, points=points, labels=labels, mask=mask, domain=domain, levels=levels)
