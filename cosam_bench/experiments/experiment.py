"""From a run's settings to what the run works on: data, prompts, the model and their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cosam_bench.core.devices import free_memory_bytes, machine_memory_bytes
from cosam_bench.core.reusable import Reusable
from cosam_bench.core.settings import Settings
from cosam_bench.data.prompts import Prompts, frozen_prompts, joined
from cosam_bench.data.published_points import published_prompts
from cosam_bench.data.samples import Domain, Split, union
from cosam_bench.data.streams import load_stream
from cosam_bench.evaluation.loader import Loader
from cosam_bench.evaluation.scales import HELD_OUT
from cosam_bench.experiments.base_model import (
    build_base_model,
    choose_device,
    model_facts,
    view_of,
    with_precision,
)
from cosam_bench.experiments.chosen_method import chosen_method, rule_of
from cosam_bench.experiments.fingerprint import run_conditions, run_fingerprint
from cosam_bench.experiments.isolated_methods import own_files, private_folders
from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.experiments.method_hosts import InProcess, Isolated, MethodHost, Task
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.experiments.run_data import Validation, open_run_data
from cosam_bench.experts.reading import read_experts
from cosam_bench.experts.sources import expert_sources
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.isolation.jobs import IsolatedMethod
from cosam_bench.isolation.private_folders import hidden_folders
from cosam_bench.isolation.server_handle import use_model
from cosam_bench.method.interface import Method
from cosam_bench.method.registry import is_built_in, short_name
from cosam_bench.method.workbench import Workbench
from cosam_bench.results.protocol_match import protocol_differences
from cosam_bench.results.records import SHARED
from cosam_bench.results.run_info import BROUGHT_IN, Conditions
from cosam_bench.sam.adapters.targets import check_adapter, touched_layers
from cosam_bench.sam.batch_size import resolve_batch_size
from cosam_bench.sam.cache_backends import FeatureFiles
from cosam_bench.sam.encoder_sections import frozen_depth
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.feature_memory import FeatureMemory
from cosam_bench.sam.sam import Sam
from cosam_bench.training.expert_store import ExpertStore
from cosam_bench.training.given_experts import GivenExperts

_SHARE_OF_HOST_MEMORY = 8  # pinned memory cannot be swapped out; the loader of images takes another eighth
_CONTEXT_BYTES = 2**29  # an estimate: what CUDA, cuBLAS and cuDNN take in a process before its first tensor
NOT_ISOLATED = "not isolated"  # the mark of a plugin that ran in the process that scores it


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, opened and checked.

    Attributes:
        config: the resolved settings.
        method: the class to run; if it runs isolated, what is known of it.
        settings: its settings, validated; None if it runs isolated.
        domains: in the order of the run.
        retention: domains that are only ever tested.
        test_prompts: by the domain's name.
        train_prompts: by the domain's name.
        bench: what the method works with.
        loader: loads the test images, and keeps them for all rows and methods.
        conditions: hashes of what two records must share to be compared.
        frozen_rows: which of the shared rows of frozen SAM may be read.
        image_counts: by the domain's name, its number of images and the one that its card states, if they differ;
            with ``limit``, the number used and the one there.
        private: the folders of records, data and experts, which an isolated method has no reason to read.
        held_out: by the domain's name, training images that are not trained on, with their prompts; empty unless the
            run scores several scales.
    """

    config: RunConfig
    method: type[Method] | MethodFacts
    settings: Settings | None
    domains: tuple[Domain, ...]
    retention: tuple[Domain, ...]
    test_prompts: dict[str, Prompts]
    train_prompts: dict[str, Prompts]
    bench: Workbench
    loader: Loader
    conditions: Conditions
    frozen_rows: Reusable = field(default_factory=Reusable)
    private: tuple[Path, ...] = ()
    image_counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    held_out: Mapping[str, tuple[Split, Prompts]] = field(default_factory=dict)

    def with_method(self, config: RunConfig, *, isolated: bool | None = False) -> Experiment:
        """The same data, prompts and model for another method.

        Args:
            config: as this run's, but for the method, its settings and their tuning.
            isolated: as for ``open_experiment``.

        Raises:
            CosamError: the method, a setting of it or the protocol's adapter does not fit.
        """
        config = with_precision(config, self.bench.view.device)
        shared = {"method": config.method, "settings": config.settings, "tuning": config.tuning}
        if self.config.model_copy(update=shared) != config:
            raise ValueError("these two runs differ in more than their methods")
        method, settings = chosen_method(config, isolated, private=self.private)
        return replace(self, config=config, method=method, settings=settings)

    @property
    def is_isolated(self) -> bool:
        """Whether the method runs in processes of its own."""
        return isinstance(self.method, MethodFacts)

    @property
    def is_base_model(self) -> bool:
        """Whether the method is known to predict as the frozen model: a built-in one that keeps nothing."""
        return is_built_in(self.config.method) and self.method.card.state == "none"

    @property
    def marks(self) -> tuple[str, ...]:
        """What to know before comparing the result: the card's marks, a plugin's access, and experts brought in."""
        is_open = not self.is_isolated and not is_built_in(self.config.method)
        own = {NOT_ISOLATED: is_open, BROUGHT_IN: self.bench.given is not None, HELD_OUT: bool(self.held_out)}
        return (*self.method.card.marks, *(mark for mark, applies in own.items() if applies))

    @cached_property
    def rule(self) -> str:
        """The hash of the method's own code."""
        return rule_of(self.method)

    @property
    def settings_values(self) -> dict[str, Any]:
        """The method's settings as JSON values."""
        if isinstance(self.method, MethodFacts):
            return self.method.settings
        assert self.settings is not None
        return self.settings.model_dump(mode="json")

    def host(self, bench: Workbench, *, watch: FaultWatch, error_file: Path | None = None) -> MethodHost:
        """What runs the method's code.

        Args:
            bench: what the method works with.
            watch: guards its calls in this process.
            error_file: receives the traceback if it raises in another.
        """
        if isinstance(self.method, MethodFacts):
            use_model(model_facts(self.config))
            hidden = tuple(hidden_folders(self.private, needed=own_files(self.config.method)))
            method = IsolatedMethod(self.method, bench, hidden, _shared_cache_bytes(self.config, bench))
            return Isolated(method, self.method_name, error_file)
        assert self.settings is not None
        return InProcess(self.method, self.settings, bench, watch)

    @property
    def columns(self) -> tuple[Domain, ...]:
        """The columns of the score matrix: the stream's domains, then the retention domains."""
        return self.domains + self.retention

    @property
    def negatives(self) -> dict[str, Split]:
        """By the column's name, its test images without foreground; only of columns that have some."""
        return {domain.name: domain.negatives for domain in self.columns if domain.negatives is not None}

    @cached_property
    def digest(self) -> str:
        """Hash of all that decides a score, see ``run_fingerprint``; its first digits name the record's folder."""
        return run_fingerprint(
            self.rule,
            name=self.method_name,
            settings=self.method.counted if isinstance(self.method, MethodFacts) else self.settings,
            conditions=self.conditions,
            prompts=self.prompt_digests,
            order=tuple(domain.name for domain in self.domains),
            seed=self.config.seed,
            device=self.bench.view.device.type,
            scales=self.config.scales,
            tuning=self.config.tuning,
            deterministic=self.config.deterministic,
            also_prompts=self.config.also_prompts,
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """The rows of the matrix that are measured: all, or the first and the last for joint training."""
        last = len(self.domains)
        return (0, last) if self.method.card.all_at_once else tuple(range(last + 1))

    def task(self, step: int) -> Task:
        """What the method learns at a step: one domain, or all for joint training."""
        number = self.steps.index(step)
        if not self.method.card.all_at_once:
            domain = self.domains[step - 1]
            return Task(domain.name, domain.train, self.train_prompts[domain.name], number)
        prompts = joined([self.train_prompts[domain.name] for domain in self.domains])
        return Task("all", union(self.domains, "all"), prompts, number)

    @property
    def prompt_digests(self) -> dict[str, str]:
        """By ``domain/part``, the digest of its frozen prompts."""
        train = {f"{name}/train": drawn.digest for name, drawn in sorted(self.train_prompts.items())}
        return train | {f"{name}/test": drawn.digest for name, drawn in sorted(self.test_prompts.items())}

    @property
    def differs(self) -> str:
        """What differs from the built-in protocol of this name; empty if nothing does."""
        protocol = self.config.protocol.model_dump(mode="json")
        return protocol_differences(
            protocol, image_counts=self.image_counts, weights_sha256=self.bench.sam.checkpoint_digest
        )

    @property
    def method_name(self) -> str:
        """What the method is called in the record."""
        return short_name(self.config.method)


def open_experiment(
    config: RunConfig,
    results: Path,
    *,
    fresh: bool = False,
    isolated: bool | None = False,
    validation: Validation | None = None,
) -> Experiment:
    """Open the data, draw or read the frozen prompts, build the model.

    Args:
        config: the resolved settings.
        results: the folder of records, which also holds what runs share.
        fresh: read no expert, no cached feature and no row of frozen SAM that an earlier run left.
        isolated: whether the method runs in processes of its own; None: unless it is built in.
        validation: what is scored in place of test images; None: these.

    Raises:
        CosamError: anything that is asked for is not there, or does not fit.
    """
    device = choose_device(config.device)
    config = with_precision(config, device)
    protocol = config.protocol
    method, settings = chosen_method(config, isolated, results=results)
    check_adapter(protocol.adapter, model=protocol.model.name)
    if isinstance(method, MethodFacts):
        use_model(model_facts(config))  # builds it beside the work that follows
    described = load_stream(protocol.stream)
    sources = None if config.experts is None else expert_sources(Path(config.experts), config.order or described.order)
    data = open_run_data(config, described, validation=validation)
    shared = results / SHARED

    def prompts(split: Split) -> Prompts:
        freeze = published_prompts if protocol.prompts.published else frozen_prompts
        return freeze(split, points=protocol.prompts.points, seed=config.seed, folder=shared / "prompts")

    test_prompts = {domain.name: prompts(domain.test) for domain in data.columns}
    train_prompts = {domain.name: prompts(domain.train) for domain in data.domains}
    sam = build_base_model(config, device=device)
    given = None if sources is None else read_experts(sources, sam=sam, adapter=protocol.adapter)
    conditions = run_conditions(protocol, columns=data.columns, sam=sam, given=given)
    view = view_of(protocol, sam, device)
    bench = Workbench(
        sam=sam,
        adapter=protocol.adapter,
        fit=protocol.fit,
        prompt_kind=protocol.prompts.train,
        view=view,
        seed=config.seed,
        batch_size=resolve_batch_size(protocol.score.batch_size, sam=sam, view=view),
        experts=ExpertStore(shared / "experts", fresh=fresh),
        prefixes=_prefix_cache(config, sam, given, folder=shared / "prefix", fresh=fresh),
        given=given,
    )
    return Experiment(
        config=config,
        method=method,
        settings=settings,
        domains=data.domains,
        retention=data.retention,
        test_prompts=test_prompts,
        train_prompts=train_prompts,
        bench=bench,
        loader=Loader.for_device(device, with_digests=bench.prefixes is not None),
        conditions=conditions,
        frozen_rows=Reusable(fresh=fresh),
        private=tuple(private_folders(described, results, (sources or {}).values())),
        image_counts=data.image_counts,
        held_out={name: (split, prompts(split)) for name, split in data.held_out.items()},
    )


def _shared_cache_bytes(config: RunConfig, bench: Workbench) -> int:
    """The memory of a GPU in which an isolated process may keep features itself; this one may keep no more from now on.

    Both caches, and the model and the CUDA context of the other process, together take at most half of the memory that
    this process finds free, what it already keeps included; at most ``prefix_cache_gib`` each.
    """
    memory = None if bench.prefixes is None else bench.prefixes.backend
    if not isinstance(memory, FeatureMemory):
        return 0
    model_bytes = sum(tensor.nbytes for tensor in (*bench.sam.parameters(), *bench.sam.buffers()))
    half_bytes = (free_memory_bytes(bench.view.device) + memory.used_bytes) // 2
    shared_bytes = max(0, half_bytes - model_bytes - _CONTEXT_BYTES)
    own_bytes = min(round(config.prefix_cache_gib * 2**30), shared_bytes // 2)
    memory.shrink(shared_bytes - own_bytes)
    return own_bytes


def _prefix_cache(
    config: RunConfig, sam: Sam, given: GivenExperts | None, *, folder: Path, fresh: bool
) -> PrefixCache | None:
    """Kept features, where blocks come before the first adapted one: in files for the CPU, in memory for a GPU."""
    adapter = config.protocol.adapter
    is_inside = adapter.kind in ("lora", "decoder")  # other kinds are beside the model's layers
    touched = given.changed if given is not None and is_inside else touched_layers(sam, adapter)
    depth = frozen_depth(sam.image_encoder, touched)
    limit_bytes = round(config.prefix_cache_gib * 2**30)
    if depth is None or not limit_bytes:
        return None
    if sam.device.type != "cuda":
        return PrefixCache(FeatureFiles(folder, limit_bytes=limit_bytes, fresh=fresh), sam=sam, depth=depth)
    gpu_bytes = min(limit_bytes, free_memory_bytes(sam.device) // 2)
    host_bytes = min(limit_bytes - gpu_bytes, machine_memory_bytes() // _SHARE_OF_HOST_MEMORY)
    host = FeatureMemory(limit_bytes=host_bytes, is_pinned=True)
    return PrefixCache.on_gpu(FeatureMemory(limit_bytes=gpu_bytes, beyond=host), sam=sam, depth=depth)
