"""What to know of a run before it starts."""

from __future__ import annotations

from cosam_bench.data.faults import first_few
from cosam_bench.data.prompts import MASK_SIZE
from cosam_bench.experiments.base_model import precision_notes
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.isolated_methods import own_files
from cosam_bench.isolation.private_folders import exposed_folders
from cosam_bench.results.protocol_match import is_another_experiment


def run_notes(experiment: Experiment) -> list[str]:
    """What to know before the run: differences from the protocol, slow bf16, samples left out, empty prompts."""
    differs = experiment.differs
    named = f"This run is not the protocol {experiment.config.protocol.name!r}: {differs}. Tables show it apart."
    slow = precision_notes(experiment.config.protocol, experiment.bench.view.device)
    others = [*_exposed(experiment), *_left_out(experiment), *_kept_empty(experiment), *_empty_prompts(experiment)]
    return [*([named] if is_another_experiment(differs) else []), *slow, *others]


def _exposed(experiment: Experiment) -> list[str]:
    """One note for the folders of records and data that an isolated method can read."""
    if not experiment.is_isolated:
        return []
    found = exposed_folders(experiment.private, needed=own_files(experiment.config.method))
    if not found:
        return []
    return [
        f"The method can read {first_few(list(found))}: its own code, or a folder of Python's path, is in there. Keep "
        "methods out of the folders of data and results."
    ]


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
