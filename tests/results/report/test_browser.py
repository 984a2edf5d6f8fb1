"""The page in Chromium: no faults of accessibility, no errors, no request but its own; sorting by mouse and keys."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.recorded import record

from cosam_bench.results.report.page import write_report

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "results/reference/report.html"
SCRIPT = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe() -> Path:
    path = Path(os.environ.get("COSAM_BENCH_AXE", "axe.min.js"))
    if not path.is_file():
        pytest.skip("COSAM_BENCH_AXE does not name the axe.min.js of axe-core (npm install axe-core)")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of content."""
    results = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        record(results, method="regcl", seed=seed, level=0.6, side=32)
        record(results, method="experts", seed=seed, level=0.8, marks=("upper bound",))
    record(results, method=SCRIPT, level=0.4, side=32)
    record(results, method="ties", settings={"keep": 0.2}, level=0.5)
    record(results, method="ties", settings={"keep": 0.5}, level=0.5)
    record(results, method="joint", level=0.7, marks=("upper bound", "all domains at once"))
    record(results, method="alone", seed=5)  # without experts of its seed
    record(results, method="average", checkpoint="other")
    record(results, method="broken", status="failed", error="it diverged")
    return write_report(results).path


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, *, scheme: str = "light", width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def faults(self, axe: Path) -> list[str]:
        """The violations that axe finds with all sections open."""
        self.page.evaluate("document.querySelectorAll('details').forEach((section) => { section.open = true; })")
        self.page.evaluate(axe.read_text(encoding="utf-8"))
        only = "{ resultTypes: ['violations'] }"  # to describe all that passed takes most of the time
        found = self.page.evaluate(f"axe.run({only}).then((result) => result.violations)")
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]

    @property
    def outside(self) -> list[str]:
        """Its requests, without what is part of the page."""
        return [url for url in self.requests if not url.startswith("data:")]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Any, axe: Path, report: Path, scheme: str, width: int) -> None:
    with Opened(browser, report, scheme=scheme, width=width) as opened:
        assert opened.faults(axe) == []


def test_there_is_one_request_and_no_message(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        opened.page.wait_for_load_state("networkidle")
        assert opened.outside == [report.as_uri()]
        assert opened.said == []


def test_a_name_that_is_a_script_shows_as_text(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        assert opened.page.locator("table.board th[scope=row]", has_text=SCRIPT).count() == 2
        assert opened.page.locator("svg text", has_text=SCRIPT).count() >= 1
        assert opened.said == []


def test_the_policy_stops_other_scripts(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        opened.page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
        )
        assert opened.page.evaluate("window.ran") is None


def column(opened: Opened, title: str) -> list[float]:
    """The values of a column of the first leaderboard as shown, NaN if there is none."""
    table = opened.page.locator("table.board").first
    heads = table.locator("thead th").all_inner_texts()
    place = [head.strip() for head in heads].index(title)
    cells = table.locator(f"tbody tr > :nth-child({place + 1})")
    texts = [cell.split("\n")[0] for cell in cells.all_inner_texts()]
    return [math.nan if text == "\N{EN DASH}" else float(text) for text in texts]


def is_sorted(values: list[float], *, descending: bool) -> bool:
    known = [value for value in values if not math.isnan(value)]
    return values[: len(known)] == sorted(known, reverse=descending)


def test_a_click_sorts_and_what_has_no_value_comes_last(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        head = opened.page.locator("table.board").first.locator("thead th", has_text="FF max")
        assert head.get_attribute("aria-sort") == "none"
        for direction in ("ascending", "descending"):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction
            assert is_sorted(column(opened, "FF max"), descending=direction == "descending")
        assert opened.page.locator("table.board").first.locator("th[aria-sort=descending]").count() == 1


def test_missing_values_come_last_in_both_directions(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        button = opened.page.locator("table.board").first.locator("thead button", has_text="Plast. loss")
        for descending in (False, True):
            button.click()
            values = column(opened, "Plast. loss")
            assert math.isnan(values[-1])
            assert is_sorted(values, descending=descending)


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_sort_too(browser: Any, report: Path, key: str) -> None:
    with Opened(browser, report) as opened:
        table = opened.page.locator("table.board").first
        table.locator("thead button").first.focus()
        names = table.locator("tbody th a")
        opened.page.keyboard.press(key)
        up = names.all_inner_texts()
        opened.page.keyboard.press(key)
        assert up == sorted(up)
        assert names.all_inner_texts() == up[::-1]
        opened.page.keyboard.press("Tab")
        assert opened.page.evaluate("document.activeElement.textContent") == "Rank"


def test_a_link_opens_the_section_of_its_method(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        link = opened.page.locator("table.board tbody th a").nth(2)
        section = opened.page.locator(link.get_attribute("href") or "")
        assert section.get_attribute("open") is None
        link.click()
        opened.page.wait_for_function("id => document.querySelector(id).open", arg=link.get_attribute("href"))


def test_a_download_holds_the_numbers(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        with opened.page.expect_download() as waiting:
            opened.page.locator("a[download$='leaderboard.csv']").first.click()
        text = waiting.value.path().read_text()
        assert text.startswith("method,marks,metric,runs,rank_best,rank_worst,last,last_low,last_high")
        assert SCRIPT in text


def test_a_phone_scrolls_tables_but_not_the_page(browser: Any, report: Path) -> None:
    with Opened(browser, report, width=390) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 390


def test_all_sections_are_printed_and_closed_again(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        closed = opened.page.locator("details:not([open])").count()
        assert closed > 0
        opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert opened.page.locator("details:not([open])").count() == 0
        opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert opened.page.locator("details:not([open])").count() == closed
        assert len(opened.page.pdf()) > 10_000


def test_the_reference_report_opens(browser: Any, axe: Path) -> None:
    assert REFERENCE.stat().st_size < 3_000_000
    with Opened(browser, REFERENCE) as opened:
        assert opened.page.locator("table.board").first.locator("tbody tr").count() >= 10
        assert opened.page.locator("figure.example").count() > 100
        assert opened.faults(axe) == []
        assert opened.outside == [REFERENCE.as_uri()]
        assert opened.said == []
