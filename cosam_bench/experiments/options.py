"""From the options of ``run`` to one resolved configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.seeds import derived_seed

if TYPE_CHECKING:
    from cosam_bench.experiments.protocol import RunConfig


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What was asked for on the command line; None and empty where nothing was."""

    method: str | None = None
    protocol: str | None = None
    mode: str | None = None
    config: Path | None = None
    stream: str | None = None
    model: str | None = None
    checkpoint: str | None = None
    seed: int | None = None
    order: str | None = None
    device: str | None = None
    settings: tuple[str, ...] = ()

    def overrides(self) -> tuple[str, ...]:
        """The shortcuts, but the order, as ``KEY=VALUE``; the ``--set`` options follow and win."""
        texts = {
            "stream": self.stream,
            "model.name": self.model,
            "model.checkpoint": self.checkpoint,
            "device": self.device,
        }
        given = [f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in texts.items() if text is not None]
        if self.seed is not None:
            given.append(f"seed={self.seed}")
        return (*given, *self.settings)


def one_each(options: RunOptions) -> list[RunOptions]:
    """The options for each of the methods that are asked as ``a,b,c``.

    Raises:
        CosamError: a method is named twice, or ``--set`` gives several a setting of one.
    """
    names = [name.strip() for name in (options.method or "").split(",")]
    if len(names) == 1:
        return [options]
    for name in names:
        if not name:
            raise CosamError(f"--method {options.method!r} has an empty name. Write, say, --method regcl,opcm.")
        if names.count(name) > 1:
            raise CosamError(f"--method names {name!r} twice. Name each method once.")
    for text in options.settings:
        if text.partition("=")[0].strip().partition(".")[0] in ("method", "settings"):
            raise CosamError(
                f"--set {text!r} is a setting of one method, and {len(names)} are asked. Run that method by itself, or "
                "write the setting into the protocol's [methods.NAME]."
            )
    return [replace(options, method=name) for name in names]


def resolve(options: RunOptions) -> RunConfig:
    """The run's whole configuration, checked as far as no data is needed.

    Raises:
        CosamError: an unknown name, key or file, or a value that does not fit.
    """
    from cosam_bench.method.registry import load_method

    if options.config is not None and options.protocol is not None:
        raise CosamError("--config holds a protocol already. Leave out --protocol, or change single keys by --set.")
    if options.config is not None and options.mode is not None:
        raise CosamError("--config holds a protocol in its mode already. Leave out --mode, or --config.")
    if options.method:
        load_method(options.method)  # a misspelt name is refused before torch is loaded

    from cosam_bench.data.streams import load_stream
    from cosam_bench.experiments.protocol import resolve_run
    from cosam_bench.sam.models import model_spec

    def resolved(*last: str) -> RunConfig:
        return resolve_run(
            method=options.method or "",
            protocol=options.protocol or "mini",
            mode=options.mode or "clean",
            config=options.config,
            overrides=(*options.overrides(), *last),
        )

    config = resolved()
    stream = load_stream(config.protocol.stream)
    if options.order is not None:
        config = resolved(f"order={json.dumps(domain_order(options.order, stream.order, named=stream.orders))}")
    model_spec(config.protocol.model.name)
    return config


def domain_order(
    asked: str, names: tuple[str, ...], *, named: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> list[str]:
    """The stream's domains in the order that ``--order`` asks for.

    Args:
        asked: ``a,b,c``, an order that the stream names, ``reverse``, or ``random:N`` for the N-th of the seeded
            orders.
        names: the domains in the stream's own order.
        named: the stream's other orders by name; one called ``reverse`` or ``random:N`` goes before those above.

    Raises:
        CosamError: a domain or an order is unknown, or a domain is missing or named twice.

    >>> domain_order("reverse", ("a", "b", "c"))
    ['c', 'b', 'a']
    """
    if asked in named:
        return list(named[asked])
    if asked == "reverse":
        return list(reversed(names))
    kind, _, number = asked.partition(":")
    if kind == "random":
        if not (number.isascii() and number.isdigit()):
            raise CosamError(f"--order {asked!r} needs a number. Write, say, --order random:1.")
        # Ranked by a hash of each name, so the order is the same under every version of every library.
        return sorted(names, key=lambda name: derived_seed("order", int(number), name))
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    if len(wanted) == 1 and wanted[0] not in names:
        raise unknown_name("order of this stream", asked, [*named, "reverse", "random:1"])
    for name in wanted:
        if name not in names:
            raise unknown_name("domain of this stream", name, names)
    if sorted(wanted) != sorted(names):
        raise CosamError(f"--order {asked!r} does not name each domain once. The stream has: {','.join(names)}.")
    return wanted
