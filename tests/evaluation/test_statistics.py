"""Intervals, tests and ranks against scipy, statsmodels, and slow obvious versions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests

from benchmarks.coverage import coverage_of_ff_max
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.bootstrap import bootstrap_interval
from cosam_bench.evaluation.contributions import (
    Contributions,
    RunScores,
    contributions,
    domains_with_part,
    paired,
)
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.evaluation.ranks import RankInterval, holm, rank_intervals
from cosam_bench.evaluation.score_matrix import ScoreMatrix

LINEAR = [figure for figure in FIGURES.values() if figure.is_linear]


def run_scores(rng: np.random.Generator, *, metric: str = "iou", images: int = 5, seed: int = 0) -> RunScores:
    names, shape = ("a", "b", "c", "d"), (4, images)  # three domains and one that is only tested
    return RunScores(
        metric,
        seed,
        names[:3],
        names[3:],
        {name: tuple(f"{name}{index}" for index in range(images)) for name in names},
        {name: rng.random(shape) for name in names},
    )


def run(seed: int, order: str, **values: list[float] | np.ndarray) -> Contributions:
    arrays = {name: np.asarray(column, dtype=float) for name, column in values.items()}
    keys = {name: tuple(f"{name}{index}" for index in range(len(column))) for name, column in arrays.items()}
    return Contributions(seed, (order,), keys, arrays)


def difference(first: list[Contributions], second: list[Contributions], *, level: float = 0.95) -> Interval:
    return interval(paired(first, second), level=level)


def matrix_of(scores: RunScores) -> ScoreMatrix:
    values = np.stack([scores.values[name].mean(axis=1) for name in "abcd"], axis=1)
    return ScoreMatrix(scores.metric, scores.domains, scores.retention, values, np.full(values.shape, 5))


@pytest.mark.parametrize("metric", ["iou", "mae"])
@pytest.mark.parametrize("figure", LINEAR, ids=lambda figure: figure.name)
def test_contributions_add_up_to_the_figure(figure: Figure, metric: str) -> None:
    rng = np.random.default_rng(0)
    scores, experts = run_scores(rng, metric=metric), run_scores(rng, metric=metric)
    found = contributions(scores, figure, experts=experts).figure
    assert found == pytest.approx(figure.of(matrix_of(scores), experts=matrix_of(experts)), abs=1e-12)


def test_exactly_the_figures_that_claim_it_are_linear() -> None:
    rng = np.random.default_rng(1)
    first, second = matrix_of(run_scores(rng)), matrix_of(run_scores(rng))
    both = ScoreMatrix("iou", first.domains, first.retention, first.values + second.values, first.count)
    for figure in FIGURES.values():
        parts = figure.of(first, experts=second) + figure.of(second, experts=first)
        whole = figure.of(both, experts=both)
        assert (whole == pytest.approx(parts, abs=1e-12)) == figure.is_linear, figure.name


def test_a_figure_that_is_not_linear_has_no_contributions() -> None:
    with pytest.raises(ValueError, match="ff_max is not linear"):
        contributions(run_scores(np.random.default_rng(0)), FIGURES["ff_max"])


def test_a_figure_against_the_experts_is_undefined_without_them() -> None:
    assert math.isnan(contributions(run_scores(np.random.default_rng(0)), FIGURES["plasticity"]).figure)


def test_a_cell_that_was_not_measured_makes_the_figure_undefined() -> None:
    scores = run_scores(np.random.default_rng(0))
    scores.values["b"][1] = math.nan
    assert math.isfinite(contributions(scores, FIGURES["last"]).figure)
    found = interval([contributions(scores, FIGURES["ft"])])
    assert math.isnan(found.estimate)
    assert found.basis == "none"


def test_one_run_of_two_domains_is_welchs_test() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.6, 0.2, 12), rng.normal(0.5, 0.05, 30)
    found = interval([run(0, "ab", a=x, b=-y)])
    oracle = stats.ttest_ind(x, y, equal_var=False)
    ends = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-12)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)
    assert found.basis == "images"


def test_a_difference_on_one_domain_is_the_paired_test() -> None:
    rng = np.random.default_rng(2)
    x = rng.random(20)
    y = x + rng.normal(0.02, 0.05, 20)
    found = difference([run(0, "a", a=x)], [run(0, "a", a=y)], level=0.9)
    oracle = stats.ttest_rel(x, y)
    ends = oracle.confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-12)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-12)


def test_the_error_over_images_is_the_bootstraps() -> None:
    rng = np.random.default_rng(3)
    columns = [rng.beta(2, 1, size) for size in (150, 200, 250)]
    found = interval([run(0, "abc", **dict(zip("abc", columns, strict=True)))])
    oracle = stats.bootstrap(
        columns,
        lambda *parts, axis: sum(part.mean(axis=axis) for part in parts),
        n_resamples=4000,
        vectorized=True,
        rng=np.random.default_rng(4),
    )
    assert found.standard_error == pytest.approx(oracle.standard_error, rel=0.05)
    assert (found.low, found.high) == pytest.approx(
        tuple(oracle.confidence_interval), abs=0.1 * (found.high - found.low)
    )


def grid(rng: np.random.Generator, orders: int, seeds: int) -> tuple[list[Contributions], pandas.DataFrame]:
    """Runs whose images add no variance, and their figures as a table."""
    o, s = rng.normal(0, 0.3, orders), rng.normal(0, 0.2, seeds)
    cells = [(i, j, float(o[i] + s[j] + rng.normal(0, 0.1))) for i, j in product(range(orders), range(seeds))]
    runs = [run(j, str(i), a=[y, y, y]) for i, j, y in cells]
    return runs, pandas.DataFrame(cells, columns=["order", "seed", "y"])


@pytest.mark.parametrize(("orders", "seeds"), [(5, 4), (2, 6), (6, 3)])
def test_the_variance_between_runs_is_the_slow_two_way_analysis(orders: int, seeds: int) -> None:
    runs, table = grid(np.random.default_rng(orders), orders, seeds)
    mean = table.y.mean()
    of_orders = [table.y[table.order == i].mean() for i in range(orders)]
    of_seeds = [table.y[table.seed == j].mean() for j in range(seeds)]
    ms_o = seeds * sum((value - mean) ** 2 for value in of_orders) / (orders - 1)
    ms_s = orders * sum((value - mean) ** 2 for value in of_seeds) / (seeds - 1)
    left = sum((y - of_orders[int(i)] - of_seeds[int(j)] + mean) ** 2 for i, j, y in table.itertuples(index=False))
    ms_os = left / ((orders - 1) * (seeds - 1))
    expected = max(ms_o + ms_s - ms_os, ms_o, ms_s) / (orders * seeds)
    assert interval(runs).standard_error == pytest.approx(math.sqrt(expected), rel=1e-9)


def test_the_variance_between_runs_is_the_mixed_models() -> None:
    runs, table = grid(np.random.default_rng(7), 8, 8)
    model = MixedLM.from_formula(
        "y ~ 1", groups=np.ones(len(table)), vc_formula={"o": "0 + C(order)", "s": "0 + C(seed)"}, data=table
    )
    fitted = model.fit(reml=True)
    assert interval(runs).standard_error == pytest.approx(float(fitted.bse_fe.iloc[0]), rel=0.02)


def test_seeds_alone_are_a_t_interval_of_their_figures() -> None:
    y = [0.51, 0.55, 0.49, 0.56]
    found = interval([run(seed, "a", a=[value] * 3) for seed, value in enumerate(y)])
    low, high = stats.t.interval(0.95, 3, np.mean(y), stats.sem(y))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.basis == "images and runs"


def test_an_incomplete_table_of_runs_is_no_narrower_than_its_larger_part() -> None:
    runs, table = grid(np.random.default_rng(9), 4, 4)
    found = interval(runs[:-3])
    means = table[:-3].groupby("order").y.mean()
    assert found.standard_error >= means.std(ddof=1) / 2 * (1 - 1e-12)
    assert math.isfinite(found.low)


def test_runs_are_paired_by_seed_order_and_image() -> None:
    first = [run(0, "ab", a=[1, 2, 3], b=[0, 1]), run(1, "ab", a=[1, 2, 4], b=[0, 1])]
    second = [run(1, "ab", a=[1, 1, 1, 9], b=[1, 1]), run(2, "ab", a=[0, 0, 0], b=[0, 0])]
    found = difference(first, second)
    assert found.runs == 1
    assert found.estimate == pytest.approx((0 + 1 + 3) / 3 + (-1 + 0) / 2)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([run(0, "a", a=[1, 2])], [run(1, "a", a=[1, 2])], "no run with the same seed"),
        ([run(0, "a", a=[1, 2])] * 2, [run(0, "a", a=[1, 2])], "occurs twice"),
        ([run(0, "a", a=[1, 2])], [run(0, "a", b=[1, 2])], "Only one of the two was scored on domain 'a'"),
        ([], [], "no run with the same seed"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    first: list[Contributions], second: list[Contributions], message: str
) -> None:
    with pytest.raises(CosamError, match=message):
        difference(first, second)


def test_runs_without_a_common_image_are_refused() -> None:
    other = Contributions(1, ("a",), {"a": ("x", "y")}, {"a": np.array([1.0, 2.0])})
    with pytest.raises(CosamError, match="no test image of domain 'a' in common"):
        interval([run(0, "a", a=[1, 2]), other])


def test_a_single_image_tells_no_interval() -> None:
    found = interval([run(0, "ab", a=[0.5], b=[0.1, 0.2])])
    assert found.estimate == pytest.approx(0.65)
    assert found.basis == "none"
    assert math.isnan(found.low)


def test_equal_scores_differ_by_exactly_nothing() -> None:
    same = [run(seed, "a", a=[0.1, 0.7]) for seed in range(3)]
    found = difference(same, same)
    assert (found.low, found.high, found.p) == (0.0, 0.0, 1.0)


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(5).random(20) ** 3
    assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


def test_holm_does_not_count_what_is_unknown() -> None:
    found = holm([math.nan, 0.01, 0.04])
    assert math.isnan(found[0])
    assert found[1:] == [0.02, 0.04]


@pytest.mark.parametrize("is_higher_better", [True, False])
def test_ranks_are_one_more_than_the_better_ones_to_the_number_less_the_worse_ones(is_higher_better: bool) -> None:
    rng = np.random.default_rng(6)
    base = rng.random(40)
    sign = 1.0 if is_higher_better else -1.0
    levels = (0.5, 0.2, 0.2, 0.0)  # the two in the middle cannot be told apart
    noise = [0.02 * rng.permutation(np.tile([-1.0, 1.0], 20)) for _ in levels]  # without a mean
    methods = [[run(0, "a", a=base + sign * level + own)] for level, own in zip(levels, noise, strict=True)]
    found = [(each.best, each.worst) for each in rank_intervals(methods, is_higher_better=is_higher_better)]
    assert found == [(1, 1), (2, 3), (2, 3), (4, 4)]


def test_methods_without_a_common_run_cannot_be_ranked_apart() -> None:
    methods = [[run(0, "a", a=[1.0, 1.01, 1.02])], [run(1, "a", a=[0.0, 0.01, 0.02])]]
    assert [(each.best, each.worst) for each in rank_intervals(methods, is_higher_better=True)] == [(1, 2), (1, 2)]


def test_the_bootstrap_of_a_linear_figure_is_near_its_interval() -> None:
    rng = np.random.default_rng(8)
    runs = [run_scores(rng, images=60, seed=0)]
    linear = interval([contributions(one, FIGURES["last"]) for one in runs])
    drawn = bootstrap_interval(runs, FIGURES["last"], draws=1000)
    assert drawn.estimate == pytest.approx(linear.estimate)
    assert drawn.standard_error == pytest.approx(linear.standard_error, rel=0.1)
    worst = bootstrap_interval(runs, FIGURES["ff_max"], draws=200)
    assert worst.low < worst.estimate < worst.high


@pytest.mark.parametrize("figure", LINEAR, ids=lambda figure: figure.name)
def test_runs_in_several_orders_have_an_interval_about_their_mean(figure: Figure) -> None:
    rng = np.random.default_rng(2)
    first, second, experts = (run_scores(rng) for _ in range(3))
    turned = replace(second, domains=second.domains[::-1])
    theirs = replace(experts, domains=experts.domains[::-1])
    runs = [contributions(first, figure, experts=experts), contributions(turned, figure, experts=theirs)]
    found = interval(runs)
    assert found.estimate == pytest.approx((runs[0].figure + runs[1].figure) / 2, abs=1e-12)
    assert found.low < found.estimate < found.high


def test_a_domain_of_one_image_without_a_part_leaves_the_interval_alone() -> None:
    rng = np.random.default_rng(3)
    scores = run_scores(rng)
    last = scores.domains[-1]  # FF does not look at it
    single = replace(
        scores,
        keys=dict(scores.keys) | {last: scores.keys[last][:1]},
        values=dict(scores.values) | {last: scores.values[last][:, :1]},
    )
    assert interval([contributions(single, FIGURES["ff"])]) == interval([contributions(scores, FIGURES["ff"])])


def test_the_bootstrap_of_an_undefined_figure_is_undefined() -> None:
    scores = run_scores(np.random.default_rng(0))
    scores.values["a"][1] = math.nan
    found = bootstrap_interval([scores], FIGURES["ff_max"])
    assert math.isnan(found.estimate)
    assert found.basis == "none"


def slow_ranks(
    methods: list[list[Contributions]], *, is_higher_better: bool, level: float = 0.95
) -> list[tuple[int, int]]:
    """Every pair by itself, Holm's correction by statsmodels, and counts of the better and the worse ones."""
    pairs, found = [], []
    for one, other in combinations(range(len(methods)), 2):
        try:
            found.append(difference(methods[one], methods[other], level=level))
        except CosamError:
            continue
        pairs.append((one, other))
    is_clear = multipletests([each.p for each in found], alpha=1 - level, method="holm")[0]
    better, worse = [0] * len(methods), [0] * len(methods)
    for (one, other), each, clear in zip(pairs, found, is_clear, strict=True):
        if clear:
            winner, loser = (one, other) if (each.estimate > 0) == is_higher_better else (other, one)
            better[loser] += 1
            worse[winner] += 1
    return [(1 + ahead, len(methods) - behind) for ahead, behind in zip(better, worse, strict=True)]


