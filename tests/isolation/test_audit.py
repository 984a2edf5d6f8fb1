"""Names that a method's code replaces or adds, as the contract check compares them."""

from __future__ import annotations

import functools
import math

import numpy
import pytest
import torch

from cosam_bench.data.samples import Split
from cosam_bench.isolation import audit


@pytest.mark.parametrize(
    ("holder", "name", "found"),
    [
        (torch.Tensor, "norm", "replaces torch.Tensor.norm"),  # torch.Tensor's own
        (torch.Tensor, "add", "replaces torch.Tensor.add"),  # that of its base
        (torch.Tensor, "__matmul__", "replaces torch.Tensor.__matmul__"),
        (torch.Tensor, "seen", "adds torch.Tensor.seen"),
        (torch.linalg, "svd", "replaces torch.linalg.svd"),
        (torch.nn.functional, "softmax", "replaces torch.nn.functional.softmax"),
        (torch.nn.init, "zeros_", "replaces torch.nn.init.zeros_"),
        (torch.nn.Linear, "forward", "replaces torch.nn.Linear.forward"),
        (torch.nn.Linear, "train", "adds torch.nn.Linear.train"),
        (torch.nn.Module, "__call__", "replaces torch.nn.Module.__call__"),
        (torch.nn.Parameter, "add", "adds torch.nn.Parameter.add"),
        (numpy, "mean", "replaces numpy.mean"),
        (numpy.linalg, "norm", "replaces numpy.linalg.norm"),
        (math, "sqrt", "replaces math.sqrt"),
        (Split, "__getitem__", "replaces cosam_bench.data.samples.Split.__getitem__"),
    ],
)
def test_what_was_replaced_or_added_is_named(
    holder: object, name: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = audit._names()
    monkeypatch.setattr(holder, name, lambda *given: None, raising=False)
    changed = audit._changed(before, audit._names())
    monkeypatch.undo()
    assert changed == [found]
    assert audit._changed(before, audit._names()) == []


def test_what_torch_itself_replaces_when_a_part_of_it_is_imported_is_not_the_methods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "manual_seed", torch.random.manual_seed)  # as before that part was imported
    before = audit._names()
    wrapped = functools.wraps(torch.manual_seed)(lambda seed: torch.random.manual_seed(seed))
    monkeypatch.setattr(torch, "manual_seed", wrapped)
    assert audit._changed(before, audit._names()) == []
