"""What a worker says about a method, so that the parent need not import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosam_bench.core.search_ranges import SearchRange, range_from
from cosam_bench.isolation.faults import WorkerFault
from cosam_bench.isolation.messages import BadMessage
from cosam_bench.isolation.payloads import (
    Values,
    card_from,
)
from cosam_bench.isolation.worker_handle import Worker
from cosam_bench.method.card import MethodCard
from cosam_bench.method.registry import absolute_reference


@dataclass(frozen=True)
class MethodFacts:
    """What the harness knows of a method that it never imports.

    Attributes:
        asked: the method, as ``--method`` takes it.
        card: its card.
        settings: all of its settings, resolved, as JSON values.
        given: the same without those that are None.
        counted: those that differ from their defaults.
        rule: the hash of its code.
        needs_training: why experts that were trained elsewhere are not enough for it; empty if they are.
        ranges: in which its settings are tuned, by their names.
        given_up: the rights that a worker of it gives up on this system; of no account in comparisons.
    """

    asked: str
    card: MethodCard
    settings: Values
    given: Values
    counted: Values
    rule: str
    needs_training: str = ""
    ranges: Mapping[str, SearchRange] = field(default_factory=dict)
    given_up: tuple[str, ...] = field(default=(), compare=False)


def describe(asked: str, settings: Mapping[str, Any], *, source: str, hidden: Sequence[str] = ()) -> MethodFacts:
    """The facts about a method, which is imported in a worker.

    Args:
        asked: the method.
        settings: those that are given.
        source: of the settings, in messages.
        hidden: folders that the worker must not see: what it says is given to all later ones.

    Raises:
        WorkerFault: it cannot be imported, or a setting is not one of its own.
    """
    asked = absolute_reference(asked)  # a worker has a working directory of its own
    job = {"method": asked, "settings": dict(settings), "source": source, "hidden": list(hidden)}
    with Worker("describe", job) as worker:
        found = worker.due("described")
        try:
            card = card_from(found.values.get("card"))
        except BadMessage as error:
            raise worker.bad(str(error)) from None
        parts = [found.values.get(name) for name in ("settings", "given", "counted", "ranges")]
        rule, needs_training = found.text("rule"), found.text("needs_training")
        if not all(isinstance(part, dict) for part in parts) or len(rule) != 64:
            raise worker.bad("a description without settings or rule")
        worker.finish()
        resolved, given, counted, tables = (dict(part) for part in parts if isinstance(part, dict))
        try:
            ranges = {str(name): range_from(table) for name, table in tables.items()}
        except (TypeError, ValueError) as error:
            raise worker.bad(f"a range of a setting that is none: {error}") from None
        return MethodFacts(asked, card, resolved, given, counted, rule, needs_training, ranges, worker.given_up)


def text_of(fault: WorkerFault, asked: str) -> str:
    """What went wrong while a method was imported or checked, as one message."""
    if fault.kind in ("cosam", "disk"):
        return fault.text
    where = f" ({fault.place})" if str(fault.place) else ""
    act = "while its code was imported" if fault.act in ("import", "describe") else f"in {fault.act}()"
    if fault.kind == "died":
        return f"Method {asked!r}: its process {fault.text} {act}{where}. Correct the method."
    if fault.kind == "contract":
        return f"Method {asked!r}: {fault.text}"
    return f"Method {asked!r} raised {fault.error} {act}: {fault.text}{where}."