@pytest.mark.parametrize("is_higher_better", [True, False])
@pytest.mark.parametrize("trial", range(4))
def test_ranks_are_those_of_all_pairs_one_by_one(trial: int, is_higher_better: bool) -> None:
    """Methods that have not all run with the same seeds and orders, one of them in common with no other."""
    rng = np.random.default_rng(trial)
    images = {"a": rng.random(12), "b": rng.random(12)}
    methods = []
    for level in rng.normal(0, 0.1, 8):
        places = [place for place in product(range(3), "xyz") if rng.random() < 0.6] or [(0, "x")]
        methods.append(
            [
                run(seed, order, **{name: row + level + rng.normal(0, 0.05, 12) for name, row in images.items()})
                for seed, order in places
            ]
        )
    methods.append([run(9, "alone", **images)])
    found = [(each.best, each.worst) for each in rank_intervals(methods, is_higher_better=is_higher_better)]
    assert found == slow_ranks(methods, is_higher_better=is_higher_better)
    assert len(set(found)) > 2


def test_no_method_has_no_rank_and_one_is_the_first() -> None:
    assert rank_intervals([], is_higher_better=True) == []
    assert rank_intervals([[run(0, "a", a=[0.1, 0.2])]], is_higher_better=True) == [RankInterval(1, 1)]


