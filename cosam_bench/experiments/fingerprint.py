"""What makes two runs comparable, and what makes them the same: hashes of all that decides a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosam_bench.core.arithmetic import described_arithmetic
from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.hashing import sha256_json
from cosam_bench.core.settings import Settings
from cosam_bench.core.version import __version__
from cosam_bench.data.samples import Domain
from cosam_bench.experiments.protocol import Protocol
from cosam_bench.results.conditions import protocol_digest
from cosam_bench.results.run_info import Conditions
from cosam_bench.results.tuning import Tuning
from cosam_bench.sam.sam import Sam
from cosam_bench.training.given_experts import GivenExperts

SCORE_VERSION = 2
"""Of what ``score.size`` means."""


def run_conditions(
    protocol: Protocol,
    *,
    columns: tuple[Domain, ...],
    sam: Sam,
    given: GivenExperts | None = None,
) -> Conditions:
    """What two records must share before one table may hold both, brought experts and a GPU's rounding included."""
    return Conditions(
        data={domain.name: domain.digest for domain in sorted(columns, key=lambda domain: domain.name)},
        checkpoint=sam.digest,
        config=protocol_digest(counted_settings(protocol) | _changed_meanings(protocol)),
        keys="changed",
        experts="" if given is None else given.digest,
        arithmetic=described_arithmetic(sam.device),
    )


def _changed_meanings(protocol: Protocol) -> dict[str, int]:
    """The settings that mean something else than in earlier versions, so that old and new scores are set apart.

    Before 0.2, ``score.size = "model"`` shrank some small objects to nothing, and rewarded a prediction of nothing.
    """
    return {"score.size": SCORE_VERSION} if protocol.score.size == "model" else {}


def run_fingerprint(
    rule: str,
    *,
    name: str,
    settings: Settings | Mapping[str, Any] | None,
    conditions: Conditions,
    prompts: dict[str, str],
    order: tuple[str, ...],
    seed: int,
    device: str,
    scales: tuple[float, ...] = (),
    tuning: Tuning | None = None,
    deterministic: bool = False,
    also_prompts: tuple[str, ...] = (),
) -> str:
    """Hash of all that decides a run's scores: two runs with the same hash are the same run.

    Args:
        rule: the hash of the method's code, see ``rule_digest``.
        name: the method's name in the record.
        settings: the method's own, or those of them that differ from their defaults; others do not count.
        conditions: those of the run.
        prompts: digests of the frozen prompts, by domain and part.
        order: the names of the domains.
        seed: the run's.
        device: the kind of device, such as ``cuda``.
        scales: those at which each merge is scored.
        tuning: of the settings.
        deterministic: whether only deterministic operations are used.
        also_prompts: further prompts under which the run is scored.
    """
    facts = {
        "conditions": conditions.digest,
        "prompts": prompts,
        "method": name,
        "source": rule,
        "settings": counted_settings(settings) if isinstance(settings, Settings) else dict(settings or {}),
        "seed": seed,
        "order": order,
        "device": device,
        "harness": __version__,
    }
    # Absent from the facts of runs before these settings.
    later = {
        "scales": scales,
        "deterministic": deterministic,
        "also prompts": also_prompts,
        "tuning": None if tuning is None else tuning.model_dump(mode="json"),
    }
    return sha256_json(facts | {name: value for name, value in later.items() if value})
