"""docs/open-results.md says of results/reference/open.csv what is in it."""

from __future__ import annotations

from support.result_figures import share_of_gain
from support.shown_commands import text_of

from cosam_bench.method.registry import method_names
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import find_records
from tools.write_results import REFERENCE, correlation, iou, label, repeats, rows_of

PAGE = " ".join(text_of("docs/open-results.md").split())
README = " ".join(text_of("README.md").split())
ROWS = {label(row).replace("`", ""): row for row in rows_of("open")}
BY_WEIGHTS = ("opcm", "ties", "task_arithmetic", "magmax", "average")
FIRST = ("experts", "regmean", "regcl", "opcm", "ties", "average", "finetune", "frozen")  # which chose the rate of mini


def figure(method: str, name: str = "last") -> float:
    return float(ROWS[method][name])


def share(method: str) -> str:
    """What a method gains over frozen SAM, of what the experts gain."""
    return share_of_gain(figure(method), frozen=figure("frozen"), experts=figure("experts"))


def record(method: str) -> Record:
    return next(one for one in find_records(REFERENCE / "open")[0] if (one.method, one.seed) == (method, 0))


def test_how_many_were_measured_and_how() -> None:
    assert f"{len({row['method'] for row in ROWS.values()})} of the {len(method_names())} methods" in PAGE
    assert "One seed and one order" in PAGE
    assert {(row["runs"], row["seeds"], row["orders"], row["differs"]) for row in ROWS.values()} == {
        ("1", "1", "1", "")
    }
    assert len({row["conditions"] for row in ROWS.values()}) == 1


def test_what_is_said_of_the_gain() -> None:
    assert f"scores {figure('frozen'):.3f}, separate experts that are told the domain {figure('experts'):.3f}" in PAGE
    for method in ("er", "regmean", "regcl", "coma", *BY_WEIGHTS):
        assert share(method) in PAGE, method
    assert f"reaches {share('er')} of the experts' gain" in PAGE
    assert f"`regmean` reaches {share('regmean')} and `regcl` {share('regcl')}" in PAGE
    assert (
        f"`regmean` and `regcl`, which merge by the layers' inputs, reach {share('regmean')} and {share('regcl')}"
        in README
    )
    assert f"`er`, which keeps ten images per domain, reaches {share('er')}" in README
    assert min(figure(name, "last_high") for name in ("er", "regmean")) > figure("experts", "last_low")
    assert figure("er", "state_kib") == max(figure(name, "state_kib") for name in ROWS)
    assert f"people in photographs fall to {figure('er', 'retention'):.3f}" in PAGE


def test_what_is_said_of_domains() -> None:
    frozen, experts = (record(name).score_matrix("iou") for name in ("frozen", "experts"))
    column = {name.partition("@")[0]: place for place, name in enumerate(frozen.columns)}

    def pair(name: str) -> str:
        return f"({frozen.values[0, column[name]]:.2f} to {experts.values[-1, column[name]]:.2f})"

    for name in ("crop_weed", "masonry_crack", "neu_steel", "lung_xray"):
        assert pair(name) in PAGE, name
    near = max(abs(frozen.values[0, column[name]] - experts.values[-1, column[name]]) for name in ("kvasir", "bsdata"))
    assert f"frozen SAM is within {near:.3f} of the expert" in PAGE
    roads = [f"{record(name).score_matrix('iou').values[-1, column['camvid_road']]:.2f}" for name in BY_WEIGHTS[:3]]
    said = f"scores {frozen.values[0, column['camvid_road']]:.2f}, they end at {roads[0]}, {roads[1]} and {roads[2]}"
    assert said in PAGE


def test_what_is_said_of_merges_by_weights() -> None:
    assert share("ties") == share("task_arithmetic")
    assert share("magmax") == share("average")
    gains = [share(name) for name in ("opcm", "ties", "magmax")]
    assert f"`opcm` reaches {gains[0]}, `ties` and `task_arithmetic` {gains[1]} each" in PAGE
    assert f"`magmax` and the plain average {gains[2]} each" in PAGE
    assert all(figure(name, "last_low") > figure("frozen") for name in BY_WEIGHTS)
    assert max(figure(name, "last_low") for name in BY_WEIGHTS) < min(figure(name, "last_high") for name in BY_WEIGHTS)
    assert abs(figure("fisher") - figure("average")) < 0.002
    assert all(figure(name, "ff") < 0 for name in BY_WEIGHTS[:3])
    lost = [f"{figure(name, 'plasticity'):.3f}" for name in BY_WEIGHTS[:3]]
    few = "dop (closed)"
    assert f"gains {share(few)}: it loses {figure(few, 'plasticity'):.3f} right after learning" in PAGE
    kept = f"{figure('frozen', 'retention'):.3f} to {figure(few, 'retention'):.3f}"
    assert f"people in photographs fall from {kept}" in PAGE
    assert f"What they lose, {lost[0]}, {lost[1]} and {lost[2]}, they lose right after learning" in PAGE


