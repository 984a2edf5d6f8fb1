"""Looks through all objects of the process for the masks of the test images."""

import gc

from support.honest_method import Peeks

from cosam_bench.data.samples import Split


class Cheat(Peeks):
    def sees(self, batch):
        return any(isinstance(one, Split) and one.part == "test" for one in gc.get_objects())
