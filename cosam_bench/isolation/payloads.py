"""The harness's objects as messages, and back: batches, training data, prompts and updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.settings import validate
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Entry, Manifest, PixelSource, Split
from cosam_bench.isolation.messages import BadMessage, Message
from cosam_bench.merging.updates import Update
from cosam_bench.method.card import MethodCard
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.frames import Frame
from cosam_bench.sam.inputs import Batch, BatchInputs, ModelInput, View
from cosam_bench.training.fit_settings import FitSettings

Values = dict[str, Any]
Tensors = dict[str, Tensor]


def view_values(view: View) -> Values:
    """A view, but for its device, which a worker is told apart."""
    return {
        "size": view.size,
        "grid": view.grid,
        "resize": view.resize,
        "precision": view.precision,
        "resampling": view.resampling,
        "mask_levels": view.mask_levels,
        "grid_side": view.grid_side,
    }


def view_from(values: Mapping[str, Any], device: torch.device) -> View:
    """The view on a device."""
    levels = values["mask_levels"]
    return View(**{**values, "device": device, "mask_levels": None if levels is None else tuple(levels)})


def bench_values(bench: Workbench) -> Values:
    """What a worker's workbench is made from, beside the model."""
    return {
        "adapter": bench.adapter.model_dump(mode="json"),
        "fit": bench.fit.model_dump(mode="json"),
        "prompt_kind": bench.prompt_kind,
        "view": view_values(bench.view),
        "device": str(bench.view.device),
        "seed": bench.seed,
        "batch_size": bench.batch_size if bench.passes is None else bench.passes.current,
        "given_layers": None if bench.given is None else bench.given.layers,
    }


def adapter_from(values: Mapping[str, Any]) -> AdapterSettings:
    """The settings of an adapter."""
    return validate(AdapterSettings, values, source="The adapter")


def fit_from(values: Mapping[str, Any]) -> FitSettings:
    """The settings of training."""
    return validate(FitSettings, values, source="The training")


def domain_values(domain: TrainingDomain, manifest: Manifest) -> Values:
    """A training domain without its pixels and without the names of its files."""
    return {
        "name": domain.name,
        "rule": manifest.rule,
        "left_out": manifest.left_out,
        "has_ignored": manifest.has_ignored,
        "entries": [[entry.key, entry.image_sha256, entry.mask_sha256] for entry in manifest.entries],
        "empty": [entry.is_empty for entry in manifest.entries],
        "digest": domain.prompts.digest,
    }


def prompt_tensors(prompts: Prompts) -> Tensors:
    """The prompts of a split."""
    return {"boxes": prompts.boxes, "points": prompts.points, "masks": prompts.masks}


def domain_from(message: Message, source: PixelSource) -> TrainingDomain:
    """The training domain that a worker learns, its pixels from ``source``."""
    values, tensors = message.values["domain"], message.tensors
    rows = zip(values["entries"], values["empty"], strict=True)
    entries = tuple(Entry(*entry, is_empty=is_empty) for entry, is_empty in rows)
    manifest = Manifest(entries, values["rule"], values["left_out"], values["has_ignored"])
    prompts = Prompts(tensors["boxes"], tensors["points"], tensors["masks"], values["digest"])
    name = values["name"]
    return TrainingDomain(name, Split(name, part="train", manifest=manifest, source=source), prompts)


def batch_message(batch: Batch) -> tuple[Values, Tensors]:
    """Images and prompts of a batch; as the pixels that the images were made from, if they are known."""
    images, values = image_message(batch.images, batch.inputs)
    prompts = batch.prompts
    values |= {"kinds": prompts.kinds, "mask_levels": prompts.mask_levels, "domains": batch.domains}
    tensors = {"boxes": prompts.boxes, "points": prompts.points, "masks": prompts.masks}
    return values, images | tensors | ({} if prompts.labels is None else {"labels": prompts.labels})


