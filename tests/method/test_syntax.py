"""What a file means: neither comments, docstrings, formatting, nor the order and the source of its imports."""

from __future__ import annotations

import pytest

from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.method.syntax import Import, read_syntax

SOURCE = '''"""A rule."""

import helper  # beside it
from torch import nn


class Rule(nn.Module):
    """Adds."""

    weight: float = 1e-3

    def forward(self, x, *, scale=None):
        """Return the sum."""
        if x is None:
            pass
        return x + self.weight * 2, f"{x!r:>{10}} and {scale}"


def nothing():
    """Do nothing."""
'''


def digest(text: str) -> str:
    return read_syntax(text.encode()).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A rule."""', '"""Another text."""'),
        ('"""A rule."""\n', ""),
        ("  # beside it", ""),
        ('        """Return the sum."""\n', "        # Return\n\n"),
        ('    """Do nothing."""', "    pass"),
        ('"""Do nothing."""', "..."),
        ("1e-3", "0.001"),
        ("(self, x, *, scale=None)", "(\n        self,\n        x,\n        *,\n        scale=None,\n    )"),
        ("return x + self.weight * 2,", "return (x + (self.weight * 2)),"),
        ('f"{x!r:>{10}} and {scale}"', 'f"{x!r:>{10}}" " and " f"{scale}"'),
        ("import helper  # beside it\nfrom torch import nn", "from torch import nn\nimport helper"),
    ],
)
def test_text_that_means_the_same_has_the_same_digest(old: str, new: str) -> None:
    assert digest(SOURCE.replace(old, new)) == digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1e-3", "1e-2"),
        ("= 1e-3", "= True"),
        ("x + ", "x - "),
        ("scale=None", "scale=0"),
        ("*, scale", "scale"),
        ("{x!r:>{10}}", "{x!s:>{10}}"),
        ("is None", "is not None"),
        ("import helper", "import helper as other"),
        ("class Rule", "class Other"),
        ("            pass", "            return None"),
    ],
)
def test_text_that_means_something_else_has_another_digest(old: str, new: str) -> None:
    assert old in SOURCE
    assert digest(SOURCE.replace(old, new)) != digest(SOURCE)


def test_a_value_counts_with_its_type() -> None:
    assert len({digest(f"x = {value}") for value in ("1", "1.0", "True", "'1'", "b'1'", "None", "...")}) == 7


def test_what_python_cannot_read_means_its_bytes() -> None:
    for content in (b"\x7fELF\x00\x01", b"def f(:", b"x = '\xff'", b"(" * 5000):
        assert read_syntax(content).digest == sha256_bytes(content)


def test_files_without_code_are_empty() -> None:
    assert read_syntax(b"").is_empty
    assert read_syntax(b'# a comment\n"""A docstring."""\n').is_empty
    assert not read_syntax(b"import os\n").is_empty


def test_a_doubtful_escape_is_no_error() -> None:
    assert digest(r"x = '\d'") == digest(r"x = '\\d'")


def test_imports_are_found_wherever_they_are() -> None:
    text = """
import a.b
try:
    from ..c import d as e
except ImportError:
    e = None
def f():
    from importlib import import_module
    return import_module("g.h").value, a.b.value
"""
    syntax = read_syntax(text.encode())
    assert {one for run in syntax.imports for one in run} == {
        Import("a", "", "a.b"),
        Import("e", "d", "..c"),
        Import("import_module", "import_module", "importlib"),
    }
    assert syntax.loaded == {"g.h"}
    assert ("a", "b", "value") in syntax.chains


def test_the_digest_is_the_same_on_every_python() -> None:
    """Computed once, on Python 3.11; a later version's new fields must not change it."""
    assert digest(SOURCE) == "2acf0e1add8f242e172db6a7efbafbe1e5fea25abf2440dc99e4769ba62d7d07"
