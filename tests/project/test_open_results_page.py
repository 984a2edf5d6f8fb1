"""docs/open-results.md says of results/reference/open.csv what is in it."""

from __future__ import annotations

import functools
import itertools
import os
import re
from pathlib import Path

import pytest
from scipy.stats import spearmanr
from support.result_figures import share_of_gain
from support.shown_commands import text_of

import cosam_bench as cb
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_stream
from cosam_bench.evaluation.contributions import contributions, paired
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.evaluation.ranks import holm
from cosam_bench.method.registry import load_method, method_names
from cosam_bench.method.rule_digest import rule_digest
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import find_records
from tools.independent_images import SHARED, independent_last
from tools.write_manifests import RULES
from tools.write_results import REFERENCE, correlation, first_runs, iou, label, orders, rows_of, seeds, trm_runs

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


RUNS = first_runs()


def record(method: str) -> Record:
    return RUNS[method]


@functools.cache
def difference(first: str, second: str, name: str = "last") -> Interval:
    """First minus second, paired by image."""
    return cb.compare(RUNS[first], RUNS[second], figure=name).difference


def differs(first: str, second: str, name: str = "last") -> bool:
    """Whether the 95 % interval leaves 0 out."""
    found = difference(first, second, name)
    return found.low > 0 or found.high < 0


@functools.cache
def told_apart(name: str = "last") -> frozenset[frozenset[str]]:
    """The pairs of ranked methods that differ, their number being taken into account."""
    ranked = [method for method, row in ROWS.items() if row["rank_best"]]
    shares = {method: contributions(read_image_scores(RUNS[method]), FIGURES[name]) for method in ranked}
    pairs = list(itertools.combinations(ranked, 2))
    p = holm([interval(paired([shares[first]], [shares[second]])).p for first, second in pairs])
    return frozenset(frozenset(pair) for pair, value in zip(pairs, p, strict=True) if value < 0.05)


def below(first: str, second: str) -> str:
    """By how much the first is lower, with its interval."""
    found = difference(second, first)
    assert found.low > 0
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


def test_how_many_were_measured_and_how() -> None:
    assert f"{len({row['method'] for row in ROWS.values()})} of the {len(method_names())} methods" in PAGE
    assert "One seed and one order" in PAGE
    assert {(row["runs"], row["seeds"], row["orders"], row["differs"]) for row in ROWS.values()} == {
        ("1", "1", "1", "")
    }
    assert len({row["conditions"] for row in ROWS.values()}) == 1


def test_what_is_said_of_the_gain() -> None:
    assert f"scores {figure('frozen'):.3f}, separate experts that are told the domain {figure('experts'):.3f}" in PAGE
    assert f"trained on all domains at once, scores {figure('joint'):.3f}" in PAGE
    room = difference("experts", "joint")
    assert f"distance from the experts, {room.low:.3f} to {room.high:.3f}, contains 0" in PAGE
    assert room.low < 0 < room.high
    for method in ("er", "regmean", "regcl", "coma", *BY_WEIGHTS):
        assert share(method) in PAGE, method
    assert f"reaches {share('er')} of the experts' gain" in PAGE
    assert f"`regmean` reaches {share('regmean')} and `regcl` {share('regcl')}" in PAGE
    assert (
        f"`regmean` and `regcl`, which merge by the layers' inputs, reach {share('regmean')} and {share('regcl')}"
        in README
    )
    assert f"The experts gain {figure('experts') - figure('frozen'):.3f} over frozen SAM" in README
    assert f"`er`, which keeps ten images per domain, reaches {share('er')}" in README
    assert f"`regcl` may have any rank from {ROWS['regcl']['rank_best']} to {ROWS['regcl']['rank_worst']}" in README
    assert f"`er` is {below('er', 'experts')} below the experts and `regmean` {below('regmean', 'experts')}" in PAGE
    assert f"`regcl` is {below('regcl', 'regmean')} below `regmean`" in PAGE
    assert f"reaches {share('moda')}: {below('moda', 'experts')} below the experts" in PAGE
    assert {"er", "moda"} not in told_apart()
    assert {"er", "regmean"} not in told_apart()
    assert {"regmean", "regcl"} in told_apart()
    assert figure("er", "state_kib") == max(figure(name, "state_kib") for name in ROWS)


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
    least, most = share("average").split()[0], share("opcm")
    assert f"**Merges by weights alone gain {least} to {most}, `dop` {share('dop (closed)')}" in PAGE
    assert all(difference(name, "frozen").low > 0 for name in BY_WEIGHTS)
    assert not any(set(pair) in told_apart() for pair in itertools.combinations(BY_WEIGHTS, 2))
    assert abs(figure("fisher") - figure("average")) < 0.002
    assert not any(differs(name, "frozen", "ff") for name in BY_WEIGHTS[:3])
    ff = [figure(name, "ff") for name in BY_WEIGHTS[:3]]
    assert f"their FF, from {min(ff):.3f} to {max(ff):.3f}, have intervals that contain 0" in PAGE
    lost = [f"{figure(name, 'plasticity'):.3f}" for name in BY_WEIGHTS[:3]]
    few = "dop (closed)"
    assert f"gains {share(few)}: it loses {figure(few, 'plasticity'):.3f} right after learning" in PAGE
    assert f"What they lose, {lost[0]}, {lost[1]} and {lost[2]}, they lose right after learning" in PAGE


