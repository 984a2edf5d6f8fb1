"""EWC and LwF: what they add to the loss, and what that does to a served adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cosam_bench.data.samples import Pixels, Split
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.method.interface import MergingMethod
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.methods.ewc import EWC, EWCSettings, QuadraticPenalty, consolidate, penalty
from cosam_bench.methods.finetune import Finetune
from cosam_bench.methods.lwf import LwF, LwFSettings, Teacher, bce_dice_distance, distillation
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.sam import Masks
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import bce_dice, point_sample, uncertain_points
from cosam_bench.training.training_batch import TrainingBatch

NOBODY = Masks(torch.zeros(1, 2, 2), torch.zeros(1))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return trial_workbench(
        adapter=AdapterSettings(rank=2, alpha=4.0, blocks=(3,), decoder=True),
        fit=FitSettings(epochs=4, batch_size=3, learning_rate=5e-3, schedule="constant"),
    )


@pytest.fixture(scope="module")
def domains(squares: Split) -> tuple[TrainingDomain, TrainingDomain]:
    """The squares, and the same with all but the square to be found: the second asks for the first's opposite."""
    samples = list(squares)
    source = Pixels(tuple(sample.image for sample in samples), tuple(~sample.mask for sample in samples))
    turned = Split("turned", part="train", manifest=squares.manifest, source=source)
    return trial_domain(squares), trial_domain(turned)


@pytest.fixture(scope="module")
def first(bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain]) -> Update:
    """The first domain's expert, where all sequential methods begin."""
    return bench.train(domains[0]).update


@pytest.fixture(scope="module")
def finetuned(bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], first: Update) -> Update:
    return learned(Finetune(Finetune.Settings(), bench), domains[1], first)


def learned(method: MergingMethod, domain: TrainingDomain, served: Update) -> Update:
    """What a method serves that begins the domain with ``served``."""
    method.served = served
    method.learn(domain, step=2)
    assert method.served is not None
    return method.served


# EWC


def test_the_importance_of_two_domains_worked_by_hand() -> None:
    one, two = {"w": torch.tensor([2.0, 4.0])}, {"w": torch.tensor([[1.0], [3.0]]).flatten()}
    memory = consolidate({}, copied(one), decay=0.5, normalise=True)
    assert memory["w"].tolist() == pytest.approx([2 / 3, 4 / 3])
    memory = consolidate(memory, copied(two), decay=0.5, normalise=True)
    assert memory["w"].tolist() == pytest.approx([1 / 3 + 1 / 2, 2 / 3 + 3 / 2])
    assert consolidate(one, two, decay=0.5, normalise=False)["w"].tolist() == [2.0, 5.0]
    assert consolidate({}, {"w": torch.zeros(2)}, decay=0.5, normalise=True)["w"].tolist() == [0.0, 0.0]


