"""The interface of a method, and what the harness provides to one."""

from cosam_bench._moved import forwarding

__getattr__ = forwarding("cosam_bench.method", "cosam_bench.method.interface")