def test_what_is_said_of_sequential_training() -> None:
    assert abs(figure("finetune", "plasticity")) < 0.005
    above = figure("finetune") - figure("frozen")
    assert f"{figure('finetune', 'ff'):.3f} lower, and {above:.3f} above frozen SAM" in PAGE
    assert not differs("finetune", "frozen")
    assert f"forgets {figure('ewc', 'ff'):.3f} and reaches {share('ewc')} of the experts' gain" in PAGE
    said = "told apart from the plain average, but neither from `regmean` and `regcl` nor from `opcm` and `coma`"
    assert said in PAGE
    others = ("average", "regmean", "regcl", "opcm", "coma")
    assert [name for name in others if {"ewc", name} in told_apart()] == ["average"]
    assert f"forgets {figure('coma', 'ff'):.3f} and reaches {share('coma')}, as the best merges by weights do" in PAGE
    assert abs(figure("coma") - figure("opcm")) < 0.005
    assert f"forgets {figure('lwf', 'ff'):.3f}, hardly less than `finetune`" in PAGE
    assert figure("finetune", "ff") - figure("lwf", "ff") < 0.02


def test_what_is_said_of_trm() -> None:
    said = (
        f"it forgets {figure('trm', 'ff'):.3f} and reaches {share('trm')}, which is {below('trm', 'coma')} below `coma`"
    )
    assert said in PAGE
    assert figure("trm", "ff") > figure("coma", "ff")
    longest = sorted(ROWS, key=lambda name: figure(name, "merge_seconds"))
    assert longest[-2:] == ["trm", "moda"], "trm is said to have taken longest of all but moda"


def test_what_is_said_of_the_search_of_trm() -> None:
    page = " ".join(text_of("docs/trm.md").split())
    default, midpoint, coma = trm_runs().values()
    assert (default, coma) == (record("trm"), record("coma"))

    def between(first: Record, second: Record, name: str) -> str:
        found = cb.compare(first, second, figure=name).difference
        assert found.low > 0
        return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"

    assert f"scores {between(midpoint, default, 'last')} more than the default" in page
    assert f"forgets {between(default, midpoint, 'ff')} less. `coma`" in page
    assert between(coma, default, "last")
    assert figure("coma", "ff") < figure("trm", "ff")
    assert f"the midpoint forgets {between(coma, midpoint, 'ff')} less than `coma`" in page
    level = cb.compare(midpoint, coma, figure="last").difference
    assert level.low < 0 < level.high
    assert sum(midpoint.cost.merge_seconds) < 2


def test_which_records_name_their_commit() -> None:
    commits = {record.method: record.info.commit for record in find_records(REFERENCE / "open")[0]}
    assert [method for method, commit in commits.items() if not commit] == ["trm"]
    assert "Each record but that of `trm` names its commit" in PAGE
    assert record("trm").info.rule == rule_digest(load_method("trm"))
    assert "**Seven versions of the code.**" in PAGE
    assert len({record.info.commit for record in find_records(REFERENCE / "open")[0]}) == 7


