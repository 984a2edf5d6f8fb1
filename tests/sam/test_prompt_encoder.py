"""Points embedded without boolean indexing, against segment-anything's own prompt encoder."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from cosam_bench.sam.build import build_sam
from cosam_bench.sam.prompt_encoder import StaticPromptEncoder, use_static_points


def stock() -> PromptEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PromptEncoder(
            embed_dim=64, image_embedding_size=(16, 16), input_image_size=(128, 128), mask_in_chans=8
        ).requires_grad_(True)


def ours() -> PromptEncoder:
    encoder = stock()
    use_static_points(encoder)
    assert isinstance(encoder, StaticPromptEncoder)
    return encoder


def points_of(batch: int, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, count, 2, generator=generator) * 160 - 16  # some outside the image
    return points, torch.randint(-1, 3, (batch, count), generator=generator).float()  # 2 means nothing


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), count=st.integers(1, 5), seed=st.integers(0, 1000), has_box=st.booleans())
def test_all_labels_are_embedded_with_the_same_bits(batch: int, count: int, seed: int, has_box: bool) -> None:
    points, boxes = points_of(batch, count, seed=seed), points_of(batch, 2, seed=seed)[0].flatten(1)
    given_boxes = boxes if has_box else None
    with torch.no_grad():
        expected = stock()(points=points, boxes=given_boxes, masks=None)
        found = ours()(points=points, boxes=given_boxes, masks=None)
    assert found[0].shape == (batch, count + (2 if has_box else 1), 64)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_gradients_are_those_of_segment_anything() -> None:
    points, labels = points_of(2, 6, seed=5)
    assert set(labels.flatten().tolist()) == {-1.0, 0.0, 1.0, 2.0}
    shares = torch.rand(2, 7, 64, generator=torch.Generator().manual_seed(1))
    found = []
    for encoder in (stock(), ours()):
        (encoder(points=(points, labels), boxes=None, masks=None)[0] * shares).sum().backward()
        weights = [*(part.weight for part in encoder.point_embeddings), encoder.not_a_point_embed.weight]
        found.append([weight.grad for weight in weights if weight.grad is not None])
    assert len(found[0]) == len(found[1]) == 3  # background, foreground and padding; no corner of a box
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["tiny", "mobile_sam"])
def test_every_model_embeds_points_so_and_keeps_its_weights_names(name: str) -> None:
    sam = build_sam(name, checkpoint="random")
    assert type(sam.prompt_encoder) is StaticPromptEncoder
    assert "prompt_encoder.point_embeddings.0.weight" in sam.state_dict()
