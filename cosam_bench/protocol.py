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
        protocol: the resolved protocol.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0)] = 0
    order: tuple[str, ...] = ()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
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
    """The run that the options ask for.

    Args:
        method: the method; may be empty where ``config`` names it.
        protocol: a built-in protocol's name or the path of a protocol's TOML file; not used with ``config``.
        config: a ``config.toml`` that an earlier run wrote.
        overrides: ``KEY=VALUE`` each: ``method.KEY`` is one of the method's settings, ``seed``, ``order`` and
            ``device`` are the run's, every other key is the protocol's (``adapter.rank=4``). The value is TOML;
            what is no TOML is taken as text.

    Raises:
        CosamError: an unknown name or key, or a value of the wrong type.
    """
    data = read_toml(config) if config else {"protocol": _read_protocol(protocol)}
    if method:
        if config and method != data.get("method"):
            data["settings"] = {}
        data["method"] = method
    for override in overrides:
        _apply(data, override)
    if not data.get("method"):
        raise CosamError("No method is named. Give --method NAME; `cosam-bench methods` lists them.")
    return validate(RunConfig, data, source="The run's settings")


def _read_protocol(asked: str) -> dict[str, Any]:
    built_in = _built_in()
    path = built_in.get(asked) or Path(asked).expanduser()
    if asked not in built_in and path.suffix != ".toml":
        raise unknown_name("protocol", asked, built_in)
    data = read_toml(path)
    stream = data.get("stream")
    if isinstance(stream, str) and stream.endswith(".toml"):
        data["stream"] = str(path.parent / Path(stream).expanduser())
    return data


_RUN_KEYS = ("seed", "order", "device")


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise CosamError(f"--set {override!r} is no KEY=VALUE. Write, say, --set adapter.rank=4.")
    if parts[0] == "method" and len(parts) > 1:
        parts = ["settings", *parts[1:]]
    elif parts[0] not in _RUN_KEYS:
        parts = ["protocol", *parts]
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise CosamError(f"--set {override!r}: {part!r} is a value, not a table of settings.")
    table[parts[-1]] = _typed(text.strip())


def _typed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