def test_which_runs_were_measured_on_another_kind_of_processor() -> None:
    kinds: dict[str, set[str]] = {}
    for one in find_records(REFERENCE / "open")[0]:
        is_first = one.order[0].startswith("bsdata")
        run = f"{one.method}{'' if is_first else ' reversed'}{f', seed {one.seed}' if one.seed else ''}"
        kinds.setdefault(str(one.info.hardware["processor"]), set()).add(run)
    assert len(kinds) == 2
    reversed_runs = {f"{name} reversed" for name in ("experts", "ties", "average", "finetune", "frozen")}
    assert {"joint", "moda"} | reversed_runs | {f"{name}, seed 2" for name in FIRST} in kinds.values()


def over_seeds(first: str, second: str) -> str:
    """First minus second, paired by image, over all seeds."""
    pairs = [(rows[first], rows[second]) for rows in seeds().values()]
    shares = [
        [contributions(read_image_scores(one), FIGURES["last"]) for one in ones] for ones in zip(*pairs, strict=True)
    ]
    found = interval(paired(*shares))
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


def test_what_is_said_of_the_order_of_methods_with_other_seeds() -> None:
    runs = seeds()
    assert list(runs) == ["seed 0", "seed 1", "seed 2"]
    assert all(set(rows) == set(FIRST) for rows in runs.values()), "the eight methods that matter most"
    first, second, third = (sorted(rows, key=lambda name: -iou(rows[name], "last")) for rows in runs.values())
    assert first[-2:] == second[-2:][::-1] == ["finetune", "frozen"]
    assert first[:-2] == second[:-2]
    merges = first.index("opcm")
    assert first[merges : merges + 2] == third[merges : merges + 2][::-1] == ["opcm", "ties"]
    assert first[:merges] + first[merges + 2 :] == third[:merges] + third[merges + 2 :]
    rows = runs["seed 2"]
    assert f"with seed 2 `ties` {iou(rows['ties'], 'last') - iou(rows['opcm'], 'last'):.3f} above `opcm`" in PAGE
    assert f"`finetune` level with it: {over_seeds('finetune', 'frozen').replace(' (', ' above (')}" in PAGE
    assert f"`regmean` is {over_seeds('experts', 'regmean')} below the experts" in PAGE
    assert f"and {over_seeds('regmean', 'regcl')} above `regcl`" in PAGE
    assert f"the average {over_seeds('average', 'frozen')} above frozen SAM" in PAGE
    assert all("(-" in over_seeds(*two) for two in itertools.combinations(("regcl", "opcm", "ties"), 2)), (
        "not told apart"
    )


def test_what_is_said_of_last_with_other_seeds() -> None:
    first, second, third = seeds().values()
    assert [name for name in FIRST if len({rows[name].info.rule for rows in (first, second, third)}) > 1] == ["opcm"]
    assert second["opcm"].info.rule == third["opcm"].info.rule
    drops = {name: iou(first[name], "last") - iou(second[name], "last") for name in FIRST}
    later = {name: iou(first[name], "last") - iou(third[name], "last") for name in FIRST}
    assert drops.pop("frozen") == 0
    assert abs(later.pop("frozen")) < 1e-6, "by rounding, on another kind of processor"
    lasts = {name: [iou(rows[name], "last") for rows in (first, second, third)] for name in drops}
    spreads = {name: max(found) - min(found) for name, found in lasts.items()}
    most = spreads.pop("finetune")
    assert drops.pop("finetune") == most
    assert f"`finetune` by up to {most:.3f} and of a merge by up to {max(spreads.values()):.3f}, so smaller" in PAGE
    experts, merges = drops.pop("experts"), drops.values()
    assert (
        f"by {experts:.3f} for the experts, by {min(merges):.3f} to {max(merges):.3f} for the merges, by {most:.3f} for"
    ) in PAGE
    later.pop("finetune")
    said = (
        f"experts is {-later.pop('experts'):.3f} and that of `ties` {-later.pop('ties'):.3f} higher than with seed 0;"
    )
    assert said in PAGE
    assert max(later, key=later.__getitem__) == "regcl"
    said = f"that of the other merges is {min(later.values()):.3f} to {max(later.values()):.3f} lower, most for `regcl`"
    assert said in PAGE


