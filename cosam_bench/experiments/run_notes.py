"""What to know of a run before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosam_bench.data.faults import first_few
from cosam_bench.data.prompts import MASK_SIZE
from cosam_bench.experiments.base_model import precision_notes
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.isolated_methods import own_files
from cosam_bench.experts.sources import unused_experts
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.isolation.private_folders import TEMPORARY, exposed_folders
from cosam_bench.isolation.sandbox import HIDDEN
from cosam_bench.method.registry import short_name
from cosam_bench.results.protocol_match import is_another_experiment


def run_notes(experiment: Experiment) -> list[str]:
    """What to know before the run: how it differs from the protocol, slow bf16, experts or samples that it leaves out.

    They are alike for all methods; see ``isolation_notes`` for the others.
    """
    differs = experiment.differs
    named = f"This run is not the protocol {experiment.config.protocol.name!r}: {differs}. Tables show it apart."
    slow = precision_notes(experiment.config.protocol, experiment.bench.view.device)
    others = [*_left_out(experiment), *_kept_empty(experiment), *_empty_prompts(experiment)]
    return [*([named] if is_another_experiment(differs) else []), *_about_experts(experiment), *slow, *others]


def _about_experts(experiment: Experiment) -> list[str]:
    """Experts that are named after no domain of the run, and those that look like a mistake."""
    config, given = experiment.config, experiment.bench.given
    if config.experts is None or given is None:
        return []
    unused = unused_experts(Path(config.experts), [domain.name for domain in experiment.domains])
    left = [f"{config.experts}: no domain is called {first_few(unused)}, so they are not used."] if unused else []
    return [*left, *given.doubts()]


def isolation_notes(experiment: Experiment) -> list[str]:
    """What an isolated method can read of records and data."""
    facts = experiment.method
    return exposure_notes(facts, experiment.private) if isinstance(facts, MethodFacts) else []


def exposure_notes(facts: MethodFacts, folders: Sequence[Path]) -> list[str]:
    """One note for the folders that stay readable to an isolated method for the same reasons.

    Args:
        facts: about the method.
        folders: those of records, data or experts.
    """
    method = facts.asked
    if HIDDEN not in facts.given_up:
        return [
            f"The isolated method {short_name(method)!r} can read the folders of data and results, as this system does "
            "not let a process hide them (Linux's user namespaces). Run code that you do not trust in a container: "
            "docs/isolation.md."
        ]
    by_reasons: dict[tuple[str, ...], list[str]] = {}
    for folder, reasons in exposed_folders(folders, needed=own_files(method)).items():
        by_reasons.setdefault(tuple(reasons), []).append(folder)
    return [
        f"The isolated method {short_name(method)!r} can read {first_few(found)}: {_listed(reasons)} in there. "
        f"{_advice(reasons)}"
        for reasons, found in by_reasons.items()
    ]


def _listed(reasons: Sequence[str]) -> str:
    """As the subject of a sentence, with its verb."""
    *others, last = reasons
    return f"{', '.join(others)} and {last} are" if others else f"{last} is"


def _advice(reasons: Sequence[str]) -> str:
    advice = []
    if set(reasons) - {TEMPORARY}:
        advice.append("Keep methods and Python's folders out of the folders of data and results.")
    if TEMPORARY in reasons:
        advice.append("Set TMPDIR to a folder outside of data and results.")
    return " ".join(advice)


def _kept_empty(experiment: Experiment) -> list[str]:
    """One note for each domain with images without foreground that are kept."""
    counts = {
        domain.name: (domain.train.manifest.empty_count, len(domain.negatives or ())) for domain in experiment.columns
    }
    return [
        f"{name}: images with empty masks are kept, {train} in training and {test} in testing, where their false "
        "positives are scored apart from all other figures."
        for name, (train, test) in counts.items()
        if train or test
    ]


def _left_out(experiment: Experiment) -> list[str]:
    """One note for each domain of which samples with too little foreground are neither trained nor tested on."""
    counts = {
        domain.name: (domain.test.manifest.left_out, len(domain.train) + len(domain.test))
        for domain in experiment.columns
    }
    return [
        f"{name}: {left_out} left out for having no foreground, or less than min_pixels; {kept} samples are used."
        for name, (left_out, kept) in counts.items()
        if left_out
    ]


def _empty_prompts(experiment: Experiment) -> list[str]:
    """One note for each part of a domain with samples whose mask prompt says that nothing is there."""
    kinds = experiment.config.protocol.prompts
    parts = [("test", experiment.columns, experiment.test_prompts)] if kinds.test == "mask" else []
    if kinds.train in ("mask", "mix"):
        parts.append(("training", experiment.domains, experiment.train_prompts))
    notes = []
    for part, domains, prompts in parts:
        for domain in domains:
            split = domain.test if part == "test" else domain.train
            empty = (~prompts[domain.name].masks.flatten(1).any(dim=1)).nonzero().flatten().tolist()
            if empty:
                named = first_few([split.keys[row] for row in empty])
                notes.append(
                    f"{domain.name}: {len(empty)} of {len(split)} {part} samples have an empty mask prompt, since "
                    f"their objects vanish at {MASK_SIZE} x {MASK_SIZE} pixels: {named}. Leave them out by "
                    "min_pixels, or prompt by box or points."
                )
    return notes
