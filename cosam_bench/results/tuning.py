"""How a run's settings were tuned: its budget, and how tables name it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from cosam_bench.core.settings import Settings, setting


class Tuning(Settings):
    """The budget of a method's tuning; ``tuning`` in ``run.json`` and ``config.toml``.

    Attributes:
        trials: settings that were tried, the defaults and those that failed included.
        objective: what was maximised: Last of the mean IoU on the images held out.
        held_out: share of each domain's training images that was scored, and not trained on.
        images: held-out samples that each trial was scored on.
        protocol: the protocol that was tuned on.
        conditions: of the trials, see ``Conditions.tuned_for``; empty for files from before they were kept.
        domains: those that were tuned on, in the order of learning.
        seed: of the sampler, and of training and prompts in the trials.
        sampler: what proposed the settings.
        optuna: the version of Optuna.
        file: the sha256 of the file with the tuned settings.
    """

    trials: int = setting(..., "settings that were tried", ge=1)
    objective: Literal["last_iou"] = setting("last_iou", "what was maximised", source="this project")
    held_out: float = setting(..., "share of each domain's training images that was held out", gt=0, lt=1)
    images: int = setting(..., "held-out samples that each trial was scored on", ge=1)
    protocol: str = setting(..., "the protocol that was tuned on")
    conditions: str = setting("", "hash of the protocol's settings and the weights", source="none: not known")
    domains: tuple[str, ...] = setting(..., "the domains that were tuned on")
    seed: int = setting(..., "of the sampler, and of training and prompts in the trials", ge=0)
    sampler: Literal["tpe", "random"] = setting(..., "what proposed the settings")
    optuna: str = setting(..., "the version of Optuna")
    file: str = setting(
        "", "sha256 of the file of tuned settings", source="none: it is not read from one", pattern="^([0-9a-f]{64})?$"
    )


def tuned_text(tuning: Tuning | None, *, protocol: str, domains: Collection[str], conditions: str = "") -> str:
    """The budget as tables name it; empty for settings that were not tuned.

    Args:
        tuning: of the run.
        protocol: the run's, which is named only if another one was tuned on.
        domains: the run's.
        conditions: of the run, see ``Conditions.tuned_for``; empty if they are not known.

    >>> facts = {"trials": 20, "held_out": 0.25, "images": 6, "seed": 0, "sampler": "tpe", "optuna": "5.0.0"}
    >>> entry = Tuning(protocol="mini", domains=("pill",), **facts)
    >>> tuned_text(entry, protocol="mini", domains=["pill"]), tuned_text(entry, protocol="open", domains=["polyp"])
    ('20 trials', '20 trials on mini')
    >>> tuned_text(entry, protocol="mini", domains=["pill", "polyp"])
    '20 trials on 1 of 2 domains'
    >>> entry = entry.model_copy(update={"conditions": "a"})
    >>> tuned_text(entry, protocol="mini", domains=["pill"], conditions="b")
    '20 trials under other conditions'
    """
    if tuning is None:
        return ""
    text = f"{tuning.trials} trials" if tuning.trials > 1 else "1 trial"
    if tuning.protocol != protocol:
        return f"{text} on {tuning.protocol}"
    if set(tuning.domains) != set(domains):
        return f"{text} on {len(tuning.domains)} of {len(domains)} domains"
    if conditions and tuning.conditions and tuning.conditions != conditions:
        return f"{text} under other conditions"
    return text
