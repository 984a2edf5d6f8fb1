"""Replaces the function that scores a split."""

from support.honest_method import Tampers

from cosam_bench.evaluation import scoring
from cosam_bench.experiments import row_scorer


class Cheat(Tampers):
    def tamper(self, domain):
        def perfect(predict, split, *arguments, **options):
            return [scoring.ImageScore(key, dict.fromkeys(scoring.METRICS, 1.0)) for key in split.keys]

        scoring.score_split = row_scorer.score_split = perfect
