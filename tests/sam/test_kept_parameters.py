"""The weights that serving an update gives are kept from batch to batch, for as long as nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cosam_bench.core.hashing import digest_tensors
from cosam_bench.merging.updates import LowRank, Update
from cosam_bench.method.trial import trial_domain, trial_split, trial_workbench
from cosam_bench.sam import serving as serving_module
from cosam_bench.sam.inputs import collate
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.serving import KeptParameters, served_parameters, serving

QKV, HEAD = "image_encoder.blocks.4.attn.qkv", "mask_decoder.iou_token.weight"


def an_update(sam: Sam, *, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 96, generator=generator), torch.randn(288, 2, generator=generator)
    return Update({QKV: LowRank(a, b)}, {HEAD: torch.randn(sam.get_parameter(HEAD).shape, generator=generator)})


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Update]:
    """The updates whose weights were computed."""
    found: list[Update] = []

    def watched(sam: Sam, update: Update) -> dict[str, torch.nn.Parameter]:
        found.append(update)
        return served_parameters(sam, update)

    monkeypatch.setattr(serving_module, "served_parameters", watched)
    return found


def weights(sam: Sam, update: Update | None, kept: KeptParameters | None) -> dict[str, Tensor]:
    with torch.inference_mode(), serving(sam, update, kept=kept):
        return {name: tensor.clone() for name, tensor in sam.state_dict().items()}


def test_an_update_that_is_served_again_is_not_computed_again(tiny: Sam, computed: list[Update]) -> None:
    before, update, kept = digest_tensors(tiny.state_dict()), an_update(tiny), KeptParameters()
    expected = digest_tensors(weights(tiny, update, None))
    assert len(computed) == 1
    for _ in range(3):
        assert digest_tensors(weights(tiny, update, kept)) == expected
        assert digest_tensors(tiny.state_dict()) == before
    again = Update(dict(update.low_rank), dict(update.dense))  # another object with the same tensors
    assert digest_tensors(weights(tiny, again, kept)) == expected
    assert len(computed) == 2
    assert expected != before


def change_a_factor(sam: Sam, update: Update, kept: KeptParameters) -> Update:
    update.low_rank[QKV].b.mul_(2)
    return update


def change_a_dense_part(sam: Sam, update: Update, kept: KeptParameters) -> Update:
    update.dense[HEAD].add_(1)
    return update


def another_update(sam: Sam, update: Update, kept: KeptParameters) -> Update:
    return an_update(sam, seed=1)


def change_what_is_served(sam: Sam, update: Update, kept: KeptParameters) -> Update:
    with serving(sam, update, kept=kept), torch.no_grad():
        sam.get_parameter(f"{QKV}.weight").zero_()
    return update


def change_the_base(sam: Sam, update: Update, kept: KeptParameters) -> Update:
    with torch.no_grad():
        sam.get_parameter(f"{QKV}.weight").add_(0.5)
    return update


@pytest.mark.parametrize(
    "change", [change_a_factor, change_a_dense_part, another_update, change_what_is_served, change_the_base]
)
def test_whatever_changes_is_computed_again(
    tiny: Sam, computed: list[Update], change: Callable[[Sam, Update, KeptParameters], Update]
) -> None:
    update, kept, own = an_update(tiny), KeptParameters(), tiny.get_parameter(f"{QKV}.weight").clone()
    try:
        weights(tiny, update, kept)
        changed = change(tiny, update, kept)
        assert len(computed) == 1
        found = digest_tensors(weights(tiny, changed, kept))
        assert len(computed) == 2
        assert found == digest_tensors(weights(tiny, changed, None))
    finally:
        with torch.no_grad():
            tiny.get_parameter(f"{QKV}.weight").copy_(own)


def test_nothing_is_kept_of_the_base_alone(tiny: Sam) -> None:
    before, kept = digest_tensors(tiny.state_dict()), KeptParameters()
    weights(tiny, an_update(tiny), kept)
    assert digest_tensors(weights(tiny, None, kept)) == before


def test_a_workbench_keeps_what_it_serves_for_all_batches(tiny: Sam, computed: list[Update]) -> None:
    bench, domain, update = trial_workbench(tiny), trial_domain(trial_split("a", shift=0)), an_update(tiny)
    for row in range(3):
        batch, _ = collate([domain[row]], domain.prompts.take([row]), kinds=["box"], view=bench.view)
        found = bench.predict(update, batch)
        with torch.inference_mode(), serving(tiny, update):
            expected = tiny.decode(tiny.encode(batch.images), batch.prompts).logits
        assert torch.equal(found, expected)
    assert len(computed) == 1 + 3  # the bench's, and those to compare with
