"""The protocol ``own``: a stream of one's own, with settings that fit the base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import read_toml
from cosam_bench.data.protocol_files import CLEAN, read_protocol
from cosam_bench.data.streams import Stream, load_stream
from cosam_bench.experiments.overrides import apply_override

OWN = "own"
"""The protocol of ``--stream FILE`` if no other is named."""


def own_tables(stream: str | None, model: str | None) -> dict[str, Any]:
    """The protocol's tables for a stream and a model; its name is ``own-STREAM-MODEL``.

    Args:
        stream: name of a built-in stream, or path of a stream's TOML file.
        model: name of the base model; None: the protocol's.

    Raises:
        CosamError: no stream was named, or it cannot be read, or there is no such model.
    """
    from cosam_bench.sam.models import model_spec

    if not stream:
        raise CosamError(f"The protocol {OWN!r} is for a stream of your own, and none was named. Give --stream FILE.")
    modes, _ = read_protocol(OWN)
    model = model or str(modes[CLEAN]["model"]["name"])
    model_spec(model)
    tables = modes.get(model, modes[CLEAN])
    names = own_names(load_stream(stream), model)
    return tables | names | {"stream": stream, "model": tables["model"] | {"name": model}}


def own_names(stream: Stream, model: str) -> dict[str, str]:
    """The protocol's ``name`` and ``title`` for a stream and a model."""
    return {"name": f"{OWN}-{stream.name}-{model}", "title": f"{stream.title or stream.name}, with {model}"}


def is_own_config(file: Path) -> bool:
    """Whether a ``config.toml`` has this protocol, as its name says.

    Raises:
        CosamError: the file cannot be read.
    """
    protocol = read_toml(file).get("protocol")
    model = protocol.get("model") if isinstance(protocol, dict) else None
    if not isinstance(protocol, dict) or not isinstance(model, dict):
        return False
    name = str(protocol.get("name"))
    return name.startswith(f"{OWN}-") and name.endswith(f"-{model.get('name')}")


def asked_model(overrides: Sequence[str]) -> str | None:
    """The base model that ``KEY=VALUE`` texts name; None if none of them does.

    >>> asked_model(["fit.epochs=2", "model.name='tiny'"])
    'tiny'
    """
    data: dict[str, Any] = {}
    for override in overrides:
        apply_override(data, override)
    model = data.get("protocol", {}).get("model")
    name = model.get("name") if isinstance(model, dict) else None
    return name if isinstance(name, str) else None
