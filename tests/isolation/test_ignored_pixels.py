"""Ignored pixels on their way from the parent to a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Split
from cosam_bench.isolation.answers import Answers
from cosam_bench.isolation.messages import Message
from cosam_bench.isolation.payloads import domain_from, domain_values, prompt_tensors
from cosam_bench.isolation.remote import RemotePixels
from cosam_bench.method.training_domain import TrainingDomain

IGNORED = torch.arange(12).view(3, 4) > 8


class _Source:
    def image(self, index: int) -> Tensor:
        return torch.full((3, 3, 4), index, dtype=torch.uint8)

    def mask(self, index: int) -> Tensor:
        return ~IGNORED

    def ignored(self, index: int) -> Tensor | None:
        return None if index else IGNORED


@pytest.mark.parametrize("has_ignored", [True, False])
def test_a_worker_reads_the_pixels_that_its_parent_holds(has_ignored: bool) -> None:
    manifest = Manifest((Entry("a", "1", "2"), Entry("b", "3", "4")), "a rule", has_ignored=has_ignored)
    split = Split("d", part="train", manifest=manifest, source=_Source())
    domain = TrainingDomain("d", split, draw_prompts(split, points=1, seed=0))
    answers: Any = Answers(SimpleNamespace(), SimpleNamespace(), domain)  # type: ignore[arg-type]  # only reads the domain
    asked = []

    def ask(kind: str, values: dict[str, Any]) -> Message:
        asked.append(kind)
        return Message("answer", *answers._pixels(Message(kind, values)))

    parent: Any = SimpleNamespace(ask=ask)
    message = Message("learn", {"domain": domain_values(domain, manifest)}, prompt_tensors(domain.prompts))
    first, second = domain_from(message, RemotePixels(parent))
    assert torch.equal(first.mask, ~IGNORED)
    assert second.ignored is None
    if has_ignored:
        assert first.ignored is not None
        assert torch.equal(first.ignored, IGNORED)
    else:
        assert first.ignored is None
        assert "ignored" not in asked  # no question is asked in vain
