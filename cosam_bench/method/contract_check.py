"""Check that a method keeps the contract that the harness's figures depend on.

    from cosam_bench import check_method
    check_method(MyMethod)

It runs the method on three small synthetic domains with an untrained tiny SAM: a few seconds on a laptop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, validate
from cosam_bench.method.card import STATE_SLACK_BYTES, MethodCard
from cosam_bench.method.contract_trial import Outcome, Trial
from cosam_bench.method.interface import Method
from cosam_bench.method.places import place_of
from cosam_bench.method.trial import TRIAL_ADAPTER
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings


class ContractViolation(CosamError):
    """A method breaks the contract; the message says of each fault what was seen and the likely cause.

    Attributes:
        faults: one text each.
    """

    def __init__(self, *faults: str) -> None:
        numbered = (f"{number}. {fault}" for number, fault in enumerate(faults, start=1))
        super().__init__(faults[0] if len(faults) == 1 else "\n".join(numbered))
        self.faults = faults


@checked_arguments()
def check_method(
    method: type[Method], *, settings: Mapping[str, Any] | None = None, adapter: AdapterSettings | None = None
) -> list[str]:
    """Check a method against the contract, and return one line per check that passed.

    Args:
        method: a concrete subclass of ``Method``.
        settings: the method's, if its defaults are too slow or not sufficient.
        adapter: the one to train; None: a small LoRA.

    Raises:
        ContractViolation: one or several checks failed.
        CosamError: the settings are not the method's.
    """
    examined = examine(method, settings=settings, adapter=adapter)
    if examined.faults:
        raise ContractViolation(*examined.faults)
    return list(examined.passed)


@dataclass(frozen=True)
class Examined:
    """What the check has found.

    Attributes:
        faults: one text each; empty if the method keeps the contract.
        passed: one line per check, if there is no fault.
        states: the sha256 of the state's file after each domain that was learned.
        logits: the prediction of ``trial_batch`` after each of these domains.
    """

    faults: tuple[str, ...]
    passed: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    logits: tuple[Tensor, ...] = ()


def examine(
    method: type[Method], *, settings: Mapping[str, Any] | None = None, adapter: AdapterSettings | None = None
) -> Examined:
    """As ``check_method``, but faults are returned, and so is what the trial has computed.

    Raises:
        CosamError: the settings are not the method's.
    """
    faults = tuple(_class_faults(method))
    if faults:
        return Examined(faults)
    checked = validate(method.Settings, dict(settings or {}), source=f"Settings of {method.__name__}")
    trial = Trial(method, checked, adapter=adapter or TRIAL_ADAPTER)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        first = trial.run(Path(folder) / "first", seed=1)
        # With other adapters a rank may be full, which keeps a state from growing.
        if first.is_complete and adapter is None:
            trial.check_growth(first.state_bytes)
            _check_budget(trial, method, checked, Path(folder))
        if first.is_complete and trial.may_repeat:
            _check_repeats(trial, first, Path(folder))
    if trial.faults:
        return Examined(tuple(trial.faults.values()))
    passed = (
        "the class has a card, settings and all abstract methods",
        "predict() returns finite float logits of the decoder's size",
        "an image's prediction does not depend on the rest of its batch",
        "a method rebuilt from its state predicts and learns as one that lives on: nothing is remembered outside it",
        "a state that is read and written again is unchanged",
        "no data is read after learn() has returned",
        "the frozen base model is unchanged",
        "torch's global random state is unchanged, and a second run gives the same state",
        f"the state's growth is as the card says: {method.card.state}, budget {method.card.budget}",
    )
    return Examined((), passed, tuple(first.states), tuple(first.logits))


def _class_faults(method: type[Method]) -> Iterator[str]:
    if not (isinstance(method, type) and issubclass(method, Method)):
        yield f"{method!r} is not a subclass of cosam_bench.Method."
        return
    place = place_of(method)
    where = f" ({place})" if str(place) else ""
    missing = sorted(getattr(method, "__abstractmethods__", ()))
    if missing:
        yield f"{method.__name__} does not define {', '.join(missing)}{where}."
    if not isinstance(getattr(method, "card", None), MethodCard):
        yield (
            f"{method.__name__}.card is not a MethodCard{where}. "
            "Write card = MethodCard(title='...', ...) in the class."
        )
    if not issubclass(method.Settings, Settings):
        yield (
            f"{method.__name__}.Settings is not a subclass of cosam_bench.Settings, which refuses unknown keys{where}."
        )


def _check_repeats(trial: Trial, first: Outcome, folder: Path) -> None:
    """Compare with a second run, in which the method lives on from domain to domain.

    Equal results show both that a run can be repeated and that a rebuilt method lacks nothing. If they differ, a third
    run, rebuilt as the first, tells which of the two is not so.
    """
    second = trial.run(folder / "second", seed=2, lives_on=True)
    if not second.is_complete or second.equals(first):
        return
    third = trial.run(folder / "third", seed=3)
    if not third.equals(first):
        trial.report(
            "repeat",
            "Two runs with the same seed differ. Likely cause: random numbers that do not come from "
            "self.bench.generator, iteration over a set, or memory in the class or its module",
        )
    elif (step := second.first_other_step(first)) is not None:
        named = f": {', '.join(f'self.{name}' for name in second.attributes)}" if second.attributes else ""
        trial.report(
            "lives on",
            f"A method that lives on and one that is rebuilt from its state differ after domain {step}. Likely cause: "
            f"what learn() needs of earlier domains is kept in an attribute that is not in the state{named}. Put "
            "tensors into self.memory and plain data into self.values, or write state() and load()",
            "merge",
            "learn",
            attribute=second.attributes[0] if second.attributes else "",
        )


def _check_budget(trial: Trial, method: type[Method], settings: Settings, folder: Path) -> None:
    """With room for one adapter alone, the state of a method with a budget of K is full after the first domain.

    Raises:
        CosamError: K cannot be 1.
    """
    card = method.card
    if card.budget != "K adapters":
        return
    given = settings.model_dump(mode="json") | {card.budget_setting: 1}
    source = f"Settings of {method.__name__} with {card.budget_setting} = 1, to check its budget"
    small = Trial(method, validate(method.Settings, given, source=source), adapter=TRIAL_ADAPTER)
    found = small.run(folder / "budget", seed=1)
    if not found.is_complete:
        trial.faults.setdefault("budget", f"With {card.budget_setting} = 1: {next(iter(small.faults.values()))}")
    elif found.state_bytes[-1] - found.state_bytes[0] > STATE_SLACK_BYTES:
        trial.report(
            "budget",
            f"The card says that the budget is {card.budget!r}, but with {card.budget_setting} = 1 the state has "
            f"{found.state_bytes} bytes after the domains. Say budget='growing', or keep no more than K adapters",
            "merge",
            "learn",
        )
