"""Methods that would be wrong in silence: what the contract check says of each, and of which line."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import Update, weight_changes
from cosam_bench.method.card import MethodCard
from cosam_bench.method.contract_check import ContractViolation, check_method
from cosam_bench.method.interface import MergingMethod, Method, State
from cosam_bench.method.places import place_of
from cosam_bench.method.registry import load_method
from cosam_bench.methods.finetune import Finetune


class Forgets(MergingMethod):
    card = MethodCard(title="no return", order_dependent=True)

    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        Update(dense=weight_changes(expert))


class ReturnsADict(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        return weight_changes(expert)


class KeepsAnUpdate(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.memory["step"] = torch.tensor(step)
        self.memory["last"] = expert
        return expert


class KeepsATensorAsAValue(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.values["sum"] = torch.zeros(1)
        return expert


class NumbersItsValues(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.values[step] = len(domain)  # type: ignore[index]
        return expert


class ReportsEachLayer(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        for number in range(17):
            self.bench.meter.report(f"layer {number}", 1.0)
        return expert


class ReportsTwoLines(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.bench.meter.report("first\nsecond", 1.0)
        return expert


class ReportsText(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.bench.meter.report("condition", "good")  # type: ignore[arg-type]
        return expert


class ReplacesItsMemory(Forgets):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.memory = [expert]  # type: ignore[assignment]
        return expert


class ReturnsNoState(Finetune):
    def state(self):  # type: ignore[no-untyped-def]
        return {"served": 1}


class HasAnUpdateInItsState(Finetune):
    def state(self) -> State:
        return State({"served": self.served})  # type: ignore[dict-item]


class KeepsExperts(MergingMethod):
    card = MethodCard(title="mean of an attribute", order_dependent=True)

    def __init__(self, settings, bench):  # type: ignore[no-untyped-def]
        super().__init__(settings, bench)
        self.experts = []  # type: ignore[var-annotated]

    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.experts.append(weight_changes(expert))
        names = self.experts[0]
        return Update(dense={name: sum(one[name] for one in self.experts) / len(self.experts) for name in names})


class CountsInAnAttribute(Finetune):
    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        self.count = getattr(self, "count", 0) + 1
        return Update(dense={name: change / self.count for name, change in weight_changes(expert).items()})


class BreaksThreeRules(MergingMethod):
    card = MethodCard(title="three faults", state="constant")

    def merge(self, expert, domain, *, step):  # type: ignore[no-untyped-def]
        torch.rand(1)
        self.memory[f"expert {step}"] = torch.zeros(1000)
        return expert

    def predict(self, batch):  # type: ignore[no-untyped-def]
        logits = super().predict(batch)
        return logits - logits.mean(0)


def line_of(function: object, text: str) -> str:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return f"({__file__}, line {first + next(number for number, line in enumerate(lines) if text in line)})"


@pytest.mark.parametrize(
    ("method", "text", "line"),
    [
        (Forgets, "merge() returned None, as a function without a return does", (Forgets, "def merge")),
        (ReturnsADict, "merge() returned a dict instead of an Update", (ReturnsADict, "def merge")),
        (KeepsAnUpdate, "self.memory['last'] is an Update", (KeepsAnUpdate, '["last"]')),
        (KeepsATensorAsAValue, "self.values['sum'] is a Tensor", (KeepsATensorAsAValue, '["sum"]')),
        (NumbersItsValues, "self.values has the key 1, an int", (NumbersItsValues, "self.values[step]")),
        (ReportsEachLayer, "at most 16 figures; 'layer 16' is one more", (ReportsEachLayer, "meter.report")),
        (ReportsTwoLines, "without line breaks, not 'first\\nsecond'", (ReportsTwoLines, "meter.report")),
        (ReportsText, "a number that a float can hold, not this str", (ReportsText, "meter.report")),
        (ReplacesItsMemory, "self.memory is a list instead of a dict", (ReplacesItsMemory, "self.memory =")),
        (ReturnsNoState, "state() returned a dict instead of a cosam_bench.State", (ReturnsNoState, "def state")),
        (
            KeepsExperts,
            "what learn() needs of earlier domains is kept in an attribute that is not in the state: self.experts",
            (KeepsExperts, "self.experts = []"),
        ),
        (CountsInAnAttribute, "not in the state: self.count", (CountsInAnAttribute, "self.count =")),
    ],
)
def test_what_was_silently_wrong_is_named_with_its_line(
    method: type[Method], text: str, line: tuple[object, str]
) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_method(method)
    assert len(caught.value.faults) == 1
    assert text in str(caught.value)
    assert line_of(*line) in str(caught.value)


def test_a_state_with_something_else_than_tensors_is_refused() -> None:
    with pytest.raises(ContractViolation, match=r"^The state's tensor 'served' is an Update\."):
        check_method(HasAnUpdateInItsState)


def test_all_faults_are_reported_at_once_and_numbered() -> None:
    with pytest.raises(ContractViolation) as caught:
        check_method(BreaksThreeRules)
    first, second, third = caught.value.faults
    assert "global generator" in first
    assert line_of(BreaksThreeRules, "def merge") in first
    assert "alone and in a batch" in second
    assert line_of(BreaksThreeRules, "def predict") in second
    assert "Say state='grows'" in third
    assert str(caught.value).splitlines() == [f"1. {first}", f"2. {second}", f"3. {third}"]


def test_a_class_without_merge_is_named_with_its_line_and_the_near_miss(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from cosam_bench import MergingMethod, MethodCard\n\n\nclass Mine(MergingMethod):\n"
        "    card = MethodCard(title='Mine')\n\n    def mrege(self, expert, domain, *, step):\n        return expert\n"
    )
    place = re.escape(f"Mine ({path}, line 4)")
    for asked in (str(path), f"{path}:Mine"):
        with pytest.raises(CosamError, match=rf"^{place} does not define merge\. Did you mean 'merge' by 'mrege'\?$"):
            load_method(asked)
    path.write_text(path.read_text().replace("mrege", "combine"))
    with pytest.raises(CosamError, match=rf"^{place} does not define merge\. Write merge\(\) in the class\.$"):
        load_method(str(path))


def test_a_place_is_that_of_the_class_or_the_function() -> None:
    assert str(place_of(Forgets)) == line_of(Forgets, "class Forgets")[1:-1]
    assert str(place_of(Forgets.merge)) == line_of(Forgets, "def merge")[1:-1]
    assert str(place_of(len)) == ""
