"""Protocols: named, frozen experiments, and the settings of one run of a method on one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import Field, model_validator

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import Settings, form, read_toml, setting, validate
from cosam_bench.data.file_patterns import is_utf8
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.prompt_settings import PromptSettings, TestPrompt
from cosam_bench.data.protocol_files import CLEAN, built_in_protocols, read_protocol
from cosam_bench.evaluation.score_settings import ScoreSettings
from cosam_bench.experiments.isolated_methods import described, named_private_folders, runs_isolated
from cosam_bench.experiments.overrides import apply_override, override_path
from cosam_bench.experiments.tuned_file import read_tuned
from cosam_bench.method.registry import load_method, method_names, short_name
from cosam_bench.results.tuning import Tuning
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.frame_choices import Resampling, Resize
from cosam_bench.training.fit_settings import FitSettings

_NAME = form(
    r"^[a-z0-9][a-z0-9_.-]*$", "begin with a letter or digit, and use only lower-case letters, digits, _, . and -"
)
_DEVICE = form(r"^(auto|cpu|cuda(:[0-9]{1,3})?)$", "write auto, cpu, cuda or cuda:N")


class ModelSettings(Settings):
    """The base model."""

    name: str = setting(
        "vit_b", "one of those that `cosam-bench models` lists", source="CoSAM's and RegCL's released code"
    )
    checkpoint: str = setting(
        "",
        "file of weights; empty: those of the package or the fetched ones; random: untrained weights",
        source="this project: the model's official weights",
    )
    global_attention: bool = setting(
        False,
        "let every block attend to the whole image, as CoSAM's released code does",
        source="segment-anything, whose blocks attend within windows",
    )


class Protocol(Settings):
    """A frozen experiment: everything that decides a score, except the method, the seed and the order."""

    name: str = setting(..., "the folder of its results", pattern=_NAME)
    version: int = setting(
        1, "raised whenever a change makes scores incomparable", source="a protocol's first version", ge=1, le=1_000_000
    )
    title: str = setting("", "one line for people", source="no title; it decides nothing")
    stream: str = setting(..., "name of a built-in stream, or path of a stream's TOML file")
    mode: str = setting(
        CLEAN,
        "clean, or the protocol's mode that was laid over it, whose name the protocol's then ends in",
        source="this project: what the paper means",
    )
    resize: Resize = setting(
        "pad",
        "pad keeps an image's aspect, squash stretches it to the model's square",
        source="segment-anything; CoSAM's and RegCL's released code has squash",
    )
    resampling: Resampling = setting(
        "pillow",
        "how an image is brought to the model's size: pillow is bilinear over the area that a new pixel covers, torch "
        "plainly bilinear, without antialiasing",
        source="segment-anything; CoSAM's released code has torch",
    )
    foreground: Foreground | None = setting(
        None,
        "which pixels of every mask file are foreground; none: as each domain's card states",
        source="this project: each card knows its files",
    )
    model: ModelSettings = setting(ModelSettings(), "the base model")
    adapter: AdapterSettings = setting(AdapterSettings(), "the adapter that is trained on each domain")
    prompts: PromptSettings = setting(PromptSettings(), "the prompts in training and testing")
    fit: FitSettings = setting(FitSettings(), "how an adapter is trained")
    score: ScoreSettings = setting(ScoreSettings(), "how test images are scored")
    methods: dict[str, dict[str, Any]] = setting(
        {},
        "by method, the settings that it has under this protocol unless others are given",
        source="none: a method's own defaults, which are its paper's",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> Protocol:
        faults = {
            "score.upsampling = 'direct' needs resize = 'squash', as padding may end within a cell of the logits": (
                self.score.upsampling == "direct" and self.resize != "squash"
            ),
            "fit.empty_crops = 'keep' needs prompts.train = 'mix', 'box' or 'mask'; an empty crop has no points": (
                self.fit.empty_crops == "keep" and self.prompts.train == "points"
            ),
            "fit.jitter draws the training prompts again, so prompts.published must be false": (
                self.fit.jitter and self.prompts.published
            ),
        }
        if any(faults.values()):
            raise ValueError(next(fault for fault, is_there in faults.items() if is_there))
        return self


class RunConfig(Settings):
    """One run as it is written beside its result, and can be run again."""

    method: str = setting(..., "a registered name, package.module:Class or file.py")
    settings: dict[str, Any] = setting({}, "the method's own settings", source="the defaults of the method")
    seed: int = setting(
        0, "seed of the training, the prompts and the method", source="this project", ge=0, le=2**63 - 1
    )
    order: tuple[str, ...] = setting(
        (), "all domains' names in another order than the stream's; empty: the stream's", source="the stream"
    )
    device: str = setting("auto", "auto uses CUDA if it is available", source="this project", pattern=_DEVICE)
    deterministic: bool = setting(
        False,
        "use only operations that give equal bits for equal work, as far as torch has them on a GPU; the others warn",
        source="this project: torch's own choice, which is faster",
    )
    prefix_cache_gib: float = setting(
        8.0,
        "GiB that may hold the features which the encoder's frozen first blocks compute, on disk for the CPU, on CUDA "
        "in at most half of the GPU's free memory and what is left of the limit in at most an eighth of the machine's; "
        "0 computes them each time. Scores then differ by rounding, as images go through these blocks in batches, and "
        "on CUDA with bf16 unrounded",
        source="this project",
        ge=0,
        le=1_000_000,
    )
    experts: str | None = setting(
        None,
        "folder with an expert per domain, or TOML file with a table [experts], to use in place of training",
        source="none: experts are trained",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)], ...] = setting(
        (),
        "factors of the served update at which each merge is also scored; a tenth of the training images is then held "
        "out to choose the best. Empty: none, and all images are trained on",
        source="this project: the length that each rule's paper gives it",
        max_length=64,
    )
    also_prompts: tuple[TestPrompt, ...] = setting(
        (),
        "further prompts under which frozen SAM and the final model are scored, beside the matrix",
        source="this project: the protocol's prompt alone",
        max_length=5,
    )
    limit: int | None = setting(
        None,
        "the most training images and test images of each domain, for a first try; none: all",
        source="none: all images",
        ge=1,
        le=1_000_000,
    )
    tuning: Tuning | None = setting(
        None, "how the method's settings were tuned, as `run --tuned` records it", source="none: they were not"
    )
    protocol: Protocol = setting(..., "the resolved protocol")

    @model_validator(mode="after")
    def _prompts_agree(self) -> Self:
        kinds = (self.protocol.prompts.test, *self.also_prompts)
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(
                f"also_prompts names each prompt once, without the protocol's own, {kinds[0]!r}: {twice[0]!r} again"
            )
        if fault := self.protocol.prompts.unused(self.also_prompts):
            raise ValueError(fault)
        return self

    def to_toml(self) -> str:
        """The run as TOML, every default written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def protocol_names() -> list[str]:
    """The built-in protocols in alphabetical order."""
    return sorted(built_in_protocols())