def test_methods_with_other_images_are_not_ranked_together() -> None:
    with pytest.raises(CosamError, match="same test images"):
        rank_intervals([[run(0, "a", a=[0.1, 0.2])], [run(0, "a", a=[0.1, 0.2, 0.3])]], is_higher_better=True)


def ff_max(values: dict[str, np.ndarray], order: str, images: dict[str, np.ndarray]) -> float:
    """The slow obvious one, of the drawn images."""
    lost = []
    for place, name in enumerate(order[:-1], start=1):
        means = values[name][:, images[name]].mean(axis=1)
        lost.append(max(means[place : len(order)]) - means[-1])
    return sum(lost) / len(lost)


def test_the_interval_of_ff_max_is_scipys_bootstrap() -> None:
    scores = run_scores(np.random.default_rng(11), images=25)
    every = np.arange(25)

    def statistic(*drawn: np.ndarray) -> float:
        return ff_max(
            dict(scores.values), "abc", {name: each.astype(int) for name, each in zip("abc", drawn, strict=True)}
        )

    oracle = stats.bootstrap(
        (every, every, every),
        statistic,
        n_resamples=3000,
        vectorized=False,
        method="basic",
        rng=np.random.default_rng(12),
    )
    found = bootstrap_interval([scores], FIGURES["ff_max"], draws=3000)
    assert found.estimate == pytest.approx(statistic(every, every, every), abs=1e-12)
    assert found.standard_error == pytest.approx(oracle.standard_error, rel=0.06)
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.06 * width)
    assert found.basis == "images"


