"""Checkpoints of RegCL's and SAMCL's released code, as updates of the model's side layers.

Both write a dictionary by ``torch.save``: whole modules under the names ``extra`` (with ``layer``, ``norm``, ``upward``
and ``upward_``), ``A``, ``B_000``, ``C_000``, ``norm1_000``, ``norm2_000`` and so on, and under ``lora_layer`` the
numbers of the blocks. SAMCL has no C. RegCL's LoRA has ``A_000`` and ``B_000`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.torch_archives import read_archive
from cosam_bench.data.faults import first_few
from cosam_bench.merging.updates import Update, as_factors
from cosam_bench.sam.adapters.adapter_settings import AdapterKind, AdapterSettings
from cosam_bench.sam.adapters.targets import SIDE
from cosam_bench.sam.sam import Sam

_WEIGHT = ".weight"
# By the module's name in a checkpoint, that of the side layer; {} is the number of the block.
_AUGMODULE = {
    "extra.layer": "heat.0",
    "extra.norm": "heat.1",
    "extra.upward": "before_neck",
    "extra.upward_": "after_neck",
    "A": "reduce",
    "B": "expand.{}",
    "C": "mix.{}",
    "norm1": "norm_input.{}",
    "norm2": "norm_heat.{}",
}
_LORA = {"A": "down.{}", "B": "up.{}"}
_PER_BLOCK = re.compile(r"(?P<part>[A-Za-z0-9]+)_(?P<place>\d{3})\.(?P<leaf>weight|bias)")


@dataclass(frozen=True)
class PublishedModule:
    """A checkpoint's tensors under this project's names of side layers.

    Attributes:
        path: of the file.
        kind: the adapter that it is.
        rank: of its bottleneck.
        blocks: the numbers of its blocks.
        has_mixing: whether it has the layers C.
        tensors: whole weights, by parameter name.
    """

    path: Path
    kind: AdapterKind
    rank: int
    blocks: tuple[int, ...]
    has_mixing: bool
    tensors: Mapping[str, Tensor]

    def update(self, sam: Sam, settings: AdapterSettings) -> Update:
        """The difference from the side layers' first weights, of linear layers as factors.

        Args:
            sam: the model with side layers.
            settings: the adapter that they are.

        Raises:
            CosamError: the settings are another adapter's, or a tensor does not fit.
        """
        self._check(sam, settings)
        first = {name: tensor for name, tensor in sam.named_parameters() if name.startswith(SIDE)}
        wrong = sorted(name for name in {*first, *self.tensors} if not _fits(first.get(name), self.tensors.get(name)))
        if wrong:
            raise CosamError(
                f"{self.path} does not fit the layers beside {sam.name}: {first_few(wrong)} are missing, unknown or of "
                "another shape. Name the model that it was trained on."
            )
        changes = {name: self.tensors[name].float() - own.detach().cpu() for name, own in first.items()}
        linear = {f"{SIDE}{layer}" for layer in sam.side.linear} if sam.side is not None else set()
        low_rank = {layer: as_factors(changes.pop(layer + _WEIGHT)) for layer in sorted(linear)}
        return Update(low_rank, changes)

    def _check(self, sam: Sam, settings: AdapterSettings) -> None:
        blocks = tuple(settings.blocks or self._own_blocks(sam))
        wanted: dict[str, object] = {"kind": self.kind, "rank": self.rank, "mixing": self.has_mixing}
        found: dict[str, object] = {"kind": settings.kind, "rank": settings.rank, "mixing": settings.mixing}
        wanted["blocks"], found["blocks"] = list(self.blocks), list(blocks)
        defaults = AdapterSettings()
        for name in ("alpha", "targets", "start"):  # mean nothing to these kinds, which demand their defaults
            wanted[name], found[name] = getattr(defaults, name), getattr(settings, name)
        if self.kind != "augmodule":
            for name in ("mixing", "transposed_heatmap", "whole_heatmap_in_windows"):
                wanted[name], found[name] = getattr(defaults, name), getattr(settings, name)
        changed = [f"adapter.{name}={_text(value)}" for name, value in wanted.items() if found[name] != value]
        if changed:
            without = "" if self.has_mixing else ", without mixing layers"
            raise CosamError(
                f"{self.path} is an adapter of kind {self.kind}, rank {self.rank}, in blocks "
                f"{', '.join(map(str, self.blocks))}{without}, but the protocol's adapter is another. Add "
                f"{' '.join(f'--set {one}' for one in changed)}."
            )

    def _own_blocks(self, sam: Sam) -> list[int]:
        """The blocks of the model's side layers."""
        names = dict(sam.named_parameters())
        part = "expand" if self.kind == "augmodule" else "up"
        found = (re.fullmatch(rf"{re.escape(SIDE)}{part}\.(\d+)\.weight", name) for name in names)
        return [int(match[1]) for match in found if match]


def _fits(own: Tensor | None, other: Tensor | None) -> bool:
    return own is not None and other is not None and own.shape == other.shape and other.is_floating_point()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def read_published_module(path: Path) -> PublishedModule:
    """A checkpoint of RegCL's or SAMCL's released code; nothing in the file is executed.

    Raises:
        CosamError: it is damaged or something else.
    """
    advice = "Give a checkpoint of RegCL's or SAMCL's code, a folder of peft, or a .safetensors file."
    tensors, values = read_archive(path, what="The expert", advice=advice)
    blocks = values.get("lora_layer")
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise _unknown(path, sorted({*tensors, *values}))
    numbers = tuple(block for block in blocks if isinstance(block, int))
    is_augmodule = any(name.startswith("extra.") for name in tensors)
    names = _AUGMODULE if is_augmodule else _LORA
    renamed = {_renamed(name, names, numbers): tensor for name, tensor in tensors.items()}
    first = renamed.get(f"{SIDE}reduce.weight" if is_augmodule else f"{SIDE}down.{numbers[0] if numbers else 0}.weight")
    if None in renamed or first is None or first.ndim != 2:
        raise _unknown(path, sorted(tensors))
    return PublishedModule(
        path,
        "augmodule" if is_augmodule else "regcl_lora",
        rank=first.shape[0],
        blocks=numbers,
        has_mixing=not is_augmodule or any(name.startswith("C_") for name in tensors),
        tensors={name: tensor for name, tensor in renamed.items() if name is not None},
    )


def _renamed(name: str, names: Mapping[str, str], blocks: tuple[int, ...]) -> str | None:
    """The side layers' name of a tensor; None if it is not one of theirs."""
    match = _PER_BLOCK.fullmatch(name)
    if match is None:
        module, _, leaf = name.rpartition(".")
        ours = names.get(module)
        return None if ours is None or "{}" in ours or leaf not in ("weight", "bias") else f"{SIDE}{ours}.{leaf}"
    ours, place = names.get(match["part"]), int(match["place"])
    if ours is None or "{}" not in ours or place >= len(blocks):
        return None
    return f"{SIDE}{ours.format(blocks[place])}.{match['leaf']}"


def _unknown(path: Path, found: list[str]) -> CosamError:
    named = [name for name in found if name]
    holds = first_few(named) if named else "tensors without names" if found else "no tensors"
    return CosamError(
        f"{path} is not a checkpoint of RegCL's or SAMCL's code: it holds {holds[:300]}. Expected are extra, A, B_000 "
        "and so on, and the blocks' numbers in lora_layer."
    )
