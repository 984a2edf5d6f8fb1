"""A run's facts as a record has them, without a run."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from cosam_bench.data.protocol_files import built_in_protocols
from cosam_bench.experiments.protocol import load_protocol
from cosam_bench.results.run_info import Conditions, Cost, RunInfo


@cache
def protocol_settings(name: str) -> dict[str, Any]:
    """All settings of a built-in protocol, its mode in its name, as a record has them; of another, its name."""
    base, _, mode = name.partition("-")
    if base not in built_in_protocols():
        return {"name": name}
    return load_protocol(base, mode=mode or "clean").model_dump(mode="json")


def run_info(**changes: Any) -> RunInfo:
    """A complete run of `regcl` on two domains and a retention domain, with some fields changed."""
    protocol = protocol_settings(changes.get("protocol", "mini"))
    facts: dict[str, Any] = {
        "protocol": "mini",
        "protocol_version": protocol.get("version", 1),
        "method": "regcl",
        "settings": {"ridge": 1e-3},
        "config": {"seed": 3, "protocol": protocol},
        "seed": 3,
        "order": ("pill", "camo"),
        "retention": ("photo",),
        "marks": (),
        "conditions": Conditions(data={"pill": "aa", "camo": "bb"}, checkpoint="cc", config="dd"),
        "versions": {"torch": "2.6"},
        "commit": "",
        "hardware": {"cpu": "two cores", "memory_bytes": 2**33},
        "device": "cpu",
        "status": "complete",
        "started": "2025-01-01T00:00:00+00:00",
        "cost": Cost(train_seconds=(1.5, 2.25), merge_seconds=(0.1, 0.2), state_bytes=(10, 10)),
        "summary": {"iou": {"last": 1 / 3, "ff": math.nan}},
    }
    return RunInfo(**(facts | changes))
