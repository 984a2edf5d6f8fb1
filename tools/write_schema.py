"""Writes docs/schemas/run.schema.json, the form of ``run.json``, from the model that reads and writes it.

Usage: python tools/write_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from cosam_bench.core.files import write_atomically
from cosam_bench.results.run_info import run_schema

SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "schemas" / "run.schema.json"


def main() -> None:
    """Replace the published schema."""
    write_atomically(SCHEMA, json.dumps(run_schema(), indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
