"""From the options of ``run`` to resolved configurations."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import parse_toml
from cosam_bench.data.orders import domain_order, recorded_order
from cosam_bench.experiments.overrides import override_path

if TYPE_CHECKING:
    from cosam_bench.experiments.protocol import RunConfig


SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""The factors of the served update that ``--scales`` stands for, about a square root of two apart."""

_KEYS = {
    "stream": "stream",
    "model": "model.name",
    "checkpoint": "model.checkpoint",
    "seed": "seed",
    "seeds": "seed",
    "order": "order",
    "orders": "order",
    "device": "device",
    "experts": "experts",
    "scales": "scales",
    "also_prompts": "also_prompts",
    "limit": "limit",
}
"""By an option's name, the key of ``--set`` that it has as well."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one or more runs; None and empty if not given.

    Attributes:
        order: as in ``cosam_bench.data.orders.domain_order``.
        experts: the place of experts to use in place of training.
        settings: ``KEY=VALUE`` each, as ``--set`` takes them.
        scales: score each merge at ``SCALES``.
        also_prompts: kinds of prompt under which the first and the last row are also scored, as ``image,grid``.
        limit: the most training images and test images of each domain.
        tuned: the file of the method's tuned settings, or a folder with a file for each method.
        isolated: whether methods run in processes of their own; None: those that are not built in.
        results: the folder of records, which these processes must not see; None: the default one.
    """

    protocol: str | None = None
    mode: str | None = None
    config: Path | None = None
    stream: str | None = None
    model: str | None = None
    checkpoint: str | None = None
    seed: int | None = None
    order: str | None = None
    device: str | None = None
    experts: str | None = None
    settings: tuple[str, ...] = ()
    scales: bool = False
    also_prompts: str | None = None
    limit: int | None = None
    tuned: Path | None = None
    isolated: bool | None = None
    results: Path | None = None

    def overrides(self) -> tuple[str, ...]:
        """The options with a key of their own, except the order, as ``KEY=VALUE``, and then ``settings``."""
        texts = {
            "stream": self.stream,
            "model.name": self.model,
            "model.checkpoint": self.checkpoint,
            "device": self.device,
            "experts": self.experts,
        }
        given = [f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in texts.items() if text is not None]
        if self.seed is not None:
            given.append(f"seed={self.seed}")
        if self.scales:
            given.append(f"scales={list(SCALES)}")
        if self.also_prompts is not None:
            given.append(f"also_prompts={json.dumps([kind.strip() for kind in self.also_prompts.split(',')])}")
        if self.limit is not None:
            given.append(f"limit={self.limit}")
        return (*given, *self.settings)