def test_what_is_said_of_retention_with_other_seeds() -> None:
    frozen = figure("frozen", "retention")
    before, lost, later = (
        {name: frozen - iou(one, "retention") for name, one in rows.items()} for rows in seeds().values()
    )
    tuned = [rows.pop("finetune") for rows in (before, lost, later)]
    assert f"`finetune` loses {tuned[0]:.3f} and {tuned[1]:.3f}, and gains {-tuned[2]:.3f} with seed 2" in PAGE
    losing = [lost.pop(name) for name in ("regmean", "regcl", "opcm")]
    assert f"`regmean`, `regcl` and `opcm` lose {min(losing):.3f} to {max(losing):.3f} of retention" in PAGE
    assert max(*lost.values(), *before.values()) < 0.001
    assert f"with seed 2 {max(later.values()):.3f} at most" in PAGE
    assert max(later["ties"], later["average"]) < 0.004


def test_what_is_said_of_another_order() -> None:
    first, second = orders().values()
    assert set(second) == set(FIRST), "the eight methods that matter most"
    assert all(first[name].order == one.order[::-1] for name, one in second.items())
    moved = {name: abs(iou(first[name], "last") - iou(one, "last")) for name, one in second.items()}
    moved.pop("finetune")
    assert max(moved, key=moved.__getitem__) == "opcm"
    assert f"of the seven other methods that were measured in it by at most {moved.pop('opcm'):.3f}" in PAGE
    assert len(moved) == 6
    assert max(moved.values()) < 0.0005
    assert {name for name, value in moved.items() if value} == {"experts", "ties", "average", "frozen"}
    assert "which rounds otherwise in training: the reversed average, whose rule does not depend on the order, " in PAGE
    assert f"ended {moved['average']:.4f} away" in PAGE
    assert {name for name in second if load_method(name).card.order_dependent} == {"opcm", "finetune"}
    last, reverse = (iou(one["finetune"], "last") for one in (first, second))
    below_frozen = figure("frozen") - reverse
    said = f"ends at {reverse:.3f}, {last - reverse:.3f} lower and {below_frozen:.3f} below frozen SAM, forgets "
    assert f"{said}{iou(second['finetune'], 'ff'):.3f}" in PAGE
    drops = [figure("frozen", "retention") - iou(one["finetune"], "retention") for one in (second, first)]
    assert f"loses {drops[0]:.3f} of retention in place of {drops[1]:.3f}" in PAGE
    assert f"[Another order](#another-order) moved Last of `finetune` by {last - reverse:.3f}" in PAGE
    forgets = {name: f"{iou(one, 'ff'):.3f}" for name, one in second.items()}
    assert f"in reverse `opcm` forgets {forgets['opcm']} and `ties` {forgets['ties']}, where the stream's order" in PAGE
    assert max(iou(first[name], "ff") for name in ("opcm", "ties")) < 0
    assert f"the plain average {forgets['average']} in place of {iou(first['average'], 'ff'):.3f}" in PAGE
    roads = [_learned_and_last(one["opcm"], "camvid_road@pairs") for one in (first, second)]
    assert f"`opcm` scores {roads[0][0]:.2f} on them right after learning and {roads[0][1]:.2f} at the end" in PAGE
    assert f"it scores {roads[1][0]:.2f} and {roads[1][1]:.2f}" in PAGE
    places = [one["opcm"].order.index("camvid_road@pairs") + 1 for one in (first, second)]
    assert places == [6, 3], "they are said to come sixth and third"


def _learned_and_last(one: Record, domain: str) -> tuple[float, float]:
    """The score on a domain right after it was learned, and after all."""
    matrix, column = one.score_matrix("iou"), one.order.index(domain)
    return float(matrix.values[column + 1, column]), float(matrix.values[-1, column])


