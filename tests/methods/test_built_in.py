"""Every registered method keeps the contract; a method that breaks it is told how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, setting
from cosam_bench.method.card import MethodCard
from cosam_bench.method.contract_check import ContractViolation, check_method
from cosam_bench.method.interface import MergingMethod, Method, State
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.source_reading import read_card
from cosam_bench.methods.finetune import Finetune

SHORTER = {
    "trm": {"passes": 1},
    "dop": {"steps": 5},
    "wudi": {"steps": 5},
}  # searches, whose length is no part of the contract


@pytest.mark.parametrize("name", method_names())
def test_a_registered_method_keeps_the_contract(name: str) -> None:
    assert len(check_method(load_method(name), settings=SHORTER.get(name))) == 9


@pytest.mark.parametrize("name", method_names())
def test_the_card_read_from_the_source_is_the_classes_own(name: str) -> None:
    assert read_card(name) == load_method(name).card


def test_the_budgets_of_the_built_in_methods() -> None:
    built_in = (name for name in method_names() if load_method(name).__module__.startswith("cosam_bench.methods."))
    budgets = {name: read_card(name).budget for name in built_in}
    assert {name for name, budget in budgets.items() if budget == "none"} == {"frozen"}
    assert {name for name, budget in budgets.items() if budget == "K adapters"} == {"kmerge"}
    assert {name for name, budget in budgets.items() if budget == "growing"} == {
        *("er", "experts", "iso_c", "knots", "moda", "nufilt", "nullfilter", "opcm", "pcb", "router", "tsvm")
    }


class KSettings(Settings):
    slots: int = setting(2, "K", source="this test", ge=1)


class KeepsK(MergingMethod[KSettings]):
    card = MethodCard(title="K", state="grows", budget="K adapters", budget_setting="slots")

    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.memory[f"slot {min(step, self.settings.slots)}"] = torch.zeros(100)
        return expert


class KeepsOneMore(KeepsK):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.memory[f"slot {min(step, self.settings.slots + 1)}"] = torch.zeros(100)
        return expert


def test_a_budget_of_k_adapters_is_measured_with_room_for_one() -> None:
    assert check_method(KeepsK, settings={"slots": 3})[-1].endswith("as the card says: grows, budget K adapters")
    with pytest.raises(
        ContractViolation, match=r"with slots = 1 the state has \[\d+, \d+, \d+\] bytes .* budget='growing'"
    ):
        check_method(KeepsOneMore, settings={"slots": 3})


def test_a_class_that_says_what_means_nothing_is_refused_at_once() -> None:
    card = MethodCard(title="K", state="grows", budget="K adapters", budget_setting="places")
    with pytest.raises(ValueError, match="the card of K says that the setting 'places' is K, but there is no such"):
        type("K", (KeepsK,), {"card": card})
    with pytest.raises(ValueError, match="start of S is 'Served'; it is 'base' or 'served'"):
        type("S", (Finetune,), {"start": "Served"})
    with pytest.raises(ValueError, match="from_scratch of S is 'no'; it is True or False"):
        type("S", (Finetune,), {"from_scratch": "no"})


class ForgetsItsSums(Finetune):
    def state(self) -> State:
        state = super().state()
        return State({}, {**state.values, "is_served": False})


class RemembersInTheClass(Finetune):
    seen: list[str] = []  # noqa: RUF012 (the fault under test)

    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.seen.append(domain.name)
        self.memory["seen"] = torch.tensor(len(self.seen))
        return expert


class KeepsTheDomain(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.kept = domain
        return expert

    def predict(self, batch):  # type: ignore[no-untyped-def]
        if hasattr(self, "kept"):
            self.kept[0]
        return super().predict(batch)


class DrawsGlobally(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        torch.rand(1)
        return expert


class ChangesTheBase(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            next(self.bench.sam.parameters()).add_(1e-3)
        return expert


class GrowsInSecret(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.memory[f"copy {step}"] = torch.zeros(100)
        return expert


class LooksAtItsNeighbours(Finetune):
    def predict(self, batch):  # type: ignore[no-untyped-def]
        logits = super().predict(batch)
        return logits - logits.mean(0)


class ReturnsMasks(Finetune):
    def predict(self, batch):  # type: ignore[no-untyped-def]
        return super().predict(batch) > 0


class Raises(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        raise ZeroDivisionError("one over nothing")


class HasNoCard(Method):
    def learn(self, domain, *, step):  # type: ignore[no-untyped-def]
        """Nothing."""

    def predict(self, batch):  # type: ignore[no-untyped-def]
        """Nothing."""

    def state(self):  # type: ignore[no-untyped-def]
        """Nothing."""

    def load(self, state):  # type: ignore[no-untyped-def]
        """Nothing."""


class IsAbstract(MergingMethod):
    card = MethodCard(title="abstract")


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        (ForgetsItsSums, "state\\(\\) does not save"),
        (RemembersInTheClass, "memory in the class"),
        (KeepsTheDomain, "keeps the domain"),
        (DrawsGlobally, "global generator"),
        (ChangesTheBase, "frozen base model"),
        (GrowsInSecret, "Say state='grows'"),
        (LooksAtItsNeighbours, "statistics over the batch"),
        (ReturnsMasks, "must return float logits"),
        (Raises, "ZeroDivisionError: one over nothing"),
        (HasNoCard, "not a MethodCard"),
        (IsAbstract, "does not define merge"),
    ],
)
def test_a_broken_method_is_told_the_likely_cause(method: type[Method], cause: str) -> None:
    with pytest.raises(ContractViolation, match=cause):
        check_method(method)


def test_settings_that_are_not_the_methods_are_refused() -> None:
    with pytest.raises(CosamError, match=r"did you mean 'ridge'"):
        check_method(load_method("regcl"), settings={"rigde": 1.0})


def test_a_name_nobody_offers_gets_the_nearest_one() -> None:
    with pytest.raises(CosamError, match=r"Did you mean 'regcl'"):
        load_method("regcll")


def test_a_method_in_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from cosam_bench.methods.finetune import Finetune\n"
        "from cosam_bench.method.card import MethodCard\n"
        "class Mine(Finetune):\n    card = MethodCard(title='Mine')\n"
    )
    assert load_method(str(path)).card.title == "Mine"
    assert load_method(f"{path}:Mine").card.title == "Mine"
    with pytest.raises(CosamError, match=r"has no 'Yours'\. Its methods: Mine"):
        load_method(f"{path}:Yours")


def test_a_module_and_class_are_loaded_by_name() -> None:
    assert load_method("cosam_bench.methods.regcl:RegCL").card.title == "RegCL"
    with pytest.raises(CosamError, match="is not a concrete subclass"):
        load_method("cosam_bench.methods.regcl:RegCLSettings")


def test_a_file_that_raises_while_loading_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(CosamError, match=r"broken\.py raised ZeroDivisionError"):
        load_method(str(path))
