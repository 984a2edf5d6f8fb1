"""Intervals, tests and ranks against scipy, statsmodels, and slow obvious versions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.bootstrap import bootstrap_interval
from cosam_bench.evaluation.contributions import Contributions, RunScores, contributions
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.intervals import difference, interval
from cosam_bench.evaluation.ranks import holm, rank_intervals
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
