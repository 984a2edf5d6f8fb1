"""From images to a batch, and what a batch still knows of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.sam.frames import Frame, normalise, prepare_image
from cosam_bench.sam.inputs import Batch, ModelInput, View, collate, collate_inputs

VIEW = View(48, 12, "pad", torch.device("cpu"))


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=2, seed=0)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def batch_of(squares: Split, prompts: Prompts) -> Batch:
    return collate(list(squares), prompts, kinds=["box"] * 6, view=VIEW, domains=tuple("abcdef"))[0]


def known_digests(batch: Batch) -> tuple[str, ...] | None:
    assert batch.inputs is not None
    return batch.inputs.digests_of(batch.images)


def test_an_image_in_two_steps_is_the_image_in_one() -> None:
    images = [image(30, 50), image(50, 20, seed=1)]
    prepared = [prepare_image(one, size=48, resize="pad") for one in images]
    frames = tuple(frame for _, frame in prepared)
    wanted = normalise(torch.stack([pixels for pixels, _ in prepared]), frames)
    placed, found = VIEW.frame(images)
    assert torch.equal(placed, wanted)
    assert torch.equal(VIEW.stack([VIEW.preprocess(one) for one in images]), wanted)
    assert found == frames


def test_a_batch_of_ready_inputs_is_that_of_its_samples(squares: Split, prompts: Prompts) -> None:
    samples = list(squares)
    plain, frames = collate(samples, prompts, kinds=["mask"] * 6, view=VIEW, domains=tuple("abcdef"))
    inputs = [VIEW.preprocess(sample.image) for sample in samples]
    ready, same = collate_inputs(inputs, prompts, kinds=["mask"] * 6, view=VIEW, domains=tuple("abcdef"))
    assert torch.equal(plain.images, ready.images)
    assert torch.equal(plain.prompts.masks, ready.prompts.masks)
    assert torch.equal(plain.prompts.boxes, ready.prompts.boxes)
    assert (plain.domains, plain.prompts.kinds, frames) == (ready.domains, ready.prompts.kinds, same)


def test_a_digest_stands_for_the_pixels_and_where_the_padding_begins() -> None:
    own = VIEW.preprocess(image(30, 50))
    assert own.digest == VIEW.preprocess(image(30, 50)).digest
    changed = own.pixels.clone()
    changed[2, 5, 7] ^= 1
    others = [
        ModelInput(changed, own.frame),
        ModelInput(own.pixels, replace(own.frame, content=(28, 48))),
        ModelInput(own.pixels.reshape(3, 24, 96), own.frame),
    ]
    assert len({own.digest, *(one.digest for one in others)}) == 4
    # The original size decides nothing that the model sees.
    assert ModelInput(own.pixels, Frame((300, 500), own.frame.content, 48)).digest == own.digest


def test_a_digest_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = VIEW.preprocess(image(30, 50))
    first = own.digest
    monkeypatch.delattr("hashlib.sha256")
    assert own.digest == first


def test_a_batch_knows_its_inputs_until_its_images_are_others(squares: Split, prompts: Prompts) -> None:
    batch = batch_of(squares, prompts)
    wanted = tuple(VIEW.preprocess(sample.image).digest for sample in squares)
    assert len(set(wanted)) == 6
    assert known_digests(batch) == wanted
    turned = collate(list(squares)[::-1], prompts, kinds=["box"] * 6, view=VIEW)[0]
    assert known_digests(replace(batch, images=turned.images)) is None
    batch.images[3, 0, 2, 2] += 1
    assert known_digests(batch) is None
    assert batch.select([3]).inputs is None


@pytest.mark.parametrize("inference", [False, True])
def test_a_selection_knows_its_own_inputs(squares: Split, prompts: Prompts, inference: bool) -> None:
    with torch.inference_mode(inference):
        batch = batch_of(squares, prompts)
        chosen = batch.select([4, 1, 4])
        wanted = tuple(VIEW.preprocess(squares[row].image).digest for row in (4, 1, 4))
        assert known_digests(chosen) == wanted
        assert torch.equal(chosen.images, batch.images[[4, 1, 4]])
        assert chosen.domains == ("e", "b", "e")
        again = chosen.select([1])
        assert known_digests(again) == wanted[1:2]
        chosen.images.mul_(2)  # as predict may, which runs in inference mode
        assert known_digests(chosen) is None
        assert known_digests(again) is not None


def test_a_selection_of_images_with_a_gradient_keeps_it(squares: Split, prompts: Prompts) -> None:
    batch = batch_of(squares, prompts)
    batch.images.requires_grad_()
    assert batch.select([0, 1]).images.requires_grad


def test_a_batch_of_other_images_knows_nothing(prompts: Prompts) -> None:
    assert Batch(torch.zeros(1, 3, 8, 8), None).inputs is None  # type: ignore[arg-type]
