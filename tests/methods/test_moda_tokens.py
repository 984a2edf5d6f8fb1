from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosam_bench.methods.moda_tokens import join_depth, join_tokens, token_widths
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam


def _random_sam(name: str) -> Sam:
    """A float64 SAM whose every weight matters: fresh ones have zero biases and zero relative positions."""
    sam = build_sam(name, checkpoint="random").double()
    generator = torch.Generator().manual_seed(1)
    for key, tensor in sam.image_encoder.state_dict().items():
        if "running_var" in key:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return sam


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def vit() -> Sam:
    return _random_sam("tiny")


@pytest.fixture(scope="module")
def tiny_vit() -> Sam:
    return _random_sam("mobile_sam")


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """One query ``(d,)`` of one head over ``(N, d)``."""
    return (keys @ query / len(query) ** 0.5 + bias).softmax(0) @ values


def _slow_vit(sam: Sam, image: Tensor, tokens: Tensor) -> Tensor:
    """The specification, block by block, head by head, query by query, for one image."""
    encoder = sam.image_encoder
    x = (encoder.patch_embed(image[None]) + encoder.pos_embed)[0].flatten(0, 1)
    t = tokens
    for block in encoder.blocks:
        qkv = block.attn.qkv(torch.cat([block.norm1(t), block.norm1(x)]))
        width = qkv.shape[1] // 3
        depth = width // block.attn.num_heads
        seen = torch.zeros(len(qkv), width, dtype=qkv.dtype)
        for first in range(0, width, depth):
            q, k, v = (qkv[:, part * width + first :][:, :depth] for part in range(3))
            seen[:, first : first + depth] = torch.stack([_attend(row, k, v) for row in q])
        seen = block.attn.proj(seen)
        t, x = t + seen[: len(t)], x + seen[len(t) :]
        t, x = t + block.mlp(block.norm2(t)), x + block.mlp(block.norm2(x))
    return t