def refuse_both_ways(options: RunOptions, *, from_python: bool = False, **repeated: object) -> None:
    """Refuse a setting that is given by an option or argument of its own and by ``--set`` or ``settings`` as well.

    Args:
        options: of one or more runs.
        from_python: whether messages name arguments of a function, not options of the command line.
        repeated: options that stand for several runs, such as ``seeds``; None and empty if not given.

    Raises:
        CosamError: naming both.
    """
    given = {name: getattr(options, name) for name in _KEYS if hasattr(options, name)}
    given |= {name: value for name, value in repeated.items() if value not in ((), [])}
    for text in options.settings:
        path, key = override_path(text), text.partition("=")[0].strip()
        for name, value in given.items():
            own = override_path(f"{_KEYS[name]}=")
            if value is None or value is False or own[: len(path)] != path:  # a whole table holds the key, too
                continue
            ways = f"{name} and {key!r} in settings" if from_python else f"{_option(name)} and --set {key}=..."
            raise CosamError(f"{ways} are both given. Leave one out.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def resolve(methods: Sequence[str], options: RunOptions) -> list[RunConfig]:
    """The configuration of each method's run, checked as far as possible without data.

    Args:
        methods: as ``--method`` takes them; none: the one that ``options.config`` names.

    Raises:
        CosamError: an unknown name, key or file, a value that does not fit, a method named twice, two of the
            same name in records, or a setting of one method for several.
    """
    if options.config is not None and options.protocol is not None:
        raise CosamError("A config holds a protocol already. Leave out --protocol, or change single keys by --set.")
    if options.config is not None and options.mode is not None:
        raise CosamError("A config holds a protocol in its mode already. Leave out --mode or --config.")
    if options.config is not None and options.tuned is not None:
        raise CosamError("A config holds the method's settings already. Leave out --tuned or --config.")
    _check_several(methods, options)
    from cosam_bench.method.registry import check_offered

    for method in methods:
        check_offered(method)  # a misspelt name is refused before torch is loaded
    return [_resolve_one(method, options) for method in methods or ("",)]


def _check_several(methods: Sequence[str], options: RunOptions) -> None:
    for name in methods:
        if not name.strip():
            raise CosamError(f"One of the methods {','.join(methods)!r} has an empty name. Write, say, regcl,opcm.")
        if methods.count(name) > 1:
            raise CosamError(f"The method {name!r} is given twice. Name each method once.")
    from cosam_bench.method.registry import short_name

    named: dict[str, str] = {}
    for name in methods:
        first = named.setdefault(short_name(name), name)
        if first != name:
            raise CosamError(
                f"{first} and {name} have the same name in records and files, {short_name(name)!r}. Rename one of the "
                "files, or name its class: FILE.py:ClassName."
            )
    for text in options.settings if len(methods) > 1 else ():
        if text.partition("=")[0].strip().partition(".")[0] in ("method", "settings"):
            raise CosamError(
                f"{text!r} is a setting of one method, but {len(methods)} methods are given. Run that method by "
                "itself, or write the setting into the protocol's [methods.NAME]."
            )


def _resolve_one(method: str, options: RunOptions) -> RunConfig:
    from cosam_bench.data.streams import load_stream
    from cosam_bench.experiments.own_protocol import OWN, asked_model, is_own_config, own_names, own_tables
    from cosam_bench.experiments.protocol import resolve_run
    from cosam_bench.sam.models import model_spec

    protocol = options.protocol or (OWN if options.stream is not None else "mini")
    tables = None
    if options.config is None and protocol == OWN:
        if options.mode is not None:
            raise CosamError(f"The protocol {OWN!r} has the mode of its model. Leave out --mode, or give --model.")
        tables = own_tables(options.stream, asked_model(options.overrides()))

    def resolved(*, names: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> RunConfig:
        return resolve_run(
            method=method,
            protocol=protocol,
            mode=options.mode or "clean",
            config=options.config,
            tables=tables,
            isolated=options.isolated,
            overrides=(*names, *options.overrides(), *order),
            tuned=options.tuned,
            results=options.results,
        )

    names: tuple[str, ...] = ()
    config = resolved()
    stream = load_stream(config.protocol.stream)
    if options.config is not None and is_own_config(options.config):  # perhaps with another stream or model than then
        now = own_names(stream, config.protocol.model.name)
        if now["name"] != config.protocol.name:
            names = tuple(f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in now.items())
            config = resolved(names=names)
    if options.order is not None:
        asked = domain_order(options.order, stream.order, named=stream.orders)
        config = resolved(names=names, order=(f"order={json.dumps(recorded_order(asked, stream.order))}",))
    model_spec(config.protocol.model.name)
    return config


def setting_texts(settings: Mapping[str, object]) -> tuple[str, ...]:
    """The settings as ``KEY=VALUE`` texts; tables within tables become dotted keys.

    Raises:
        CosamError: a value that TOML cannot hold, such as None; or a key that is given twice, dotted and in a table.

    >>> setting_texts({"adapter.rank": 4, "method": {"space": "factors"}})
    ('adapter.rank=4', 'method.space="factors"')
    """
    texts: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            try:
                texts += [f"{key}.{inner}" for inner in setting_texts(value)]
            except RecursionError:
                raise CosamError(f"The setting {key!r} is a table that holds itself. Give one that does not.") from None
        else:
            texts.append(f"{key}={_toml_value(key, value)}")
    keys = [text.partition("=")[0] for text in texts]
    for key in keys:
        if keys.count(key) > 1:
            raise CosamError(f"The setting {key!r} is given twice, by its dotted key and in a table. Give it once.")
    return tuple(texts)


def _toml_value(key: str, value: object) -> str:
    """Text, truth values, numbers and lists of these are written alike in JSON and TOML."""
    try:
        text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
        parse_toml(f"value = {text}")
    except (TypeError, ValueError, RecursionError):  # a TOMLDecodeError is a ValueError
        raise CosamError(
            f"The setting {key!r} is {_shortened(value)}. Give text, a number, a truth value or a list of these, "
            "or leave the key out for its default."
        ) from None
    return text


def _shortened(value: object) -> str:
    try:
        return reprlib.repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return f"a {type(value).__name__} that cannot be written"
