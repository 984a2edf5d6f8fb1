"""The cheats are methods for ``tests/isolation/test_cheats.py``; importing one here would patch this process."""

collect_ignore_glob = ["*.py"]
