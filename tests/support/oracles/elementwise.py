"""Our entrywise rules against the reference's numbers: averages, sums, TIES, DARE, MagMax, KnOTS, PCB, OSRM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from support.oracles import peft_runs
from support.oracles.store import RELATIVE_FLOAT32, OracleRun, Outcome, distance
from torch import Tensor

from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.osrm import least_energy_directions
from cosam_bench.merging.scale import Scale
from cosam_bench.merging.sign_election import Agreement, add_votes, elect, trim
from cosam_bench.merging.updates import Update, as_factors, weight_changes
from cosam_bench.methods.continual_ties import add_by_election
from cosam_bench.methods.dare import drop_and_rescale
from cosam_bench.methods.knots import merge_aligned
from cosam_bench.methods.magmax import keep_larger
from cosam_bench.methods.pcb import merge_by_competition

Changes = dict[str, Tensor]


def judge(run: OracleRun) -> Outcome | None:
    """How far our rule is from this run; None where the run is of another family."""
    if "lora_alpha" in run.case_facts:
        return peft_runs.judge(run)
    if run.case in ("pcb", "mammoth", "knots", "osrm"):
        return {"pcb": _pcb, "mammoth": _mammoth, "knots": _knots, "osrm": _osrm}[run.case](run)
    label = str(run.facts.get("method") or run.facts.get("id", ""))  # a run that raised has nothing but its id
    for start, method, rule in (
        ("c_task_arithmetic", "task_arithmetic", _continual),
        ("c_weight_average", "average", _continual),
        ("c_ties", "continual_ties", _continual),
        ("task_arithmetic", "task_arithmetic", _task_arithmetic),
        ("ties", "ties", _ties),
        ("magmax", "magmax", _magmax),
        ("dare", "dare", _dare),
    ):
        if label.startswith(start):
            if "error" in run.facts:
                return Outcome(method, skipped=f"the reference raised: {run.facts['error']}")
            return Outcome(method, rule(run))
    return None


def sum_of(experts: Sequence[Changes], *, scale: Scale) -> Changes:
    """Task arithmetic over the experts, one after another."""
    total = None
    for step, changes in enumerate(experts, start=1):
        total = add_task_vector(total, changes, scale=scale, step=step)
    assert total is not None
    return total


def election_of(experts: Sequence[Changes], *, density: float, merge: Agreement) -> Changes:
    """TIES over the experts, one after another, unscaled."""
    votes: Changes = {}
    for changes in experts:
        votes = add_votes(votes, trim(changes, density=density), merge=merge)
    return elect(votes, merge=merge)


def scaled(changes: Changes, factor: float) -> Changes:
    """Each change times the factor."""
    return {name: factor * change for name, change in changes.items()}


def _density(threshold: float) -> float:
    return threshold / 100 if threshold > 1 else float(threshold)


def _of_weights(run: OracleRun, merged: Changes, path: str) -> float:
    """The distance of base plus merged change from the weights at this path."""
    base = run.tree("base")
    return distance({name: base[name].double() + change.double() for name, change in merged.items()}, run.tree(path))


def _at_end(run: OracleRun, merged: Changes) -> float:
    return _of_weights(run, merged, f"out/{run.facts['id']}")


def _task_arithmetic(run: OracleRun) -> float:
    return _at_end(run, sum_of(run.changes(), scale=run.facts["scaling_factor"]))


def _ties(run: OracleRun) -> float:
    merge, density = run.facts["merge_func"], _density(run.facts["threshold"])
    return _at_end(run, scaled(election_of(run.changes(), density=density, merge=merge), run.facts["scaling_factor"]))


def _magmax(run: OracleRun) -> float:
    merged = None
    for changes in run.changes():
        merged = keep_larger(merged, changes, scale=run.facts["scaling_factor"])
    assert merged is not None
    return _at_end(run, merged)


def _dare(run: OracleRun) -> float:
    thinned = [
        drop_and_rescale(
            changes, run.tree(f"mask/{run.facts['id']}/task{task}"), probability=run.facts["sparsity_ratio"]
        )
        for task, changes in enumerate(run.changes())
    ]
    return _at_end(run, sum_of(thinned, scale=run.facts["scaling_factor"]))


def _continual(run: OracleRun) -> float:
    """The worst of all steps."""
    facts, merged, distances = run.facts, None, []
    for step, changes in enumerate(run.changes(), start=1):
        if "threshold" in facts:
            merged = add_by_election(
                merged,
                changes,
                density=_density(facts["threshold"]),
                merge=facts["merge_func"],
                scale=facts["scaling_factor"],
                step=step,
            )
        else:
            merged = add_task_vector(merged, changes, scale=facts.get("scaling_factor", "1/t"), step=step)
        distances.append(_of_weights(run, merged, f"out/{facts['id']}/step{step - 1}"))
    assert len(distances) == facts["steps"]
    return max(distances)


def _pcb(run: OracleRun) -> Outcome:
    facts = run.facts
    experts = [Update(dense={"entries": row}) for row in run.arrays[f"pcb/{facts['case']}/tv"]]
    source: Literal["top", "vision"] = "vision" if "vision" in facts["source"] else "top"
    scale = torch.tensor(facts["lam"], dtype=torch.float32).item()  # the reference has it in float32
    merged = merge_by_competition(experts, ratio=facts["pcb_ratio"], scale=scale, source=source)
    reference = run.arrays[f"pcb/{facts['case']}/out/{facts['id']}"]
    return Outcome("pcb", distance(merged, {"entries": reference}))


def _mammoth(run: OracleRun) -> Outcome:
    """Sums and TIES of alpha/t, the worst of all steps; its TIES takes each matrix apart, K = 20 %, mean."""
    rule = run.facts["id"].split("_")[0]
    if rule not in ("TaskArithmetic", "TIES"):
        return Outcome(not_offered=f"{rule}, isotropic or orthogonalised singular vectors, is no method here")
    experts = [run.tree(f"tv/{task}") for task in run.arrays.children("mammoth/tv")]
    distances = []
    for step in range(1, len(experts) + 1):
        merged = sum_of(experts[:step], scale=1 / step)
        for name, change in merged.items():
            if rule == "TIES" and change.ndim == 2:
                matrices = [{name: expert[name]} for expert in experts[:step]]
                merged[name] = election_of(matrices, density=0.2, merge="mean")[name] / step
        reference = run.tree(f"out/{run.facts['id']}/step{step - 1}")
        distances.append(distance(scaled(merged, run.facts["alpha"]), reference))
    return Outcome("ties" if rule == "TIES" else "task_arithmetic", max(distances))


def _knots(run: OracleRun) -> Outcome:
    """Aligned merges of KnOTS, and the same rules without alignment."""
    facts = run.facts
    experts = [run.tree(f"delta/{task}") for task in run.arrays.children("knots/delta")]
    rule = "ties" if facts["merge_method"] == "ties" else "task_arithmetic"
    density, merge, scale = _density(facts["topK"]), facts["merging_type"], facts["scaling"]
    if facts["cls"] == "SVDMerger":
        updates = [
            Update({name.removesuffix(".weight"): as_factors(change) for name, change in changes.items()})
            for changes in experts
        ]
        merged = merge_aligned(updates, rule=rule, density=density, merge=merge, scale=scale)
        return Outcome("knots", _at_end(run, weight_changes(merged)))
    if rule == "ties":
        change = scaled(election_of(experts, density=density, merge=merge), scale)
    else:
        change = scaled(sum_of(experts, scale="1/t" if merge == "mean" else 1.0), scale)
    return Outcome(rule, _at_end(run, change))


def _osrm(run: OracleRun) -> Outcome:
    """Not A itself, which is free in a null space, but what is left of the features: ||H A^T||, and A A^T = I."""
    case = run.facts["case"]
    features = [
        run.arrays[f"osrm/{case}/mean_feature/{task}"] for task in run.arrays.children(f"osrm/{case}/mean_feature")
    ]
    inputs, reference = torch.cat(features).double(), run.arrays[f"osrm/{case}/A0"].double()
    ours = least_energy_directions(inputs.T @ inputs, count=len(reference))
    residuals = [torch.linalg.matrix_norm(inputs @ rows.T).item() for rows in (ours, reference)]
    allowed = RELATIVE_FLOAT32 * torch.linalg.matrix_norm(inputs).item()
    skew = (ours @ ours.T - torch.eye(len(ours), dtype=torch.float64)).abs().max().item()
    return Outcome("task_arithmetic", max(abs(residuals[0] - residuals[1]) / allowed, skew / RELATIVE_FLOAT32))
