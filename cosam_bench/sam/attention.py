"""SAM's attention without the matrix of all scores: the same numbers, with memory linear in the tokens.

segment-anything forms the scores of every head at once, 805 MB for one image in a global block of ViT-B, adds the
relative positions to a copy, and takes the softmax into another. Here a chunk of rows that fits into a processor's
cache goes through all of that before the next one begins; the backward pass computes each chunk again.

On CUDA the decomposed relative positions become further columns of queries and keys,

    q_i . k_j + h_i[y_j] + w_i[x_j] = [q_i, h_i, w_i] . [k_j, onehot(y_j), onehot(x_j)],

so that torch's fused attention applies. Its backward pass adds in any order, so where equal work must give equal
bits, chunks serve there, too. The gradients of a window take all of its scores at once, on CUDA without asking the CPU
for positions. The numbers of these paths are tested on the CPU.

MobileSAM's windows use torch's fused attention, except for gradients in bfloat16.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional

_CHUNK = 2**20  # scores at a time: 4 MB in float32; half as many in the backward pass, which holds two such pieces
_WINDOW = 256  # largest map, in tokens, that counts as a window: SAM's have 14 x 14


class LeanAttention(Attention):  # type: ignore[misc]  # segment-anything ships without types
    """segment-anything's ``Attention`` by chunks of rows; parameters and outputs are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to the same shape."""
        batch, height, width, _ = x.shape
        keeps_scores = height * width <= _WINDOW and torch.is_grad_enabled()  # a window's are few: not recomputed
        if keeps_scores and not x.is_cuda:
            return super().forward(x)  # type: ignore[no-any-return]
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.reshape(3, batch * self.num_heads, height * width, -1).unbind(0)
        rows, columns = self._positions(query, height, width)
        if keeps_scores:
            answers = _plain(query, key, value, rows, columns, scale=self.scale)
        elif x.is_cuda and not torch.are_deterministic_algorithms_enabled():
            answers = _fused(query, key, value, rows, columns, scale=self.scale, heads=self.num_heads)
        else:
            answers = _chunked(query, key, value, rows, columns, scale=self.scale)
        answers = answers.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        projected: Tensor = self.proj(answers.reshape(batch, height, width, -1))
        return projected

    def _positions(self, query: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Each query's bias for each row ``(n, N, H)`` and column ``(n, N, W)`` of the map."""
        if not self.use_rel_pos:
            zeros = query.new_zeros(*query.shape[:2], 1)
            return zeros.expand(-1, -1, height), zeros.expand(-1, -1, width)
        place = query.view(-1, height, width, query.shape[-1])
        rows = torch.einsum("bhwc,hkc->bhwk", place, _relative(height, self.rel_pos_h))
        columns = torch.einsum("bhwc,wkc->bhwk", place, _relative(width, self.rel_pos_w))
        return rows.flatten(1, 2), columns.flatten(1, 2)


def _relative(size: int, table: Tensor) -> Tensor:
    """The table's entry for each query and key along a side of ``size`` positions: ``(size, size, d)``."""
    if len(table) == 2 * size - 1:
        return table[_offsets(size, table.device)]
    chunked: Tensor = get_rel_pos(size, size, table)
    return chunked


@cache
def _offsets(size: int, device: torch.device) -> Tensor:
    """The entry of each pair of positions, on the device: segment-anything copies it from the CPU each time."""
    with torch.inference_mode(False):
        place = torch.arange(size, device=device)
        return place[:, None] - place[None, :] + size - 1


def use_lean_attention(encoder: nn.Module) -> None:
    """Let every block of a ViT attend by ``LeanAttention``, and those of a TinyViT by ``LeanTinyViTAttention``."""
    kinds: dict[type, Any] = {Attention: LeanAttention}
    if not isinstance(encoder, ImageEncoderViT):
        from cosam_bench.sam.mobile_sam import LeanTinyViTAttention, TinyViTAttention  # timm, which takes a second

        kinds[TinyViTAttention] = LeanTinyViTAttention
    for module in encoder.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]  # its parameters, hooks and settings are kept


def _plain(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float) -> Tensor:
    """As ``_chunked``, with all scores at once, as segment-anything forms them."""
    scores = torch.bmm(query * scale, key.mT).view(*query.shape[:2], rows.shape[-1], columns.shape[-1])
    scores = (scores + rows[..., :, None] + columns[..., None, :]).flatten(2)
    return torch.bmm(scores.softmax(dim=-1).to(value.dtype), value)


def _chunked(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float) -> Tensor:
    """``softmax(scale q k^T + rows + columns) v``, float ``(n, N, d)``, by chunks of query rows.

    Args:
        query: float, ``(n, N, d)``; so are ``key`` and ``value``; n counts heads and images.
        rows: float, ``(n, N, H)``, with H times W the N keys.
        columns: float, ``(n, N, W)``.
    """
    answers: Tensor = _Chunked.apply(query, key, value, rows, columns, scale)
    return answers


