"""SAM's attention without the matrix of all scores: the same numbers, memory linear in the tokens.

segment-anything forms the scores of every head at once, 805 MB for one image in a global block of ViT-B, adds the
relative positions to a copy, and takes the softmax into another. Here a stretch of rows that fits into a processor's
cache goes through all of that before the next one is begun; the backward pass forms each stretch anew.

On CUDA the decomposed relative positions become further columns of queries and keys,

    q_i . k_j + h_i[y_j] + w_i[x_j] = [q_i, h_i, w_i] . [k_j, onehot(y_j), onehot(x_j)],

so that torch's fused attention takes them in. That path is tested for its numbers on the CPU.

MobileSAM's windows are attended to by torch's fused attention, but for gradients in bfloat16.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional

from cosam_bench.sam.mobile_sam import LeanTinyViTAttention, TinyViTAttention

_STRETCH = 2**20  # scores at a time: 4 MB in float32; half as many in the backward pass, which holds two such pieces
_WINDOW = 256  # tokens of a map that counts as a window: SAM's have 14 x 14


class LeanAttention(Attention):  # type: ignore[misc]  # segment-anything ships without types
    """segment-anything's ``Attention`` by stretches of rows; parameters and answers are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` to the same shape."""
        batch, height, width, _ = x.shape
        if height * width <= _WINDOW and torch.is_grad_enabled():
            return super().forward(x)  # type: ignore[no-any-return]  # a window's scores are few: kept, not formed anew
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.reshape(3, batch * self.num_heads, height * width, -1).unbind(0)
        rows, columns = self._positions(query, height, width)
        if x.is_cuda:
            answers = _fused(query, key, value, rows, columns, scale=self.scale, heads=self.num_heads)
        else:
            answers = _streamed(query, key, value, rows, columns, scale=self.scale)
        answers = answers.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        projected: Tensor = self.proj(answers.reshape(batch, height, width, -1))
        return projected

    def _positions(self, query: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What each query makes of each row ``(n, N, H)`` and column ``(n, N, W)`` of the map."""
        if not self.use_rel_pos:
            zeros = query.new_zeros(*query.shape[:2], 1)
            return zeros.expand(-1, -1, height), zeros.expand(-1, -1, width)
        place = query.view(-1, height, width, query.shape[-1])
        rows = torch.einsum("bhwc,hkc->bhwk", place, _relative(height, self.rel_pos_h))
        columns = torch.einsum("bhwc,wkc->bhwk", place, _relative(width, self.rel_pos_w))
        return rows.flatten(1, 2), columns.flatten(1, 2)


def _relative(size: int, table: Tensor) -> Tensor:
    """The table's entry for each query and key of a line of ``size`` places: ``(size, size, d)``."""
    if len(table) == 2 * size - 1:
        return table[_offsets(size, table.device)]
    stretched: Tensor = get_rel_pos(size, size, table)
    return stretched


@cache
def _offsets(size: int, device: torch.device) -> Tensor:
    """Which entry each pair of places has, on the device: segment-anything's is made on the CPU and waited for."""
    with torch.inference_mode(False):
        place = torch.arange(size, device=device)
        return place[:, None] - place[None, :] + size - 1


def use_lean_attention(encoder: nn.Module) -> None:
    """Let every block of a ViT attend by ``LeanAttention``, and those of a TinyViT by ``LeanTinyViTAttention``."""
    kinds: dict[type, Any] = {Attention: LeanAttention, TinyViTAttention: LeanTinyViTAttention}
    for module in encoder.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]  # its parameters, hooks and settings are kept


def _streamed(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float) -> Tensor:
    """``softmax(scale q k^T + rows + columns) v``, float ``(n, N, d)``, by stretches of query rows.

    Args:
        query: float, ``(n, N, d)``; so are ``key`` and ``value``; n counts heads and images.
        rows: float, ``(n, N, H)``, with H times W the N keys.
        columns: float, ``(n, N, W)``.
    """
    answers: Tensor = _Streamed.apply(query, key, value, rows, columns, scale)
    return answers


