"""From a grid to the graph of its tasks; data is opened and weights are hashed once, and no model is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosam_bench.core.defaults import counted_settings
from cosam_bench.core.environment import versions
from cosam_bench.core.hashing import sha256_json
from cosam_bench.data.orders import recorded_order
from cosam_bench.data.streams import Stream, load_stream
from cosam_bench.experiments.base_model import choose_device
from cosam_bench.experiments.chosen_method import chosen_method
from cosam_bench.experiments.fingerprint import SCORE_VERSION
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.method.registry import short_name
from cosam_bench.sweeps.contents import Contents
from cosam_bench.sweeps.grid import Grid
from cosam_bench.sweeps.task import Kind, Task

_SHARED: dict[str, Any] = {"method": "frozen", "settings": {}, "experts": None}
"""The settings under which tasks that belong to no method open their data and model."""


@dataclass(frozen=True)
class Plan:
    """The tasks of a grid.

    Attributes:
        tasks: by key, each after those that it needs.
        configs: settings that tasks name by position, at the first seed.
        labels: for each of them, its table of settings as text; empty if the grid has one table, or for what methods
            share.
        own_orders: for each of them, its stream's order, which a run has without naming it.
        unshared: by kind, how many tasks there were if each run did all of its own.
        demand: by key, for how many runs a task is done.
    """

    tasks: Mapping[str, Task]
    configs: tuple[RunConfig, ...]
    labels: tuple[str, ...]
    own_orders: tuple[tuple[str, ...], ...]
    unshared: Mapping[Kind, int]
    demand: Mapping[str, int]

    def config(self, task: Task) -> RunConfig:
        """The settings of one task."""
        order = recorded_order(task.order, self.own_orders[task.config])
        return self.configs[task.config].model_copy(update={"seed": task.seed, "order": tuple(order)})

    def count(self, kind: Kind) -> int:
        """How many tasks are of a kind."""
        return sum(task.kind == kind for task in self.tasks.values())


def plan(grid: Grid, *, results: Path | None = None, is_here: bool = True) -> Plan:
    """The tasks of a grid; equal ones appear once.

    Args:
        grid: what varies.
        results: the folder of records, which an isolated method must not see; None: the default one.
        is_here: whether this machine does the tasks, so that the device ``auto`` counts as the one that it has; else it
            counts by its name.

    Raises:
        CosamError: a name, a key or a value of the grid does not fit, or data or weights are missing.
    """
    tasks: dict[str, Task] = {}
    configs: list[RunConfig] = []
    labels: list[str] = []
    own_orders: list[tuple[str, ...]] = []
    unshared: Counter[Kind] = Counter()
    demand: Counter[str] = Counter()
    streams: dict[str, Stream] = {}
    contents = Contents()
    for config, label in grid.variants(results=results):
        name = config.protocol.stream
        if name not in streams:
            streams[name] = load_stream(name)
        stream = streams[name]
        facts = _Facts.of(config, stream, contents, grid, results=results, is_here=is_here)
        position = len(configs)
        configs += [config, config.model_copy(update=_SHARED)]
        labels += [label, ""]
        own_orders += [stream.order, stream.order]
        orders = grid.all_orders(stream)
        for seed in grid.all_seeds:
            shared = list(facts.shared_tasks(seed, config=position + 1))
            needs = tuple(task.key for task in shared)
            for order in orders:
                run = Task(facts.run_key(seed, order), "run", position, seed, order, needs=needs, rule=facts.rule)
                unshared.update(task.kind for task in (*shared, run))
                if run.key not in tasks:
                    demand.update((*needs, run.key))
                for task in (*shared, run):
                    tasks.setdefault(task.key, task)
    return Plan(tasks, tuple(configs), tuple(labels), tuple(own_orders), unshared, demand)


@dataclass(frozen=True)
class _Facts:
    """What decides the tasks of one method, model and table of settings, except the seed and the order.

    Attributes:
        row: of the row of frozen SAM.
        experts: by the domain's name, of its expert; empty if the method does not train one per domain.
        run: of the whole run.
        rule: of the method's code.
    """

    row: str
    experts: Mapping[str, str]
    run: str
    rule: str

    @classmethod
    def of(
        cls,
        config: RunConfig,
        stream: Stream,
        contents: Contents,
        grid: Grid,
        *,
        results: Path | None,
        is_here: bool,
    ) -> _Facts:
        method, settings = chosen_method(config, grid.isolated, results=results)
        if isinstance(method, MethodFacts):
            rule, counted, reason = method.rule, method.counted, method.needs_training
        else:
            assert settings is not None
            rule, counted, reason = contents.rule(method), counted_settings(settings), method.needs_training(settings)
        common = {
            "versions": versions(),
            "score version": SCORE_VERSION,
            "model": contents.model(config.protocol),
            "device": choose_device("auto").type if is_here and config.device == "auto" else config.device,
            "scales": bool(config.scales),
            "experts": None,
            "cached": config.prefix_cache_gib > 0,
        }
        common |= {key: value for key in _LATER if (value := getattr(config, key))}
        given = None if config.experts is None else contents.experts(config.experts, stream.order)
        protocol = config.protocol.model_dump(mode="json", exclude={"title", "methods"})
        data = contents.domains(config.protocol)
        bits = common | {"threads": grid.threads}
        row = {key: value for key, value in protocol.items() if key not in (*_NAMES, "fit")}
        training = {key: value for key, value in protocol.items() if key not in (*_NAMES, "score")}
        trains = not reason and given is None
        run = ["run", common | {"experts": given}, config.scales, protocol, stream.retention, data, _named(config)]
        further: list[Any] = [config.also_prompts] if config.also_prompts else []
        if isinstance(method, MethodFacts):  # an isolated run takes no record of the other kind for its own
            further.append("isolated")
        return cls(
            row=sha256_json(["frozen row", bits, row, data]),
            experts={
                name: sha256_json(["expert", bits, training, name, data[name]]) for name in stream.order if trains
            },
            run=sha256_json([*run, rule, counted, *further]),
            rule=rule,
        )

    def shared_tasks(self, seed: int, *, config: int) -> Iterator[Task]:
        """What a run at a seed shares with others."""
        yield Task(_key(self.row, seed), "frozen row", config, seed)
        for domain, facts in self.experts.items():
            yield Task(_key(facts, seed), "expert", config, seed, domain=domain)

    def run_key(self, seed: int, order: tuple[str, ...]) -> str:
        """The key of the run at a seed and in an order."""
        return _key(self.run, seed, *order)


_LATER = ("limit", "deterministic")  # absent from the keys of tasks before these settings
_NAMES = ("name", "version", "mode", "stream")  # of the protocol; what they stand for counts by itself


def _named(config: RunConfig) -> Any:
    return short_name(config.method)


def _key(facts: str, *parts: int | str) -> str:
    return sha256_json([facts, *parts])[:32]
