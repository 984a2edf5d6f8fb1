"""``python -m cosam_bench``: the command ``cosam-bench`` of this Python, also if its folder of scripts is not found."""

from __future__ import annotations

from cosam_bench.cli.main import main

if __name__ == "__main__":
    main()
