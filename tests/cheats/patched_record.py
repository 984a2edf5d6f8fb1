"""Replaces what writes a step's scores."""

from support.honest_method import Tampers

from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.records import RecordWriter


class Cheat(Tampers):
    def tamper(self, domain):
        own = RecordWriter.write_scores

        def better(self, steps):
            for scores in steps.values():
                for found in scores.values():
                    for score in found:
                        score.values.update(dict.fromkeys(score.values, 1.0))
            own(self, steps)

        RecordWriter.write_scores = better
        StepResult.save = lambda self, path: None
