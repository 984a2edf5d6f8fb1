"""The marked places of a page: what is between them is replaced, and nothing else."""

from __future__ import annotations

import pytest

from benchmarks.pages import filled, places

PAGE = "a\n<!-- results: one -->\nold\n<!-- end -->\nb\n<!-- results: two -->\n<!-- end -->\n<!-- other: one -->\n"


def test_each_place_gets_the_content_of_its_name() -> None:
    assert places(PAGE, "results") == ["one", "two"]
    page = filled(PAGE, "results", str.upper)
    ends = ["\n\nONE\n\n", "\n\nTWO\n\n"]
    assert page == PAGE.replace("\nold\n", ends[0]).replace("two -->\n", f"two -->{ends[1]}")
    assert filled(page, "results", str.upper) == page


def test_a_place_without_an_end_swallows_no_other() -> None:
    page = PAGE.replace("old\n<!-- end -->", "old")
    assert places(page, "results") == ["two"]
    with pytest.raises(ValueError, match=r"2 places of the kind 'results' begin on the page, and 1 end"):
        filled(page, "results", str.upper)
