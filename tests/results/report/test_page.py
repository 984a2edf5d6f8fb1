"""The page's text: complete, escaped, self-contained and small, and clear about what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.recorded import record

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.costs import COSTS
from cosam_bench.results.report.page import write_report
from cosam_bench.results.selection import Selection

ROOT = Path(__file__).resolve().parents[3]
ROOM = ROOT / "cosam_bench/results/report"
SCRIPT = "<script>alert(1)</script>"


def page(results: Path, **options: object) -> str:
    return write_report(results, **options).path.read_text(encoding="utf-8")  # type: ignore[arg-type]


def test_every_figure_metric_and_cost_is_explained(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    text = page(tmp_path)
    for row in (*FIGURES.values(), *METRICS.values(), *COSTS.values()):
        assert row.meaning.replace("'", "&#39;") in text, row.name


def test_texts_of_records_are_escaped(tmp_path: Path) -> None:
    record(tmp_path, method=SCRIPT, settings={"<b>": 1.0}, marks=("<i>",))
    record(tmp_path, method="failed", status="failed", error="<img src=x onerror=alert(1)>")
    text = page(tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for bad in (SCRIPT, "<img src=x", "<b>", "<i>"):
        assert bad not in text


def test_it_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    record(tmp_path, method="regcl", side=16)
    text = page(tmp_path)
    assert "default-src &#39;none&#39;" in text
    assert "unsafe" not in text
    assert not re.search(r"\sstyle=", text)
    for address in re.findall(r'(?:href|src|xlink:href)="([^"]*)"', text):
        assert address.startswith(("#", "data:")), address
    for place in re.findall(r"url\(([^)]*)\)", text):
        assert place.startswith("#")


def test_ids_are_unique_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    for name in ("regcl", "average"):
        record(tmp_path, method=name, side=16)
    record(tmp_path, method="other", checkpoint="other")
    text = page(tmp_path)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)


def test_incomplete_runs_are_listed_apart_and_not_ranked(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    record(tmp_path, method="broken", status="failed", error="it diverged")
    text = page(tmp_path)
    ranked, apart = text.split('<section id="incomplete"')
    assert "it diverged" in apart
    assert 'data-value="broken"' not in ranked


def test_unlike_conditions_are_apart_and_the_field_is_named(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    record(tmp_path, method="average", checkpoint="other")
    text = page(tmp_path)
    assert text.count("<h3>Leaderboard</h3>") == 2
    assert "differ in the model&#39;s weights" in text


def test_a_record_without_examples_says_why(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    damaged = record(tmp_path, method="average", side=16)
    (damaged.folder / "examples.json").write_text("{")
    text = page(tmp_path)
    assert "has no example images" in text
    assert "Delete it to report without images" in text


def test_images_can_be_left_out(tmp_path: Path) -> None:
    record(tmp_path, method="regcl", side=16)
    assert "data:image/jpeg" in page(tmp_path)
    assert "data:image/" not in page(tmp_path, has_images=False)


def test_an_image_of_several_methods_is_on_the_page_once(tmp_path: Path) -> None:
    one, other = (record(tmp_path, method=name, side=16) for name in ("regcl", "average"))
    (other.folder / "examples.json").write_bytes((one.folder / "examples.json").read_bytes())
    assert page(tmp_path).count("data:image/jpeg") == 4 * 3


def test_thirty_methods_with_the_largest_pictures_stay_below_3_mb(tmp_path: Path) -> None:
    domains = ("pill", "polyp", "rim", "texture", "rail_i", "rail_ii", "pitting", "camouflage")
    for number in range(30):  # noise is the worst case of both codecs
        record(tmp_path, method=f"method_{number}", order=domains, side=100 if number < 12 else 0)
    written = write_report(tmp_path)
    assert written.methods == 30
    assert 2_000_000 < written.size_bytes < 3_000_000
    assert "Left out to keep the page below 3 MB" in written.path.read_text()


def test_the_own_script_is_short() -> None:
    assert len((ROOM / "report.js").read_text().splitlines()) < 100


def test_the_page_is_package_data() -> None:
    for name in ("report.html.jinja", "report.css", "report.js"):
        assert (ROOM / name).is_file()
        assert f'"{name}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": Selection(protocols=("mad",))}, "Did you mean 'made'"),
        ({"selection": Selection(seeds=(range(7, 8),))}, "No record here has the seed 7"),
        ({"metric": "iuo"}, "Did you mean 'iou'"),
        ({"out": "."}, "is a folder"),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    record(tmp_path, method="regcl")
    if "out" in options:
        with pytest.raises(CosamError, match=message):
            write_report(tmp_path, tmp_path)
    else:
        with pytest.raises(CosamError, match=message):
            write_report(tmp_path, **options)  # type: ignore[arg-type]


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="no record of a run"):
        write_report(tmp_path)
    with pytest.raises(CosamError, match="No folder"):
        write_report(tmp_path / "missing")


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    (tmp_path / "file").write_text("")
    with pytest.raises(CosamError, match="cannot be written"):
        write_report(tmp_path, tmp_path / "file" / "report.html")


def test_a_folder_with_incomplete_runs_alone_still_reports(tmp_path: Path) -> None:
    record(tmp_path, method="regcl", status="interrupted")
    text = page(tmp_path)
    assert "No complete run is recorded here" in text
    assert "interrupted" in text


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    broken = record(tmp_path, method="average")
    (broken.folder / "run.json").write_text("{")
    written = write_report(tmp_path)
    assert len(written.unreadable) == 1
    assert "run.json cannot be read" in written.path.read_text()
