"""Adapters: which layers are trained, and how they are attached to a frozen SAM."""

from cosam_bench._moved import forwarding

__getattr__ = forwarding("cosam_bench.sam.adapters", "cosam_bench.sam.adapters.attachment")
