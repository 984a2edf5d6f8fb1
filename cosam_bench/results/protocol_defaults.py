"""The defaults of a protocol's settings, as data: what a key means that a record or a file leaves out."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from cosam_bench.core.defaults import DEFAULTS_VERSION


def current_defaults() -> dict[str, Any]:
    """Today's defaults by dotted names; not to be changed."""
    return _all_versions()[str(DEFAULTS_VERSION)]


def first_defaults() -> dict[str, Any]:
    """The defaults of version 1, which all records from before 0.2 were measured with; not to be changed."""
    return _all_versions()["1"]


@cache
def _all_versions() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        (files(__package__) / "protocol_defaults.json").read_text(encoding="utf-8")
    )
    return found
