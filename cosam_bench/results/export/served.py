"""The model that a record's method serves: its frozen base, and the update that is added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import Update
from cosam_bench.results.records import Record
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.build import build_sam, read_checkpoint, weights_file
from cosam_bench.sam.mobile_names import published_name, rename_published
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.update_files import UPDATE_FILE, read_update


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A base model with the update that a method serves after the whole stream.

    Attributes:
        sam: the frozen base on the CPU, with segment-anything's own attention.
        update: what is added to its weights.
        checkpoint: the base weights' file; none for random ones.
    """

    sam: Sam
    update: Update
    checkpoint: Path | None

    @property
    def linear_layers(self) -> tuple[str, ...]:
        """The names of the base model's linear layers."""
        return tuple(name for name, module in self.sam.named_modules() if isinstance(module, nn.Linear))

    def merged_state(self) -> dict[str, Tensor]:
        """All weights, base plus update, each sum formed in float64 and rounded once, under this project's names."""
        state = dict(self.sam.state_dict())
        for name, factors in self.update.low_rank.items():
            _add(state, f"{name}.weight", factors.b.double() @ factors.a.double())
        for name, change in self.update.dense.items():
            _add(state, name, change.double())
        return state

    def published_names(self) -> Mapping[str, str]:
        """From this project's names of weights to those of the base model's published checkpoint.

        Of MobileSAM without its checkpoint, only the linear layers' are right.
        """
        if self.sam.name != "mobile_sam" or self.checkpoint is None:
            return {name: published_name(name) for name in self.sam.state_dict()}
        published = read_checkpoint(self.checkpoint)
        ours = {id(tensor): name for name, tensor in rename_published(published, self.sam.state_dict()).items()}
        return {ours[id(tensor)]: name for name, tensor in published.items() if id(tensor) in ours}


def _add(state: dict[str, Tensor], name: str, change: Tensor) -> None:
    base = state[name]
    state[name] = (base.double() + change.to(base.device)).to(base.dtype)


def load_served(record: Record) -> ServedModel:
    """The model that a complete record's merging method serves.

    Raises:
        CosamError: the run is not complete or its method serves no update; the update is of layers beside SAM's own,
            which no other program knows; the base weights are missing, or not those of the run.
    """
    info, update = record.info, recorded_update(record)
    beside = sorted({name for name in (*update.low_rank, *update.dense) if name.startswith(SIDE)})
    model = _table(_table(info.config, "protocol"), "model")
    if beside:
        raise CosamError(
            f"{record.name} trains layers beside SAM's own ({beside[0]} and {len(beside) - 1} more), which other "
            "programs do not have. Take the change as it is by --format safetensors."
        )
    sam, checkpoint = _base(model)
    if info.conditions.checkpoint != sam.digest:
        raise CosamError(
            f"The weights of {sam.name} found here are not those of the run {record.name}. Put the run's checkpoint "
            f"where its config.toml names it ({model.get('checkpoint') or 'the default place'})."
        )
    return ServedModel(sam, update, checkpoint)


def pads_images(record: Record) -> bool:
    """Whether the run padded images to the model's square, as SAM's own predictor does, and did not stretch them."""
    return bool(_table(record.info.config, "protocol").get("resize", "pad") == "pad")


def preparation_notes(record: Record) -> list[str]:
    """What the run did otherwise than SAM's own predictor to images and masks, so that programs with that score less.

    They are empty for most runs.
    """
    protocol = _table(record.info.config, "protocol")
    score = protocol.get("score")
    found = {
        "resize": protocol.get("resize", "pad"),
        "resampling": protocol.get("resampling", "pillow"),
        "score.upsampling": score.get("upsampling", "bilinear") if isinstance(score, dict) else "bilinear",
    }
    usual = {"resize": "pad", "resampling": "pillow", "score.upsampling": "bilinear"}
    other = [f'{name} = "{value}"' for name, value in found.items() if value != usual[name]]
    if not other:
        return []
    return [f"scored with {', '.join(other)}, which other programs do not do: prepare images and enlarge masks alike"]


def recorded_update(record: Record) -> Update:
    """The update that a complete record's method serves.

    Raises:
        CosamError: the run is not complete, there is no update, or its file is damaged.
    """
    if record.status != "complete":
        raise CosamError(f"The run {record.name} is {record.status}. Complete it by the same command, then export it.")
    path = record.folder / UPDATE_FILE
    if not path.is_file():
        raise CosamError(
            f"{record.name} has no {UPDATE_FILE}: {record.info.method} serves no single update that could be exported. "
            "Use it by `cosam-bench predict`."
        )
    return read_update(record.checked_file(UPDATE_FILE))


def _base(model: Mapping[str, Any]) -> tuple[Sam, Path | None]:
    asked, name = model.get("checkpoint"), str(model["name"])
    if model.get("global_attention"):
        raise CosamError("A model with global attention in every block is not stock SAM. Export it as safetensors.")
    if asked == "random":
        return build_sam(name, checkpoint="random", is_attention_lean=False), None
    path = Path(str(asked)) if asked else None
    return build_sam(name, checkpoint=path, is_attention_lean=False), weights_file(name, path)


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = config.get(key)
    if not isinstance(table, dict):
        raise CosamError(f"The record's configuration has no table {key!r}. Run it again.")
    return table
