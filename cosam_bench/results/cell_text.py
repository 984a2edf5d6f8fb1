"""Cells of tables: numbers as people read them, and texts that a spreadsheet does not run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

MISSING = "-"
_CODE = "code "


def number(value: float) -> str:
    """A score as shown: three decimals.

    >>> number(0.12345), number(-0.0001), number(math.nan)
    ('0.123', '0.000', '-')
    """
    return MISSING if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"  # no minus sign before zero


def amount(value: float) -> str:
    """A quantity as shown: about as many digits as a reader compares.

    >>> amount(1234.5), amount(12.34), amount(0.125)
    ('1,234', '12.3', '0.12')
    """
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def not_a_formula(cell: object) -> object:
    """The cell of a CSV file; a text that a spreadsheet would run as a formula gets an apostrophe before it.

    >>> not_a_formula("=1+1"), not_a_formula("regcl"), not_a_formula(-1.0)
    ("'=1+1", 'regcl', -1.0)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def told_settings(settings: Mapping[str, object], others: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """The settings of a row, as ``key=value``, that tell it from other rows of its method.

    >>> told_settings({"ridge": 0.1, "scale": 1.0}, [{"ridge": 0.2, "scale": 1.0}])
    ('ridge=0.1',)
    """
    others = list(others)
    return tuple(
        f"{name}={json.dumps(value)}"
        for name, value in settings.items()
        if any(other.get(name) != value for other in others)
    )


def code_mark(key: tuple[object, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """What tells a row from others that differ in the method's code alone; empty if there are none.

    Args:
        key: of the row, the hash of the code last.
        rows: the keys of all rows.

    >>> code_mark(("mine", "82eae6f5"), [("mine", "82eae6f5"), ("mine", "428dc7b1")])
    'code 82eae6'
    """
    codes = {other[-1] for other in rows if other[:-1] == key[:-1]}
    return f"{_CODE}{short_code(str(key[-1]))}" if len(codes) > 1 else ""


def is_code_mark(mark: str) -> bool:
    """Whether a mark only tells a row from others of its method, and says nothing against comparing it.

    >>> is_code_mark("code 82eae6"), is_code_mark("upper bound")
    (True, False)
    """
    return mark.startswith(_CODE)


def short_code(code: str) -> str:
    """The hash of a method's code as shown.

    >>> short_code("82eae6f5"), short_code("")
    ('82eae6', 'not recorded')
    """
    return code[:6] or "not recorded"
