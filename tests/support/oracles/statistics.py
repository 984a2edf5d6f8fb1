"""Our rules that use statistics of a domain, against the reference's numbers: Fisher, RegMean, LoRM."""

from __future__ import annotations

import torch
from support.oracles.store import OracleRun, Outcome, distance
from torch import Tensor

from cosam_bench.merging.fisher_average import add_to_fisher_average
from cosam_bench.merging.regression import merge_by_regression, running_sums
from cosam_bench.merging.updates import LowRank
from cosam_bench.methods import lorm, regmean


def judge(run: OracleRun) -> Outcome | None:
    """How far our Fisher, RegMean or LoRM is from this run; None where the run is of another method."""
    method = _method(run)
    if method is None:
        return None
    if "error" in run.facts:
        return Outcome(method, skipped=f"the reference raised: {run.facts['error']}")
    try:
        return Outcome(method, {"fisher": _fisher, "regmean": _regmean, "lorm": _lorm}[method](run))
    except _SingularGramError:
        return Outcome(
            method, skipped="the Gram sum is singular to rounding: the reference's (pseudo-)inverse is ill-posed"
        )


class _SingularGramError(Exception):
    """There is no one solution without a ridge."""


def _method(run: OracleRun) -> str | None:
    if run.case.startswith("lorm"):
        return "lorm"
    name = str(run.facts.get("method") or run.facts.get("id", ""))  # a run that raised has nothing but its id
    return next((ours for ours in ("fisher", "regmean") if name == ours or name.startswith(f"{ours}_")), None)


def _fisher(run: OracleRun) -> float:
    memory: dict[str, Tensor] = {}
    merged: dict[str, Tensor] = {}
    for task, changes in enumerate(run.changes()):
        memory, merged = add_to_fisher_average(
            memory,
            changes,
            run.tree(f"fisher/task{task}"),
            minimum=run.facts["minimal_fisher_weight"],
            normalise=run.facts["normalize_fisher_weight"],
        )
    return _distance_of_weights(run, merged)


def _regmean(run: OracleRun) -> float:
    # The reference builds the factor in float32 whatever the weights are: 0.95 becomes 0.94999999.
    ratio = torch.tensor(run.facts["reduce_non_diagonal_ratio"], dtype=torch.float32).item()
    experts = run.changes()[: run.facts["tasks_used"]]
    sums: dict[str, Tensor] = {}
    for task, changes in enumerate(experts):
        sums = regmean.add_regression_terms(sums, changes, run.tree(f"gram/task{task}"), off_diagonal=ratio)
    for name, total in sums.items():
        if name.endswith("/gram"):
            _check_regular(total)
    return _distance_of_weights(run, dict(regmean.iter_merged_changes(sums, step=len(experts), ridge=0.0)))


def _distance_of_weights(run: OracleRun, merged: dict[str, Tensor]) -> float:
    base, reference = run.tree("base"), run.tree(f"out/{run.facts['id']}")
    weights = {name: base[name].double() + change.double() for name, change in merged.items()}
    return distance(weights, reference)


def _lorm(run: OracleRun) -> float:
    grams = {int(name.removeprefix("client")): gram.double() for name, gram in run.tree("gram").items()}
    arrays = run.tree(run.facts["id"])
    return _lorm_clients(arrays, grams) if "common" in arrays else _lorm_tasks(arrays, grams)


def _lorm_clients(arrays: dict[str, Tensor], grams: dict[int, Tensor]) -> float:
    """One factor is common to all clients, the other is merged: A as RegCL merges it, B as our LoRM does."""
    common = arrays["common"]
    is_a_common = common.shape[1] == grams[0].shape[0] and arrays["client0"].shape[1] == common.shape[0]
    sums: dict[str, Tensor] = {}
    for client, gram in grams.items():
        factor = arrays[f"client{client}"]
        if is_a_common:
            inner = common.double() @ gram @ common.double().T
            sums = lorm.add_shared_a_terms(sums, LowRank(a=common, b=factor), inner, layer="layer")
        else:
            sums = running_sums(sums, {"layer/gram": gram, "layer/product": factor.double() @ gram}.items())
    return distance({"merged": _solved(sums["layer/gram"], sums["layer/product"])}, {"merged": arrays["merged"]})


def _lorm_tasks(arrays: dict[str, Tensor], grams: dict[int, Tensor]) -> float:
    """Tasks are merged by RegMean on the products B A; every step that the reference gives."""
    base, sums, worst, steps = arrays["base"].double(), {}, 0.0, 0
    for task, gram in grams.items():
        if f"task{task}/B" not in arrays:
            continue
        change = arrays[f"task{task}/B"].double() @ arrays[f"task{task}/A"].double()
        sums = regmean.add_regression_terms(sums, {"layer.weight": change}, {"layer": gram}, off_diagonal=1.0)
        if f"out/step{task}" in arrays:
            merged = base + _solved(sums["layer/gram"], sums["layer/product"])
            worst = max(worst, distance({"weight": merged}, {"weight": arrays[f"out/step{task}"]}))
            steps += 1
    assert steps, "the reference gives no step of its tasks"
    return worst


def _solved(gram_sum: Tensor, product_sum: Tensor) -> Tensor:
    _check_regular(gram_sum)
    return merge_by_regression(gram_sum, product_sum, ridge=0.0)


def _check_regular(gram_sum: Tensor) -> None:
    eigenvalues = gram_sum if gram_sum.ndim == 1 else torch.linalg.eigvalsh(gram_sum)
    if eigenvalues.min() <= 1e-7 * eigenvalues.max():  # the Grams are given in float32, or made from such inputs
        raise _SingularGramError
