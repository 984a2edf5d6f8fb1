"""Trains the `tiny` SAM on generic synthetic scenes and writes the files under cosam_bench/sam/weights.

Usage: python tools/train_tiny.py [--steps 2400] [--batch 16] [--threads 1] [--out FOLDER]

Each scene is prompted in five rounds: twice with a loose box, twice with one to four points, once with a noisy mask.
The single-mask token learns from all of them; of the three multimask tokens only the best one learns (SAM's
practice for ambiguous prompts); the quality head learns each token's true IoU.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder
from torch import Tensor, nn
from torch.nn import functional

from cosam_bench.core.hashing import sha256_file
from cosam_bench.core.tensor_files import write_tensors
from cosam_bench.data.synthetic.scenes import scene
from cosam_bench.sam.tiny_sam import TINY_IMAGE_SIZE, tiny_parts

PIXEL_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)  # SAM's
PIXEL_DEVIATION = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
KINDS = ("box", "points", "mask")
ROUNDS = ("box", "points", "box", "points", "mask")  # sparse prompts take longer to learn
LOG_EVERY = 50


@dataclass(frozen=True)
class Training:
    """The settings of one training run; together with torch's version they determine the weights."""

    seed: int = 0
    steps: int = 2400
    batch: int = 16
    scenes: int = 6000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    threads: int = 1


class ScenePool:
    """Scenes drawn once; batches of them are rotated, mirrored and have their colour channels permuted."""

    def __init__(self, settings: Training) -> None:
        """Draw all scenes; every later choice also depends on ``settings.seed``."""
        self._rng = np.random.default_rng(settings.seed)
        drawn = (scene(self._rng, TINY_IMAGE_SIZE) for _ in range(settings.scenes))
        self._scenes = [(picture, np.packbits(masks, axis=-1)) for picture, masks in drawn]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """uint8 images ``(count, 3, S, S)`` and one bool mask per round ``(count, rounds, S, S)``."""
        pictures, targets = zip(*(self._one() for _ in range(count)), strict=True)
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(targets))

    def _one(self) -> tuple[np.ndarray, np.ndarray]:
        rng = self._rng
        picture, packed = self._scenes[int(rng.integers(len(self._scenes)))]
        chosen = np.unpackbits(packed[rng.integers(len(packed), size=len(ROUNDS))], axis=-1).astype(bool)
        image = picture.transpose(2, 0, 1)[rng.permutation(3)]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        image, chosen = np.rot90(image, turns, (1, 2)), np.rot90(chosen, turns, (1, 2))
        return (image[..., ::-1], chosen[..., ::-1]) if mirrored else (image, chosen)