def test_an_update_without_changes_has_no_importance(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain]
) -> None:
    method = EWC(EWCSettings(images=1), bench)
    assert method.merge(Update(), domains[0], step=1) == Update()
    assert method.memory == {}


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_stream_is_the_discounted_sum_whatever_the_scale_of_a_domains_gradients(
    count: int, decay: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    fishers = [
        {name: torch.rand(size, generator=generator, dtype=torch.float64) for name, size in (("w", 5), ("bias", 2))}
        for _ in range(count)
    ]
    scales = torch.logspace(-8, 2, count).tolist()
    memory: Mapping[str, Tensor] = {}
    for fisher, scale in zip(fishers, scales, strict=True):
        memory = consolidate(memory, {name: scale * f for name, f in fisher.items()}, decay=decay, normalise=True)
    for name, found in memory.items():
        means = [(fisher["w"].sum() + fisher["bias"].sum()) / 7 for fisher in fishers]
        slow = sum(decay ** (count - 1 - t) * fishers[t][name] / means[t] for t in range(count))
        torch.testing.assert_close(found, slow, rtol=1e-10, atol=0)


def drawn_adapter(seed: int) -> Adapter:
    """Two layers in float64; the second one's weight is trained as a whole, too, and so is a bias."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

    whole, bias = draw(3, 4), draw(3)
    return Adapter(
        factors={"q": (draw(2, 4), draw(3, 2), 0.5), "v": (draw(2, 4), draw(3, 2), 0.5)},
        dense={
            "v.weight": (whole, whole.detach().clone(), None),
            "v.bias": (bias, bias.detach().clone(), torch.ones(3)),
        },
        beneath=Update(),
    )


def moved(adapter: Adapter, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def importance_of(adapter: Adapter) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    shapes = {"q.weight": (3, 4), "v.weight": (3, 4), "v.bias": (3,)}
    return {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def anchored_loss(anchor: QuadraticPenalty, adapter: Adapter) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    batch = Batch(torch.zeros(1, 3, 4, 4), None)  # type: ignore[arg-type]  # the penalty looks at no batch
    return anchor.loss(zero, batch=batch, target=torch.zeros(1, 2, 2), masks=NOBODY, adapter=adapter)


def test_the_penaltys_gradient_is_that_of_finite_differences_and_of_the_formula() -> None:
    adapter, step, strength = drawn_adapter(0), 1e-6, 3.0
    importance = importance_of(adapter)
    anchor = QuadraticPenalty(importance, strength=strength)
    anchor.attached(adapter)
    a, b, scale = adapter.factors["q"]
    before = scale * (b @ a).detach()
    assert anchored_loss(anchor, adapter).item() == 0
    moved(adapter, seed=1)
    gradients = torch.autograd.grad(anchored_loss(anchor, adapter), adapter.parameters())
    for parameter, gradient in zip(adapter.parameters(), gradients, strict=True):
        flat = parameter.detach().view(-1)
        for place in range(flat.numel()):
            flat[place] += step
            above = anchored_loss(anchor, adapter).item()
            flat[place] -= 2 * step
            below = anchored_loss(anchor, adapter).item()
            flat[place] += step
            assert gradient.view(-1)[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-6)
    of_weight = strength * importance["q.weight"] * (scale * b @ a - before)
    torch.testing.assert_close(gradients[0], scale * b.T @ of_weight)
    torch.testing.assert_close(gradients[1], scale * of_weight @ a.T)


def test_the_penalty_does_not_see_how_the_factors_split_the_change() -> None:
    adapter = drawn_adapter(0)
    anchor = QuadraticPenalty(importance_of(adapter), strength=1.0)
    anchor.attached(adapter)
    moved(adapter, seed=1)
    before = anchored_loss(anchor, adapter).item()
    turn = torch.tensor([[2.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    with torch.no_grad():
        for a, b, _ in adapter.factors.values():
            a.copy_(torch.linalg.solve(turn, a.clone()))
            b.copy_(b.clone() @ turn)
    assert before > 0.1
    assert anchored_loss(anchor, adapter).item() == pytest.approx(before, rel=1e-10)


def test_a_huge_strength_keeps_the_served_weights_and_none_is_fine_tuning(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], first: Update, finetuned: Update
) -> None:
    method = EWC(EWCSettings(images=2), bench)
    method.merge(first, domains[0], step=1)
    memory = dict(method.memory)
    fisher = bench.squared_gradients(domains[0], first, labels="sampled", images=2)
    assert memory.keys() == weight_changes(first).keys()
    name = max(fisher, key=lambda name: fisher[name].max().item())
    torch.testing.assert_close(memory[name] / memory[name].max(), fisher[name] / fisher[name].max())

    def drift(update: Update) -> float:
        now, then = weight_changes(update), weight_changes(first)
        return penalty(memory, {name: now[name] - then[name] for name in now}, strength=1.0).item()

    served = {}
    for strength in (0.0, 1e6):
        method = EWC(EWCSettings(strength=strength, images=2), bench)
        method.memory = dict(memory)
        served[strength] = learned(method, domains[1], first)
    assert served[0.0].digest() == finetuned.digest()
    assert drift(served[1e6]) < 0.05 * drift(finetuned)
    assert {name: tensor.shape for name, tensor in method.memory.items()} == {n: t.shape for n, t in memory.items()}


# LwF


def test_the_distillation_is_the_cross_entropy_of_two_classes_with_the_papers_modified_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, old = (3 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    for temperature in (1.0, 2.0, 0.5):
        shares = []
        for values in (old, logits.detach()):
            chances = torch.stack([values.sigmoid(), 1 - values.sigmoid()]) ** (1 / temperature)
            shares.append(chances / chances.sum(0))
        slow = -(shares[0] * shares[1].log()).sum(0).mean()
        found = distillation(logits, old, temperature=temperature)
        assert found.item() == pytest.approx(slow.item(), rel=1e-12)
        (gradient,) = torch.autograd.grad(found, logits)
        torch.testing.assert_close(gradient, (shares[1][0] - shares[0][0]) / temperature / logits.numel())


def test_cosams_distance_is_the_training_loss_against_the_old_masks_at_the_same_points() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, old = (3 * torch.randn(2, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    old.requires_grad_()
    chances, answers = (old.detach() / 2).sigmoid(), (logits / 2).sigmoid()
    entropy = -(chances * answers.log() + (1 - chances) * (1 - answers).log()).mean((1, 2))
    overlap = (2 * (chances * answers).sum((1, 2)) + 1) / (chances.sum((1, 2)) + answers.sum((1, 2)) + 1)
    found = bce_dice_distance(logits, old, temperature=2.0)
    assert not found.requires_grad
    assert found.item() == pytest.approx((entropy + 1 - overlap).mean().item(), rel=1e-12)

    # At cell centres a sampled value is the cell's; of six candidates the three least certain are chosen, one is fixed.
    cells = [(0, 1), (2, 2), (4, 0), (3, 3), (1, 4), (2, 0), (0, 0), (4, 4), (1, 1), (3, 1), (2, 4), (0, 3), (1, 0)]
    candidates = torch.tensor([[(x + 0.5) / 5, (y + 0.5) / 5] for x, y in cells], dtype=torch.float64).expand(2, -1, -1)
    expected = []
    for one, other in zip(logits, old.detach(), strict=True):
        drawn = sorted(cells[:12], key=lambda cell: abs(one[cell[1], cell[0]].item()))[:3]
        places = [*drawn, cells[12]]
        p = torch.stack([other[y, x] for x, y in places]).sigmoid()
        q = torch.stack([one[y, x] for x, y in places]).sigmoid()
        entropy = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
        expected.append((entropy + 1 - (2 * (p * q).sum() + 1) / (p.sum() + q.sum() + 1)).item())
    sampled = bce_dice_distance(logits, old, temperature=1.0, candidates=candidates, count=4)
    assert sampled.item() == pytest.approx(sum(expected) / 2, rel=1e-9)


def test_the_teacher_compares_at_the_points_of_the_training_loss(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], first: Update
) -> None:
    """Against itself, the distance at the points is the entropy there: the loss, less the training loss, shows it."""
    pointed = replace(bench, fit=bench.fit.model_copy(update={"loss_points": 40, "epochs": 1}))
    compared: list[tuple[float, float]] = []

    class Compared(Teacher):
        def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
            found = super().loss(loss, batch=batch, target=target, masks=masks, adapter=adapter)
            assert isinstance(batch, TrainingBatch)
            assert batch.point_candidates is not None
            points = uncertain_points(masks.logits, batch.point_candidates, count=40)
            old, new = (
                point_sample(values, points).detach() for values in (self.logits(batch).sigmoid(), masks.logits)
            )
            slow = bce_dice(new, old, torch.zeros(len(batch)))
            compared.append((found.item(), loss.item() + 3 * slow.item()))
            return found

    teacher = Compared(pointed, LwFSettings(weight=3.0, temperature=1.0, distance="bce_dice"))
    pointed.train(domains[1], start=first, hooks=teacher)
    assert len(compared) == 2
    for found, slow in compared:
        assert found == pytest.approx(slow, rel=1e-5)


class Watched(Teacher):
    """A teacher that keeps what it was asked and what both models said."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, LwFSettings(weight=1.0, temperature=2.0))
        self.seen: list[tuple[Batch, Tensor, Tensor]] = []

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        self.seen.append((batch, self.logits(batch), masks.logits.detach()))
        return super().loss(loss, batch=batch, target=target, masks=masks, adapter=adapter)


@pytest.mark.parametrize("rank", [2, 1])
def test_the_teacher_says_what_the_served_model_says_all_through_training(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], first: Update, rank: int
) -> None:
    """With fewer factors than the served adapter has, that one lies beneath a fresh one."""
    small = replace(bench, adapter=bench.adapter.model_copy(update={"rank": rank}))
    watched = Watched(small)
    small.train(domains[1], start=first, hooks=watched)
    assert len(watched.seen) == 8
    for batch, teacher, _ in watched.seen:
        assert not teacher.requires_grad
        torch.testing.assert_close(teacher, bench.predict(first, batch), rtol=0, atol=1e-4)
    _, teacher, student = watched.seen[-1]
    assert (student - teacher).abs().max() > 0.1


def test_no_weight_is_fine_tuning_and_a_large_one_keeps_the_old_masks(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], first: Update, finetuned: Update
) -> None:
    batch, _ = bench.labelled(domains[1], range(6))

    def served(weight: float) -> Update:
        return learned(LwF(LwFSettings(weight=weight), bench), domains[1], first)

    def distance(update: Update) -> float:
        return (bench.predict(update, batch).sigmoid() - bench.predict(first, batch).sigmoid()).abs().mean().item()

    assert served(0.0).digest() == finetuned.digest()
    assert distance(served(100.0)) < 0.25 * distance(finetuned)


@pytest.mark.parametrize("build", [lambda bench: EWC(EWCSettings(), bench), lambda bench: LwF(LwFSettings(), bench)])
def test_the_first_domain_is_trained_as_by_everybody(
    bench: Workbench, domains: tuple[TrainingDomain, TrainingDomain], build: Callable[[Any], MergingMethod]
) -> None:
    assert build(bench).hooks(domains[0], step=1) is None
