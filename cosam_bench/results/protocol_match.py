"""In what a run differs from the built-in protocol whose name it has: such a run is another experiment.

What a protocol leaves free is not looked at: seed, order, device, the settings of methods, ``score.batch_size``, on
which no score depends, and ``adapter.start``, whose contents count among the weights. Protocols of one's own have
nothing to be compared with, except the numbers of images that their domains' cards state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cosam_bench.data.foreground import Foreground
from cosam_bench.data.protocol_files import built_in_protocols, read_protocol
from cosam_bench.results.protocol_defaults import current_defaults
from cosam_bench.results.run_info import BROUGHT_IN, RunInfo
from cosam_bench.sam.models import MODELS

_FREE = ("name", "title", "mode", "methods", "score.batch_size", "adapter.start")
_FIRST = ("version", "stream", "model.name", "model.checkpoint")  # named before the counts of images, in this order
_WITH = "with "
_MOST_NAMED = 4  # in a title
_LONGEST_VALUE = 40  # characters


def differences(info: RunInfo) -> str:
    """What differs from the protocol, as short text; empty if nothing does.

    ``with MODEL`` if nothing but the model does, and it takes images of the same size; otherwise a list such as
    ``stream mine.toml, model tiny, polyp 2 of 1000 images``.
    """
    protocol = info.config.get("protocol")
    if not isinstance(protocol, dict):
        return "settings not recorded"
    named = protocol | {"name": info.protocol, "version": info.protocol_version}
    found = protocol_differences(named, image_counts=info.image_counts, weights_sha256=info.base_weights_sha256)
    if not info.experts:
        return found
    return f"{found}, {BROUGHT_IN}" if is_another_experiment(found) else BROUGHT_IN + found.replace(_WITH, f", {_WITH}")


def protocol_differences(
    protocol: Mapping[str, Any], *, image_counts: Mapping[str, tuple[int, int]], weights_sha256: str
) -> str:
    """As ``differences``, of a resolved protocol.

    Args:
        protocol: all of its settings, as JSON values; a key that is not there has its default.
        image_counts: as in ``RunInfo``.
        weights_sha256: as in ``RunInfo``.
    """
    counts = [f"{name} {found} of {stated} images" for name, (found, stated) in image_counts.items()]
    reference = _reference(str(protocol.get("name")))
    if reference is None:
        return ", ".join(counts)
    own = _flat(protocol)
    changed = [name for name in sorted(own | reference) if own.get(name) != reference.get(name) and name not in _FREE]
    if "model.checkpoint" in changed and _are_published_weights(own, weights_sha256):
        changed.remove("model.checkpoint")
    if changed == ["model.name"] and not counts and _takes_as_large_images(own, reference):
        return f"{_WITH}{own['model.name']}"
    first = [_named(name, own.get(name)) for name in _FIRST if name in changed]
    return ", ".join([*first, *counts, *(_named(name, own.get(name)) for name in changed if name not in _FIRST)])


def protocol_title(name: str, version: object, differs: str) -> str:
    """A protocol as a heading names it: what its runs change is part of the name.

    >>> protocol_title("cosam", 1, "stream mine.toml, model tiny")
    'cosam (version 1), not the protocol (stream mine.toml, model tiny)'
    >>> protocol_title("open", 1, "with vit_b")
    'open (version 1) with vit_b'
    """
    return f"{name} (version {version}){difference_suffix(differs)}"


def difference_suffix(differs: str) -> str:
    """What follows a protocol's name and version in a heading; empty if nothing differs."""
    if not is_another_experiment(differs):
        return f" {differs}" if differs else ""
    parts = differs.split(", ")
    more = f" and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
    return f", not the protocol ({', '.join(parts[:_MOST_NAMED])}{more})"


def is_another_experiment(differs: str) -> bool:
    """Whether what ``differences`` found is more than another model for images of the same size."""
    return bool(differs) and not differs.startswith(_WITH)


def _reference(name: str) -> dict[str, Any] | None:
    """The settings of the built-in protocol of that name, in whichever mode; None if there is none."""
    files = built_in_protocols().values()
    return next((found[name] for path in files if name in (found := _protocols_in(path))), None)


@lru_cache(maxsize=64)
def _protocols_in(path: Path) -> dict[str, dict[str, Any]]:
    """By name, the settings of a file's protocol in each of its modes."""
    modes, folder = read_protocol(str(path))
    found = {str(tables.get("name")): _flat(tables) for tables in modes.values()}
    for settings in found.values():
        if str(settings.get("stream")).endswith(".toml"):
            settings["stream"] = str((folder / settings["stream"]).absolute())
    return found


def _flat(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """All settings by dotted names, defaults filled in."""
    defaults, settings = current_defaults(), dict(protocol)
    with suppress(ValidationError):  # a file may state less of a rule than a resolved protocol does
        if settings.get("foreground") is not None:
            settings["foreground"] = Foreground.model_validate(settings["foreground"]).model_dump(mode="json")
    return defaults | _stated(settings, "", defaults)


def _stated(table: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and any(key.startswith(f"{path}.") for key in defaults):
            found |= _stated(value, f"{path}.", defaults)
            if path in defaults:  # a table that may be left out, and is there
                found[path] = "stated"
        else:
            found[path] = value
    return found


def _are_published_weights(settings: Mapping[str, Any], weights_sha256: str) -> bool:
    spec = MODELS.get(str(settings.get("model.name")))
    return spec is not None and bool(weights_sha256) and spec.sha256 == weights_sha256


def _takes_as_large_images(settings: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    one, other = (MODELS.get(str(found.get("model.name"))) for found in (settings, reference))
    return one is not None and other is not None and one.image_size == other.image_size


def _named(name: str, value: Any) -> str:
    """A setting with its value, paths without their folders."""
    title = {"model.name": "model", "model.checkpoint": "weights"}.get(name, name)
    if name in ("stream", "model.checkpoint"):
        return f"{title} {Path(str(value)).name or 'of the model'}"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace("null", "none")
    return f"{title} {text if len(text) <= _LONGEST_VALUE else f'{text[:_LONGEST_VALUE]}...'}"
