"""Whether anything was learned: what each domain gained when it was learned, and why it may be nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cosam_bench.data.prompt_settings import GRID
from cosam_bench.evaluation.score_matrix import Floats
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import AT_ONCE

HARDLY = 0.01
"""Mean IoU: this project's choice. On ``mini``, sequential training gains 0.16."""

_CEILING = 0.9  # mean IoU of frozen SAM beyond which not much can be gained


def learning_note(records: Sequence[Record]) -> str:
    """A note if no run gained anything on the domains that it learned, or an expert nothing on its own; else empty.

    The experts themselves are looked at if they are among the runs, otherwise the run that gained most. What was not
    trained in these runs is left out.

    Args:
        records: complete, of the same protocol.
    """
    trained = [record for record in records if record.cost.total_train_seconds > 0]
    own = [record for record in trained if record.method == "experts"]
    gains = [(record, *_right_after(record)) for record in own or trained]
    gains = [found for found in gains if found[1].size]
    if not gains:
        return ""
    record, after, frozen = max(gains, key=lambda found: float((found[1] - found[2]).mean()))
    gain = float((after - frozen).mean())
    if gain < HARDLY:
        who = "the experts score" if own else f"{record.method} scores"
        when, on = ("At the end", "the domains") if _is_at_once(record) else ("Right after a domain was learned", "it")
        return (
            f"Hardly anything was learned. {when}, {who} {after.mean():.3f} on {on} (mean IoU over domains), frozen "
            f"SAM {frozen.mean():.3f}. Likely causes: {'; '.join(_causes(record, gain, frozen))}."
        )
    if own and (behind := _behind(record)):
        return f"These experts do not beat frozen SAM on their own domains: {', '.join(behind)}. {_LOOK}."
    return ""


_LOOK = "Look at the masks: cosam-bench show RECORD --images DIR"


def _is_at_once(record: Record) -> bool:
    return AT_ONCE in record.info.marks


def _right_after(record: Record) -> tuple[Floats, Floats]:
    """The IoU of each domain right after it was learned, and of frozen SAM; domains that lack one are left out."""
    matrix = record.score_matrix("iou")
    values = np.ma.filled(matrix.values, np.nan)[:, : len(matrix.domains)]
    after, frozen = values[-1] if _is_at_once(record) else np.diagonal(values[1:]), values[0]
    known = ~np.isnan(after) & ~np.isnan(frozen)
    return after[known], frozen[known]


def _behind(record: Record) -> list[str]:
    matrix = record.score_matrix("iou")
    pairs = [(name, matrix.values[row + 1, row], matrix.values[0, row]) for row, name in enumerate(matrix.domains)]
    return [f"{name} ({after:.3f}, frozen {frozen:.3f})" for name, after, frozen in pairs if after <= frozen]


def _causes(record: Record, gain: float, frozen: Floats) -> Iterator[str]:
    protocol: Any = record.info.config.get("protocol") or {}
    fit, prompts = _table(protocol, "fit"), _table(protocol, "prompts")
    rate, epochs = fit.get("learning_rate", "unknown"), fit.get("epochs", "unknown")
    if gain < -HARDLY:
        yield f"too high a rate (fit.learning_rate is {rate}): try a tenth of it"
    elif frozen.mean() >= _CEILING:
        yield "little is left to learn, as frozen SAM is this good already"
    else:
        yield (
            f"too low a rate or too few epochs (fit.learning_rate is {rate}, fit.epochs {epochs}): try four times as "
            "much of each by --set"
        )
    train, test = prompts.get("train"), prompts.get("test")
    if train != test and train != "mix" and test != GRID:
        yield f"trained with another prompt ({train}) than tested ({test}): set prompts.train"
    yield f"masks that show something else than the prompts mean. {_LOOK}"


def _table(protocol: Any, name: str) -> Mapping[str, Any]:
    found = protocol.get(name) if isinstance(protocol, dict) else None
    return found if isinstance(found, dict) else {}
