"""What each stage costs by its shapes alone: floating-point operations, and bytes that must move.

Operations are those of matrix products and convolutions, two for each multiplication with its addition, as torch's
flop counter counts them; what is computed a second time to spare memory does not count. Bytes are those of a machine
that reads each product's operands once and writes its result once; attention's scores never reach memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from segment_anything.modeling import ImageEncoderViT

from cosam_bench.sam.sam import Sam

BOX_TOKENS = 2  # a box is two corners in SAM's prompt encoder


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of one stage; costs add up.

    Attributes:
        flops: floating-point operations.
        numbers: read and written, of the type that is computed in.
    """

    flops: float = 0.0
    numbers: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.numbers + other.numbers)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.numbers * times)

    def least_seconds(self, *, flops_a_second: float, bytes_a_second: float, itemsize: int) -> float:
        """What no way to do it can undercut: the products alone, or the traffic alone, whichever takes longer."""
        return max(self.flops / flops_a_second, self.numbers * itemsize / bytes_a_second)


def product(rows: float, inner: float, columns: float) -> Cost:
    """``(rows, inner)`` times ``(inner, columns)``.

    >>> product(2, 3, 5)
    Cost(flops=60, numbers=31)
    """
    return Cost(2 * rows * inner * columns, rows * inner + inner * columns + rows * columns)


def elementwise(numbers: float, *, operands: int = 1) -> Cost:
    """So many numbers written, each from ``operands`` that are read."""
    return Cost(0, numbers * (operands + 1))


def attention(queries: float, keys: float, width: float) -> Cost:
    """Of one head or of all together, ``width`` their total: scores and answers, without the projections."""
    return Cost(4 * queries * keys * width, 2 * (queries + keys) * width)


@dataclass(frozen=True)
class VitShape:
    """What decides the cost of a plain ViT of segment-anything.

    Attributes:
        patch: side of a patch in pixels.
        grid: side of the map in patches.
        width: channels C.
        heads: of attention.
        hidden: channels within an MLP.
        out: channels of the embedding.
        windows: by block, the side of its windows; 0 where it attends to the whole map.
        has_positions: whether relative positions take part in attention.
    """

    patch: int
    grid: int
    width: int
    heads: int
    hidden: int
    out: int
    windows: tuple[int, ...]
    has_positions: bool = True

    @classmethod
    def of(cls, encoder: ImageEncoderViT) -> VitShape:
        """The shape of an encoder."""
        blocks: list[Any] = list(encoder.blocks)
        patch: Any = encoder.patch_embed.proj
        neck: Any = encoder.neck[0]
        return cls(
            patch=patch.kernel_size[0],
            grid=encoder.img_size // patch.kernel_size[0],
            width=patch.out_channels,
            heads=blocks[0].attn.num_heads,
            hidden=blocks[0].mlp.lin1.out_features,
            out=neck.out_channels,
            windows=tuple(block.window_size for block in blocks),
            has_positions=blocks[0].attn.use_rel_pos,
        )

    @property
    def tokens(self) -> int:
        """Of the whole map."""
        return self.grid**2

    def layout(self, number: int) -> tuple[int, int]:
        """Block ``number``'s windows, and the side of each; padding on the right and below is part of them."""
        side = self.windows[number] or self.grid
        return math.ceil(self.grid / side) ** 2, side

    def embed(self) -> Cost:
        """Pixels to patches, and their positions."""
        return product(self.tokens, 3 * self.patch**2, self.width) + elementwise(self.tokens * self.width, operands=2)

    def attend(self, number: int) -> Cost:
        """Block ``number``'s attention between its projections."""
        count, side = self.layout(number)
        mixed = attention(side**2, side**2, self.width)
        if self.has_positions:  # each query times each row's and each column's position
            mixed += Cost(4 * side**3 * self.width, 4 * side**3 * self.heads)
        return mixed * count

    def block(self, number: int) -> Cost:
        """Block ``number`` as a whole."""
        count, side = self.layout(number)
        padded, width = count * side**2, self.width
        projections = product(padded, width, 3 * width) + product(padded, width, width)
        mlp = product(self.tokens, width, self.hidden) + product(self.tokens, self.hidden, width)
        others = elementwise(2 * self.tokens * width) + elementwise(self.tokens * self.hidden)
        others += elementwise(2 * self.tokens * width, operands=2)  # norms, GELU, then the two sums
        return projections + self.attend(number) + mlp + others

    def neck(self) -> Cost:
        """The two convolutions after the last block, each with its norm."""
        convolutions = product(self.tokens, self.width, self.out) + product(self.tokens, 9 * self.out, self.out)
        return convolutions + elementwise(2 * self.tokens * self.out)

    def prefix(self, depth: int) -> Cost:
        """The first ``depth`` blocks with all that lies before them."""
        return sum((self.block(number) for number in range(depth)), self.embed())

    def suffix(self, depth: int) -> Cost:
        """The blocks from ``depth`` on, and the neck."""
        return sum((self.block(number) for number in range(depth, len(self.windows))), self.neck())

    def encoder(self) -> Cost:
        """All of it, for one image."""
        return self.prefix(0) + self.suffix(0)