class _Chunked(torch.autograd.Function):
    """The chunks and their derivative; scores that autograd would keep are computed again."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Answers ``(n, N, d)`` in the dtype of the values."""
        query, key, value, rows, columns, scale = given
        answers, transposed_key = torch.empty_like(value), _transposed(key)
        for heads, chunk in _chunks(query, scores=_CHUNK):
            weights = _weights(query, transposed_key, rows, columns, scale, heads, chunk)
            answers[heads, chunk] = torch.bmm(weights.to(value.dtype), value[heads])
        ctx.save_for_backward(query, key, value, rows, columns, answers)
        ctx.scale = scale
        return answers

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients of all five tensors."""
        (wanted,) = gradients
        query, key, value, rows, columns, answers = ctx.saved_tensors
        fine = torch.promote_types(query.dtype, torch.float32)
        by_query, by_rows, by_columns = (torch.empty_like(part, dtype=fine) for part in (query, rows, columns))
        by_key, by_value = (part.new_zeros(part.mT.shape, dtype=fine) for part in (key, value))  # sums, transposed
        wanted, transposed_key, transposed_value = wanted.to(value.dtype), _transposed(key), _transposed(value)
        # softmax's derivative subtracts sum_j p_j dL/dp_j from each row: the product of the output with its gradient.
        mean = (wanted.to(fine) * answers.to(fine)).sum(-1, keepdim=True)
        for heads, chunk in _chunks(query, scores=_CHUNK // 2):
            weights = _weights(query, transposed_key, rows, columns, ctx.scale, heads, chunk)
            outer = wanted[heads, chunk]
            _add_product(by_value[heads], outer.mT, weights.to(value.dtype))
            by_scores = torch.bmm(outer, transposed_value[heads]).to(weights.dtype)
            by_scores.sub_(mean[heads, chunk]).mul_(weights)
            grid = by_scores.view(*by_scores.shape[:2], rows.shape[-1], columns.shape[-1])
            by_rows[heads, chunk], by_columns[heads, chunk] = grid.sum(3), grid.sum(2)
            by_scores = by_scores.to(query.dtype)
            by_query[heads, chunk] = torch.bmm(by_scores, key[heads])
            _add_product(by_key[heads], query[heads, chunk].mT, by_scores)
        found = (by_query * ctx.scale, by_key.mT * ctx.scale, by_value.mT, by_rows, by_columns)
        parts = (query, key, value, rows, columns)
        return (*(gradient.to(part.dtype) for gradient, part in zip(found, parts, strict=True)), None)


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """``total += one @ other``, in one pass if the dtypes agree; ``(n, d, N)`` is faster than its transpose."""
    if one.dtype == total.dtype:
        total.baddbmm_(one, other)
    else:
        total += torch.bmm(one, other)


def _chunks(query: Tensor, *, scores: int) -> list[tuple[slice, slice]]:
    """Heads and rows that are processed together: several heads of a window, or some of one head's rows."""
    heads, tokens, _ = query.shape
    together = max(1, scores // (tokens * tokens))
    length = max(1, min(tokens, scores // tokens))
    return [
        (slice(first, first + together), slice(row, row + length))
        for first in range(0, heads, together)
        for row in range(0, tokens, length)
    ]


def _transposed(tensor: Tensor) -> Tensor:
    """``(n, N, d)`` as ``(n, d, N)``, contiguous: products in bf16 would copy a view for every chunk."""
    return tensor.mT.contiguous()


def _weights(
    query: Tensor, transposed_key: Tensor, rows: Tensor, columns: Tensor, scale: float, heads: slice, chunk: slice
) -> Tensor:
    """The attention weights of a chunk's queries, ``(h, r, N)``; at least float32."""
    scores = torch.bmm(query[heads, chunk] * scale, transposed_key[heads])
    grid = scores.view(*scores.shape[:2], rows.shape[-1], columns.shape[-1])
    grid += rows[heads, chunk, :, None]
    grid += columns[heads, chunk, None, :]
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _fused(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float, heads: int
) -> Tensor:
    """As ``_chunked``, by torch's fused attention on longer queries and keys.

    Args:
        heads: per image; n is a multiple of it.
    """
    height, width, depth = rows.shape[-1], columns.shape[-1], query.shape[-1]
    at_row = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, dim=0)
    at_column = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    places = torch.cat([at_row, at_column], dim=1).expand(len(key), -1, -1)
    whole = -(-(depth + height + width) // 8) * 8  # the widths that fused kernels require

    def padded(*parts: Tensor) -> Tensor:
        joined = torch.cat([part.to(value.dtype) for part in parts], dim=-1)
        wide = functional.pad(joined, (0, whole - joined.shape[-1]))
        return wide.view(-1, heads, *wide.shape[1:])

    mixed = functional.scaled_dot_product_attention(
        padded(query * scale, rows, columns), padded(key, places), padded(value), scale=1.0
    )
    answers: Tensor = mixed[..., :depth].flatten(0, 1)
    return answers
