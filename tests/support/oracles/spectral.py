"""The reference runs of OPCM and DOP: FusionBench's, on small random models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from support.oracles.store import OracleRun, Outcome, distance
from torch import Tensor

from cosam_bench.merging.spectral import numerical_rank
from cosam_bench.merging.updates import Update, as_factors
from cosam_bench.methods.dop import ProjectionLoss, join_by_adam
from cosam_bench.methods.opcm import OPCMState, merge_orthogonally


def judge(run: OracleRun) -> Outcome | None:
    """How far our step by step merge is from the reference's; None for other files' runs."""
    if run.file == "opcm_cases":
        return _judge_opcm(run)
    if run.file == "dop_cases":
        return _judge_dop(run)
    return None


def _judge_opcm(run: OracleRun) -> Outcome:
    skipped = _why_opcm_is_skipped(run)
    if skipped:
        return Outcome("opcm", skipped=skipped)
    base, states = run.tree("base"), _opcm_states(run)
    path = f"out/{run.facts['id']}"
    worst = max(distance(_weights(base, state), run.tree(f"{path}/step{t}")) for t, state in enumerate(states))
    # The reference keeps its scalars in float64, but computes them in the weights' dtype.
    dtype = torch.float32 if _is_single(run) else torch.float64
    for name, ours in (
        ("lambda", [state.scale for state in states]),
        ("avg_norm", [state.norm_sum / state.count for state in states]),
    ):
        theirs = run.arrays[f"{run.case}/{name}/{run.facts['id']}"].to(dtype)
        worst = max(worst, distance({name: torch.tensor(ours, dtype=torch.float64)}, {name: theirs}))
    if any(
        state.split_ranks != theirs for state, theirs in zip(states, run.facts["split_rank"], strict=True) if theirs
    ):
        worst = float("inf")
    return Outcome("opcm", distance=worst)


def _why_opcm_is_skipped(run: OracleRun) -> str:
    if "error" in run.facts:
        return f"the reference raised: {run.facts['error']}"
    if run.facts["alpha"] >= 1:
        return "alpha = 1: rounding decides whether the cumulated sum exceeds the total"
    if run.facts["variant"] == "supp" and _is_single(run):
        return "supp in float32: the rank of W - W0 is that of its rounding"
    if run.facts["variant"] == "head" and _has_null_spaces(run):
        return "head takes the diagonal over a null space, whose basis is arbitrary"
    return ""


def _is_single(run: OracleRun) -> bool:
    return any(weight.dtype == torch.float32 for weight in run.tree("base").values())


def _linear(run: OracleRun) -> list[str]:
    """The linear layers' weights: those with a split rank."""
    return list(dict.fromkeys(name for step in run.facts["split_rank"] for name in step))


def _has_null_spaces(run: OracleRun) -> bool:
    """Whether some linear weight's change is not of full rank, in some task."""
    for changes in run.changes():
        for name in _linear(run):
            values = torch.linalg.svdvals(changes[name].double())
            if numerical_rank(values, tolerance=1e-4) < len(values):
                return True
    return False


def _opcm_states(run: OracleRun) -> list[OPCMState]:
    """After each task. `head` equals `supp` on changes of full rank, which the other cases are skipped for."""
    linear = _linear(run)
    state, states = OPCMState(), []
    for changes in run.changes():
        others = {name: change for name, change in changes.items() if name not in linear}
        state = merge_orthogonally(
            state,
            Update({name: as_factors(changes[name]) for name in linear}, others),
            alpha=run.facts["alpha"],
            variant="release" if run.facts["variant"] == "release" else "supp",
            rescaled_only=[name for name in others if _hangs_beside_modules(name, changes)],
        )
        states.append(state)
    return states


def _hangs_beside_modules(name: str, names: Iterable[str]) -> bool:
    """Whether the module of this parameter has modules of its own, to tell by the other parameters' names."""
    module = name.rpartition(".")[0]
    prefix = f"{module}." if module else ""
    return any(other.startswith(prefix) and "." in other[len(prefix) :] for other in names)


def _weights(base: Mapping[str, Tensor], state: OPCMState) -> dict[str, Tensor]:
    changes = {name: factors.dense() for name, factors in state.change.low_rank.items()} | dict(state.change.dense)
    return {name: base[name].double() + changes[name] for name in changes}


def _judge_dop(run: OracleRun) -> Outcome:
    facts = run.facts
    if "error" in facts:
        return Outcome("dop", skipped=f"the reference raised: {facts['error']}")
    if facts["svd_epsilon"] == 1:
        return Outcome(
            "dop", skipped="svd_epsilon = 1: rounding decides whether the reference drops the last direction"
        )
    base, tasks = run.tree("base"), run.changes()
    merged, worst = tasks[0], 0.0
    for step, new in enumerate(tasks[1:], start=1):
        merged = {name: _join(merged[name], new[name], facts) for name in new}
        ours = {name: base[name].double() + change for name, change in merged.items()}
        worst = max(worst, distance(ours, run.tree(f"out/{facts['id']}/step{step}")))
    return Outcome("dop", distance=worst)


def _join(old: Tensor, new: Tensor, facts: Mapping[str, Any]) -> Tensor:
    """All weights of these cases' models that are matrices belong to linear layers."""
    if old.ndim != 2:
        return (old + new) / 2
    sides = [
        ProjectionLoss.of(change, svd_epsilon=facts["svd_epsilon"], space=facts.get("svd_proj_space", "uv"))
        for change in (old, new)
    ]
    return join_by_adam(
        sides[0],
        sides[1],
        alpha=facts["alpha"],
        mgda=facts["mgda"],
        ema=facts["ema_beta"] if facts["ema"] else 0.0,
        steps=facts["num_steps"],
        learning_rate=facts["lr"],
    )