def load_protocol(asked: str, *, mode: str = CLEAN) -> Protocol:
    """A protocol in one of its modes.

    Args:
        asked: a built-in protocol's name, or the path of a TOML file.
        mode: ``clean``, or one of the protocol's modes.

    Raises:
        CosamError: an unknown name, mode or key, a value of the wrong type, or a setting that no prompt has a use for.
    """
    source = f"The protocol {asked!r}"
    protocol = validate(Protocol, _read_protocol(asked, mode), source=source)
    if fault := protocol.prompts.unused():
        raise CosamError(f"{source}: {fault}.")
    return protocol


def resolve_run(
    *,
    method: str = "",
    protocol: str = "mini",
    mode: str = CLEAN,
    config: Path | None = None,
    tables: Mapping[str, Any] | None = None,
    isolated: bool | None = False,
    overrides: tuple[str, ...] = (),
    tuned: Path | None = None,
    results: Path | None = None,
) -> RunConfig:
    """The run that the options describe, with the method's settings filled in and all paths absolute.

    Args:
        method: the method; may be empty if ``config`` names it.
        protocol: a built-in protocol's name or the path of a protocol's TOML file; not used with ``config``.
        mode: ``clean``, or one of the protocol's modes; not used with ``config``, which holds one mode.
        config: a ``config.toml`` that an earlier run wrote.
        tables: of a protocol, in place of one with a name or a file.
        isolated: whether the method is only imported in a process of its own; None: unless it is built in.
        overrides: ``KEY=VALUE`` each: ``method.KEY`` is one of the method's settings, those of ``RUN_KEYS`` are
            the run's, and every other key is the protocol's (``adapter.rank=4``). The keys of ``config.toml``,
            ``settings.KEY`` and ``protocol.KEY``, work as well. A value is read as TOML, or else as text.
        tuned: the method's tuned settings, see ``read_tuned``; not with ``config`` or overrides of these settings.
        results: the folder of records, which such a process must not see; None: the default one.

    A relative path in a file starts at the file's folder, any other at the current one; a stream's path that begins
    with an environment variable is kept as it is. A method's settings are its defaults, overridden by the protocol's
    for this method, then by those of ``config`` or ``tuned``, then by ``overrides``. If these change what ``config``
    has, the settings no longer count as tuned.

    Raises:
        CosamError: an unknown name or key, or a value of the wrong type.
    """
    if config is not None:
        data = _anchored(read_toml(config), config.parent)
    else:
        data = {"protocol": _read_protocol(protocol, mode) if tables is None else dict(tables)}
    if not is_utf8(method):
        raise CosamError(f"The method {method!r} is not valid UTF-8, so it cannot be recorded. Rename its file.")
    if method:
        given = _anchored({"method": method}, Path())
        if given["method"] != data.get("method"):
            data |= {"settings": {}, "tuning": None}
        data |= given
    tuned_settings = copy.deepcopy(data.get("settings"))
    for override in overrides:
        apply_override(data, override)
    if data.get("settings") != tuned_settings:
        data["tuning"] = None
    if not data.get("method"):
        raise CosamError("No method was given. Give --method NAME; `cosam-bench methods` lists them.")
    if tuned is not None:
        _use_tuned(data, tuned)
    try:
        run = validate(RunConfig, _anchored(data, Path()), source="The run's settings")
    except CosamError as error:
        bare = [path[1] for path in map(override_path, overrides) if path[0] == "protocol" and len(path) == 2]
        if unknown := [key for key in bare if key not in Protocol.model_fields]:
            raise CosamError(f"{error} If it is a setting of the method, write method.{unknown[0]}=VALUE.") from None
        raise
    if ("protocol", "prompts", "points") in map(override_path, overrides) and not _has_points(run):
        raise CosamError(
            f"prompts.points is set, but nothing in this run is prompted by points: it trains with "
            f"{run.protocol.prompts.train!r} and tests with {run.protocol.prompts.test!r}. Leave it out, or give "
            "prompts.test=points or --also-prompts points."
        )
    asked, source = _method_settings(run), _settings_source(run)
    if runs_isolated(run.method, isolated):
        private = named_private_folders(run.protocol.stream, run.experts, results)
        facts = described(run.method, asked, source=source, private=private)
        return run.model_copy(update={"settings": facts.given})
    settings = validate(load_method(run.method).Settings, asked, source=source)
    return run.model_copy(update={"settings": settings.model_dump(mode="json", exclude_none=True)})


