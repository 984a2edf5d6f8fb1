"""Replaces the metrics by ones that are always perfect, as soon as it is imported."""

import torch
from support.honest_method import Honest

from cosam_bench.evaluation import metrics, scoring


def _perfect(predicted, target):
    return {name: torch.ones(len(predicted), dtype=torch.float64) for name in metrics.METRICS}


metrics.measure = scoring.measure = _perfect


class Cheat(Honest):
    pass
