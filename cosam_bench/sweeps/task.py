"""One task of a sweep, and the hash that names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["frozen row", "expert", "run"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Task:
    """Something that is done once, however many runs need it.

    Attributes:
        key: the hash of all that decides what comes of it; equal tasks have equal keys.
        kind: the row of frozen SAM, an expert, or a whole run.
        config: the position of its settings in the plan.
        seed: the run's.
        order: of the domains; empty if it does not count.
        domain: of an expert.
        needs: keys of the tasks before it.
        rule: of a run, the hash of its method's code when it was planned.
    """

    key: str
    kind: Kind
    config: int
    seed: int
    order: tuple[str, ...] = ()
    domain: str = ""
    needs: tuple[str, ...] = ()
    rule: str = ""
