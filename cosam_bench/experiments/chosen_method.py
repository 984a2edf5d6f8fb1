"""The method that a run's settings ask for, checked against its settings, the adapter and experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, validate
from cosam_bench.experiments.isolated_methods import described, named_private_folders, runs_isolated
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.method.card import MethodCard
from cosam_bench.method.interface import Method
from cosam_bench.method.registry import load_method, short_name
from cosam_bench.method.rule_digest import rule_digest


def rule_of(method: type[Method] | MethodFacts) -> str:
    """The hash of a method's code."""
    return method.rule if isinstance(method, MethodFacts) else rule_digest(method)


def chosen_method(
    config: RunConfig, isolated: bool | None, *, results: Path | None = None, private: Sequence[Path] = ()
) -> tuple[type[Method] | MethodFacts, Settings | None]:
    """The run's method and its settings; only facts about it, and no settings, if it runs isolated.

    Args:
        config: the run.
        isolated: whether the method is only imported in a process of its own; None: unless it is built in.
        results: the folder of records, which that process must not see; None: the default one.
        private: further folders that it must not see, beside those that the configuration names.

    Raises:
        CosamError: as for ``method_of``.
    """
    if not runs_isolated(config.method, isolated):
        return method_of(config)
    hidden = [*named_private_folders(config.protocol.stream, config.experts, results), *private]
    facts = described(config.method, config.settings, source=_settings_source(config), private=hidden)
    _check_adapter_kind(config, facts.card)
    if config.experts is not None:
        check_takes_experts(config.method, facts.needs_training)
    return facts, None


def _settings_source(config: RunConfig) -> str:
    return f"The settings of method {config.method!r}"


def method_of(config: RunConfig) -> tuple[type[Method], Settings]:
    """The run's method and its settings.

    Raises:
        CosamError: there is none of that name, a setting does not fit, or the method does not fit the adapter.
    """
    method = load_method(config.method)
    settings = validate(method.Settings, config.settings, source=_settings_source(config))
    _check_adapter_kind(config, method.card)
    if config.experts is not None:
        check_takes_experts(config.method, method.needs_training(settings))
    return method, settings


def _check_adapter_kind(config: RunConfig, card: MethodCard) -> None:
    kind = config.protocol.adapter.kind
    if card.lora_only and kind != "lora":
        raise CosamError(
            f"The method {config.method!r} is a rule about LoRA's factors, and the protocol's adapter is "
            f"{kind!r}. Take another method, or --set adapter.kind=lora."
        )


def check_takes_experts(asked: str, needs_training: str) -> None:
    """Refuse a method for which experts that were trained elsewhere are not enough.

    Args:
        asked: the method.
        needs_training: what it says of that, empty if they are.
    """
    if needs_training:
        raise CosamError(
            f"The method {short_name(asked)!r} {needs_training}, so it cannot use experts that were trained elsewhere. "
            "Take another method, or have its experts trained: cosam-bench run without --experts."
        )
