"""The benchmarks' stages on the tiny model: what they compare agrees, and what they count is what was done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear

from benchmarks import compiled, merges, runs, shares, subjects
from benchmarks.measuring import Skipped
from benchmarks.mobile import DOMAINS, as_published, real_images, stock_of
from benchmarks.runs import Clock, run_each, stream_file
from benchmarks.stages import encoder_figures, matrix_figures, step_figures, trainer
from cosam_bench.data.opening import open_stream
from cosam_bench.data.streams import load_stream
from cosam_bench.experiments.protocol import resolve_run
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.lora_linear import LoraLinear
from cosam_bench.sam.inputs import Batch
from cosam_bench.sam.sam import Sam
from cosam_bench.training.fit import Fitted

LAST = subjects.ADAPTER.model_copy(update={"blocks": (4, 5)})


@pytest.fixture(scope="module")
def tiny() -> Sam:
    return subjects.model(is_lean=True, name="tiny")


@pytest.fixture(scope="module")
def plain() -> Sam:
    return subjects.model(is_lean=False, name="tiny")


def test_both_ways_through_encoder_matrix_and_training_agree(tiny: Sam, plain: Sam) -> None:
    split, prompts = subjects.split(2, size=(400, 500))
    image = subjects.image(tiny.image_size)
    found = list(encoder_figures(plain.image_encoder, tiny.image_encoder, image, name="encoder"))
    assert found[0].note == "the same bits"
    matrix = list(matrix_figures(tiny, stock_of(plain), split, prompts, adapter=LAST, count=3))
    assert [row.stage for row in matrix] == ["3 rows, fp32 against fp32", "3 rows, bf16 against fp32"]
    assert float(matrix[0].note.split()[1]) < 0.002
    steps = list(step_figures(plain, tiny, split, prompts, adapter=LAST))
    assert all(row.plain and row.plain > 0 and row.ours > 0 for row in [*found, *matrix, *steps])


def test_a_matrix_that_disagrees_says_so(tiny: Sam) -> None:
    split, prompts = subjects.split(1, size=(400, 500))
    other = subjects.model(is_lean=False, name="tiny")
    other.prompt_encoder.point_embeddings[2].weight.data.zero_()
    # The weights of each row are put into the stock model, so only what no state holds can differ.
    stock = stock_of(other)
    stock.pixel_mean += 80
    [row, _] = matrix_figures(tiny, stock, split, prompts, adapter=LAST, count=2)
    assert float(row.note.split()[1]) > 0.002


def test_the_plain_step_runs_pefts_own_layers(plain: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    split, prompts = subjects.split(1, size=(400, 500))
    seen: list[str] = []

    def watched(self: Workbench, batch: Batch, target: torch.Tensor) -> tuple[torch.Tensor, None]:
        layers = [module for module in self.sam.modules() if isinstance(module, (Linear, LoraLinear))]
        seen.extend(type(layer).__name__ for layer in layers)
        return torch.stack([part.sum() for part in self.sam.parameters() if part.requires_grad]).sum(), None

    monkeypatch.setattr(Workbench, "loss", watched)
    trainer(plain, None, split, prompts, is_bf16=False, adapter=LAST)()
    assert seen == ["Linear"] * 4  # qkv and proj of two blocks


def test_shares_are_of_products_where_products_are_all_there_is() -> None:
    one = torch.randn(700, 700)
    seconds = shares.by_kind(lambda: [one @ one for _ in range(5)])
    assert seconds["linear layers"] > 0.5 * sum(seconds.values()) > 0


def test_shares_name_every_kind_of_every_work() -> None:
    found = list(shares.figures("tiny", adapter=LAST))
    works = ("encoder", "training step", "row of one image")
    expected = [f"{kind}, {work}, {whose}" for work in works for whose in ("stock", "ours") for kind in shares.KINDS]
    assert [row.stage for row in found] == expected
    assert all(row.ours >= 0 for row in found)


def test_a_longer_stream_has_new_images_of_the_same_kinds(tmp_path: Path) -> None:
    stream = load_stream(str(stream_file(tmp_path, domains=10, train=1, test=1, retention=1)))
    mini = load_stream("mini")
    assert stream.order == (*mini.order, *(f"{name}_2" for name in mini.order[:2]))
    opened = open_stream(stream)
    assert len({domain.digest for domain in opened.domains}) == 10
    assert [len(domain.test) for domain in opened.retention] == [1]


def test_time_is_counted_by_what_a_run_says_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr("time.process_time", lambda: next(now))
    clock = Clock()
    clock.begin(1)
    clock.say("Learning a (step 1 of 2)")  # at 3
    clock.say("Scoring after step 1 of 2")  # at 6
    clock.say("")  # at 10
    assert clock.seconds == {"Learning": 3.0, "Scoring": 4.0}


def test_methods_that_run_together_share_experts_and_frozen_sams_row(tmp_path: Path) -> None:
    stream = stream_file(tmp_path, domains=2, train=4, test=2, retention=2)
    overrides = (f"stream={stream}", "fit.epochs=2", "model.checkpoint=random")
    first, second = run_each(["average", "ties"], results=tmp_path / "results", overrides=overrides)
    cost, same = first.record.info.cost, second.record.info.cost
    assert cost.train_seconds == same.train_seconds  # taken over with the experts, not measured again
    assert second.learning < first.learning
    assert 0 < first.learning + first.scoring <= first.seconds


def test_growth_is_said_for_each_number_of_domains() -> None:
    found = list(runs.growth((1, 2), images=2, epochs=1))
    assert [row.stage for row in found] == [
        f"{what}, {method}, {count} domains"
        for method in ("average", "finetune")
        for count in (1, 2)
        for what in ("fitting a domain", "scoring a cell", "state")
    ]
    assert found[2].ours == found[5].ours  # the state does not grow
    assert found[4].note == "2 images, 9 cells"


def test_ten_methods_start_every_expert_from_the_base(
    tiny: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[object, object]] = []
    trained = merges.RandomBench.train

    def watched(bench: merges.RandomBench, domain: TrainingDomain, **given: Any) -> Fitted:
        started.append((given.get("start"), given.get("hooks")))
        return trained(bench, domain, **given)

    monkeypatch.setattr(merges.RandomBench, "train", watched)
    assert len(set(runs.TEN)) == 10
    for name in runs.TEN:
        override = (runs.SAME_EXPERTS,) if f".{name}." in runs.SAME_EXPERTS else ()
        case = merges.Case(name, resolve_run(method=name, overrides=override).settings)
        merges.prepare(case, merges.workbench(case, tiny), tmp_path, domains=2)
        assert started == [(None, None)] * 2, name
        started.clear()


def test_the_proportion_is_cosams() -> None:
    trained, scored = 10 * 8 * 24, 9 * (8 * runs.TEST + runs.RETENTION)
    assert trained / scored == pytest.approx(runs.COSAM_TRAINING / runs.COSAM_SCORED, rel=0.03)


def test_ten_methods_are_put_beside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(names: tuple[str, ...], **_: object) -> list[object]:
        return [SimpleNamespace(seconds=seconds, learning=1.0, scoring=0.5) for seconds in (10.0, 2.0, 3.0)]

    monkeypatch.setattr(runs, "run_each", taken)
    one, all_three, *_ = runs.methods(("a", "b", "c"))
    assert (one.ours, all_three.ours) == (10.0, 15.0)
    assert all_three.note.startswith("1.50 times one")
    assert "merges, with their passes over data, 2 s, scoring 1 s" in all_three.note


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Skipped, match=r"C\+\+ compiler"):
        next(compiled.figures("tiny"))


@pytest.mark.skipif("COSAM_BENCH_REAL" not in os.environ, reason="COSAM_BENCH_REAL names no folder of real images")
def test_real_images_are_one_of_each_domain() -> None:
    split, prompts = real_images(Path(os.environ["COSAM_BENCH_REAL"]))
    assert split.keys == DOMAINS
    assert len(prompts) == len(DOMAINS)
    assert all(sample.mask.any() for sample in split)


def test_mobile_sam_as_published_keeps_torchs_order_of_channels() -> None:
    sam = subjects.model(is_lean=True, name="mobile_sam")
    plain = as_published(sam)
    for model, is_last in ((sam, True), (plain, False)):
        weight = model.image_encoder.neck[2].weight  # type: ignore[index, union-attr]
        assert weight.is_contiguous(memory_format=torch.channels_last) == is_last
        images = model.image_encoder.channels_last(torch.zeros(1, 3, 8, 8))  # type: ignore[operator]
        assert images.is_contiguous(memory_format=torch.channels_last) == is_last
