"""The contract check in processes of its own: what one process finds, and whether a process per step gives the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors, sha256_file
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.isolation.descriptions import MethodFacts, describe, text_of
from cosam_bench.isolation.faults import WorkerFault
from cosam_bench.isolation.jobs import IsolatedMethod
from cosam_bench.isolation.messages import Message
from cosam_bench.isolation.server_handle import use_model
from cosam_bench.isolation.worker_handle import Worker
from cosam_bench.method.contract_check import ContractViolation
from cosam_bench.method.contract_trial import trial_batch, trial_prompts, trial_splits
from cosam_bench.method.trial import TRIAL_ADAPTER, trial_workbench

_LINE = "a process of its own for each domain and each prediction gives the same states and predictions"


def check_isolated(asked: str, *, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Check a method, which this process never imports, and return one line per check that passed.

    Args:
        asked: a registered name, ``package.module:Class`` or the path of a file.
        settings: the method's, if not its defaults.

    Raises:
        ContractViolation: all that was found.
        CosamError: nobody offers the method, or it cannot be imported.
    """
    try:
        facts = describe(asked, settings or {}, source=f"The settings of method {asked!r}")
    except WorkerFault as fault:
        raise CosamError(text_of(fault, asked)) from None
    model = {"name": "tiny", "checkpoint": "random", "global_attention": False, "seed": 0}
    use_model(model | {"adapter": TRIAL_ADAPTER.model_dump(mode="json")})
    try:
        found = _examined(facts)
        _compare(IsolatedMethod(facts, trial_workbench(batch_size=2)), found)
    except WorkerFault as fault:
        text = fault.text if fault.kind == "contract" else text_of(fault, asked)
        text = text.replace("broke its contract: its process", "Its process", 1)
        raise ContractViolation(text) from None
    return [*(str(line) for line in found.values["passed"]), _LINE]


def _examined(facts: MethodFacts) -> Message:
    with Worker("check", {"method": facts.asked, "settings": facts.given}) as worker:
        found = worker.due("checked")
        names = ("faults", "passed", "states", "logits", "findings")
        lists = {name: found.values.get(name) for name in names}
        if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists.values()):
            raise worker.bad("a result of another form")
        worker.finish()
    faults = list(found.values["faults"])
    if found.values["findings"]:
        faults.append(
            f"Its code reaches beyond what a method is given: it {'; it '.join(found.values['findings'])}. Keep what "
            "the next domain needs in the state, and use nothing but the domain, the batch and self.bench."
        )
    if faults:
        raise ContractViolation(*faults)
    return found


def _compare(method: IsolatedMethod, found: Message) -> None:
    """Learn and predict with one process per step, and compare with the single process.

    Raises:
        ContractViolation: they differ.
    """
    splits, view, card = trial_splits(), method.bench.view, method.facts.card
    shown = trial_prompts(splits)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        before = None
        for step, split in enumerate(splits[:1] if card.all_at_once else splits, start=1):
            after = Path(folder) / f"{step}.safetensors"
            prompts = draw_prompts(split, points=3, seed=0)
            method.learn(split.domain, split, prompts, step=step, before=before, after=after)
            with method.predicting(after) as prediction:
                batch = trial_batch(splits, shown, range(len(splits)), view=view, with_domains=card.receives_domain)
                logits = digest_tensors({"logits": prediction(batch)})
                prediction.finish()
            if [sha256_file(after), logits] != [found.values[name][step - 1] for name in ("states", "logits")]:
                what = (
                    "learns another state"
                    if sha256_file(after) != found.values["states"][step - 1]
                    else "predicts otherwise"
                )
                raise ContractViolation(
                    f"With a process of its own for each step, the method {what} in step {step}. Likely cause: it "
                    "remembers something outside of its state, in its module, its class, the frozen model, the "
                    "environment or a file."
                )
            before = after