def _has_points(run: RunConfig) -> bool:
    return run.protocol.prompts.has_points(run.also_prompts)


def _use_tuned(data: dict[str, Any], tuned: Path) -> None:
    """Take settings and tuning from a file of tuned settings."""
    if given := data.get("settings"):
        raise CosamError(
            f"{tuned} holds all settings of the method, so method.{next(iter(given))} cannot be set as well. Leave out "
            "one of them."
        )
    found = read_tuned(tuned, str(data["method"]))
    data |= {"settings": dict(found.settings), "tuning": found.tuning}


def method_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a method that ``method.KEY=VALUE`` texts give.

    Raises:
        CosamError: a text of another form, or with a key of the protocol or the run.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        apply_override(data, override)
        if data.keys() - {"settings"}:
            raise CosamError(
                f"--set {override!r} is not a setting of the method, and the check uses no protocol. "
                "Write method.KEY=VALUE."
            )
    settings: dict[str, Any] = data.get("settings", {})
    return settings


def _read_protocol(asked: str, mode: str) -> dict[str, Any]:
    modes, folder = read_protocol(asked)
    for name, tables in modes.items():
        source = f"The protocol {asked!r}" + (f" in mode {name!r}" if name != CLEAN else "")
        validate(Protocol, tables, source=source)
    if mode not in modes and len(modes) == 1:
        raise CosamError(f"The protocol {asked!r} has no modes, so {mode!r} cannot be chosen. Leave out --mode.")
    if mode not in modes:
        raise unknown_name(f"mode of the protocol {asked!r}", mode, modes)
    protocol: dict[str, Any] = _anchored({"protocol": modes[mode]}, folder)["protocol"]
    return protocol


def _method_settings(run: RunConfig) -> dict[str, Any]:
    """The protocol's settings for the run's method, overridden by those of the run."""
    names = method_names()
    for name in run.protocol.methods:
        if name not in names:
            raise unknown_name(f"method in the protocol {run.protocol.name!r}", name, names)
    return run.protocol.methods.get(run.method, {}) | run.settings


def _settings_source(run: RunConfig) -> str:
    given = run.protocol.methods.get(run.method)
    also = f" (with [methods.{run.method}] of the protocol {run.protocol.name!r})" if given else ""
    return f"The settings of method {run.method!r}{also}"


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same tables; relative paths of the method, the stream and the weights start at ``folder``."""
    protocol = data.get("protocol")
    model, adapter = (protocol.get(name) if isinstance(protocol, dict) else None for name in ("model", "adapter"))
    for table, key in (
        (data, "method"),
        (data, "experts"),
        (protocol, "stream"),
        (model, "checkpoint"),
        (adapter, "start"),
    ):
        value = table.get(key) if isinstance(table, dict) else None
        if table and isinstance(value, str) and _is_path(key, value):
            table[key] = _absolute(value, folder)
    return data


def _is_path(key: str, value: str) -> bool:
    if key == "method":
        return short_name(value) != value
    if key == "stream":  # a path that begins with a variable stays as it is, so that a record does not name a machine's
        return value.endswith(".toml") and not value.startswith("$")
    return value not in ("", "random")


def _absolute(path: str, folder: Path) -> str:
    return str((folder / expanded(path)).absolute())
