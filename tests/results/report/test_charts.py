"""Charts of the report: every name as it is, and room for the curves however long the names are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from cosam_bench.results.report import charts
from cosam_bench.results.report.charts import Curve, Point, curves_svg, pareto_svg

STEPS = ("pill", "a$b$")
ODD = (
    'mine style="bold" id="x"',
    'mine style="fill: red" href="#a" url(#b)',
    "$a$ and $b$",
    r"\$5",
    "one $",
    "_private",
    charts._INK,
    "a > b & <c>",
)


def curves_of(names: tuple[str, ...]) -> str:
    curves = [Curve(name, (0.2, 0.1 * place)) for place, name in enumerate(names)]
    return curves_svg(curves, steps=STEPS, y_title="IoU", title="t")


def pareto_of(names: tuple[str, ...]) -> str:
    points = [Point(name, 10.0**place, place / 10) for place, name in enumerate(names)]
    return pareto_svg(points, x_title="seconds", y_title="Last", title="t")


def texts_of(svg: str) -> set[str]:
    return {
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    }


@pytest.mark.parametrize("draw", [curves_of, pareto_of])
@pytest.mark.parametrize("name", ODD)
def test_a_name_is_shown_as_it_is(draw: Callable[[tuple[str, ...]], str], name: str) -> None:
    svg = draw(("regcl", name))
    assert {"regcl", name} <= texts_of(svg)
    assert not [tag for tag in ElementTree.fromstring(svg).iter() if "style" in tag.attrib]
    if draw is curves_of:
        assert set(STEPS) <= texts_of(svg)


def test_ids_have_the_pictures_prefix_and_links_lead_to_them() -> None:
    elements = list(ElementTree.fromstring(curves_of(("regcl", "opcm"))).iter())
    ids = {element.attrib["id"] for element in elements if "id" in element.attrib}
    links = {value[1:] for element in elements for key, value in element.attrib.items() if key.endswith("href")}
    assert len({name.split("-")[0] for name in ids}) == 1
    assert links <= ids


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is made."""
    figures, make = [], charts._figure

    def kept(**options: Any) -> tuple[Any, Any]:
        figure, axes = make(**options)
        figures.append(figure)
        return figure, axes

    monkeypatch.setattr(charts, "_figure", kept)
    return figures


@pytest.mark.parametrize("letters", [5, 30, 80, 400])
@pytest.mark.parametrize("count", [1, 5, 14])
def test_long_names_leave_the_curves_their_room(drawn: list[Any], letters: int, count: int) -> None:
    curves_of(tuple(f"{place:02}" + "n" * (letters - 4) + f"{place:02}" for place in range(count)))
    (figure,) = drawn
    (legend,) = figure.legends
    axes, named = figure.axes[0].get_window_extent(), legend.get_window_extent()
    assert axes.height > 1.8 * figure.dpi
    assert axes.width > 5 * figure.dpi
    assert named.y0 >= axes.y1
    assert 0 <= named.x0 < named.x1 <= figure.bbox.x1
    assert named.y1 <= figure.bbox.y1
    names = [text.get_text() for text in legend.get_texts()]
    assert len(set(names)) == count  # what tells them apart, at the end, is kept
    assert all(len(name) == letters for name in names) == (letters < 400)


def test_without_a_curve_there_is_a_picture(drawn: list[Any]) -> None:
    """A board of training on all domains at once alone."""
    assert texts_of(curves_svg([], steps=STEPS, y_title="IoU", title="t")) >= {"IoU", *STEPS}
    assert math.isclose(drawn[0].get_size_inches()[0], 7.2)


@pytest.mark.parametrize("letters", [24, 60, 250])
def test_long_names_of_domains_leave_the_curves_their_room(drawn: list[Any], letters: int) -> None:
    steps = tuple(f"{place:02}" + "d" * (letters - 4) + f"{place:02}" for place in range(8))
    svg = curves_svg([Curve("regcl", (0.5,) * 8)], steps=steps, y_title="IoU", title="t")
    (figure,) = drawn
    assert figure.axes[0].get_position().height * figure.get_figheight() > 1.2
    shown = [text for text in texts_of(svg) if "dd" in text]
    assert len(shown) == 8
    assert (set(shown) == set(steps)) is (letters == 24)
    assert {(text[:2], text[-2:]) for text in shown} == {(step[:2], step[-2:]) for step in steps}


def test_names_of_domains_that_only_their_middle_tells_apart_are_numbered() -> None:
    steps = tuple("begin" + "-" * 20 + middle + "-" * 20 + "end" for middle in ("a", "b"))
    svg = curves_svg([Curve("regcl", (0.5,) * 2)], steps=steps, y_title="IoU", title="t")
    assert {text.partition("begin")[0] for text in texts_of(svg) if "begin" in text} == {"1. ", "2. "}
