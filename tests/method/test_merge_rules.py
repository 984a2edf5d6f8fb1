"""A decorated function as a method: its settings, its arguments, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field

from cosam_bench import LowRank, MergingMethod, Update, merge_rule, setting
from cosam_bench.core.errors import CosamError
from cosam_bench.core.setting_keys import setting_keys
from cosam_bench.core.settings import validate
from cosam_bench.isolation.check import check_isolated
from cosam_bench.method.merge_rules import WrongRule
from cosam_bench.method.registry import load_method
from cosam_bench.method.returned import WrongType
from cosam_bench.method.source_reading import describe


@merge_rule(title="Halfway", paper="arXiv 0000.00000", start="served", order_dependent=False, deviations=("none",))
def halfway(
    old: Any,
    new: Any,
    step: int,
    *,
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    first: float = setting(1.0, "the share of the first domain", source="a guess", ge=0),
    whole: bool = False,
) -> Any:
    """Moves part of the way."""
    share = first if step == 1 else share
    return dict(new) if whole else {name: old[name] + share * (new[name] - old[name]) for name in new}


def made(method: type[MergingMethod[Any]] = halfway, **settings: Any) -> Any:
    return method(validate(method.Settings, settings, source="Settings"), None)  # type: ignore[arg-type]


def low_rank(value: float) -> Update:
    return Update(
        {"layer": LowRank(a=torch.ones(1, 3), b=torch.full((2, 1), value))}, {"bias": torch.full((2,), value)}
    )


def test_the_function_becomes_a_method_with_its_card_and_settings() -> None:
    assert (halfway.__name__, halfway.__module__, halfway.start) == ("halfway", __name__, "served")
    assert halfway.__doc__ == "Moves part of the way."
    card = halfway.card
    assert (card.title, card.paper, card.state) == ("Halfway", "arXiv 0000.00000", "constant")
    assert (card.order_dependent, card.deviations) == (False, ("none",))
    assert [(key.name, key.type, key.default, key.meaning, key.source) for key in setting_keys(halfway.Settings)] == [
        ("share", "float > 0 <= 1", "0.5", "", ""),
        ("first", "float >= 0", "1.0", "the share of the first domain", "a guess"),
        ("whole", "bool", "false", "", ""),
    ]
    assert halfway.needs_training(made().settings) == "continues training from its served update"


@pytest.mark.parametrize(
    ("key", "value", "said"), [("share", 2, "less than or equal to 1"), ("shar", 1, "did you mean")]
)
def test_settings_are_checked(key: str, value: object, said: str) -> None:
    with pytest.raises(CosamError, match=said):
        made(**{key: value})


def test_the_rule_sees_changes_from_the_base_and_its_settings() -> None:
    method = made(share=0.25)
    method.served = method.merge(low_rank(4.0), None, step=1)
    assert method.served.dense["bias"].tolist() == [4, 4], "old is zero before the first domain"
    assert method.served.dense["layer.weight"].tolist() == [[4, 4, 4], [4, 4, 4]]
    second = method.merge(low_rank(8.0), None, step=2)
    assert second.dense["layer.weight"].tolist() == [[5, 5, 5], [5, 5, 5]]
    assert made(whole=True).merge(low_rank(8.0), None, step=2).dense["bias"].tolist() == [8, 8]


def test_results_have_the_experts_dtype() -> None:
    @merge_rule(title="Double")
    def double(old: Any, new: Any, step: int) -> Any:
        return {name: change.double() for name, change in new.items()}

    assert made(double).merge(low_rank(1.0), None, step=1).dense["bias"].dtype == torch.float32


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("None", "returned None instead of a dict of tensors"),
        ("{'bias': new['bias']}", "returned no change of 'layer.weight'"),
        ("new | {'more': new['bias']}", "returned a change of an unknown parameter, 'more'"),
        ("new | {'bias': 1.0}", "returned a float instead of a tensor of shape (2,) for 'bias'"),
        ("new | {'bias': new['layer.weight']}", "returned a tensor of shape (2, 3) instead of a tensor of shape (2,)"),
    ],
)
def test_a_wrong_result_is_named_with_its_place(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong_result.py"
    file.write_text(
        f"from cosam_bench import merge_rule\n\n@merge_rule(title='W')\ndef wrong(old, new, step):\n    return {body}\n"
    )
    with pytest.raises(WrongType) as error:
        made(load_method(str(file))).merge(low_rank(1.0), None, step=1)  # type: ignore[arg-type]
    assert said in str(error.value)
    assert f"({file}, line 3)" in str(error.value)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ("old, new, step, *, share=0.5", "The setting 'share' of wrong has no type"),
        ("old, new, step, *, share: float", "The setting 'share' of wrong has no default"),
        ("old, new, step, *, share: float = 'a'", "'share' is 'a': input should be a valid number"),
        ("old, new, step, *, share: Unknown = 1", "name 'Unknown' is not defined"),
        ("old, new, step, *, _share: float = 1", "The setting '_share' of wrong begins with an underscore"),
        ("old, new", "takes old, new and step, then its settings by keyword, as in def wrong(old, new, step"),
        ("old, new, step, share: float = 1", "wrong takes old, new, step, share"),
        ("old, new, step, **settings", "wrong takes old, new, step, **settings"),
    ],
)
def test_a_wrong_function_is_named_with_its_place(signature: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong_rule.py"
    head = "from __future__ import annotations\nfrom cosam_bench import merge_rule\n\n"
    file.write_text(f"{head}@merge_rule(title='W')\ndef wrong({signature}):\n    return new\n")
    with pytest.raises(WrongRule) as error:
        load_method(str(file))
    assert said in str(error.value)
    assert str(error.value).endswith(f"({file}, line 4).")
    assert str(error.value).count("wrong_rule.py") == 1


@pytest.mark.parametrize(
    ("decorator", "said"),
    [
        (
            "@merge_rule",
            r'needs a title\. Write @merge_rule\(title="\.\.\."\) above the function \(.*wrong\.py, line 4\)',
        ),
        ("@merge_rule()", r"needs a title\. Write @merge_rule"),
        ("@merge_rule(title='X', start='Served')", "start of wrong is 'Served'; it is 'base' or 'served'"),
    ],
)
def test_a_wrong_decorator_is_told(decorator: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        f"from cosam_bench import merge_rule\n\n\n{decorator}\ndef wrong(old, new, step):\n    return new\n"
    )
    with pytest.raises(CosamError, match=said):
        load_method(str(file))


def test_a_file_with_a_rule_is_described_and_checked_in_processes_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        '"""A file."""\nfrom cosam_bench import merge_rule\n\n@merge_rule(title="Mine")\n'
        'def mine(old, new, step, *, share: float = 0.5):\n    """A rule."""\n'
        "    return {name: old[name] + share * new[name] for name in new}\n"
    )
    found = describe(str(file))
    assert (found.card.title, found.documentation) == ("Mine", "A file.\n\nA rule.")
    assert len(check_isolated(str(file), settings={"share": 0.25})) == 10
    assert load_method(f"{file}:mine").card.title == "Mine"
