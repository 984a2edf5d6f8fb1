"""Training, statistics, predictions and whole runs with kept features, against those without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cached_features import LATER, an_update, files

from cosam_bench.data.samples import Split
from cosam_bench.experiments.experiment import open_experiment
from cosam_bench.experiments.protocol import RunConfig, resolve_run
from cosam_bench.experiments.runner import Runner
from cosam_bench.method.training_domain import TrainingDomain
from cosam_bench.method.trial import trial_domain, trial_workbench
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.feature_cache import PrefixCache, encode
from cosam_bench.sam.inputs import collate
from cosam_bench.sam.sam import Sam
from cosam_bench.training.augmentation import mirror
from cosam_bench.training.expert_store import ExpertStore
from cosam_bench.training.fit_settings import FitSettings


@pytest.fixture
def domain(squares: Split) -> TrainingDomain:
    return trial_domain(squares)


def bench_with(tiny: Sam, cache: PrefixCache | None) -> Workbench:
    return trial_workbench(
        tiny,
        adapter=AdapterSettings(rank=2, alpha=2.0, blocks=(3, 4, 5)),
        fit=FitSettings(epochs=2, batch_size=3, learning_rate=1e-4),
        prompt_kind="mix",
        batch_size=4,
        prefixes=cache,
    )


def test_training_statistics_and_predictions_are_the_same_with_kept_features(
    tiny: Sam, cache: PrefixCache, folder: Path, domain: TrainingDomain
) -> None:
    plain, kept = bench_with(tiny, None), bench_with(tiny, cache)
    expected, found = plain.train(domain), kept.train(domain)
    assert found.epoch_losses == pytest.approx(expected.epoch_losses, rel=1e-3)
    assert set(found.update.tensors()) == set(expected.update.tensors())
    # Each image and each mirrored one at most, however many epochs.
    assert 6 <= len(files(folder)) <= 12
    update = an_update(tiny, LATER)
    grams = plain.input_grams(domain, update)
    for layer, gram in kept.input_grams(domain, update).items():
        torch.testing.assert_close(gram, grams[layer], rtol=1e-3, atol=1e-4)
    batch, _ = collate([domain[0], domain[1]], domain.prompts.take([0, 1]), kinds=["box"] * 2, view=plain.view)
    torch.testing.assert_close(kept.predict(update, batch), plain.predict(update, batch), rtol=1e-3, atol=1e-3)
    spared = cache.spared_seconds
    kept.predict(an_update(tiny, LATER, scale=0.1), batch)
    assert cache.spared_seconds > spared


def test_training_gives_the_same_bits_whether_features_are_found_or_computed(
    tiny: Sam, cache: PrefixCache, domain: TrainingDomain
) -> None:
    bench = bench_with(tiny, cache)
    assert bench.train(domain).update.digest() == bench.train(domain).update.digest()


def test_a_mirrored_sample_has_an_entry_of_its_own(
    tiny: Sam, cache: PrefixCache, folder: Path, domain: TrainingDomain
) -> None:
    view = bench_with(tiny, None).view
    for sample in (domain[0], mirror(domain[0]), mirror(mirror(domain[0]))):
        batch, _ = collate([sample], domain.prompts.take([0]), kinds=["box"], view=view)
        with torch.inference_mode():
            encode(tiny, batch.images, cache)
    assert len(files(folder)) == 2


def configured(protocol: Path, *overrides: str, method: str = "finetune") -> RunConfig:
    return resolve_run(method=method, protocol=str(protocol), overrides=overrides)


def test_a_protocol_that_adapts_every_block_has_no_cache(quick_protocol: Path, tmp_path: Path) -> None:
    assert open_experiment(configured(quick_protocol), tmp_path).bench.prefixes is None


def test_the_cache_can_be_switched_off_and_is_no_part_of_a_runs_identity(quick_protocol: Path, tmp_path: Path) -> None:
    late = "adapter.blocks=[4, 5]"
    default = open_experiment(configured(quick_protocol, late), tmp_path)
    off = open_experiment(configured(quick_protocol, late, "prefix_cache_gib=0"), tmp_path)
    assert default.bench.prefixes is not None
    assert default.bench.prefixes.depth == 4
    assert off.bench.prefixes is None
    assert off.digest == default.digest
    assert off.conditions == default.conditions


def test_a_whole_run_with_the_cache_scores_as_one_without(quick_protocol: Path, tmp_path: Path) -> None:
    late = "adapter.blocks=[4, 5]"
    matrices, costs = [], []
    for results, option in ((tmp_path / "with", "prefix_cache_gib=8"), (tmp_path / "without", "prefix_cache_gib=0")):
        experiment = open_experiment(configured(quick_protocol, late, option, method="regcl"), results)
        record = Runner(experiment, results=results).run()
        matrices.append(record.score_matrix())
        costs.append(record.info.cost)
    assert len(files(tmp_path / "with" / "_shared" / "prefix")) >= 4 * 3 + 3 * 3
    assert not (tmp_path / "without" / "_shared" / "prefix").exists()
    assert matrices[0].columns == ("pitting", "pill", "polyp", "natural")
    assert matrices[0].values == pytest.approx(matrices[1].values, abs=0.02)
    assert costs[0].encoder_passes_per_image == costs[1].encoder_passes_per_image == 1
    assert all(seconds >= 0 for seconds in costs[0].merge_seconds)


def test_the_workbench_without_a_cache_writes_nothing(tiny: Sam, domain: TrainingDomain, tmp_path: Path) -> None:
    bench = replace(bench_with(tiny, None), experts=ExpertStore(tmp_path))
    bench.train(domain)
    assert [path.name for path in files(tmp_path)] == [path.name for path in tmp_path.glob("*.safetensors")]
