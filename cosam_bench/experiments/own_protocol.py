"""The protocol ``own``: a stream of one's own, with settings that fit the base model."""

from __future__ import annotations

from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.data.protocol_files import CLEAN, read_protocol
from cosam_bench.data.streams import load_stream

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
    tables, read = modes.get(model, modes[CLEAN]), load_stream(stream)
    return tables | {
        "name": f"{OWN}-{read.name}-{model}",
        "title": f"{read.title or read.name}, with {model}",
        "stream": stream,
        "model": tables["model"] | {"name": model},
    }


def asked_model(model: str | None, settings: tuple[str, ...]) -> str | None:
    """The base model that ``--model`` or, which wins, ``--set model.name=`` names.

    >>> asked_model("vit_b", ("fit.epochs=2", "model.name='tiny'"))
    'tiny'
    """
    for text in reversed(settings):
        key, _, value = text.partition("=")
        if key.strip() in ("model.name", "protocol.model.name"):
            return value.strip().strip("\"'")
    return model
