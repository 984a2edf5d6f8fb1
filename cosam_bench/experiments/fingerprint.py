"""What makes two runs comparable, and what makes them the same: hashes of all that decides a score."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cosam_bench.core.settings import Settings
from cosam_bench.core.version import __version__
from cosam_bench.data.samples import Domain
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.method.interface import Method
from cosam_bench.results.run_info import Conditions
from cosam_bench.sam.sam import Sam

# Parts of a protocol that change nothing, or whose contents are hashed in place of their names.
_OTHERWISE_HASHED: Any = {"title": True, "stream": True, "methods": True, "model": True, "adapter": {"start"}}


def conditions_of(config: RunConfig, columns: tuple[Domain, ...], sam: Sam) -> Conditions:
    """What two records must share before one table may hold both."""
    return Conditions(
        data={domain.name: domain.digest for domain in sorted(columns, key=lambda domain: domain.name)},
        checkpoint=sam.digest,
        config=_hash(config.protocol.model_dump(mode="json", exclude=_OTHERWISE_HASHED)),
    )


def run_digest(
    *,
    conditions: Conditions,
    prompts: dict[str, str],
    method: tuple[str, type[Method], Settings],
    order: list[str],
    seed: int,
    device: str,
) -> str:
    """Hash of all that decides a run's scores; ``Experiment.digest`` says what that is.

    Args:
        prompts: digests of the frozen prompts.
        method: its name, its class and its settings.
        order: the names of the domains.
    """
    name, method_class, settings = method
    facts = {
        "conditions": conditions.digest,
        "prompts": prompts,
        "method": name,
        "source": _source_digest(method_class),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "order": order,
        "device": device,
        "harness": __version__,
    }
    return _hash(facts)


def _source_digest(method: type[Method]) -> str:
    """Hash of the files that a method's rule is made of, so that an edited method is measured anew.

    They are the method's own module and what it uses, directly or not, of ``cosam_bench.merging`` and of its
    own package.
    """
    state = hashlib.sha256()
    for name in sorted(_rule_modules(method.__module__)):
        path = getattr(sys.modules[name], "__file__", None)
        state.update(f"{name}|".encode() + (Path(path).read_bytes() if path else b""))
    return state.hexdigest()


def _rule_modules(name: str) -> set[str]:
    """A method's module and those that count as part of its rule, by what each has in its namespace."""
    package = name.partition(".")[0]
    own = () if package == "cosam_bench" else (package,)
    found, left = {name}, [name]
    while left:
        for value in vars(sys.modules[left.pop()]).values():
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if not isinstance(used, str) or used in found or used not in sys.modules:
                continue
            if (used.startswith("cosam_bench.merging.") and used != "cosam_bench.merging.updates") or used.partition(
                "."
            )[0] in own:
                found.add(used)
                left.append(used)
    return found


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
