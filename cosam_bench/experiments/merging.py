"""Experts merged by a method's rule, without data and without a benchmark."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import new_folder, write_atomically
from cosam_bench.core.settings import Settings
from cosam_bench.core.tensor_files import write_tensors
from cosam_bench.core.version import __version__
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import empty_split
from cosam_bench.experiments.base_model import build_base_model, choose_device, model_facts, view_of
from cosam_bench.experiments.chosen_method import check_takes_experts, chosen_method, rule_of
from cosam_bench.experiments.isolated_methods import own_files
from cosam_bench.experiments.method_faults import FaultWatch
from cosam_bench.experiments.method_hosts import InProcess, Isolated, MethodHost, Task
from cosam_bench.experiments.protocol import RunConfig, resolve_run
from cosam_bench.experiments.run_notes import exposure_notes
from cosam_bench.experts.reading import read_experts
from cosam_bench.experts.sources import expert_folders
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.isolation.jobs import IsolatedMethod
from cosam_bench.isolation.private_folders import hidden_folders
from cosam_bench.isolation.server_handle import use_model
from cosam_bench.merging.updates import Update
from cosam_bench.method.interface import MergingMethod, Method, predicts_by_own_code
from cosam_bench.method.registry import is_built_in, short_name
from cosam_bench.method.workbench import Workbench
from cosam_bench.results.export.formats import Exported, check_rank
from cosam_bench.results.export.peft_folder import needs_whole_decoder, write_peft_folder
from cosam_bench.results.export.served import ServedModel
from cosam_bench.sam.build import weights_file
from cosam_bench.sam.sam import Sam
from cosam_bench.sam.update_files import FACTS_FILE, UPDATE_FILE
from cosam_bench.training.given_experts import GivenExperts

MergeFormat = Literal["safetensors", "peft"]


def merge_experts(
    paths: Sequence[Path],
    *,
    method: str,
    folder: Path,
    format_name: str = "safetensors",
    rank: int | None = None,
    model: str = "vit_b",
    seed: int = 0,
    settings: Sequence[str] = (),
    isolated: bool | None = None,
) -> Exported:
    """Merge experts in their order, and write what the method then serves to a new folder.

    It is the update that a run of the method over these experts' domains would end with: the method learns one after
    another, its state going through a file each time.

    Args:
        paths: of the experts, as ``read_experts`` takes them; their names without endings are the domains' names.
        method: a merging method that needs no data, as ``--method`` takes it.
        folder: does not exist, or is empty.
        format_name: ``safetensors``, or ``peft`` for an adapter folder beside it.
        rank: for ``peft``: at most this many factors per layer.
        model: the base model that the experts change. No built-in method reads its weights; others get them if they
            are in their default place, and else random ones, which a note says.
        seed: of methods that draw at random.
        settings: the method's own, ``method.KEY=VALUE`` each.
        isolated: whether the method runs in processes of its own; None: unless it is built in.

    Raises:
        MethodFailed: the method raised an error or broke its contract.
        CosamError: the method needs data or training, or serves no update; an expert cannot be read or does not fit;
            the folder has contents.
    """
    _check_options(paths, format_name=format_name, rank=rank, settings=settings)
    config = _config(method, model=model, seed=seed, settings=settings, isolated=isolated)
    chosen = _chosen(config, isolated, private=expert_folders(paths))
    sources = dict(zip(_names(paths), paths, strict=True))
    with new_folder(folder) as written, tempfile.TemporaryDirectory(prefix="cosam-bench-merge-") as states:
        if isinstance(chosen[0], MethodFacts):
            use_model(model_facts(config))  # builds it beside the work that follows
        sam = build_base_model(config, device=choose_device("cpu"))
        given = read_experts(sources, sam=sam, adapter=config.protocol.adapter)
        host = _host(config, chosen, sam, given, hidden=[*expert_folders(paths), Path(states)])
        update = _merged(host, given, Path(states), name=short_name(method))
        write_tensors(written / UPDATE_FILE, update.tensors())
        notes = exposure_notes(chosen[0], expert_folders(paths)) if isinstance(chosen[0], MethodFacts) else []
        if not is_built_in(method) and config.protocol.model.checkpoint == "random":
            notes.append(
                f"The weights of {model} are not here, so the method was given random ones. If its rule reads them, "
                f"get them and merge again: cosam-bench models --fetch {model}"
            )
        notes += given.doubts()
        notes += _write_peft(sam, update, written, rank=rank) if format_name == "peft" else []
        facts = _facts(config, chosen[0], given)
        write_atomically(written / FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    return Exported.to(folder, notes)


def _check_options(paths: Sequence[Path], *, format_name: str, rank: int | None, settings: Sequence[str]) -> None:
    if len(paths) < 2:
        raise CosamError(f"A merge needs at least two experts; given: {len(paths)}. Name more.")
    if format_name not in get_args(MergeFormat):
        raise unknown_name("format of a merge", format_name, get_args(MergeFormat))
    check_rank(rank, format_name=format_name)
    for text in settings:
        if text.partition(".")[0].strip() not in ("method", "settings"):
            raise CosamError(f"{text!r} is not a setting of the method. Write method.KEY=VALUE.")
    absent = [path for path in paths if not path.exists()]
    if absent:
        raise CosamError(f"No file or folder {absent[0]}. Name the experts' files or folders.")


def _config(method: str, *, model: str, seed: int, settings: Sequence[str], isolated: bool | None) -> RunConfig:
    facts: dict[str, Any] = {"name": model}
    if is_built_in(method) or not _has_weights(model):
        facts["checkpoint"] = "random"
    tables: Mapping[str, Any] = {"name": "merge", "stream": "", "model": facts}
    overrides = (f"seed={seed}", *settings)
    return resolve_run(method=method, tables=tables, isolated=isolated, overrides=overrides)


def _has_weights(model: str) -> bool:
    """Whether the base model's weights are in their default place."""
    try:
        weights_file(model)
    except CosamError:
        return False
    return True


