"""From a run's settings to what the run works on: data, prompts, the model and their hashes."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from cosam_bench import __version__
from cosam_bench.batches import View
from cosam_bench.config import validate
from cosam_bench.domains.cards import OpenedStream, load_stream, open_stream
from cosam_bench.domains.prompts import Prompts, frozen_prompts
from cosam_bench.domains.samples import Domain, Split
from cosam_bench.errors import CosamError, unknown_name
from cosam_bench.method import Method
from cosam_bench.protocol import RunConfig
from cosam_bench.registry import load_method
from cosam_bench.run_info import Conditions
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.sam import Sam
from cosam_bench.workbench import Workbench

SHARED = "_shared"


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, opened and checked.

    Attributes:
        config: the resolved settings.
        method: the class to run.
        settings: its settings, validated.
        domains: in the order of the run.
        retention: domains that are only ever tested.
        test_prompts: by the domain's name.
        train_prompts: by the domain's name.
        bench: what the method works with.
        conditions: hashes of what two records must share to be compared.
        digest: hash of the conditions, the method, its source and settings, seed and order.
    """

    config: RunConfig
    method: type[Method]
    settings: BaseModel
    domains: tuple[Domain, ...]
    retention: tuple[Domain, ...]
    test_prompts: dict[str, Prompts]
    train_prompts: dict[str, Prompts]
    bench: Workbench
    conditions: Conditions
    digest: str

    @property
    def columns(self) -> tuple[Domain, ...]:
        """The columns of the score matrix: the stream's domains, then the retention domains."""
        return self.domains + self.retention


def prepare(config: RunConfig, results: Path) -> Prepared:
    """Open the data, draw or read the frozen prompts, build the model.

    Raises:
        CosamError: anything that is asked for is not there, or does not fit.
    """
    method = load_method(config.method)
    settings = validate(method.Settings, config.settings, source=f"The settings of method {config.method!r}")
    protocol = config.protocol
    device = choose_device(config.device)
    stream = open_stream(load_stream(protocol.stream))
    domains = _ordered(stream, config.order)
    shared = results / SHARED
    columns = domains + stream.retention

    def prompts(split: Split) -> Prompts:
        return frozen_prompts(split, points=protocol.prompts.points, seed=config.seed, folder=shared / "prompts")

    test_prompts = {domain.name: prompts(domain.test) for domain in columns}
    train_prompts = {domain.name: prompts(domain.train) for domain in domains}
    sam = build_sam(protocol.model.name, checkpoint=_checkpoint(config), device=device, seed=0)
    conditions = _conditions(config, columns, sam)
    bench = Workbench(
        sam=sam,
        adapter=protocol.adapter,
        fit=protocol.fit,
        prompt_kind=protocol.prompts.train,
        view=View(sam.image_size, sam.logits_size, protocol.resize, device, protocol.score.precision),
        seed=config.seed,
        batch_size=protocol.score.batch_size,
        experts=shared / "experts",
    )
    return Prepared(
        config=config,
        method=method,
        settings=settings,
        domains=domains,
        retention=stream.retention,
        test_prompts=test_prompts,
        train_prompts=train_prompts,
        bench=bench,
        conditions=conditions,
        digest=_run_digest(config, method, settings, domains, conditions),
    )


def choose_device(asked: str) -> torch.device:
    """The device of a run; ``auto`` is CUDA where it works, else the CPU.

    Raises:
        CosamError: CUDA is asked for and torch sees none.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise CosamError(f"The device {asked!r} was asked for, but torch sees no GPU. Use --device cpu or auto.")
    return torch.device(asked)


def _checkpoint(config: RunConfig) -> Path | str | None:
    asked = config.protocol.model.checkpoint
    if asked in ("", "random"):
        return asked or None
    return Path(asked).expanduser()


def _ordered(stream: OpenedStream, order: tuple[str, ...]) -> tuple[Domain, ...]:
    by_name = {domain.name: domain for domain in stream.domains}
    for name in order:
        if name not in by_name:
            raise unknown_name("domain of this stream", name, by_name)
    if order and sorted(order) != sorted(by_name):
        raise CosamError(
            f"The order names {', '.join(order)}, but the stream has {', '.join(by_name)}. Name each domain once."
        )
    return tuple(by_name[name] for name in order) if order else stream.domains


def _conditions(config: RunConfig, columns: tuple[Domain, ...], sam: Sam) -> Conditions:
    """What two records must share before one table may hold both."""
    return Conditions(
        data={domain.name: domain.digest for domain in sorted(columns, key=lambda domain: domain.name)},
        checkpoint=sam.checkpoint_digest,
        config=_hash(config.protocol.model_dump(mode="json", exclude={"title", "stream", "model"})),
    )


def _run_digest(
    config: RunConfig,
    method: type[Method],
    settings: BaseModel,
    domains: tuple[Domain, ...],
    conditions: Conditions,
) -> str:
    facts = {
        "conditions": conditions.digest,
        "method": config.method,
        "source": _source_digest(method),
        "settings": settings.model_dump(mode="json"),
        "seed": config.seed,
        "order": [domain.name for domain in domains],
        "harness": __version__,
    }
    return _hash(facts)


def _source_digest(method: type[Method]) -> str:
    """Hash of the file that defines the method, so that an edited method is measured anew."""
    source = inspect.getsourcefile(method)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
