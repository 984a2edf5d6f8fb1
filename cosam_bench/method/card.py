"""What a method says of itself; importable without torch, and readable without importing the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

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
        not_continual: every step needs all experts, for which no shorter memory will do.
        reconstructed: the paper's formulas were not at hand, so this is not the method as it was published.
        lora_only: the rule is about LoRA's own factors, so that no other kind of adapter will do.
        deviations: each named difference from the paper or its released code.

    Raises:
        ValueError: a need or the state is none of the words above.
    """

    title: str
    paper: str = ""
    needs: tuple[Need, ...] = ()
    state: StateGrowth = "constant"
    order_dependent: bool = True
    upper_bound: bool = False
    all_at_once: bool = False
    told_domain: bool = False
    not_continual: bool = False
    reconstructed: bool = False
    lora_only: bool = False
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what a type checker would refuse, because the harness acts on these words."""
        for texts in (self.needs, self.deviations):
            if not isinstance(texts, tuple):
                raise ValueError(f"{texts!r} is no tuple; a tuple of one ends with a comma: ({texts!r},)")
        unknown = [word for word in self.needs if word not in get_args(Need)]
        if unknown:
            raise ValueError(f"a method cannot need {unknown[0]!r}; it may need {', '.join(get_args(Need))}")
        if self.state not in get_args(StateGrowth):
            raise ValueError(f"the state cannot be {self.state!r}; it is one of {', '.join(get_args(StateGrowth))}")

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader of a result must know before comparing it with others; empty for most methods."""
        marks = {
            "upper bound": self.upper_bound,
            "all domains at once": self.all_at_once,
            "told the domain": self.told_domain,
            "not continual": self.not_continual,
            "reconstructed": self.reconstructed,
        }
        return tuple(mark for mark, applies in marks.items() if applies)
