"""Remembers the first domain in a block of shared memory, which outlives its process."""

from multiprocessing import resource_tracker, shared_memory

from support.honest_method import Remembers

NAME = "cosam_bench_cheat_of_the_tests"


class Cheat(Remembers):
    def hide(self, domain):
        block = shared_memory.SharedMemory(NAME, create=True, size=16)
        resource_tracker.unregister(block._name, "shared_memory")
        block.close()

    def finds(self, domain):
        block = shared_memory.SharedMemory(NAME)
        block.close()
        block.unlink()
        return True