def test_of_several_runs_ff_max_is_drawn_over_seeds_and_orders_too() -> None:
    rng = np.random.default_rng(13)
    one, two, turned = (run_scores(rng, images=12, seed=seed) for seed in (0, 1, 0))
    runs = [one, two, replace(turned, domains=("c", "a", "b"))]
    found = bootstrap_interval(runs, FIGURES["ff_max"], draws=3000)
    table = {(each.seed, "".join(each.domains)): dict(each.values) for each in runs}
    drawn = []
    while len(drawn) < 3000:
        images = {name: rng.integers(12, size=12) for name in "abc"}
        places = list(product(rng.choice([0, 1], 2), rng.choice(["abc", "cab"], 2)))
        if values := [ff_max(table[place], place[1], images) for place in places if place in table]:
            drawn.append(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.06)
    width = found.high - found.low
    reflected = 2 * found.estimate - np.quantile(drawn, [0.975, 0.025])
    assert (found.low, found.high) == pytest.approx(tuple(reflected), abs=0.06 * width)
    assert found.basis == "images and runs"


def test_the_interval_of_ff_max_covers_more_than_its_percentiles() -> None:
    percentile, basic, above, of_ff = coverage_of_ff_max(0.0, experiments=60)
    assert percentile < 0.5 < 0.7 < basic
    assert above < 0.3
    assert of_ff > 0.85