def batch_from(message: Message, view: View) -> Batch:
    """The batch on the view's device: the same bits as before it was sent."""
    values, tensors = message.values, message.tensors
    images, inputs = images_from(message, view)
    levels, domains = values["mask_levels"], values["domains"]
    prompts = FramePrompts(
        tuple(values["kinds"]),
        tensors["boxes"],
        tensors["points"],
        tensors["masks"],
        None if levels is None else (levels[0], levels[1]),
        tensors.get("labels"),
    )
    return Batch(images, prompts.to(view.device), None if domains is None else tuple(domains), inputs)


def image_message(images: Tensor, inputs: BatchInputs | None) -> tuple[Tensors, Values]:
    """Normalised images, or what they were made from if that is known."""
    if inputs is None or not inputs.match(images):
        return {"images": images}, {"frames": None}
    frames = [[one.frame.original, one.frame.content] for one in inputs.rows]
    return {"pixels": torch.stack([one.pixels for one in inputs.rows])}, {"frames": frames}


def images_from(message: Message, view: View) -> tuple[Tensor, BatchInputs | None]:
    """The normalised images on the view's device, and what they were made from.

    Raises:
        BadMessage: they are not images of the model's size.
    """
    frames, side = message.values.get("frames"), view.size
    if frames is None:
        images = _checked_images(message, "images", torch.float32, side)
        return images.to(view.device), None
    pixels = _checked_images(message, "pixels", torch.uint8, side)
    if not isinstance(frames, list) or len(frames) != len(pixels):
        raise BadMessage("images without a frame each")
    inputs = [ModelInput(one, _frame(facts, side)) for one, facts in zip(pixels, frames, strict=True)]
    images = view.stack(inputs)
    return images, BatchInputs.of(images, inputs)


def _checked_images(message: Message, name: str, dtype: torch.dtype, side: int) -> Tensor:
    images = message.tensors.get(name)
    if images is None or images.dtype != dtype or images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
        raise BadMessage(f"{name} of another form than {dtype} (B, 3, {side}, {side})")
    if not len(images):
        raise BadMessage(f"no {name}")
    return images


def _frame(facts: Any, side: int) -> Frame:
    try:
        (height, width), (rows, columns) = facts
        sides = (int(height), int(width), int(rows), int(columns))
    except (TypeError, ValueError):
        raise BadMessage("a frame that is not two sizes") from None
    if min(sides) < 1 or max(sides[2:]) > side or max(sides) >= 1 << 31:
        raise BadMessage("a frame of an impossible size")
    return Frame(sides[:2], sides[2:], side)


def update_from(tensors: Mapping[str, Tensor]) -> Update:
    """The update in a message's tensors.

    Raises:
        BadMessage: they are not those of an update.
    """
    try:
        return Update.from_tensors(tensors)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise BadMessage(f"tensors that are not an update ({type(error).__name__}: {error})") from None


def card_values(card: MethodCard) -> Values:
    """A card as plain data."""
    return {name: getattr(card, name) for name in CARD_FIELDS}


CARD_FIELDS: Sequence[str] = tuple(name for name in MethodCard.__dataclass_fields__ if name != "told_domain")


def card_from(values: Any) -> MethodCard:
    """The card in a message.

    Raises:
        BadMessage: it is not a card.
    """
    if not isinstance(values, dict) or not set(values) <= set(CARD_FIELDS):
        raise BadMessage("a card with other fields than MethodCard's")
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    words = ("paper", "budget", "budget_setting")
    texts = [facts.get("title"), *(facts.get(name, "") for name in words), *facts.get("deviations", ())]
    others = ("title", "needs", "state", "deviations", *words)
    flags = [value for name, value in facts.items() if name not in others]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        raise BadMessage("a card whose fields are of other types than MethodCard's")
    try:
        return MethodCard(**facts)
    except (ValueError, TypeError) as error:
        raise BadMessage(f"a card that is none: {error}") from None
