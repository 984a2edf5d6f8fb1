"""The scale of rules whose papers have none: of what is served, not of what is carried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from benchmarks import merges
from cosam_bench.merging.scale import ServedScale
from cosam_bench.method.interface import MergingMethod, State
from cosam_bench.method.registry import load_method
from cosam_bench.method.workbench import Workbench
from cosam_bench.sam.inputs import collate
from cosam_bench.sam.sam import Sam

RULES = {
    "average": {},
    "dop": {"solver": "closed"},
    "fisher": {},
    "lorm": {},
    "nullfilter": {},
    "opcm": {},
    "regcl": {},
    "regmean": {},
    "wudi": {"solver": "closed"},
}


def learned(name: str, tiny: Sam, folder: Path, *, scale: float | None = None) -> tuple[MergingMethod, Workbench]:
    """A method after three domains, each from the state before."""
    settings = RULES[name] | ({} if scale is None else {"scale": scale})
    case = merges.Case(name, settings)
    bench = merges.workbench(case, tiny)
    state = merges.prepare(case, bench, folder, domains=3)
    kind = load_method(name)
    method = kind(kind.Settings(**settings), bench)
    assert isinstance(method, MergingMethod)
    method.load(State.read(state))
    return method, bench


@pytest.mark.parametrize("name", RULES)
def test_a_scale_changes_what_is_served_and_nothing_that_is_carried(name: str, tiny: Sam, tmp_path: Path) -> None:
    assert issubclass(load_method(name).Settings, ServedScale)
    for folder in ("own", "half"):
        (tmp_path / folder).mkdir()
    own, _ = learned(name, tiny, tmp_path / "own")
    half, _ = learned(name, tiny, tmp_path / "half", scale=0.5)
    assert own.served is not None
    assert half.served is not None
    assert own.deployed is own.served  # so all bits are those of the rule
    assert half.served.digest() == own.served.digest()
    files = [next((tmp_path / folder).glob("1.safetensors")).read_bytes() for folder in ("own", "half")]
    assert files[0] == files[1]
    assert half.deployed is not None
    halved = {
        key: tensor * (1 if key.endswith(".a") else 0.5)  # exact: a power of two
        for key, tensor in own.served.tensors().items()
    }
    found = half.deployed.tensors()
    assert found.keys() == halved.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in halved.items())


def test_predictions_are_those_of_the_scaled_update(tiny: Sam, tmp_path: Path) -> None:
    method, bench = learned("average", tiny, tmp_path, scale=0.25)
    split, prompts = merges.noise()
    batch, _ = collate([split[0]], prompts, kinds=["box"], view=bench.view)
    assert method.served is not None
    found = method.predict(batch)
    assert torch.equal(found, bench.predict(method.served.scaled(0.25), batch))
    assert not torch.equal(found, bench.predict(method.served, batch))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_number_above_zero(scale: float) -> None:
    with pytest.raises(ValidationError):
        ServedScale(scale=scale)
