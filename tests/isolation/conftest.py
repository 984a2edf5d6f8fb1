"""Starts the process that isolates methods while this one is still alone, so that it can be copied at once."""

from cosam_bench.isolation.server_handle import prepare

collect_ignore = ["failing_methods.py"]

prepare(fork=True)