def test_a_domain_of_one_image_leaves_ff_max_without_an_interval_unless_it_never_changes() -> None:
    scores = run_scores(np.random.default_rng(3))
    first, *_, last = scores.domains

    def with_one_image_of(name: str, values: np.ndarray) -> RunScores:
        return replace(
            scores,
            keys=dict(scores.keys) | {name: scores.keys[name][:1]},
            values=dict(scores.values) | {name: values},
        )

    found = bootstrap_interval([with_one_image_of(first, scores.values[first][:, :1])], FIGURES["ff_max"], draws=50)
    assert math.isfinite(found.estimate)
    assert math.isnan(found.low)
    assert found.basis == "none"
    same = np.full_like(scores.values[first][:, :1], 0.5)
    for harmless in (with_one_image_of(first, same), with_one_image_of(last, scores.values[last][:, :1])):
        assert math.isfinite(bootstrap_interval([harmless], FIGURES["ff_max"], draws=50).low)


def test_a_bootstrap_refuses_what_it_cannot_draw() -> None:
    scores = run_scores(np.random.default_rng(0))
    with pytest.raises(CosamError, match="each of another seed or order"):
        bootstrap_interval([scores, scores], FIGURES["ff_max"])
    with pytest.raises(CosamError, match="same test images"):
        bootstrap_interval([scores, run_scores(np.random.default_rng(0), images=4, seed=1)], FIGURES["ff_max"])


