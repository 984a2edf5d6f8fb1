from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.method.interface import State
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.moda import MoDA, MoDASettings
from cosam_bench.sam.inputs import Batch, collate

SIDE = 64
IMAGES = 6


def _split(name: str, *, level: int) -> Split:
    """Noise around one grey level, and a square in it."""
    generator = torch.Generator().manual_seed(level)
    noise = torch.randint(-20, 21, (IMAGES, 3, SIDE, SIDE), generator=generator)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[20:40, 24:44] = True
    images = (level + noise).to(torch.uint8)
    digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
    manifest = Manifest(tuple(Entry(str(index), digest, digest) for index, digest in enumerate(digests)))
    return Split(name, part="train", manifest=manifest, source=Pixels(tuple(images), (mask,) * IMAGES))


SPLITS = {name: _split(name, level=level) for name, level in (("dark", 40), ("bright", 210), ("grey", 120))}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(batch_size=4)


def _learn(method: MoDA, *names: str) -> MoDA:
    for name in names:
        domain = trial_domain(SPLITS[name])
        method.learn(domain, step=len(method.experts) + 1)
        domain.close()
    return method


def _moda(bench: Workbench, **settings: object) -> MoDA:
    return MoDA(MoDASettings.model_validate({"memory": 2} | settings), bench)


def _batch(bench: Workbench, name: str, rows: list[int]) -> Batch:
    split = SPLITS[name]
    prompts = draw_prompts(split, points=3, seed=0).take(rows)
    return collate([split[row] for row in rows], prompts, kinds=["box"] * len(rows), view=bench.view)[0]


@pytest.fixture(scope="module")
def taught(bench: Workbench) -> MoDA:
    return _learn(_moda(bench, router_learning_rate=1e-2), "dark", "bright")


def test_images_the_router_never_saw_reach_their_own_domains_adapter(bench: Workbench, taught: MoDA) -> None:
    for number, name in enumerate(("dark", "bright")):
        unseen = _batch(bench, name, [2, 3, 4, 5])
        assert taught.route(unseen.images) == [number] * 4
        expected = bench.predict(taught.experts[number], unseen)
        torch.testing.assert_close(taught.predict(unseen), expected, rtol=0, atol=0)


def test_a_mixed_batch_is_served_row_by_row(bench: Workbench, taught: MoDA) -> None:
    dark, bright = (_batch(bench, name, [4, 5]) for name in ("dark", "bright"))
    prompts = type(dark.prompts)(
        dark.prompts.kinds + bright.prompts.kinds,
        *(torch.cat([getattr(part.prompts, name) for part in (dark, bright)]) for name in ("boxes", "points", "masks")),
    )
    rows = [2, 0, 3, 1]
    mixed = Batch(torch.cat([dark.images, bright.images]), prompts).select(rows)
    assert taught.route(mixed.images) == [1, 0, 1, 0]
    apart = torch.cat([taught.predict(dark), taught.predict(bright)])
    torch.testing.assert_close(taught.predict(mixed), apart[rows], rtol=0, atol=1e-5)


def test_routing_takes_a_second_encoder_pass_once_there_is_a_choice(bench: Workbench, taught: MoDA) -> None:
    batch = _batch(bench, "dark", [0, 1, 2])
    for method, passes in ((_learn(_moda(bench), "dark"), 1), (taught, 2)):
        before = bench.sam.encoder_passes
        method.predict(batch)
        assert bench.sam.encoder_passes - before == passes * len(batch)


def test_tokens_are_trained_unless_they_are_frozen(bench: Workbench) -> None:
    drawn = _moda(bench).tokens
    assert drawn.shape[0] == 10
    trained = _learn(_moda(bench, router_epochs=1), "dark", "bright")
    frozen = _learn(_moda(bench, router_epochs=1, train_tokens=False), "dark", "bright")
    assert ((trained.tokens - drawn).abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(frozen.tokens, drawn, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in bench.sam.parameters())


def test_tokens_may_be_drawn_again_for_each_domain(bench: Workbench) -> None:
    method = _learn(_moda(bench, router_epochs=1, train_tokens=False, redraw_tokens=True), "dark", "bright")
    drawn = torch.randn(method.tokens.shape, generator=bench.generator("moda", "tokens", 2))
    assert torch.equal(method.tokens, drawn)
    assert not torch.equal(drawn, _moda(bench).tokens)


def test_frozen_tokens_give_the_keys_that_a_classifier_of_their_queries_gets(bench: Workbench) -> None:
    """The queries that are computed once are those of a pass with gradients off in every step."""
    method = _learn(_moda(bench, router_epochs=3, router_batch=2, train_tokens=False), "dark", "bright")
    generator = bench.generator("moda", "router", 2)
    images = [SPLITS[name][index].image for name in ("dark", "bright") for index in range(2)]
    labels = torch.tensor([0, 0, 1, 1])
    layer = torch.nn.Linear(method.tokens.shape[1], 2)
    drawn = (torch.rand(2, layer.in_features + 1, generator=generator) * 2 - 1) / layer.in_features**0.5
    layer.load_state_dict({"weight": drawn[:, :-1], "bias": drawn[:, -1]})
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for _ in range(3):
        for rows in torch.randperm(4, generator=generator).split(2):
            with torch.no_grad():
                maps = method._encode_before_tokens(bench.view.frame([images[row] for row in rows.tolist()])[0])
                queries = method._query(maps, method.tokens)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(queries), labels[rows]).backward()
            optimiser.step()
    assert method.keys is not None
    torch.testing.assert_close(method.keys[:, :-1], layer.weight.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(method.keys[:, -1], layer.bias.detach(), rtol=0, atol=1e-5)


def test_the_state_grows_by_an_adapter_and_the_memory_and_brings_the_method_back(
    bench: Workbench, taught: MoDA, tmp_path: Path
) -> None:
    first = _learn(_moda(bench), "dark").state()
    assert first.values == {"memory": [2]}
    second = taught.state()
    new = second.tensors.keys() - first.tensors.keys()
    kept = [second.tensors[name] for name in sorted(new) if name.startswith("memory/1/")]
    assert torch.equal(torch.stack(kept), torch.stack([sample.image for sample in SPLITS["bright"][:2]]))
    assert {name.split("/")[0] for name in new} == {"expert", "memory", "keys"}

    second.save(tmp_path / "state.safetensors")
    again = _moda(bench)
    again.load(State.read(tmp_path / "state.safetensors"))
    batch = _batch(bench, "bright", [3, 4])
    assert torch.equal(again.predict(batch), taught.predict(batch))


def test_a_run_that_goes_on_from_its_state_equals_one_that_was_never_stopped(bench: Workbench) -> None:
    whole = _learn(_moda(bench, router_epochs=2), "dark", "bright", "grey")
    stopped = _learn(_moda(bench, router_epochs=2), "dark", "bright")
    resumed = _moda(bench, router_epochs=2)
    resumed.load(stopped.state())
    _learn(resumed, "grey")
    one, other = whole.state(), resumed.state()
    assert one.values == other.values == {"memory": [2, 2, 2]}
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_a_domain_smaller_than_the_memory_is_kept_whole(bench: Workbench) -> None:
    method = _learn(_moda(bench, memory=50), "dark")
    assert len(method.memory[0]) == IMAGES
