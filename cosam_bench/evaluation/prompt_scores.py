"""Scores of a model under other prompts than the protocol's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptScore:
    """The mean score of one domain's test images under another prompt: one row of ``prompts.csv``.

    Attributes:
        prompt: its kind, as in ``prompts.test``.
        step: domains learned so far: 0, frozen SAM, or the last.
        domain: the domain that was tested, which may be a retention domain.
        metric: a name in ``METRICS``.
        value: the mean over the images.
        count: the number of images.
    """

    prompt: str
    step: int
    domain: str
    metric: str
    value: float
    count: int
