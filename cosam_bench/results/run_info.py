"""The contents of a run's ``run.json``: what was measured, under which conditions, at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_json
from cosam_bench.core.reading import read_text
from cosam_bench.core.settings import Settings, validate
from cosam_bench.method.card import STATE_SLACK_BYTES
from cosam_bench.results.tuning import Tuning, tuned_text

SCHEMA: Literal[2] = 2
"""Raised whenever a reader of the old form would misread or refuse the new one; ``_MIGRATIONS`` then gets an entry."""

AT_ONCE = "all domains at once"
"""The mark of a method that trains on all domains together, so that only its last row was measured."""

BROUGHT_IN = "experts brought in"
"""The mark of a run that trained no expert itself."""

RUN_BYTES = 1 << 24
"""The most that is read: a run over a thousand domains writes 2 MB."""

Status = Literal["running", "complete", "failed", "interrupted"]
NullableFloat = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    WithJsonSchema({"type": ["number", "null"]}),
]
"""A float that is null in JSON if undefined."""


class Conditions(Settings):
    """What must be equal for two runs' scores to be comparable.

    Attributes:
        data: by the domain's name, the digest of its manifests; retention domains included.
        checkpoint: the digest of the frozen base model's weights.
        config: the digest of the protocol's settings, without method, seed, order and device.
        keys: which settings ``config`` counts: those that differ from their defaults, or, in records from before
            0.2, which do not say so, all.
        experts: the digest of all experts that were brought in; empty if the run trained them.
        arithmetic: the GPU, torch's version and the flags that decide how it rounds; empty for the CPU and in records
            that do not say.
        digest: sha256 of the fields above; computed if it is not given.
    """

    data: dict[str, str]
    checkpoint: str
    config: str
    keys: Literal["all", "changed"] = "all"
    experts: str = ""
    arithmetic: str = ""
    digest: str = ""

    @model_validator(mode="before")
    @classmethod
    def _with_digest(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("digest"):
            return {**fields, "digest": _digest(fields)}
        return fields

    @property
    def tuned_for(self) -> str:
        """A hash of what trials and a run must share, so that settings tuned in the ones are tuned for the other."""
        return sha256_json([self.checkpoint, self.config])

    @model_validator(mode="after")
    def _has_its_own_digest(self) -> Self:
        if self.digest != _digest(self.model_dump()):
            raise ValueError("the digest does not belong to these conditions; the record was edited")
        return self


def _digest(fields: dict[str, Any]) -> str:
    names = ["data", "checkpoint", "config"]
    if fields.get("keys", "all") != "all":  # older records have no such field, and keep their digest
        names.append("keys")
    names += [name for name in ("experts", "arithmetic") if fields.get(name)]
    return sha256_json({name: fields.get(name) for name in names})


class Cost(Settings):
    """What a run cost; the tuples have one entry per learning step, in order.

    Attributes:
        train_seconds: fitting adapters. Work shared with other runs counts as if done here.
        merge_seconds: the rest of learning: statistics, merging, training a router.
        state_bytes: the size of the file with what the method keeps for the next step.
        peak_memory_bytes: the whole run's highest use: the GPU's if it ran on one, else the process's.
        encoder_passes_per_image: whole passes of the image encoder for one prediction at the end.
        trainable_parameters: in one step's training.
        reported: figures of the method's own by name, such as ``condition_number``; NaN for steps without.
    """

    train_seconds: tuple[float, ...] = ()
    merge_seconds: tuple[float, ...] = ()
    state_bytes: tuple[int, ...] = ()
    peak_memory_bytes: int | None = None
    encoder_passes_per_image: NullableFloat = math.nan
    trainable_parameters: int | None = None
    reported: dict[str, tuple[NullableFloat, ...]] = Field(default_factory=dict)

    @property
    def total_train_seconds(self) -> float:
        """The seconds of all steps; NaN if none was measured."""
        return math.fsum(self.train_seconds) if self.train_seconds else math.nan

    @property
    def total_merge_seconds(self) -> float:
        """The seconds of all steps; NaN if none was measured."""
        return math.fsum(self.merge_seconds) if self.merge_seconds else math.nan

    @property
    def state_grows(self) -> bool | None:
        """Whether any later state is larger than the one after step 2 by more than ``STATE_SLACK_BYTES``.

        None with fewer than three steps.
        """
        if len(self.state_bytes) < 3:
            return None
        return max(self.state_bytes[2:]) - self.state_bytes[1] > STATE_SLACK_BYTES


class RunInfo(Settings):
    """The whole of ``run.json``.

    Attributes:
        schema_version: the version of this file's form, ``schema`` in the file.
        protocol: the protocol's name.
        protocol_version: raised by the protocol's authors when scores are no longer comparable.
        method: the method's name.
        settings: the method's own resolved settings.
        config: the resolved configuration, which repeats the run.
        seed: the run's one seed.
        order: the stream's domains in the order of learning.
        retention: the domains that are only ever tested.
        marks: what to know before comparing the result, from the method's card.
        budget: of what the method keeps between domains, from its card; empty in records that do not say.
        tuning: how the settings were tuned; null if they were not, and in records that do not say.
        conditions: what must be equal for scores to be comparable.
        image_counts: by the domain's name, the number of its images and the one that its card states, if they differ;
            with ``--limit``, the number used and the one there.
        weights_sha256: of the file of the base model's weights, or of random weights themselves; empty in records that
            do not say.
        prompts: by ``domain/part``, the digest of the frozen prompts; they depend on the seed.
        versions: of Python and of the libraries that affect scores, by name.
        commit: of the code; empty if unknown.
        hardware: the machine, in the runner's own words by key.
        device: where the model ran, such as ``cpu`` or ``cuda:0``.
        status: ``running`` also for a run that was killed.
        rule: the hash of the method's own code; empty in records that do not say.
        isolated: whether the method's code ran in processes of its own; None in records that do not say.
        experts: by the domain's name, the sha256 of the tensors of the expert that was brought in; empty if the run
            trained them. Records from before 0.2 have that of the tensors after all were given the same layers.
        started: the time in UTC, ISO 8601.
        error: why a failed run failed.
        cost: seconds, bytes and passes.
        summary: by metric, the matrix's figures.
        files: by the name of each other file of a complete record, its sha256; empty in records of schema 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    protocol: str
    protocol_version: int
    method: str
    settings: dict[str, JsonValue]
    config: dict[str, JsonValue]
    seed: int
    order: Annotated[tuple[str, ...], Field(min_length=1)]
    retention: tuple[str, ...]
    marks: tuple[str, ...]
    conditions: Conditions
    image_counts: dict[str, tuple[int, int]] = Field(default_factory=dict)
    weights_sha256: str = ""
    prompts: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]
    commit: str
    hardware: dict[str, JsonValue]
    device: str
    status: Status
    rule: str = ""
    isolated: bool | None = None
    experts: dict[str, str] = Field(default_factory=dict)
    budget: str = ""
    tuning: Tuning | None = None
    started: str
    error: str | None = None
    cost: Cost = Cost()
    summary: dict[str, dict[str, NullableFloat]] = Field(default_factory=dict)
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default_factory=dict)

    @property
    def base_weights_sha256(self) -> str:
        """Of the file of the base model's weights; of older records, the hash of all that the weights came from."""
        return self.weights_sha256 or self.conditions.checkpoint

    @property
    def tuned(self) -> str:
        """The budget of tuning in words; empty without."""
        own = self.conditions.tuned_for
        return tuned_text(self.tuning, protocol=self.protocol, domains=self.order, conditions=own)

    def to_json(self) -> str:
        """Indented JSON that ends with a line break; undefined numbers are null."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def read_run_info(path: Path) -> RunInfo:
    """The contents of a ``run.json``; older forms are brought to today's.

    Raises:
        CosamError: the file is missing or damaged, or has a form that this version does not know.
    """
    try:
        text = read_text(path, limit_bytes=RUN_BYTES)
    except (OSError, ValueError) as error:
        raise CosamError(_unreadable(path, error)) from None
    return parse_run_info(text, source=str(path))


def parse_run_info(text: str, *, source: str) -> RunInfo:
    """The contents of a ``run.json`` from its text; older forms are brought to today's.

    Args:
        text: of the file.
        source: the file, in messages.

    Raises:
        CosamError: the text is damaged, or has a form that this version does not know.
    """
    try:
        data = json.loads(text)
        if "\\ud" in text.lower():  # half a pair of surrogates is no text, and cannot be written again
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CosamError(_unreadable(source, error)) from None
    if not isinstance(data, dict):
        raise CosamError(f"{source} is not a record of a run. Delete it, or choose another folder of results.")
    return validate(RunInfo, _migrated(data, source), source=source)


def _unreadable(source: str | Path, error: Exception) -> str:
    return f"{source} cannot be read: {error}. Run it again, or delete its folder."


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had no ``files``; its first writer added an ``extra`` that was always empty."""
    return {key: value for key, value in data.items() if key != "extra"} | {"schema": 2}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MappingProxyType({1: _from_1})