def test_tokens_pass_a_vit_as_specified(vit: Sam) -> None:
    images, tokens = _draw(2, 3, 128, 128), _draw(3, token_widths(vit)[0], seed=1)
    fast = join_tokens(vit, vit.prefix(images, depth=join_depth(vit)).maps, tokens)
    slow = torch.stack([_slow_vit(vit, image, tokens) for image in images])
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def _on_constant_map(layer: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Each token's value in the middle of a wide map of that token."""
    maps = tokens[:, :, None, None].expand(-1, -1, 9, 9)
    middle = layer(maps)
    return middle[:, :, middle.shape[2] // 2, middle.shape[3] // 2]


def _attend_by_heads(own: Tensor, others: Tensor, bias: Tensor) -> Tensor:
    """What ``own`` sees of ``others``, rows of TinyViT's qkv: query, key and value head by head."""
    heads = len(bias)
    depth = len(own) // heads // 3
    seen = []
    for head in range(heads):
        query, key, value = (slice((3 * head + part) * depth, (3 * head + part + 1) * depth) for part in range(3))
        seen.append(_attend(own[query], others[:, key], others[:, value], bias[head]))
    return torch.cat(seen)


def _slow_block(block: torch.nn.Module, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """One TinyViT block, position by position; x is ``(h, w, C)``, t ``(n, C)``."""
    attention, side = block.attn, block.window_size
    height, width, _ = x.shape
    qkv_x = attention.qkv(attention.norm(x))
    qkv_t = attention.qkv(attention.norm(t))
    outside = attention.qkv(attention.norm(torch.zeros_like(t[0])))  # the padding of windows
    none = torch.zeros(attention.num_heads, len(t), dtype=x.dtype)
    seen_x, seen_t = torch.zeros_like(x), torch.zeros_like(t)
    for row in range(height):
        for column in range(width):
            places = [
                (y, z)
                for y in range(row // side * side, (row // side + 1) * side)
                for z in range(column // side * side, (column // side + 1) * side)
            ]
            keys = [qkv_x[y, z] if y < height and z < width else outside for y, z in places]
            offsets = [abs(y - row) * side + abs(z - column) for y, z in places]
            bias = torch.cat([attention.attention_biases[:, offsets], none], dim=1)
            seen_x[row, column] = _attend_by_heads(qkv_x[row, column], torch.stack([*keys, *qkv_t]), bias)
    everything = torch.cat([qkv_t, qkv_x.flatten(0, 1)])
    for number in range(len(t)):
        seen_t[number] = _attend_by_heads(qkv_t[number], everything, torch.zeros(attention.num_heads, 1))
    x, t = x + attention.proj(seen_x), t + attention.proj(seen_t)
    x = block.local_conv(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    t = _on_constant_map(block.local_conv, t)
    return x + block.mlp(x), t + block.mlp(t)


def test_tokens_pass_tiny_vit_as_documented(tiny_vit: Sam) -> None:
    # Maps of 8 x 9: one window of 14 x 14 and two by two of 7 x 7, all of them padded.
    maps, tokens = _draw(1, 8, 9, 160), _draw(2, 160, seed=1)
    x, t = maps[0], tokens
    for number in (2, 3):
        stage = tiny_vit.image_encoder.stages[number]
        if number == 3:
            x = stage.downsample(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            t = _on_constant_map(stage.downsample, t)
        for block in stage.blocks:
            x, t = _slow_block(block, x, t)
    torch.testing.assert_close(join_tokens(tiny_vit, maps, tokens)[0], t, rtol=0, atol=1e-9)


def test_tiny_vit_goes_on_from_the_image_map_to_its_own_embedding(tiny_vit: Sam) -> None:
    images, encoder = _draw(1, 3, 64, 96), tiny_vit.image_encoder
    later = encoder.stages[2].blocks(tiny_vit.prefix(images, depth=join_depth(tiny_vit)).maps).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder.neck(encoder.stages[3](later)), encoder(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "size"), [("vit", 128), ("tiny_vit", 64)])
def test_gradients_reach_the_tokens_and_nothing_else(name: str, size: int, request: pytest.FixtureRequest) -> None:
    sam: Sam = request.getfixturevalue(name)
    joining, read = token_widths(sam)
    images, tokens = _draw(2, 3, size, size), _draw(10, joining).requires_grad_()
    with torch.no_grad():
        maps = sam.prefix(images, depth=join_depth(sam)).maps
    passes = sam.encoder_passes
    found = join_tokens(sam, maps, tokens)
    assert found.shape == (2, 10, read)
    assert sam.encoder_passes == passes + 2
    found[:, 0].square().sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert (tokens.grad.abs().amax(dim=1) > 0).all()  # the assistants too
    assert all(parameter.grad is None for parameter in sam.parameters())


@pytest.mark.parametrize(("name", "size"), [("vit", 128), ("tiny_vit", 64)])
def test_an_image_does_not_see_its_batch_and_the_assistants_have_no_order(
    name: str, size: int, request: pytest.FixtureRequest
) -> None:
    sam: Sam = request.getfixturevalue(name)
    maps = sam.prefix(_draw(2, 3, size, size), depth=join_depth(sam)).maps
    tokens = _draw(4, token_widths(sam)[0])
    together = join_tokens(sam, maps, tokens)
    torch.testing.assert_close(join_tokens(sam, maps[1:], tokens)[0], together[1], rtol=0, atol=1e-10)
    swapped = join_tokens(sam, maps, tokens[[0, 3, 1, 2]])
    torch.testing.assert_close(swapped[:, 0], together[:, 0], rtol=0, atol=1e-10)
    assert (together[0, 0] - together[1, 0]).abs().max() > 1e-6  # and they look at the image


def test_another_encoder_is_refused() -> None:
    sam = build_sam("tiny", checkpoint="random")
    sam.image_encoder = torch.nn.Identity()
    with pytest.raises(TypeError, match="Tokens cannot pass through a Identity"):
        token_widths(sam)
