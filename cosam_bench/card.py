"""What a method says of itself; importable without torch, and readable without importing the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["inputs", "labels", "gradients", "replay"]
StateGrowth = Literal["none", "constant", "grows"]


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A method's facts. Write it as a literal: ``card = MethodCard(title="...", ...)``.

    Attributes:
        title: the name as papers print it.
        paper: where the method comes from; empty for a control.
        needs: what the rule uses of the current domain beyond the trained expert; ``replay`` says that it
            keeps samples, which then lie in its state and are counted.
        state: whether what survives between domains is nothing, constant, or grows with the domains.
        order_dependent: whether another order of the domains gives another final model.
        upper_bound: a bound that no continual method can be asked to reach.
        all_at_once: trained once on the union of all domains instead of one domain after another.
        told_domain: ``predict`` is told which domain an image comes from.
        deviations: each named difference from the paper or its released code.
    """

    title: str
    paper: str = ""
    needs: tuple[Need, ...] = ()
    state: StateGrowth = "constant"
    order_dependent: bool = True
    upper_bound: bool = False
    all_at_once: bool = False
    told_domain: bool = False
    deviations: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Why a result may not be compared with the others as it is; empty for a fair competitor."""
        marks = {
            "upper bound": self.upper_bound,
            "all domains at once": self.all_at_once,
            "told the domain": self.told_domain,
        }
        return tuple(mark for mark, applies in marks.items() if applies)