"""By the schema of the old form: the step to the next one. A new schema adds an entry and leaves the others."""


def _migrated(data: dict[str, Any], source: str) -> dict[str, Any]:
    schema = data.get("schema", 0)
    if type(schema) is not int or schema not in (*_MIGRATIONS, SCHEMA):
        raise CosamError(_other_schema(source, schema))
    while data["schema"] in _MIGRATIONS:
        data = _MIGRATIONS[data["schema"]](data)
    return data


def _other_schema(source: str, schema: object) -> str:
    readable = ", ".join(map(str, sorted({*_MIGRATIONS, SCHEMA})))
    found = f"{source} has schema {schema!r}, this version of cosam-bench reads schema {readable}. "
    if type(schema) is int and schema > SCHEMA:
        return found + "A newer version wrote it: update cosam-bench."
    if type(schema) is int:
        return found + "An older version wrote it: run it again."
    return found + "Another program wrote it: choose another folder of results."


def run_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the ``run.json`` that this version writes."""
    model = RunInfo.model_json_schema(by_alias=True)
    model["required"] = ["schema", *model["required"]]
    heads = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"run.json, schema {SCHEMA}"}
    return heads | {name: _described(part) for name, part in model.items() if name != "title"}


def _described(part: Any) -> Any:
    """The part without pydantic's titles and without defaults, of which NaN is no JSON; names of keys are kept."""
    if isinstance(part, list):
        return [_described(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: value for key, value in part.items() if key != "default" and not isinstance(value, str)}
    texts = {key: value for key, value in part.items() if key not in ("title", "default") and isinstance(value, str)}
    return texts | {key: _described(value) for key, value in kept.items()}