def test_what_is_said_of_sequential_training() -> None:
    assert abs(figure("finetune", "plasticity")) < 0.005
    above = figure("finetune") - figure("frozen")
    assert f"{figure('finetune', 'ff'):.3f} lower, and {above:.3f} above frozen SAM" in PAGE
    assert figure("finetune", "last_low") < figure("frozen") < figure("finetune", "last_high")
    assert f"forgets {figure('ewc', 'ff'):.3f} and reaches {share('ewc')} of the experts' gain" in PAGE
    assert max(figure(name) for name in BY_WEIGHTS) < figure("ewc") < min(figure("regmean"), figure("regcl"))
    assert f"forgets {figure('coma', 'ff'):.3f} and reaches {share('coma')}, as the best merges by weights do" in PAGE
    assert abs(figure("coma") - figure("opcm")) < 0.005
    assert f"forgets {figure('lwf', 'ff'):.3f}, hardly less than `finetune`" in PAGE
    assert figure("finetune", "ff") - figure("lwf", "ff") < 0.02


def test_what_is_said_of_trm() -> None:
    said = f"it forgets {figure('trm', 'ff'):.3f} and reaches {share('trm')}, less than `coma` without a search"
    assert said in PAGE
    assert figure("trm") < figure("coma")
    assert figure("trm", "ff") > figure("coma", "ff")
    assert figure("trm", "merge_seconds") == max(figure(name, "merge_seconds") for name in ROWS)
    numbers = [f"{figure(name, key):.3f}" for key in ("last", "ff") for name in ("trm", "coma")]
    methods = " ".join(text_of("docs/methods.md").split())
    assert f"it is behind, too: {numbers[0]} and {numbers[1]}, with FF {numbers[2]} and {numbers[3]}" in methods


def test_which_records_name_their_commit() -> None:
    commits = {record.method: record.info.commit for record in find_records(REFERENCE / "open")[0]}
    assert [method for method, commit in commits.items() if not commit] == ["trm"]
    assert "Each record but that of `trm`, which ran outside of git, names its commit" in PAGE
    assert "**Seven versions of the code.**" in PAGE
    assert len({record.info.commit for record in find_records(REFERENCE / "open")[0]}) == 7


def test_what_is_said_of_another_seed() -> None:
    runs = repeats()
    assert list(runs) == ["seed 0", "seed 1"]
    first, second = runs.values()
    assert [name for name in second if first[name].info.rule != second[name].info.rule] == ["opcm"]
    assert set(second) == set(FIRST), "the eight methods that matter most"
    moves = {name: iou(first[name], "last") - iou(second[name], "last") for name in second}
    assert moves.pop("frozen") == 0
    most = moves.pop("finetune")
    drops = sorted(moves[name] for name in moves if name != "experts")
    said = f"moved Last of `finetune` by {most:.3f} and of a merge by up to {drops[-1]:.3f}, so smaller differences say"
    assert said in PAGE
    by_last = [sorted(rows, key=lambda name: -iou(rows[name], "last")) for rows in (second, first)]
    assert by_last[0][-2:] == ["frozen", "finetune"], "finetune is said to end below frozen SAM"
    assert by_last[0][:-2] == [name for name in by_last[1] if name in second][:-2], (
        "the rest is said to be in one order"
    )
    said = (
        f"by {moves['experts']:.3f} for the experts, by {drops[0]:.3f} to {drops[-1]:.3f} for the merges, by {most:.3f}"
    )
    assert said in PAGE
    frozen = figure("frozen", "retention")
    lost = {name: frozen - iou(one, "retention") for name, one in second.items()}
    losing = [lost.pop(name) for name in ("regmean", "regcl", "opcm")]
    said = f"`regmean`, `regcl` and `opcm` lose {min(losing):.3f} to {max(losing):.3f} of retention"
    assert said in PAGE
    before = {name: frozen - iou(first[name], "retention") for name in second}
    assert f"`finetune` loses {before.pop('finetune'):.3f} and {lost.pop('finetune'):.3f}" in PAGE
    assert max(*lost.values(), *before.values()) < 0.001


def test_what_is_said_of_retention() -> None:
    kept = figure("frozen", "retention")
    lost = {name: kept - figure(name, "retention") for name in ROWS}
    near = ("experts", "regmean", "regcl", "opcm", "ties", "average", "fisher")
    assert f"Retention is within {max(abs(lost[name]) for name in near):.3f} of frozen SAM's {kept:.3f}" in PAGE
    assert f"but `task_arithmetic`, which loses {lost['task_arithmetic']:.3f}" in PAGE
    said = [f"`{name}` {lost[name]:.3f}" for name in ("finetune", "ewc", "magmax", "er")]
    assert f"lose more: {said[0]}, {said[1]}, {said[2]} and {said[3]}" in PAGE
    assert {name for name in ROWS if lost[name] > 0.03} == {"finetune", "ewc", "magmax", "er", "dop (closed)"}
    gained = [f"`{name}` {-lost[name]:.3f}" for name in ("coma", "trm", "lwf")]
    assert f"Three of them gain: {gained[0]}, {gained[1]} and {gained[2]}" in PAGE


def test_what_is_said_of_mini() -> None:
    assert correlation() > 0.8
    assert f"on the {len(ROWS) - len(FIRST)} others it is {correlation(without=FIRST):.2f}" in PAGE
