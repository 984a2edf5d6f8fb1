"""Experience replay: a few images of every domain are kept, and each step also trains on some of them.

Source: Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486). The served adapter
is trained on; each step draws as many samples from the memory as the new domain's batch has (or all of them, if the
memory has fewer), without repetition, and minimises the mean of both losses,

    (L(new batch) + L(batch from the memory)) / 2.

Memory samples are augmented and prompted like others. After each domain a random selection of its samples joins the
memory and stays. ``mixing = shuffled`` is CoSAM's code instead: the memory joins the new domain's samples, and the
whole is shuffled for each epoch, so that chance decides how many of a batch are from the memory: few beside a large
domain.

Deviations: a fixed number per domain instead of a memory of fixed size in which later samples replace earlier ones,
because the state's growth is measured here; the protocol's epochs per domain instead of one; only adapters are
trained.

Keeps samples: images at their own size, masks as bits, and the prompts that training uses, all in the state, so needs
the current domain's inputs and labels. The state grows by ``memory`` samples per domain. The order matters. The rank
is that of one adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast, overload

import numpy as np
import torch
from torch import Tensor

from cosam_bench import (
    Adapter,
    Batch,
    Masks,
    MergingMethod,
    MethodCard,
    Prompts,
    Sample,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    Workbench,
    setting,
)
from cosam_bench.data.prompts import MASK_SIZE


class ERSettings(Settings):
    """The settings of experience replay."""

    memory: int = setting(10, "samples kept per domain", source="as many as MoDA's images", search=None, ge=1)
    mixing: Literal["half", "shuffled"] = setting(
        "half",
        "`half`, half of each step's samples are from the memory; `shuffled`, it joins the new domain's samples",
        source="the paper; CoSAM's released code has shuffled",
    )


class ER(MergingMethod[ERSettings]):
    """The served adapter, trained on with samples of all domains."""

    card = MethodCard(
        title="Experience replay",
        paper="arXiv 1902.10486",
        needs=("inputs", "labels", "replay"),
        state="grows",
        deviations=(
            "only the protocol's adapters are trained",
            "a fixed number of samples per domain, not a memory of fixed total size",
            "the protocol's epochs per domain, not a single pass",
            "half of each step's samples are from the memory; CoSAM's code shuffles them into the new domain's: mixing",
        ),
    )
    start = "served"

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train on this domain's samples and the memory's, and keep some of the former."""
        if self.settings.mixing == "half" or not self.memory:
            super().learn(domain, step=step)
            return
        mixed = MixedDomain(domain, *self.remembered())
        # With hooks, an expert is not stored under the domain's digest, which does not tell of the memory.
        expert = self.bench.train(mixed, start=self.served, hooks=TrainingHooks())
        self.served = self.merge(expert.update, domain, step=step)

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """The replay, from the second domain on."""
        if not self.memory:
            return None
        return Replay(self.bench, *self.remembered(), order=self.bench.generator("er", "replay", domain.digest))

    def remembered(self) -> tuple[list[Sample], Prompts]:
        """All kept samples, domain by domain, and their prompts."""
        parts = [tensors_to_samples(self.memory, prefix=f"{name}/") for name in self._kept()]
        joined = {
            field: torch.cat([getattr(prompts, field) for _, prompts in parts])
            for field in ("boxes", "points", "masks")
        }
        return [sample for samples, _ in parts for sample in samples], Prompts(**joined, digest="")

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The adapter as the new domain left it; some of its samples join the memory."""
        draws = self.bench.generator("er", "memory", domain.digest)
        rows = torch.randperm(len(domain), generator=draws)[: self.settings.memory].tolist()
        tensors = samples_to_tensors(
            [domain[row] for row in rows],
            domain.prompts.take(rows),
            noisy_masks=self.bench.prompt_kind in ("mask", "mix"),
        )
        self.memory |= {f"{step}/{name}": tensor for name, tensor in tensors.items()}
        self.values["kept"] = [*self._kept(), str(step)]
        return expert

    def _kept(self) -> list[str]:
        return cast("list[str]", self.values.get("kept", []))


class MixedDomain(TrainingDomain):
    """A domain's samples, then those of a memory, as one domain of the same name."""

    def __init__(self, domain: TrainingDomain, samples: Sequence[Sample], prompts: Prompts) -> None:
        """The domain, open while this one is used, and the memory with a row of prompts per sample."""
        self.name = domain.name
        self._domain = domain
        self._memory = samples
        own = domain.prompts
        if prompts.masks.shape[1:] != own.masks.shape[1:]:  # training uses none, so the memory has kept none
            own = Prompts(own.boxes, own.points, torch.zeros(len(own), *prompts.masks.shape[1:], dtype=torch.bool), "")
        self._joined = Prompts(
            torch.cat([own.boxes, prompts.boxes]),
            torch.cat([own.points, prompts.points]),
            torch.cat([own.masks, prompts.masks]),
            digest="",
        )

    @property
    def prompts(self) -> Prompts:
        """The domain's prompts, then the memory's."""
        return self._joined

    @property
    def digest(self) -> str:
        """The domain's own, which decides the order of training."""
        return self._domain.digest

    def __len__(self) -> int:
        return len(self._domain) + len(self._memory)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row, count = range(len(self))[index], len(self._domain)
        return self._domain[row] if row < count else self._memory[row - count]


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor's last axis as bits, uint8 ``(..., ceil(W / 8))``."""
    return torch.from_numpy(np.packbits(mask.numpy(), axis=-1))


