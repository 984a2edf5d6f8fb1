"""Two methods compared: paired, on common seeds, orders and images, and refused where they do not compare."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from support.recorded import ORDER, record

import cosam_bench as cb
from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.results.comparing import compare
from cosam_bench.results.image_scores import read_image_scores

LINEAR = [name for name, figure in FIGURES.items() if figure.is_linear]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for seed in (0, 1, 2):
        record(folder, method="regcl", seed=seed, level=0.6)
        record(folder, method="experts", seed=seed, level=0.7)
    for seed in (1, 2, 3):
        record(folder, method="opcm", seed=seed, level=0.5)
    record(folder, method="alone", seed=1, level=0.5)
    return folder


@pytest.mark.parametrize("metric", ["iou", "mae"])
@pytest.mark.parametrize("figure", LINEAR)
def test_the_difference_is_that_of_the_figures_and_its_parts_add_up(results: Path, figure: str, metric: str) -> None:
    found = compare("regcl", "opcm", results=results, figure=figure, metric=metric)
    experts = {one.seed: one.score_matrix(metric) for one in records(results, "experts") if one.seed != 3}
    theirs = {one.seed: one for one in records(results, "opcm")}
    pairs = [(one, theirs[one.seed]) for one in records(results, "regcl") if one.seed in theirs]
    first, second = (
        np.mean(
            [FIGURES[figure].of(pair[side].score_matrix(metric), experts=experts[pair[side].seed]) for pair in pairs]
        )
        for side in (0, 1)
    )
    assert found.seeds == (1, 2)
    assert (found.first_value, found.second_value) == pytest.approx((first, second), abs=1e-12)
    assert found.difference.estimate == pytest.approx(first - second, abs=1e-12)
    assert sum(one.part.estimate for one in found.domains) == pytest.approx(first - second, abs=1e-12)
    assert sum(one.part for one in found.images) == pytest.approx(first - second, abs=1e-12)
    assert found.is_higher_better == FIGURES[figure].prefers_high(metric)
    assert found.difference.basis == "images and runs"


def records(results: Path, method: str) -> list[cb.Record]:
    return [cb.load_record(folder) for folder in sorted((results / "made" / method).iterdir())]


def test_one_run_on_one_domain_is_the_paired_t_test_and_domains_are_holms(results: Path) -> None:
    found = compare("alone", "regcl", results=results)
    mine, theirs = (
        read_image_scores(next(one for one in records(results, name) if one.seed == 1)) for name in ("alone", "regcl")
    )
    p = []
    for one in found.domains:
        a, b = mine.values[one.domain][-1], theirs.values[one.domain][-1]
        oracle = stats.ttest_rel(a, b)
        ends = oracle.confidence_interval(0.95)
        assert (one.part.low, one.part.high) == pytest.approx((ends.low / 3, ends.high / 3), rel=1e-9)
        assert (one.first, one.second) == pytest.approx((a.mean(), b.mean()), abs=1e-12)
        p.append(oracle.pvalue)
    assert [one.adjusted_p for one in found.domains] == pytest.approx(multipletests(p, method="holm")[1], rel=1e-9)
    assert [one.domain for one in found.domains] == list(ORDER)
    assert found.difference.basis == "images"


def test_images_are_sorted_by_the_size_of_their_part(results: Path) -> None:
    found = compare("alone", "regcl", results=results)
    sizes = [abs(one.part) for one in found.images]
    assert sizes == sorted(sizes, reverse=True)
    mine, theirs = (
        read_image_scores(next(one for one in records(results, name) if one.seed == 1)) for name in ("alone", "regcl")
    )
    top = found.images[0]
    place = mine.keys[top.domain].index(top.image)
    scores = mine.values[top.domain][-1, place], theirs.values[top.domain][-1, place]
    assert (top.first, top.second) == scores
    assert top.part == pytest.approx((scores[0] - scores[1]) / 3 / 5, abs=1e-15)


def test_a_domain_without_a_part_is_not_listed(results: Path) -> None:
    found = compare("alone", "regcl", results=results, figure="ff")
    assert [one.domain for one in found.domains] == ["pill", "polyp"]
    assert {one.domain for one in found.images} == {"pill", "polyp"}


def test_the_tables_hold_the_same_numbers(results: Path) -> None:
    found = compare("regcl", "opcm", results=results)
    domains, images = found.domains_frame(), found.images_frame()
    assert domains["part"].sum() == pytest.approx(found.difference.estimate, abs=1e-12)
    assert domains.loc["polyp", "low"] == found.domains[1].part.low
    assert images["part"].tolist() == [one.part for one in found.images]
    assert list(images.columns) == ["domain", "image", "first", "second", "part"]


def test_the_front_door_takes_names_paths_and_records(results: Path) -> None:
    one, other = records(results, "regcl")[0], records(results, "experts")
    other = next(each for each in other if each.seed == one.seed)
    expected = cb.compare(one.name, other.name, results=results)
    by_record = cb.compare(one, other, results=results)
    by_path = cb.compare(one.folder, str(other.folder), results=str(results))
    assert by_record.difference == by_path.difference == expected.difference
    assert isinstance(by_record, cb.Comparison)
    assert (by_record.first, by_record.second) == (one.name, other.name)
    assert cb.compare(one, other, results=results / "nowhere").difference == expected.difference


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figure": "lats"}, "No figure is called 'lats'. Did you mean 'last'"),
        ({"figure": "ff_max"}, "ff_max is not linear"),
        ({"metric": "iuo"}, "Did you mean 'iou'"),
        ({"level": 0.0}, "between 0 and 1"),
        ({"protocol": "mad"}, "No protocol in these records is called 'mad'. Did you mean 'made'"),
        ({"second": "nothing"}, "No record in .* fits 'nothing'"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(results: Path, options: dict[str, object], message: str) -> None:
    facts: dict[str, object] = {"first": "regcl", "second": "opcm", "results": results}
    with pytest.raises(CosamError, match=message):
        cb.compare(**(facts | options))  # type: ignore[arg-type]


def test_what_was_measured_under_other_conditions_is_refused_with_the_field(tmp_path: Path) -> None:
    record(tmp_path, method="a")
    record(tmp_path, method="b", checkpoint="other")
    with pytest.raises(CosamError, match="not measured under the same conditions: they differ in the model's weights"):
        compare("a", "b", results=tmp_path)


def test_methods_without_a_common_seed_or_order_are_refused(tmp_path: Path) -> None:
    record(tmp_path, method="a")
    record(tmp_path, method="b", seed=1)
    record(tmp_path, method="c", order=ORDER[::-1])
    with pytest.raises(CosamError, match="first has the seeds 0, the second 1"):
        compare("a", "b", results=tmp_path)
    with pytest.raises(CosamError, match="no run with the same seed and order"):
        compare("a", "c", results=tmp_path)


def test_a_method_with_several_settings_has_to_be_told_apart(tmp_path: Path) -> None:
    made = [record(tmp_path, method="ties", settings={"keep": keep}) for keep in (0.2, 0.5)]
    record(tmp_path, method="regcl")
    with pytest.raises(CosamError, match=r"several settings\. Name one record of: made/ties/"):
        compare("regcl", "ties", results=tmp_path)
    assert math.isfinite(compare("regcl", made[0], results=tmp_path).difference.estimate)


def test_incomplete_and_unreadable_runs_are_left_out_with_a_note(tmp_path: Path) -> None:
    record(tmp_path, method="a")
    record(tmp_path, method="b")
    failed = record(tmp_path, method="b", seed=1, status="failed")
    broken = record(tmp_path, method="c")
    (broken.folder / "run.json").write_text("{")
    found = compare("a", "b", results=tmp_path)
    assert found.seeds == (0,)
    assert any(failed.name in note for note in found.notes)
    assert any("run.json cannot be read" in note for note in found.notes)
    with pytest.raises(CosamError, match="has no complete run"):
        compare("a", failed, results=tmp_path)


def test_without_experts_a_figure_against_them_is_undefined(tmp_path: Path) -> None:
    record(tmp_path, method="a")
    record(tmp_path, method="b")
    with pytest.raises(CosamError, match=r"Plast\. loss is undefined for these runs; it needs a run of experts"):
        compare("a", "b", results=tmp_path, figure="plasticity")


def test_only_common_images_are_compared(tmp_path: Path) -> None:
    one, other = record(tmp_path, method="a"), record(tmp_path, method="b")
    path = other.folder / "scores.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",pill,test-3," not in line))
    found = compare("a", "b", results=tmp_path)
    assert {each.domain: each.images for each in found.domains} == {"pill": 4, "polyp": 5, "rim": 5}
    mine, theirs = read_image_scores(one).values["pill"][-1], read_image_scores(other).values["pill"][-1]
    assert found.domains[0].part.estimate == pytest.approx((np.delete(mine, 3).mean() - theirs.mean()) / 3, abs=1e-12)
