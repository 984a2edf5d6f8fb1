"""AugModule: RegCL's adapter, which shows the encoder where the prompt is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from segment_anything.modeling.image_encoder import window_partition
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from cosam_bench.sam.adapters.side_layers import SideLayers, add_to_output, init_linear, zero_linear
from cosam_bench.sam.frame_prompts import FramePrompts

_BLUR = 9  # cells; torchvision derives a deviation of 1.7 from it, as in the released code
_LEVEL = 255  # a point's height before the blur


class AugModule(SideLayers):
    """A bottleneck beside each adapted block's attention that receives the prompt as a heat map.

    With the heat map's channels h, every adapted block computes

        y = attention(x) + B(C(LN1(A x) + LN2(h))),

    where all blocks share the layer A; SAMCL has no C. Before the encoder's neck U1(h) is added, after it U2(h). B, U1
    and U2 begin at zero. With rank 10 in five of ViT-B's blocks: 62,074 parameters, without C 61,524.

    Merging regresses A, B and C on their inputs; A's Gram matrix is pooled over its uses.

    The published prompts are points. For a box the centre is marked, for a grid that of the image, for a mask the mean
    position of its inside: this project's choice.

    Source: RegCL (arXiv 2507.12297) and SAMCL, released code.
    """

    def __init__(
        self,
        encoder: Any,
        blocks: dict[int, Any],
        *,
        rank: int,
        generator: torch.Generator,
        transposed_heatmap: bool,
        whole_heatmap_in_windows: bool,
        has_mixing: bool = True,
    ) -> None:
        """Layers for these blocks of a ViT encoder, by number.

        Args:
            generator: draws A, C and the heat map's layer.
            transposed_heatmap: exchange x and y where U1 and U2 add the map, as the released code does.
            whole_heatmap_in_windows: show each window the whole image's map, shrunk, as the released code does,
                instead of its own part.
            has_mixing: have the layers C; without them C is the identity, as in SAMCL.
        """
        super().__init__()
        width, embedding = int(encoder.patch_embed.proj.out_channels), int(encoder.neck[0].out_channels)
        patch = int(encoder.patch_embed.proj.stride[0])
        self._cell, self._grid = patch, int(encoder.img_size) // patch
        self._is_transposed, self._is_whole = transposed_heatmap, whole_heatmap_in_windows
        self._heat: Tensor | None = None
        self.reduce = _drawn(width, rank, generator)
        self.heat = nn.Sequential(_drawn(rank, rank, generator), nn.LayerNorm(rank), nn.ReLU())
        self.norm_input, self.norm_heat = nn.ModuleDict(), nn.ModuleDict()
        self.mix, self.expand = nn.ModuleDict(), nn.ModuleDict()
        for number, block in blocks.items():
            name = str(number)
            self.norm_input[name], self.norm_heat[name] = nn.LayerNorm(rank), nn.LayerNorm(rank)
            self.mix[name] = _drawn(rank, rank, generator) if has_mixing else nn.Identity()
            self.expand[name] = zero_linear(rank, width)
            add_to_output(block.attn, self._beside(name, window=block.window_size))
        self.before_neck, self.after_neck = zero_linear(rank, width), zero_linear(rank, embedding)
        encoder.neck.register_forward_pre_hook(self._into_neck)
        add_to_output(encoder.neck, lambda _: self._on_map(self.after_neck))
        parts = ("mix", "expand") if has_mixing else ("expand",)
        self.linear = ("reduce", *(f"{part}.{number}" for number in blocks for part in parts))

    @contextmanager
    def conditioned_on(self, prompts: FramePrompts | None) -> Iterator[None]:
        """Show the layers the heat map of the prompts within the context."""
        if self.is_enabled and prompts is None:
            raise ValueError("AugModule needs the prompts of the images that are encoded")
        before = self._heat
        if self.is_enabled and prompts is not None:
            self._heat = heatmap(prompts, grid=self._grid, cell=self._cell)
        try:
            yield
        finally:
            self._heat = before

    def _channels(self) -> Tensor | None:
        """The heat map's channels ``(B, g, g, rank)``; None while the layers are disabled or no prompt is given."""
        if not self.is_enabled or self._heat is None:
            return None
        channels: Tensor = self.heat(self._heat.unsqueeze(-1).expand(-1, -1, -1, self.reduce.out_features))
        return channels

    def _beside(self, name: str, *, window: int) -> Any:
        def change(rows: Tensor) -> Tensor | None:
            channels = self._channels()
            if channels is None:
                return None
            reduced = self.norm_input[name](self.reduce(rows))
            heat = self.norm_heat[name](self._windowed(channels, window))
            added: Tensor = self.expand[name](self.mix[name](reduced + heat))
            return added

        return change

    def _windowed(self, channels: Tensor, window: int) -> Tensor:
        """The channels in the layout of a block's attention input."""
        if not window:
            return channels
        if not self._is_whole:
            windows: Tensor = window_partition(channels, window)[0]
            return windows
        shrunk = functional.interpolate(channels.permute(0, 3, 1, 2), size=(window, window)).permute(0, 2, 3, 1)
        return shrunk.repeat_interleave((-(-self._grid // window)) ** 2, dim=0)

    def _into_neck(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        added = self._on_map(self.before_neck)
        return None if added is None else (inputs[0] + added,)

    def _on_map(self, layer: nn.Module) -> Tensor | None:
        channels = self._channels()
        if channels is None:
            return None
        channels = channels.transpose(1, 2) if self._is_transposed else channels
        added: Tensor = layer(channels)
        return added.permute(0, 3, 1, 2)


def _drawn(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    init_linear(layer, generator=generator)
    return layer


def heatmap(prompts: FramePrompts, *, grid: int, cell: int) -> Tensor:
    """The heat map of the prompts, float32 ``(B, g, g)`` in [0, 255]: rows are y, blurred by a Gaussian of 9 x 9 cells.

    Args:
        prompts: in pixels of the model's input.
        grid: cells along a side.
        cell: pixels along a side of a cell.
    """
    heat = torch.zeros(len(prompts), grid, grid, device=prompts.boxes.device)
    for row, (positions, is_marked) in enumerate(_positions(prompts, grid * cell)):
        x, y = (positions / cell).long().clamp(0, grid - 1).unbind(1)
        heat[row].index_put_((y, x), _LEVEL * is_marked.float(), accumulate=True)
    heat.clamp_(max=_LEVEL)  # several points may be in one cell
    blurred: Tensor = gaussian_blur(heat, [_BLUR, _BLUR])
    return blurred


def _positions(prompts: FramePrompts, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Per row, x and y of points ``(n, 2)``, and which of them its prompt marks: bool ``(n,)``.

    Their number does not depend on any tensor's content, for which the program would wait on a GPU.
    """
    for row, kind in enumerate(prompts.kinds):
        if kind == "points":
            yield prompts.points[row], prompts.point_labels()[row] > 0
        elif kind in ("box", "grid"):
            centre = prompts.boxes[row].view(2, 2).mean(0, keepdim=True)
            yield centre, torch.ones(1, dtype=torch.bool, device=centre.device)
        else:
            yield _centre_of_mass(prompts.masks[row, 0] > 0, size)


def _centre_of_mass(inside: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean x and y of a mask's cells ``(1, 2)``, in pixels of ``size``, and whether there is any cell."""
    side = inside.shape[-1]
    numbers = torch.arange(side, device=inside.device)
    sums = torch.stack([(inside.sum(dim) * numbers).sum() for dim in (0, 1)]).float()  # of whole numbers: not rounded
    cells = inside.sum()
    return ((sums / cells.clamp(min=1)) + 0.5)[None] * (size / side), (cells > 0)[None]
