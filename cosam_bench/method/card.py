"""What a method states about itself; importable without torch, and readable without importing the method."""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass
from typing import Literal, get_args

Need = Literal["inputs", "labels", "gradients", "replay"]
StateGrowth = Literal["none", "constant", "grows"]
Budget = Literal["none", "one adapter", "K adapters", "growing"]

STATE_SLACK_BYTES = 64
"""By how much a constant state may become larger: names and digits of other lengths change a file's size a little."""

_USUAL: dict[StateGrowth, Budget] = {"none": "none", "constant": "one adapter", "grows": "growing"}
_ALLOWED: dict[str, tuple[StateGrowth, ...]] = {
    "none": ("none",),
    "one adapter": ("constant",),
    "K adapters": ("constant", "grows"),
    "growing": ("grows",),
}


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """The facts about a method. Write it as a literal: ``card = MethodCard(title="...", ...)``.

    Attributes:
        title: the name as papers print it.
        paper: where the method comes from; empty for a control.
        needs: what the rule uses of the current domain beyond the trained expert; ``replay`` means that it
            keeps samples, which are then part of its state and counted; results are marked "keeps images".
        state: whether the memory between domains is empty, constant, or grows with the domains.
        budget: what the memory between domains amounts to, whatever the number of domains: ``one adapter`` is a state
            of constant size, ``K adapters`` one that grows up to a setting's number of adapters and no further, and
            ``growing`` one that grows with each domain. If it is not given, it follows from ``state``.
        budget_setting: the setting whose value is K, for ``K adapters``.
        order_dependent: whether another order of the domains gives another final model.
        upper_bound: a bound that no continual method can be expected to reach.
        all_at_once: trained once on the union of all domains instead of one domain after another.
        receives_domain: ``predict`` receives the name of each image's domain; results are marked "told the domain".
        not_continual: every step needs all experts; no smaller memory is enough.
        reconstructed: the paper's formulas were not available, so this is not the method as published.
        lora_only: the rule works on LoRA's own factors, so it accepts no other kind of adapter.
        deviations: each difference from the paper or its released code.
        told_domain: the old name of ``receives_domain``, for one more version.

    Raises:
        ValueError: a need, the state or the budget is not one of the words above, or the last two contradict.
    """

    title: str
    paper: str = ""
    needs: tuple[Need, ...] = ()
    state: StateGrowth = "constant"
    order_dependent: bool = True
    upper_bound: bool = False
    all_at_once: bool = False
    receives_domain: bool = False
    not_continual: bool = False
    reconstructed: bool = False
    lora_only: bool = False
    deviations: tuple[str, ...] = ()
    told_domain: InitVar[bool | None] = None
    budget: Budget | Literal[""] = ""
    budget_setting: str = ""

    def __post_init__(self, told_domain: bool | None) -> None:
        """Refuse what a type checker would refuse, because the harness acts on these words."""
        if told_domain is not None:
            message = "MethodCard(told_domain=...) is called receives_domain; the old name goes in the next version"
            warnings.warn(message, DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "receives_domain", told_domain)
        for texts in (self.needs, self.deviations):
            if not isinstance(texts, tuple):
                raise ValueError(f"{texts!r} is not a tuple; a tuple of one ends with a comma: ({texts!r},)")
        unknown = [word for word in self.needs if word not in get_args(Need)]
        if unknown:
            raise ValueError(f"a method cannot need {unknown[0]!r}; it may need {', '.join(get_args(Need))}")
        if self.state not in get_args(StateGrowth):
            raise ValueError(f"the state cannot be {self.state!r}; it is one of {', '.join(get_args(StateGrowth))}")
        if not self.budget:
            object.__setattr__(self, "budget", _USUAL[self.state])
        if self.budget not in _ALLOWED:
            raise ValueError(f"the budget cannot be {self.budget!r}; it is one of {', '.join(_ALLOWED)}")
        if self.state not in _ALLOWED[self.budget]:
            raise ValueError(f"the budget cannot be {self.budget!r} if the state is {self.state!r}")
        if (self.budget == "K adapters") != bool(self.budget_setting):
            raise ValueError("budget_setting names the setting that is K: give it for the budget 'K adapters' alone")

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader must know before comparing the method's results with others; empty for most methods."""
        marks = {
            "upper bound": self.upper_bound,
            "all domains at once": self.all_at_once,
            "told the domain": self.receives_domain,
            "not continual": self.not_continual,
            "keeps images": "replay" in self.needs,
            "reconstructed": self.reconstructed,
        }
        return tuple(mark for mark, applies in marks.items() if applies)
