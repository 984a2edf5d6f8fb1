"""The documentation as a site: every page in the navigation, links and anchors lead somewhere, references are whole.

``zensical build --strict``, which ``.ci/run`` calls, finds links to missing pages and anchors, and objects that have no
docstring page. It does not look at links to other files, at images, or at pages outside the navigation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from support.shown_commands import ROOT, prose_of, text_of

import cosam_bench
from tools.write_reference import PAGES as WRITTEN

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
LINKED = [f"docs/{name}" for name in PAGES] + [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "examples/**/*.md", "results/README.md")
    for path in sorted(ROOT.glob(pattern))
]


def in_navigation(entry: Any) -> Iterator[str]:
    """The pages of an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from in_navigation(inner)


def links(document: str) -> list[tuple[str, str]]:
    """Path and anchor of every link that leads to this repository; the path is empty within the page."""
    prose = re.sub(r"`[^`\n]*`", "", prose_of(document))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [
        (unquote(path), anchor)
        for path, _, anchor in (target.partition("#") for target in targets if "://" not in target)
    ]


def anchors(document: str) -> set[str]:
    """The anchors that GitHub and the site give to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose_of(document), flags=re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        assert words not in found, f"{document}: two headings are called {heading!r}"
        found.add(words)
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.safe_load(text_of("mkdocs.yml"))["nav"]
    assert sorted(in_navigation(navigation)) == PAGES


def test_the_front_page_leads_to_every_page() -> None:
    assert {path for path, _ in links("docs/index.md")} == {*PAGES} - {"index.md"}


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_to_files_and_headings(document: str) -> None:
    for path, anchor in links(document):
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.exists(), f"{document}: {path}"
        if document.startswith("docs/"):
            assert target.is_relative_to(DOCS), f"{document}: {path} is not part of the site; name it as code"
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{document}: {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title_and_reads_the_same_on_github(page: str) -> None:
    prose = prose_of(f"docs/{page}")
    assert len(re.findall(r"^# ", prose, flags=re.MULTILINE)) == 1
    assert prose.startswith("# ")
    assert not re.search(r"^(!!!|\?\?\?|> \[!|\{%|===)", prose, flags=re.MULTILINE)  # one of both would not render it


@pytest.mark.parametrize("page", WRITTEN)
def test_a_written_page_is_up_to_date(page: str) -> None:
    assert text_of(f"docs/{page}") == WRITTEN[page](), "Run: python tools/write_reference.py"


def test_the_python_reference_has_every_public_name_once() -> None:
    found = re.findall(r"^::: cosam_bench\.(\w+)$", text_of("docs/python-reference.md"), flags=re.MULTILINE)
    assert sorted(found) == sorted({*cosam_bench.__all__} - {"__version__"})


def test_the_site_loads_nothing_from_a_network() -> None:
    settings = yaml.safe_load(text_of("mkdocs.yml"))
    assert settings["theme"]["font"] is False
    assert "://" not in text_of("mkdocs.yml")
    for path in DOCS.glob("*.md"):
        assert not re.search(r"!\[[^]]*\]\(\w+://|<(script|img|iframe|link)\b", path.read_text(encoding="utf-8"))


def test_the_build_is_ignored_by_git() -> None:
    assert "/site/" in Path(ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