def unpack_bits(bits: Tensor, *, width: int) -> Tensor:
    """The bool tensor ``(..., width)`` that ``pack_bits`` took."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=width).astype(bool))


def samples_to_tensors(samples: Sequence[Sample], prompts: Prompts, *, noisy_masks: bool) -> dict[str, Tensor]:
    """Samples and their prompts as named tensors, which ``tensors_to_samples`` reads.

    Args:
        noisy_masks: keep the mask prompts, too; 8 KiB per sample.
    """
    tensors = {"boxes": prompts.boxes.clone(), "points": prompts.points.clone()}
    if noisy_masks:
        tensors["prompts"] = pack_bits(prompts.masks)
    for row, sample in enumerate(samples):
        tensors |= {f"{row}/image": sample.image, f"{row}/mask": pack_bits(sample.mask)}
        if sample.ignored is not None:
            tensors[f"{row}/ignored"] = pack_bits(sample.ignored)
    return tensors


def tensors_to_samples(tensors: Mapping[str, Tensor], *, prefix: str) -> tuple[list[Sample], Prompts]:
    """The samples and prompts under the names that begin with ``prefix``; mask prompts are empty if none were kept."""
    boxes, points = tensors[f"{prefix}boxes"], tensors[f"{prefix}points"]
    samples = []
    for row in range(len(boxes)):
        image, bits = tensors[f"{prefix}{row}/image"], tensors[f"{prefix}{row}/mask"]
        ignored = tensors.get(f"{prefix}{row}/ignored")
        left_out = None if ignored is None else unpack_bits(ignored, width=image.shape[-1])
        samples.append(Sample(f"{prefix}{row}", image, unpack_bits(bits, width=image.shape[-1]), left_out))
    masks = torch.zeros(len(boxes), 1, 1, dtype=torch.bool)
    if f"{prefix}prompts" in tensors:
        masks = unpack_bits(tensors[f"{prefix}prompts"], width=MASK_SIZE)
    return samples, Prompts(boxes, points, masks, digest="")


class Replay(TrainingHooks):
    """Averages each batch's loss with that of a batch from the memory."""

    def __init__(
        self, bench: Workbench, samples: Sequence[Sample], prompts: Prompts, *, order: torch.Generator
    ) -> None:
        self._bench = bench
        self._samples = samples
        self._prompts = prompts
        self._order = order

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        """The mean of the batch's loss and the replayed batch's."""
        again, _ = self._bench.loss(*self.batch(len(batch)))
        return (loss + again) / 2

    def batch(self, size: int) -> tuple[Batch, Tensor]:
        """``size`` different samples of the memory, or all if it has fewer, augmented, and their masks."""
        rows = torch.randperm(len(self._samples), generator=self._order)[:size].tolist()
        return self._bench.augmented(self._samples, self._prompts, rows, order=self._order)