def decoder(sam: Sam, *, prompt_tokens: int = BOX_TOKENS) -> Cost:
    """The single mask of one image by SAM's decoder, as ``Sam.decode`` computes it, prompt included."""
    parts: Any = sam.mask_decoder
    width = parts.transformer_dim
    height, across = sam.prompt_encoder.image_embedding_size
    pixels, tokens = height * across, 1 + parts.num_mask_tokens + prompt_tokens
    total = product(pixels, 2, width // 2) + product(prompt_tokens, 2, width // 2)  # sines of positions
    for layer in parts.transformer.layers:
        total += _projected(layer.self_attn, tokens, tokens)
        total += _projected(layer.cross_attn_token_to_image, tokens, pixels)
        total += _projected(layer.cross_attn_image_to_token, pixels, tokens)
        total += product(tokens, width, layer.mlp.lin1.out_features) * 2
    total += _projected(parts.transformer.final_attn_token_to_image, tokens, pixels)
    first, second = parts.output_upscaling[0], parts.output_upscaling[3]
    total += product(pixels, width, 4 * first.out_channels)
    total += product(4 * pixels, first.out_channels, 4 * second.out_channels)
    total += product(1, second.out_channels, 16 * pixels)
    heads = (*parts.output_hypernetworks_mlps[0].layers, *parts.iou_prediction_head.layers)
    return sum((product(1, layer.in_features, layer.out_features) for layer in heads), total)


def _projected(layer: Any, queries: int, keys: int) -> Cost:
    """One of the decoder's attentions with its four projections."""
    width, inner = layer.embedding_dim, layer.internal_dim
    outer = product(queries, width, inner) * 2 + product(keys, width, inner) * 2
    return outer + attention(queries, keys, inner)


def training_step(shape: VitShape, sam: Sam, *, first: int, rank: int) -> Cost:
    """One image forward and backward with LoRA on qkv and proj from block ``first`` on, its prefix being kept.

    The backward pass repeats each product of a frozen layer once, for its input, and each of attention's twice.
    What comes before the first adapted layer asks for no gradient. Of the decoder all counts once more.
    """
    forward = shape.suffix(first) + decoder(sam)
    backward = forward
    for number in range(first, len(shape.windows)):
        count, side = shape.layout(number)
        tokens, width = count * side**2, shape.width
        qkv = product(tokens, width, rank) + product(tokens, rank, 3 * width)
        proj = product(tokens, width, rank) + product(tokens, rank, width)
        forward += qkv + proj
        backward += (qkv + proj) * 2 + attention(side**2, side**2, width) * count
        if number == first:  # nobody asks what the first layer's input would have to be
            backward += (product(tokens, width, 3 * width) + product(tokens, width, rank)) * -1
    return forward + backward


def average_merge(layers: list[tuple[int, int]], *, rank: int) -> Cost:
    """The next mean of dense changes: each expert's ``(outputs, inputs)`` multiplied out, and added to the mean."""
    products = (
        product(outputs, rank, inputs) + elementwise(outputs * inputs, operands=2) for outputs, inputs in layers
    )
    return sum(products, Cost())


def regression(outputs: int, inputs: int) -> Cost:
    """One layer's merge by Cholesky: the factor, and two triangular solves for each output."""
    flops = inputs**3 / 3 + 2 * inputs**2 * outputs
    return Cost(flops, 2 * inputs**2 + 2 * outputs * inputs)