def test_what_is_said_of_retention() -> None:
    changes = {name: difference(name, "frozen", "retention") for name in ROWS if name not in ("frozen", "experts")}
    assert [name for name in changes if differs(name, "frozen", "retention")] == ["dop (closed)"]
    lost = changes.pop("dop (closed)")
    assert "No method is told apart from frozen SAM by it" in PAGE
    assert not any("frozen" in pair for pair in told_apart("retention"))
    said = f"only that of `dop`, which loses {-lost.estimate:.3f} ({-lost.high:.3f} to {-lost.low:.3f}), leaves 0 out"
    assert said in PAGE
    low, high = (pick(changes, key=lambda name: changes[name].estimate) for pick in (min, max))
    said = f"from {changes[low].estimate:.3f} (`{low}`) to +{changes[high].estimate:.3f} (`{high}`)"
    assert said in PAGE
    assert difference("experts", "frozen", "retention").estimate == 0


def test_what_is_said_of_shared_places() -> None:
    figures = {name: figure(name) for name in RUNS}
    independent = {name: independent_last(one) for name, one in RUNS.items()}
    falls = {name: figures[name] - independent[name] for name in RUNS}
    assert f"a rank correlation of {spearmanr([*figures.values()], [*independent.values()]).statistic:.2f}" in PAGE
    few = [falls.pop(name) for name in ("opcm", "ties", "task_arithmetic")]
    assert f"fall by {max(few):.3f} at most" in PAGE
    assert f"`dop` rises by {-falls.pop('dop (closed)'):.3f}" in PAGE
    assert "All but four fall" in PAGE
    assert f"fall by {min(falls.values()):.3f} to {max(falls.values()):.3f}" in PAGE
    assert f"frozen SAM, which no training favours, by {falls['frozen']:.3f}" in PAGE
    frozen = record("frozen").score_matrix("iou")
    scores = dict(zip(frozen.columns, frozen.values[0], strict=True))
    assert max(record("frozen").order, key=scores.__getitem__) == "camvid_road@pairs"
    level = [independent_last(record(name)) for name in ("regcl", "opcm", "ties", "task_arithmetic")]
    assert max(level) - min(level) < 0.015
    by_last, by_without = (sorted(RUNS, key=lambda name: -value[name]) for value in (figures, independent))
    moved = [place for place, pair in enumerate(zip(by_last, by_without, strict=True), start=1) if len({*pair}) > 1]
    assert (moved[0], moved[-1]) == (7, 18), "the places from seventh to eighteenth"
    counts = {name: len(keys) for name, keys in SHARED.items()}
    assert f"without the {sum(counts.values())} test images that share" in PAGE
    assert f"All {counts['camvid_road@pairs']} test images of roads" in PAGE
    assert f"{counts['bsdata@pairs']} of worn metal" in PAGE
    assert f"{counts['masonry_crack@pairs']} of masonry" in PAGE


@pytest.mark.skipif("COSAM_BENCH_REAL" not in os.environ, reason="COSAM_BENCH_REAL names no folder of real images")
def test_which_images_share_a_place() -> None:
    groups = {
        "bsdata@pairs": RULES["bsdata@open"].group,
        "masonry_crack@pairs": RULES["masonry_crack@open"].group.replace("png", "jpg"),
        "camvid_road@pairs": "/([^_/]+)_[^/]*$",
    }
    found = {}
    for card in load_stream(str(REFERENCE / "open-pairs-stream.toml")).cards:
        if card.name in groups:
            domain = open_domain(card)
            test, train = ([Path(key).name for key in part.keys] for part in (domain.test, domain.train))

            def place(name: str, pattern: str = groups[card.name]) -> str | None:
                match = re.search(pattern, f"/{name}.jpg")
                return match and next(filter(None, match.groups()))

            seen = {place(name) for name in train}
            found[card.name] = {name for name in test if place(name) in seen}
    assert found == SHARED


def test_what_is_said_of_mini() -> None:
    assert correlation() > 0.8
    assert f"on the {len(ROWS) - len(FIRST)} others it is {correlation(without=FIRST):.2f}" in PAGE
    easy = ("experts", "joint", "er", "frozen")
    assert f"whose places are easy, it is {correlation(without=easy):.2f}: `mini`" in PAGE
