"""The table of costs: what a run spent, as one column per kind of cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from cosam_bench.results.run_info import Cost


@dataclass(frozen=True)
class CostColumn:
    """One cost: one row of ``COSTS``.

    Attributes:
        name: in files, with its unit.
        label: beside the value of a single run.
        title: at the head of a narrow column.
        unit: after the value of a single run.
        kind: ``count`` is a whole number, of several runs the largest; ``yes or no`` is summed up as yes if any run
            says so.
        meaning: what is measured.
        function: from a run's cost to the value, None if it was not measured.
    """

    name: str
    label: str
    title: str
    unit: str
    kind: Literal["quantity", "count", "yes or no"]
    meaning: str
    function: Callable[[Cost], float | None]

    def combined(self, costs: Sequence[Cost]) -> float | str:
        """The value for several runs, NaN if one run lacks it: their mean, or the largest of a whole number.

        For yes or no it is ``yes``, ``no`` or empty.
        """
        values = [self.function(cost) for cost in costs]
        if self.kind == "yes or no":
            known = [bool(value) for value in values if value is not None]
            return ("yes" if any(known) else "no") if known else ""
        numbers = [math.nan if value is None else value for value in values]
        if self.kind == "count" and not any(map(math.isnan, numbers)):
            return max(numbers)
        return math.fsum(numbers) / len(numbers)


# Two lines per cost read as a table; the formatter would give each of them nine.
# fmt: off
_COSTS = (
    CostColumn("train_seconds", "training", "train s", "s", "quantity",
               "fitting adapters in all steps; an adapter reused from another run counts at its recorded time",
               lambda cost: cost.total_train_seconds),
    CostColumn("merge_seconds", "merging", "merge s", "s", "quantity",
               "the rest of learning: statistics, merging, training a router",
               lambda cost: cost.total_merge_seconds),
    CostColumn("peak_memory_mib", "peak memory", "MiB", "MiB", "quantity",
               "the run's highest use: the GPU's allocations, cached features included, if it ran on one, "
               "else the process's resident size",
               lambda cost: None if cost.peak_memory_bytes is None else cost.peak_memory_bytes / 2**20),
    CostColumn("state_kib", "state", "state KiB", "KiB at the end", "quantity",
               "the state file after the last step: everything that survives between domains",
               lambda cost: cost.state_bytes[-1] / 2**10 if cost.state_bytes else None),
    CostColumn("state_grows", "state grows", "grows", "", "yes or no",
               "whether any later state is larger than the one after step 2, by over 64 bytes; empty before step 3",
               lambda cost: cost.state_grows),
    CostColumn("encoder_passes", "encoder passes", "passes", "per image", "quantity",
               "whole passes of the image encoder for one prediction by the final model",
               lambda cost: cost.encoder_passes_per_image),
    CostColumn("trainable_parameters", "trainable", "parameters", "parameters", "count",
               "parameters that training on one domain changes; of several runs, the largest number",
               lambda cost: cost.trainable_parameters),
)
# fmt: on
COSTS: Mapping[str, CostColumn] = MappingProxyType({column.name: column for column in _COSTS})
"""Every cost by name, in the order of the columns."""
