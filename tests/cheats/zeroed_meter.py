"""Stops the clocks, and sets the costs to zero."""

import time

from support.honest_method import Honest

_sleep = time.sleep
time.perf_counter = time.monotonic = lambda: 0.0


class Cheat(Honest):
    def learn(self, domain, *, step):
        super().learn(domain, step=step)
        _sleep(0.3)
        self.bench.meter.training_seconds = self.bench.meter.elapsed_training_seconds = 0.0
