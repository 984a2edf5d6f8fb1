"""The Segment Anything Model as the harness uses it: encode a batch, decode a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

from cosam_bench.core.devices import select_rows
from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.prompt_settings import GRID, PromptKind
from cosam_bench.sam.adapters.hq import HQLayers
from cosam_bench.sam.adapters.side_layers import SideLayers
from cosam_bench.sam.encoder_sections import early_section, encoder_sections
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.point_grid import POINTS_AT_ONCE, MaskPool


class Features(NamedTuple):
    """The output of the encoder, or of its first blocks, for a batch.

    Attributes:
        maps: float, ``(B, h, w, C)`` between two blocks, the embeddings ``(B, C, h, w)`` after the whole encoder.
        early: float, ``(B, h, w, C')``, the map that HQ-SAM's layers read; None if there are none, or if the
            pass has not reached it.
    """

    maps: Tensor
    early: Tensor | None = None

    def to(self, device: torch.device) -> Features:
        """The same features on a device."""
        return Features(self.maps.to(device), None if self.early is None else self.early.to(device))

    def select(self, rows: list[int]) -> Features:
        """Those of these rows, in this order."""
        return Features(select_rows(self.maps, rows), None if self.early is None else select_rows(self.early, rows))


@dataclass(frozen=True)
class Masks:
    """The decoder's output for a batch, one mask per image.

    Attributes:
        logits: float32, ``(B, h, w)``, on a grid four times as fine as the embedding's; foreground above 0.
        predicted_iou: float32, ``(B,)``, the decoder's own estimate of the mask's quality.
    """

    logits: Tensor
    predicted_iou: Tensor


class Sam(nn.Module):
    """A frozen SAM of any size: image encoder, prompt encoder and mask decoder.

    It always stays in evaluation mode, so that batch normalisation never changes, and no parameter requires a
    gradient.

    Source: Kirillov et al., "Segment Anything", ICCV 2023. The parts are segment-anything's own classes,
    except for the image encoder of MobileSAM (Zhang et al., "Faster Segment Anything", 2023).

    Attributes:
        name: the model's name in ``MODELS``.
        image_size: side S of the square input.
        mask_logit: the logit that a mask prompt's 1 becomes.
        checkpoint_digest: sha256 of the weights' file, or of the weights themselves if they are random.
        global_attention: whether all blocks attend to the whole image, see ``build_sam``.
        side_digest: sha256 of the side layers' initial weights if they come from a file.
        side: layers beside SAM's own, from ``adapters.add_side_layers``; None for LoRA and a tuned decoder.
        encoder_passes: images encoded so far, a figure of cost.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        mask_logit: float,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        checkpoint_digest: str = "",
    ) -> None:
        """Put the parts together, frozen."""
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.mask_logit = mask_logit
        self.image_encoder = image_encoder
        self.prompt_encoder: PromptEncoder = prompt_encoder
        self.mask_decoder: MaskDecoder = mask_decoder
        self.checkpoint_digest = checkpoint_digest
        self.global_attention = False
        self.side_digest = ""
        self.side: SideLayers | None = None
        self.encoder_passes = 0
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Sam:
        """Keep every module in evaluation mode; ``mode`` is ignored."""
        super().train(mode and False)
        return self

    @property
    def digest(self) -> str:
        """Hash of all that decides the frozen model's output; the checkpoint's own if nothing else does."""
        if not self.global_attention and not self.side_digest:
            return self.checkpoint_digest
        return sha256_text(f"{self.checkpoint_digest}|{self.global_attention}|{self.side_digest}")

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def logits_size(self) -> int:
        """Side of the square grid of the decoder's logits and of mask prompts: four times the embedding's."""
        return 4 * int(self.prompt_encoder.image_embedding_size[0])

    def encode(self, images: Tensor, prompts: FramePrompts | None = None) -> Features:
        """The embeddings ``(B, C, h, w)`` of normalised images.

        Args:
            images: float, ``(B, 3, S, S)``, from ``frames.normalise``.
            prompts: of the same images, for side layers that look at them.
        """
        self.encoder_passes += len(images)
        with self._conditioned_on(prompts):
            if self._tap is None:
                return Features(self.image_encoder(images))
            return self._through(Features(images), first=0)

    def prefix(self, images: Tensor, *, depth: int) -> Features:
        """The output of the encoder's first ``depth`` blocks for normalised images; not counted as an encoder pass.

        Args:
            images: float, ``(B, 3, S, S)``, as for ``encode``.
            depth: blocks as ``target_layers`` counts them; 0 is all that comes before the first, and one more
                than there are is the whole encoder, including the neck.
        """
        return self._through(Features(images), first=0, end=depth + 1)

    def suffix(self, features: Features, *, depth: int, prompts: FramePrompts | None = None) -> Features:
        """The embeddings, from the output of ``prefix`` at the same depth.

        For the same batch they are those of ``encode`` bit for bit, and count as the same number of passes.
        """
        self.encoder_passes += len(features.maps)
        with self._conditioned_on(prompts):
            return self._through(features, first=depth + 1)

    def _conditioned_on(self, prompts: FramePrompts | None) -> AbstractContextManager[None]:
        return nullcontext() if self.side is None else self.side.conditioned_on(prompts)

    @property
    def _tap(self) -> int | None:
        """The section whose output is the early map; None if nothing reads it."""
        is_read = self.side is not None and self.side.reads_early_map
        return early_section(self.image_encoder) if is_read else None

    def _through(self, features: Features, *, first: int, end: int | None = None) -> Features:
        maps, early = features
        tap = self._tap
        for number, section in enumerate(encoder_sections(self.image_encoder)[first:end], start=first):
            maps = section.run(maps)
            early = maps if number == tap else early
        return Features(maps, early)

    def decode(self, features: Features, prompts: FramePrompts, *, extra: Tensor | None = None) -> Masks:
        """One mask per image, by the decoder's single-mask token (token 0), or by HQ-SAM's if it is enabled.

        Rows with the same kind of prompt are decoded together; kinds may be mixed. The masks of a row's grid of points
        are pooled, see ``point_grid``. Prompts are embedded in float32
        even under autocast, because bfloat16 has too few digits for the sines of a position.

        Args:
            features: from ``encode``.
            prompts: one prompt per image, in the model's frame.
            extra: float, ``(B, n, C)``, further prompt tokens of each image, after those of its prompt.
        """
        if len(prompts) != len(features.maps):
            raise ValueError(f"{len(features.maps)} embeddings and {len(prompts)} prompts")
        groups = prompts.groups()
        if len(groups) == 1:
            return self._decode_kind(features, prompts, kind=groups[0][0], extra=extra)
        parts = [
            self._decode_kind(
                features.select(rows),
                prompts.select(rows),
                kind=kind,
                extra=None if extra is None else select_rows(extra, rows),
            )
            for kind, rows in groups
        ]
        order = torch.argsort(torch.tensor([row for _, rows in groups for row in rows]))
        order = order.to(features.maps.device)
        return Masks(
            torch.cat([part.logits for part in parts])[order],
            torch.cat([part.predicted_iou for part in parts])[order],
        )

    def _decode_kind(
        self, features: Features, prompts: FramePrompts, *, kind: PromptKind, extra: Tensor | None
    ) -> Masks:
        if kind == GRID:
            return self._decode_grids(features, prompts, extra=extra)
        embeddings = features.maps
        with torch.autocast(embeddings.device.type, enabled=False):
            sparse, dense = self._embed(prompts, kind=kind)
            positions = self.prompt_encoder.get_dense_pe()
        decoder = self.mask_decoder
        hq = self.side if isinstance(self.side, HQLayers) and self.side.is_enabled else None
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight] + ([] if hq is None else [hq.token.weight])
        tokens = torch.cat(own).expand(len(embeddings), -1, -1)
        tokens = torch.cat([tokens, sparse] + ([] if extra is None else [extra]), dim=1)
        hidden, image = decoder.transformer(embeddings + dense, positions.expand_as(embeddings), tokens)
        # Token 0 is that of the predicted IoU, token 1 that of the single mask; those of the other masks are not read.
        upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(embeddings.shape))
        if hq is None:
            weights = decoder.output_hypernetworks_mlps[0](hidden[:, 1])
            logits = (weights.unsqueeze(1) @ upscaled.flatten(2)).view(-1, *upscaled.shape[2:])
        else:
            assert features.early is not None
            place = 1 + decoder.num_mask_tokens
            logits = hq.logits(hidden[:, place], upscaled=upscaled, embeddings=embeddings, early=features.early)
        return Masks(logits.float(), decoder.iou_prediction_head(hidden[:, 0])[:, 0].float())

    def _decode_grids(self, features: Features, prompts: FramePrompts, *, extra: Tensor | None) -> Masks:
        """One pooled mask per image; its points are decoded by some at a time, from its one embedding."""
        pooled = []
        for row in range(len(prompts)):
            pool = MaskPool(prompts.points[row], image_size=self.image_size, grid=self.logits_size)
            for points in torch.split(prompts.points[row], POINTS_AT_ONCE):
                rows = [row] * len(points)
                kinds: tuple[PromptKind, ...] = tuple("points" for _ in rows)
                alone = replace(prompts.select(rows), kinds=kinds, points=points[:, None])
                tokens = None if extra is None else select_rows(extra, rows)
                masks = self._decode_kind(features.select(rows), alone, kind="points", extra=tokens)
                pool.add(masks.logits, masks.predicted_iou)
            pooled.append(Masks(pool.logits(), pool.predicted_iou()))
        return Masks(
            torch.stack([masks.logits for masks in pooled]), torch.stack([masks.predicted_iou for masks in pooled])
        )

    def _embed(self, prompts: FramePrompts, *, kind: PromptKind) -> tuple[Tensor, Tensor]:
        """Sparse ``(B, tokens, C)`` and dense ``(B, C, h, w)`` embeddings, by SAM's own prompt encoder."""
        if kind == "box":
            return self.prompt_encoder(points=None, boxes=prompts.boxes, masks=None)  # type: ignore[no-any-return]
        if kind == "points":
            points = (prompts.points, prompts.point_labels())
            return self.prompt_encoder(points=points, boxes=None, masks=None)  # type: ignore[no-any-return]
        masks = prompts.mask_input(mask_logit=self.mask_logit)
        return self.prompt_encoder(points=None, boxes=None, masks=masks)  # type: ignore[no-any-return]