class TinySam(nn.Module):
    """The three parts with a decoder pass that keeps all four mask tokens."""

    def __init__(self) -> None:
        """Weights are drawn from torch's global generator."""
        super().__init__()
        self.image_encoder: ImageEncoderViT
        self.prompt_encoder: PromptEncoder
        self.mask_decoder: MaskDecoder
        self.image_encoder, self.prompt_encoder, self.mask_decoder = tiny_parts()

    def decode(self, embeddings: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, 4, 64, 64)`` and predicted IoU ``(B, 4)``, one image and prompt per row."""
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
        position = self.prompt_encoder.get_dense_pe().expand(len(sparse), -1, -1, -1)
        queries, keys = decoder.transformer(embeddings + dense, position, tokens)
        keys = keys.transpose(1, 2).reshape(embeddings.shape)
        features = decoder.output_upscaling(keys).flatten(2)
        heads = enumerate(decoder.output_hypernetworks_mlps)
        kernels = torch.stack([head(queries[:, 1 + i]) for i, head in heads], dim=1)
        side = 4 * embeddings.shape[-1]
        return (kernels @ features).unflatten(2, (side, side)), decoder.iou_prediction_head(queries[:, 0])


def embed_prompt(encoder: PromptEncoder, kind: str, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sparse and dense prompt embeddings drawn from the true masks ``(B, S, S)``."""
    encode = cast("Callable[..., tuple[Tensor, Tensor]]", encoder)
    if kind == "box":
        return encode(points=None, boxes=_loose_boxes(masks, generator), masks=None)
    if kind == "points":
        count = int(torch.randint(1, 5, (), generator=generator))
        flat = torch.multinomial(masks.flatten(1).float(), count, replacement=True, generator=generator)
        side = masks.shape[-1]
        points = torch.stack([flat % side, flat // side], dim=-1).float()
        return encode(points=(points, torch.ones(flat.shape)), boxes=None, masks=None)
    return encode(points=None, boxes=None, masks=_noisy_masks(masks, generator))


def _loose_boxes(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Tight boxes with each side moved by about a twentieth of the box."""
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    tight = torch.tensor(boxes, dtype=torch.float32)
    extent = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
    return tight + 0.04 * extent * torch.randn(tight.shape, generator=generator)


def _noisy_masks(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Logits ``(B, 1, S/2, S/2)`` of the masks with bent outlines."""
    side = masks.shape[-1] // 2
    soft = functional.avg_pool2d(masks[:, None].float(), 6, stride=2, padding=2)
    knots = torch.randn(len(masks), 1, 12, 12, generator=generator)
    bend = functional.interpolate(knots, size=(side, side), mode="bilinear", align_corners=False)
    return ((soft + 0.25 * bend > 0.5).float() * 2 - 1) * 10


def losses(logits: Tensor, quality: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and the single-mask token's IoU per row.

    Args:
        logits: ``(B, 4, h, w)``.
        quality: predicted IoU, ``(B, 4)``.
        target: ``(B, h, w)`` in [0, 1].
    """
    goal = target[:, None].expand_as(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    share = target.mean((1, 2)).clamp(min=1e-3)[:, None, None, None]
    balance = torch.where(goal > 0.5, ((1 - share) / share).sqrt(), torch.ones(()))
    pixel = (balance * entropy).sum((2, 3)) / balance.sum((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * goal).sum((2, 3)) + 1) / (chance.sum((2, 3)) + goal.sum((2, 3)) + 1)
    each = 2 * pixel + dice
    with torch.no_grad():
        found, true = logits > 0, goal > 0.5
        iou = (found & true).sum((2, 3)) / (found | true).sum((2, 3)).clamp(min=1)
    best = each[:, 1:].min(dim=1).values
    total = each[:, 0] + 0.5 * best + (quality - iou).square().mean(1)
    return total.mean(), iou[:, 0]


def train(settings: Training, out: Path) -> TinySam:
    """The trained model.

    During training, ``out`` has the current weights and a log: every ``LOG_EVERY`` steps one line with the mean
    loss and the single mask's mean IoU by prompt kind.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(settings.seed)
    model = TinySam()
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
    )
    pool = ScenePool(settings)
    with (out / "tiny-training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", *(f"iou_{kind}" for kind in KINDS), "seconds"])
        began, sums = time.monotonic(), np.zeros(1 + len(KINDS))
        for step in range(1, settings.steps + 1):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _schedule(step, settings)
            sums += train_step(model, optimiser, *pool.batch(settings.batch), generator)
            if step % LOG_EVERY == 0:
                row = [step, *np.round(sums / LOG_EVERY, 4), round(time.monotonic() - began, 1)]
                writer.writerow(row)
                file.flush()
                print(*row, flush=True)
                sums[:] = 0
                save(model, out)
    return model


def save(model: TinySam, out: Path) -> Path:
    """Write the weights, and return their file."""
    path = out / "tiny.safetensors"
    write_tensors(path, model.state_dict())
    return path


def _schedule(step: int, settings: Training) -> float:
    warm = min(1.0, step / settings.warmup_steps)
    return float(warm * 0.5 * (1 + np.cos(np.pi * step / settings.steps)))


def train_step(
    model: TinySam,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
    generator: torch.Generator,
) -> np.ndarray:
    """One optimiser step; returns the loss and the mean IoU of each prompt kind."""
    total = torch.zeros(())
    scores = dict.fromkeys(KINDS, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model.image_encoder((images - PIXEL_MEAN) / PIXEL_DEVIATION).float()
        for index, kind in enumerate(ROUNDS):
            sparse, dense = embed_prompt(model.prompt_encoder, kind, masks[:, index], generator)
            logits, quality = model.decode(embeddings, sparse, dense)
            target = functional.avg_pool2d(masks[:, index : index + 1].float(), 2)[:, 0]
            loss, iou = losses(logits.float(), quality.float(), target)
            total = total + loss / len(ROUNDS)
            scores[kind] += float(iou.mean()) / ROUNDS.count(kind)
    optimiser.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return np.array([float(total.detach()), *scores.values()])


def main() -> None:
    """Train, then write weights, facts and log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in asdict(Training()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    home = Path(__file__).parents[1] / "cosam_bench" / "sam" / "weights"
    parser.add_argument("--out", type=Path, default=home)
    options = vars(parser.parse_args())
    out: Path = options.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    settings = Training(**options)
    began = time.monotonic()
    weights = save(train(settings, out), out)
    facts = {
        "sha256": sha256_file(weights),
        "bytes": weights.stat().st_size,
        "training": asdict(settings),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    (out / "tiny.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
