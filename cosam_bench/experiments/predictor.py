"""Segmenting single images with a recorded run's final model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.arithmetic import restored_rounding
from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import Settings
from cosam_bench.data.prompt_settings import UNDRAWN, TestPrompt
from cosam_bench.evaluation.scoring import BadPrediction, checked_logits
from cosam_bench.experiments.base_model import build_base_model, choose_device, view_of, with_precision
from cosam_bench.experiments.chosen_method import method_of
from cosam_bench.experiments.image_prompt import (
    Box,
    ImageLike,
    Labels,
    Point,
    image_pixels,
    image_prompt,
    point_labels,
)
from cosam_bench.experiments.method_faults import method_faults
from cosam_bench.experiments.protocol import ModelSettings, Protocol, RunConfig
from cosam_bench.experiments.recorded_config import recorded_config
from cosam_bench.merging.updates import Update
from cosam_bench.method.interface import Method, State
from cosam_bench.method.rule_digest import rule_digest
from cosam_bench.method.workbench import Workbench
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import load_record
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.batch_size import AdaptiveBatchSize
from cosam_bench.sam.build import weights_file
from cosam_bench.sam.frame_choices import Upsampling
from cosam_bench.sam.frames import to_original
from cosam_bench.sam.inputs import Batch, View, collate_inputs
from cosam_bench.sam.serving import check_fits
from cosam_bench.sam.update_files import UPDATE_FILE, model_beside, read_update, update_named


@dataclass(frozen=True)
class Predictor:
    """A model that is loaded once and segments one image after another, by the same steps as its run was scored.

    Images go through the model one at a time. A run scores them in batches, which may change a logit's last bits.

    Attributes:
        name: in messages.
        view: how images become input of the model.
        upsampling: of the logits to the image's size, as the protocol scores them.
        domains: those that the run tested, if the method must be told an image's domain; else None.
        otherwise: the prompt if none is given: that of the run if it was tested without marked objects, ``image`` or
            ``grid``; None: an object must be marked.
    """

    name: str
    view: View
    upsampling: Upsampling
    domains: tuple[str, ...] | None
    otherwise: TestPrompt | None
    _logits: Callable[[Batch], Tensor] = field(repr=False)

    @property
    def needs_prompt(self) -> bool:
        """Whether an object must be marked; False if the run was tested without."""
        return self.otherwise is None

    @checked_arguments()
    def predict(
        self,
        image: ImageLike,
        *,
        box: Box | Sequence[float] | None = None,
        points: Sequence[Point] | None = None,
        labels: Labels | None = None,
        mask: NDArray[Any] | None = None,
        domain: str | None = None,
        levels: int | None = None,
    ) -> NDArray[np.bool_]:
        """The mask of the object that the prompt marks, ``(H, W)``, True on the foreground.

        Give one of ``box``, ``points`` and ``mask``, or none if the run needs none. Coordinates are pixels of
        the image, x before y, from its top left corner: the centre of the first pixel is (0.5, 0.5).

        Args:
            image: a file, which is turned upright by its EXIF orientation; a PIL image; or uint8 RGB ``(H, W, 3)``.
            box: x0, y0, x1, y1 of a box around the object.
            points: x, y each.
            labels: for each point, 1 on the object or 0 on the background; None: all on the object.
            mask: a coarse mask of the whole image, non-zero inside, of any height and width.
            domain: the image's domain, only if the method must be told it (see ``domains``).
            levels: of a file of 16 bits, the level that is white, as the card of its domain says; None: 65535, and
                a file that uses 12 bits or fewer is refused.

        Raises:
            CosamError: the image cannot be read, the prompt does not fit it, memory runs out, or what an update
                predicts is not finite.
            MethodFailed: the method raised an error, or what it predicts is not finite.
        """
        told = self._told(domain)
        prepared = self.view.preprocess(image_pixels(image, levels=levels))
        kind, prompts = image_prompt(
            prepared.frame.original, box=box, points=points, mask=mask, otherwise=self.otherwise
        )
        batch, [frame] = collate_inputs([prepared], prompts, kinds=[kind], view=self.view, domains=told)
        if labels is not None:
            placed = point_labels(labels, count=0 if points is None else prompts.points.shape[1]).to(self.view.device)
            batch = replace(batch, prompts=replace(batch.prompts, labels=placed))
        with torch.inference_mode():
            # With one image at most, a full memory becomes the error that the runner raises.
            [logits] = AdaptiveBatchSize(1).map(iter([batch]), lambda batches: self._logits(batches[0]))
            mask_found: NDArray[np.bool_] = (
                (to_original(logits[0], frame, upsampling=self.upsampling) > 0).cpu().numpy()
            )
        return mask_found

    def _told(self, domain: str | None) -> tuple[str] | None:
        if self.domains is None and domain is not None:
            raise CosamError(f"{self.name} is not told an image's domain. Leave the domain out.")
        if self.domains is None or domain is None:
            if self.domains is not None:
                raise CosamError(
                    f"{self.name} must be told the image's domain. Give one of: {', '.join(self.domains)}."
                )
            return None
        if domain not in self.domains:
            raise unknown_name("domain of this run", domain, self.domains)
        return (domain,)


@checked_arguments()
def load_predictor(
    record: Record | str | Path,
    *,
    model: str | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    results: str | Path = "results",
) -> Predictor:
    """The final model of a complete run, or the one that an update makes of a base model.

    Args:
        record: a record; its folder, or part of its name within ``results``; or the folder that ``merge`` wrote, or
            the path of an ``update.safetensors``. A record is served by its method's own code, or by its update if
            that code was changed since the run or cannot be loaded, with the protocol's resizing and precision (fp32
            for TF32 on a device without it); an update alone with SAM's own resizing, in float32.
        model: the base model of an update, as ``cosam-bench models`` lists it.
        checkpoint: the file of the base model's weights, if they are not where the run had them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        results: the folder of records.

    Raises:
        CosamError: the record is not complete or is damaged, the weights are missing or not those of the run, the
            update does not fit the model, or the method's code was changed and the record has no update.
        MethodFailed: the method raised an error while it was loaded.
    """
    with restored_rounding():  # predictions set what they need by themselves
        if not isinstance(record, Record) and (update := update_named(record)):
            return _of_update(update, model=model, checkpoint=checkpoint, device=device)
        if model is not None:
            raise CosamError("A record names its own model. Leave the model out, or give an update.safetensors.")
        record = record if isinstance(record, Record) else load_record(record, results=expanded(results))
        return _of_record(record, checkpoint=checkpoint, device=device)


def _of_record(record: Record, *, checkpoint: str | Path | None, device: str) -> Predictor:
    if record.status != "complete":
        raise CosamError(f"The run in {record.folder} is {record.status}. Complete it by the same run again.")
    config = recorded_config(record)
    config = _with_checkpoint(config, checkpoint)
    known = _method_as_in(record, config)
    bench = _workbench(config, device)
    if bench.sam.digest != record.info.conditions.checkpoint:
        raise CosamError(
            f"The run in {record.folder} used other weights of {bench.sam.name} than those found now. "
            "Give the checkpoint file that it used."
        )
    predict = _from_update(record, bench) if known is None else _from_state(record, *known, bench)
    tested = record.order + record.info.retention
    domains = tested if known is not None and known[0].card.receives_domain else None
    return Predictor(
        f"The method {record.method!r}",
        bench.view,
        config.protocol.score.upsampling,
        domains,
        test if (test := config.protocol.prompts.test) in UNDRAWN else None,
        predict,
    )


def _method_as_in(record: Record, config: RunConfig) -> tuple[type[Method], Settings] | None:
    """The method of a record and its settings; None if its code is not that of the run any more.

    Raises:
        CosamError: it cannot be loaded, and the record has no update that could be served in its place.
    """
    try:
        method, settings = method_of(config)
    except CosamError:
        if (record.folder / UPDATE_FILE).is_file():
            return None
        raise
    return (method, settings) if record.info.rule in ("", rule_digest(method)) else None


def _from_state(
    record: Record, method: type[Method], settings: Settings, bench: Workbench
) -> Callable[[Batch], Tensor]:
    """The predictions of the method in its final state."""
    state = State.read(record.checked_file("state.safetensors"))
    with method_faults(record.method, "__init__"):
        loaded = method(settings, bench)
    with method_faults(record.method, "load"):
        loaded.load(state)

    def predict(batch: Batch) -> Tensor:
        with method_faults(record.method, "predict"):
            return checked_logits(loaded.predict(batch), batch, bench.view)

    return predict


def _from_update(record: Record, bench: Workbench) -> Callable[[Batch], Tensor]:
    """The predictions of the served update alone, which the method's code takes no part in.

    Raises:
        CosamError: the record has none.
    """
    path = record.checked_file(UPDATE_FILE)
    if not path.is_file():
        raise CosamError(
            f"The code of {record.method!r} was changed since the run in {record.folder}, and may read what it kept "
            "as something else. Get the code of that run, or run it again."
        )
    return _served(path, read_update(path), bench)


def _served(path: Path, update: Update, bench: Workbench) -> Callable[[Batch], Tensor]:
    """The predictions of the base model with the update of a file.

    Raises:
        CosamError: it does not fit the model.
    """
    check_fits(bench.sam, update)

    def predict(batch: Batch) -> Tensor:
        try:
            return checked_logits(bench.predict(update, batch), batch, bench.view)
        except BadPrediction as error:
            raise CosamError(f"The update {path} cannot be served: {error}") from error

    return predict


def _of_update(path: Path, *, model: str | None, checkpoint: str | Path | None, device: str) -> Predictor:
    if not path.is_file():
        raise CosamError(f"No file {path}. Give an update.safetensors or the folder of a record.")
    model = model or model_beside(path)
    if model is None:
        raise CosamError(f"{path} does not name its base model. Give the model, or the record's folder in its place.")
    update = read_update(path)
    if any(name.startswith(SIDE) for name in (*update.low_rank, *update.dense)):
        raise CosamError(f"{path} changes layers beside SAM, whose first weights it lacks. Give the record's folder.")
    if checkpoint is not None:  # an absolute path is a file, also one called "random"
        checkpoint = weights_file(model, expanded(checkpoint)).absolute()
    protocol = Protocol(name="update", stream="", model=ModelSettings(name=model))
    bench = _workbench(_with_checkpoint(RunConfig(method="", protocol=protocol), checkpoint), device)
    served = _served(path, update, bench)
    upsampling = protocol.score.upsampling
    return Predictor(f"The update {path}", bench.view, upsampling, None, None, served)


def _with_checkpoint(config: RunConfig, checkpoint: str | Path | None) -> RunConfig:
    if checkpoint is None:
        return config
    model = config.protocol.model.model_copy(update={"checkpoint": str(expanded(checkpoint))})
    return config.model_copy(update={"protocol": config.protocol.model_copy(update={"model": model})})


def _workbench(config: RunConfig, device: str) -> Workbench:
    """What the run's methods work with, without data and stored experts."""
    place = choose_device(device)
    config = with_precision(config, place, may_differ=True)
    protocol = config.protocol
    sam = build_base_model(config, device=place)
    return Workbench(
        sam=sam,
        adapter=protocol.adapter,
        fit=protocol.fit,
        prompt_kind=protocol.prompts.train,
        view=view_of(protocol, sam, place),
        seed=config.seed,
    )