class _Streamed(torch.autograd.Function):
    """The stretches, and their derivative; what autograd would keep of the scores is formed anew."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Answers ``(n, N, d)`` in the dtype of the values."""
        query, key, value, rows, columns, scale = given
        answers, turned_key = torch.empty_like(value), _turned(key)
        for heads, stretch in _stretches(query, scores=_STRETCH):
            shares = _shares(query, turned_key, rows, columns, scale, heads, stretch)
            answers[heads, stretch] = torch.bmm(shares.to(value.dtype), value[heads])
        ctx.save_for_backward(query, key, value, rows, columns, answers)
        ctx.scale = scale
        return answers

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """Of all five tensors."""
        (wanted,) = gradients
        query, key, value, rows, columns, answers = ctx.saved_tensors
        fine = torch.promote_types(query.dtype, torch.float32)
        by_query, by_rows, by_columns = (torch.empty_like(part, dtype=fine) for part in (query, rows, columns))
        by_key, by_value = (part.new_zeros(part.mT.shape, dtype=fine) for part in (key, value))  # sums, transposed
        wanted, turned_key, turned_value = wanted.to(value.dtype), _turned(key), _turned(value)
        # What softmax's derivative takes off each row of scores, sum_j p_j dL/dp_j, is the answer's own product.
        mean = (wanted.to(fine) * answers.to(fine)).sum(-1, keepdim=True)
        for heads, stretch in _stretches(query, scores=_STRETCH // 2):
            shares = _shares(query, turned_key, rows, columns, ctx.scale, heads, stretch)
            outer = wanted[heads, stretch]
            _add_product(by_value[heads], outer.mT, shares.to(value.dtype))
            by_scores = torch.bmm(outer, turned_value[heads]).to(shares.dtype)
            by_scores.sub_(mean[heads, stretch]).mul_(shares)
            grid = by_scores.view(*by_scores.shape[:2], rows.shape[-1], columns.shape[-1])
            by_rows[heads, stretch], by_columns[heads, stretch] = grid.sum(3), grid.sum(2)
            by_scores = by_scores.to(query.dtype)
            by_query[heads, stretch] = torch.bmm(by_scores, key[heads])
            _add_product(by_key[heads], query[heads, stretch].mT, by_scores)
        found = (by_query * ctx.scale, by_key.mT * ctx.scale, by_value.mT, by_rows, by_columns)
        parts = (query, key, value, rows, columns)
        return (*(gradient.to(part.dtype) for gradient, part in zip(found, parts, strict=True)), None)


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """``total += one @ other``, in one pass where the dtypes agree; ``(n, d, N)`` is faster so than its transpose."""
    if one.dtype == total.dtype:
        total.baddbmm_(one, other)
    else:
        total += torch.bmm(one, other)


def _stretches(query: Tensor, *, scores: int) -> list[tuple[slice, slice]]:
    """Heads and rows that go together: several heads of a window, or a part of one head's rows."""
    heads, tokens, _ = query.shape
    together = max(1, scores // (tokens * tokens))
    length = max(1, min(tokens, scores // tokens))
    return [
        (slice(first, first + together), slice(row, row + length))
        for first in range(0, heads, together)
        for row in range(0, tokens, length)
    ]


def _turned(tensor: Tensor) -> Tensor:
    """``(n, N, d)`` as ``(n, d, N)``, laid out so: of a view, a product in bf16 makes a copy for every stretch."""
    return tensor.mT.contiguous()


def _shares(
    query: Tensor, turned_key: Tensor, rows: Tensor, columns: Tensor, scale: float, heads: slice, stretch: slice
) -> Tensor:
    """How much of each key each query of a stretch takes, ``(h, r, N)``; float32 at least."""
    scores = torch.bmm(query[heads, stretch] * scale, turned_key[heads])
    grid = scores.view(*scores.shape[:2], rows.shape[-1], columns.shape[-1])
    grid += rows[heads, stretch, :, None]
    grid += columns[heads, stretch, None, :]
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _fused(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, *, scale: float, heads: int
) -> Tensor:
    """As ``_streamed``, by torch's fused attention on longer queries and keys.

    Args:
        heads: of an image; n is a multiple of it.
    """
    height, width, depth = rows.shape[-1], columns.shape[-1], query.shape[-1]
    at_row = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, dim=0)
    at_column = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    places = torch.cat([at_row, at_column], dim=1).expand(len(key), -1, -1)
    whole = -(-(depth + height + width) // 8) * 8  # what fused kernels ask of a width

    def laid_out(*parts: Tensor) -> Tensor:
        joined = torch.cat([part.to(value.dtype) for part in parts], dim=-1)
        padded = functional.pad(joined, (0, whole - joined.shape[-1]))
        return padded.view(-1, heads, *padded.shape[1:])

    mixed = functional.scaled_dot_product_attention(
        laid_out(query * scale, rows, columns), laid_out(key, places), laid_out(value), scale=1.0
    )
    answers: Tensor = mixed[..., :depth].flatten(0, 1)
    return answers
