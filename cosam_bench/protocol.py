"""Protocols: named, frozen experiments, and the settings of one run of a method on one."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from cosam_bench.config import Settings, read_toml, validate
from cosam_bench.domains.prompts import PromptSettings
from cosam_bench.errors import CosamError, unknown_name
from cosam_bench.fit import FitSettings
from cosam_bench.registry import load_method, short_name
from cosam_bench.sam.adapters import AdapterSettings


class ModelSettings(Settings):
    """The base model.

    Attributes:
        name: one of those that ``cosam-bench models`` lists.
        checkpoint: a file of weights; empty for the embedded or fetched one; ``random`` for untrained weights.
    """

    name: str = "vit_b"
    checkpoint: str = ""


class ScoreSettings(Settings):
    """How test images are scored.

    Attributes:
        batch_size: images a forward pass.
        precision: the type the model computes in.
    """

    batch_size: Annotated[int, Field(ge=1)] = 8
    precision: Literal["fp32", "bf16"] = "fp32"


class Protocol(Settings):
    """A frozen experiment: everything that decides a score, but the method, the seed and the order.

    Attributes:
        name: the folder of its results.
        version: raised whenever a change makes scores incomparable.
        title: one line for people.
        stream: the name of a built-in stream, or the path of a stream's TOML file.
        resize: ``pad`` keeps an image's aspect, ``squash`` stretches it to the model's square.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    version: Annotated[int, Field(ge=1)] = 1
    title: str = ""
    stream: str
    resize: Literal["pad", "squash"] = "pad"
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    prompts: PromptSettings = PromptSettings()
    fit: FitSettings = FitSettings()
    score: ScoreSettings = ScoreSettings()


class RunConfig(Settings):
    """One run as it is written beside its result, and can be run again.

    Attributes:
        method: a registered name, ``package.module:Class`` or ``file.py``.
        settings: the method's own settings.
        seed: of the training, the prompts and the method.
        order: the domains' names in another order than the stream's; empty for the stream's.
        device: ``auto`` takes CUDA where it is there.
        prefix_cache_gib: GiB of disk for what frozen first blocks of the encoder make of images; 0 computes it
            each time. Used on the CPU; a run's identity does not depend on it.
        protocol: the resolved protocol.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0)] = 0
    order: tuple[str, ...] = ()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    prefix_cache_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    protocol: Protocol

    def to_toml(self) -> str:
        """The run as TOML, every default written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def protocol_names() -> list[str]:
    """The built-in protocols in alphabetical order."""
    return sorted(_built_in())


def _built_in() -> dict[str, Path]:
    folder = Path(str(files("cosam_bench.protocols")))
    return {path.stem: path for path in folder.glob("*.toml")}


def resolve_run(
    *,
    method: str = "",
    protocol: str = "mini",
    config: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> RunConfig:
    """The run that the options ask for, with the method's settings filled in and all paths absolute.

    Args:
        method: the method; may be empty where ``config`` names it.
        protocol: a built-in protocol's name or the path of a protocol's TOML file; not used with ``config``.
        config: a ``config.toml`` that an earlier run wrote.
        overrides: ``KEY=VALUE`` each: ``method.KEY`` is one of the method's settings, ``seed``, ``order``,
            ``device`` and ``prefix_cache_gib`` are the run's, every other key is the protocol's
            (``adapter.rank=4``); the keys of ``config.toml``, ``settings.KEY`` and ``protocol.KEY``, do as
            well. The value is TOML; what is no TOML is taken as text.

    A relative path in a file starts at the file's folder, any other at the current one.

    Raises:
        CosamError: an unknown name or key, or a value of the wrong type.
    """
    data = _anchored(read_toml(config), config.parent) if config else {"protocol": _read_protocol(protocol)}
    if method:
        given = _anchored({"method": method}, Path())
        kept = data.get("settings", {}) if given["method"] == data.get("method") else {}
        data |= given | {"settings": kept}
    for override in overrides:
        _apply(data, override)
    if not data.get("method"):
        raise CosamError("No method is named. Give --method NAME; `cosam-bench methods` lists them.")
    run = validate(RunConfig, _anchored(data, Path()), source="The run's settings")
    source = f"The settings of method {run.method!r}"
    settings = validate(load_method(run.method).Settings, run.settings, source=source)
    return run.model_copy(update={"settings": settings.model_dump(mode="json", exclude_none=True)})


def _read_protocol(asked: str) -> dict[str, Any]:
    built_in = _built_in()
    path = built_in.get(asked) or Path(asked).expanduser()
    if asked not in built_in and path.suffix != ".toml":
        raise unknown_name("protocol", asked, built_in)
    protocol: dict[str, Any] = _anchored({"protocol": read_toml(path)}, path.parent)["protocol"]
    return protocol


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same tables; relative paths of the method, the stream and the checkpoint start at ``folder``."""
    protocol = data.get("protocol")
    model = protocol.get("model") if isinstance(protocol, dict) else None
    for table, key in ((data, "method"), (protocol, "stream"), (model, "checkpoint")):
        value = table.get(key) if isinstance(table, dict) else None
        if table and isinstance(value, str) and _is_path(key, value):
            table[key] = _absolute(value, folder)
    return data


def _is_path(key: str, value: str) -> bool:
    if key == "method":
        return short_name(value) != value
    return value.endswith(".toml") if key == "stream" else value not in ("", "random")


def _absolute(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).absolute())


_OWN_NAMES = {"method": "settings", "settings": "settings", "protocol": "protocol"}
_RUN_KEYS = ("seed", "order", "device", "prefix_cache_gib")


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise CosamError(f"--set {override!r} is no KEY=VALUE. Write, say, --set adapter.rank=4.")
    if parts == ["method"]:
        raise CosamError(f"--set {override!r}: the method is chosen by --method, its settings by method.KEY=VALUE.")
    if len(parts) > 1 and parts[0] in _OWN_NAMES:
        parts[0] = _OWN_NAMES[parts[0]]
    elif parts[0] not in _RUN_KEYS:
        parts.insert(0, "protocol")
    table = data
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CosamError(f"--set {override!r}: {part!r} is a value, not a table of settings.")
        table = inner
    table[parts[-1]] = _typed(text.strip())


def _typed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
