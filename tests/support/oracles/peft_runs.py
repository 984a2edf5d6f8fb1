"""Our rules against peft's ``add_weighted_adapter``, as far as a rule here says the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from support.oracles.store import OracleRun, Outcome, distance
from torch import Tensor, nn

from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.sign_election import add_votes, elect, trim
from cosam_bench.merging.updates import LowRank, Update, add
from cosam_bench.methods.dare import drop_and_rescale

SEED = 123  # set before each call, says the README


def judge(run: OracleRun) -> Outcome:
    """How far we are from this run. A single adapter is always merged by ``linear``, which is then exact."""
    facts, weights = run.facts, run.case_facts["weights"]
    if "error" in facts:
        return Outcome("task_arithmetic", skipped=f"the reference raised: {facts['error']}")
    kind = "single" if len(weights) == 1 else facts["combination_type"]
    if kind in ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"):
        return Outcome(not_offered=f"{kind} merges A and B apart: cross terms, and another result for B R, R^-1 A")
    if kind == "magnitude_prune_svd":
        return Outcome(not_offered="trimming by magnitude without an election is no method here")
    if facts.get("majority_sign_method", "total") != "total":
        return Outcome(not_offered="an election by the number of experts of a sign is no setting here")
    if "ties" in kind and len(set(weights)) > 1:
        return Outcome(not_offered="TIES that weighs experts after the election is no setting here")
    if kind in ("single", "cat"):
        return Outcome("task_arithmetic", _distance(run, _stacked(run, kind)))
    method = "dare" if kind.startswith("dare") else "ties" if "ties" in kind else "task_arithmetic"
    return Outcome(method, _distance(run, _truncated(run, kind)))


def _distance(run: OracleRun, ours: Mapping[str, Tensor]) -> float:
    """From the merged adapter's change; with rsLoRA from its B A, which peft wrongly serves times sqrt(rank)."""
    arrays = run.tree(f"out/{run.facts['id']}")
    if not run.case_facts.get("rslora"):
        return distance(ours, {layer: arrays[f"{layer}/delta"] for layer in ours})
    return distance(ours, {layer: arrays[f"{layer}/B"] @ arrays[f"{layer}/A"] for layer in ours})


def _layers(run: OracleRun) -> list[str]:
    return list(run.tree("base"))


def _adapter(run: OracleRun, task: int, layer: str) -> tuple[Tensor, Tensor, float]:
    arrays = run.tree(f"t{task}/{layer}")
    return arrays["A"], arrays["B"], arrays["scaling"].item()


def _stacked(run: OracleRun, kind: str) -> dict[str, Tensor]:
    """Task arithmetic on factors: they are stacked, with weight and scaling in B."""
    total = Update()
    for task, weight in enumerate(run.case_facts["weights"]):
        factors = {}
        for layer in _layers(run):
            a, b, scaling = _adapter(run, task, layer)
            share = weight * scaling
            if kind == "single":  # the reference multiplies A and B by a float32 root each
                share = torch.tensor(abs(share) ** 0.5).double().item() ** 2 * (1 if share > 0 else -1)
            factors[layer] = LowRank(a, b).scaled(share)
        total = add(total, Update(factors))
    return {layer: factors.dense() for layer, factors in total.low_rank.items()}


def _truncated(run: OracleRun, kind: str) -> dict[str, Tensor]:
    """A rule on the changes of each layer apart, then the nearest change of the wanted rank."""
    facts, ranks = run.facts, run.case_facts["ranks"]
    weights = torch.tensor(run.case_facts["weights"]).double().tolist()  # the reference has them in float32
    rank = facts.get("svd_rank", max(ranks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        _draw_new_adapter(run, rank)
        merged = {}
        for layer in _layers(run):
            changes = [run.arrays[f"{run.case}/t{task}/{layer}/delta"] for task in range(len(weights))]
            merged[layer] = _merge_layer(changes, weights, kind, facts.get("density", 1.0))
    return {layer: _nearest(change, rank=rank) for layer, change in merged.items()}


def _nearest(change: Tensor, *, rank: int) -> Tensor:
    """The nearest matrix of at most this rank."""
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ vh[:rank]).to(change.dtype)


def _merge_layer(changes: list[Tensor], weights: list[float], kind: str, density: float) -> Tensor:
    experts = [{"dW": change} for change in changes]
    if kind.startswith("dare"):
        masks = [{"dW": torch.bernoulli(torch.full_like(change, density)).bool()} for change in changes]
        experts = [
            drop_and_rescale(expert, mask, probability=1 - density) for expert, mask in zip(experts, masks, strict=True)
        ]
    if "ties" not in kind:
        total = None
        for step, (expert, weight) in enumerate(zip(experts, weights, strict=True), start=1):
            total = add_task_vector(total, expert, scale=weight, step=step)
        assert total is not None
        return total["dW"]
    votes: dict[str, Tensor] = {}
    for expert in experts:
        # The reference keeps int(density d) entries and not one more.
        count = changes[0].numel()
        kept = 1.0 if kind.startswith("dare") else (int(density * count) - 0.5) / count
        votes = add_votes(votes, trim(expert, density=kept), merge="mean")
    return weights[0] * elect(votes, merge="mean")["dW"]


def _draw_new_adapter(run: OracleRun, rank: int) -> None:
    """Draw what the reference drew before its masks: the first weights of the adapter that takes the result."""
    for weight in run.tree("base").values():
        outputs, inputs = weight.shape
        nn.Linear(inputs, rank, bias=False)
        nn.Linear(rank, outputs, bias=False)