def _names(paths: Sequence[Path]) -> list[str]:
    """The experts' names: those of the files, or links to them, without endings; all with a number if two are alike."""
    names = [_name(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]


def _name(path: Path) -> str:
    if not path.is_dir():
        return path.stem
    return path.resolve().name if path.name in ("", "..") else path.name  # the name of a link is the user's choice


def _chosen(
    config: RunConfig, isolated: bool | None, *, private: Sequence[Path]
) -> tuple[type[Method] | MethodFacts, Settings | None]:
    """The method and its settings, once it is known that experts are all it needs."""
    method, settings = chosen_method(config, isolated, private=private)
    reason = method.needs_training if isinstance(method, MethodFacts) else method.needs_training(settings)
    check_takes_experts(config.method, reason)
    _check_needs(short_name(config.method), method.card.needs)
    if isinstance(method, type) and (not issubclass(method, MergingMethod) or predicts_by_own_code(method)):
        raise _serves_nothing(short_name(config.method))
    return method, settings


def _host(
    config: RunConfig,
    chosen: tuple[type[Method] | MethodFacts, Settings | None],
    sam: Sam,
    given: GivenExperts,
    *,
    hidden: Sequence[Path],
) -> MethodHost:
    """What runs the method."""
    (method, settings), protocol, name = chosen, config.protocol, short_name(config.method)
    bench = Workbench(
        sam=sam,
        adapter=protocol.adapter,
        fit=protocol.fit,
        prompt_kind=protocol.prompts.train,
        view=view_of(protocol, sam, sam.device),
        seed=config.seed,
        given=given,
    )
    if isinstance(method, MethodFacts):
        return Isolated(
            IsolatedMethod(method, bench, tuple(hidden_folders(hidden, needed=own_files(config.method)))), name
        )
    assert settings is not None
    return InProcess(method, settings, bench, FaultWatch(name, sam=sam))


def _facts(config: RunConfig, method: type[Method] | MethodFacts, given: GivenExperts) -> dict[str, Any]:
    """What decided the result, as JSON values."""
    return {
        "cosam-bench": __version__,
        "method": short_name(config.method),
        "settings": config.settings,
        "rule": rule_of(method),
        "model": config.protocol.model.name,
        "seed": config.seed,
        "experts": dict(given.sources),
    }


def _check_needs(name: str, needs: Sequence[str]) -> None:
    if needs:
        raise CosamError(
            f"The method {name!r} needs {' and '.join(needs)} of each domain's training images, and a merge opens no "
            f"data. Give the images: cosam-bench run --method {name} --experts DIR --stream FILE; its record keeps the "
            f"merged {UPDATE_FILE}."
        )


def _serves_nothing(name: str) -> CosamError:
    return CosamError(
        f"The method {name!r} serves no update that alone predicts as it does. Take a merging method without a predict "
        "of its own."
    )


def _merged(host: MethodHost, given: GivenExperts, states: Path, *, name: str) -> Update:
    """What the method serves after all experts."""
    before: Path | None = None
    for step, domain in enumerate(given.updates, start=1):
        nothing = empty_split(domain, part="train")
        after = states / f"{step:03d}.safetensors"
        host.learn(Task(domain, nothing, draw_prompts(nothing, points=1, seed=0), step), before=before, after=after)
        if before is not None:
            before.unlink()
        before = after
    update = host.served(before)
    if update is None:
        raise _serves_nothing(name)
    for layer, tensor in update.tensors().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CosamError(
                f"The method {name!r} merged the experts to numbers that are not finite, first in {layer}. Check its "
                "settings."
            )
    return update


def _write_peft(sam: Sam, update: Update, folder: Path, *, rank: int | None) -> list[str]:
    served = ServedModel(sam, update, None)
    if needs_whole_decoder(served):
        raise CosamError(
            "The merged update changes more of the mask decoder than linear layers. peft then saves it whole, for "
            "which a merge lacks the base model's weights. Leave the format at safetensors."
        )
    otherwise = "Leave the format at safetensors."
    written = write_peft_folder(served, folder, rank=rank, otherwise=otherwise)
    return list(written.notes)
