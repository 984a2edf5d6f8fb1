"""Settings as hashes see them: a key at its default does not count."""

from __future__ import annotations

from typing import Any

from cosam_bench.core.settings import Settings

DEFAULTS_VERSION = 1
"""Raised whenever the default of a protocol's setting changes, since the settings that leave it out then mean
something else. A new setting needs no new version if its default keeps what was done before, and a method's defaults
need none, because they are part of its rule, which has a hash of its own."""


def counted_settings(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults, as JSON values; what every hash of settings is made from.

    From the second version of the defaults on, the version is among them as ``defaults``.
    """
    version = {} if DEFAULTS_VERSION == 1 else {"defaults": DEFAULTS_VERSION}
    return settings.model_dump(mode="json", exclude_defaults=True) | version
