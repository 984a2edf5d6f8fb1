"""SAM's prompt encoder, embedding points without waiting for the GPU."""

from __future__ import annotations

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

_FOREGROUND, _BACKGROUND, _PADDING = 1, 0, -1  # labels of points, as segment-anything has them


class StaticPromptEncoder(PromptEncoder):  # type: ignore[misc]  # it ships without types
    """segment-anything's prompt encoder, whose point prompts have a shape that no tensor's content decides.

    The original indexes by boolean masks, for which the program waits until a GPU has told how many entries are true:
    eight times per pass. This chooses among all embeddings by ``torch.where``; the numbers are the same to the bit.
    """

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """The embeddings of points, ``(B, n, C)``, and of one more that says that no box follows if ``pad``.

        Args:
            points: float32, ``(B, n, 2)``, x y in pixels of the input.
            labels: float32, ``(B, n)``.
            pad: whether to append the point that stands for no point.
        """
        points = points + 0.5  # to the centre of the pixel
        if pad:
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), _PADDING)], dim=1)
        places = self.pe_layer.forward_with_coords(points, self.input_image_size)
        background, foreground = (places + embedding.weight for embedding in list(self.point_embeddings)[:2])
        padding = torch.zeros_like(places) + self.not_a_point_embed.weight
        label = labels.unsqueeze(-1)
        embedded = torch.where(label == _FOREGROUND, foreground, places)
        embedded = torch.where(label == _BACKGROUND, background, embedded)
        return torch.where(label == _PADDING, padding, embedded)


def use_static_points(encoder: nn.Module) -> None:
    """Let segment-anything's prompt encoder embed points as ``StaticPromptEncoder`` does."""
    if type(encoder) is PromptEncoder:
        encoder.__class__ = StaticPromptEncoder  # its parameters, hooks and settings are kept