@pytest.mark.parametrize("chosen", [("a", "c"), ("b",), ("b", "d"), ("d",)])
@pytest.mark.parametrize("figure", FIGURES.values(), ids=lambda figure: figure.name)
def test_a_figure_over_chosen_domains_is_the_mean_over_these_alone(figure: Figure, chosen: tuple[str, ...]) -> None:
    rng = np.random.default_rng(14)
    scores, experts = run_scores(rng), run_scores(rng)
    expected = slow_figure(figure.name, matrix_of(scores).values, matrix_of(experts).values, set(chosen))
    found = figure.of(matrix_of(scores).only(chosen), experts=matrix_of(experts))
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    if figure.is_linear:
        shares = contributions(scores, figure, experts=experts, domains=chosen)
        assert shares.figure == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert math.isnan(expected) or set(shares.values) <= set(chosen)
    else:
        assert bootstrap_interval([scores], figure, draws=10, domains=chosen).estimate == pytest.approx(
            expected, nan_ok=True
        )


def slow_figure(name: str, r: np.ndarray, e: np.ndarray, chosen: set[str]) -> float:
    """Of three domains a, b, c and one that is only tested, d: each formula as a mean of what there is."""
    domains = [j for j in (1, 2, 3) if "abc"[j - 1] in chosen]
    s = {(t, j): r[t, j - 1] for t in range(4) for j in (1, 2, 3)}
    kept = [j for j in domains if j < 3]
    steps = [[s[t, j] for j in domains if j <= t] for t in (1, 2, 3)]
    of_retained = ["d" in chosen]
    terms = {
        "last": [s[3, j] for j in domains],
        "avg": [sum(step) / len(step) for step in steps if step],
        "ff": [s[j, j] - s[3, j] for j in kept],
        "ff_max": [max(s[t, j] for t in range(j, 3)) - s[3, j] for j in kept],
        "ff_max_all": [max(s[1, j], s[2, j]) - s[3, j] for j in kept],
        "bwt": [s[3, j] - s[j, j] for j in kept],
        "fwt": [s[j - 1, j] - s[0, j] for j in domains if j > 1],
        "fm": [s[j, j] - s[3, j] for j in domains],
        "ft": [s[j - 1, j] for j in domains if j > 1],
        "diagonal": [s[j, j] for j in domains],
        "plasticity": [e[j, j - 1] - s[j, j] for j in domains],
        "retention": [r[3, 3] for has in of_retained if has],
        "retention_drop": [r[0, 3] - r[3, 3] for has in of_retained if has],
        "frozen": [s[0, j] for j in domains],
    }[name]
    return sum(terms) / len(terms) if terms else math.nan


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(CosamError, match="Did you mean 'pill'"):
        ScoreMatrix.from_values([[0.1], [0.2]], domains=["pill"]).only(["pil"])


def test_the_domains_with_a_part_are_those_that_the_formula_reads() -> None:
    scores = run_scores(np.random.default_rng(0))
    assert domains_with_part(scores, FIGURES["last"]) == {"a", "b", "c"}
    assert domains_with_part(scores, FIGURES["ff"]) == {"a", "b"}
    assert domains_with_part(scores, FIGURES["fwt"]) == {"b", "c"}
    assert domains_with_part(scores, FIGURES["retention"]) == {"d"}
