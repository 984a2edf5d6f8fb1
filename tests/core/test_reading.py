"""Files that never end, are too large or hold what no machine has; and text that a terminal must not obey."""

from __future__ import annotations

import errno
import io
import os
import tomllib
from pathlib import Path

import pytest
from pydantic import Field
from rich.table import Table
from rich.text import Text

from cosam_bench.core.console import results_console
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.reading import read_file, read_text
from cosam_bench.core.safe_console import SafeConsole
from cosam_bench.core.settings import TOML_BYTES, TOML_DEPTH, BeyondLimits, Settings, parse_toml, read_toml, validate
from cosam_bench.core.terminal_text import terminal_text


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=f"it is {kind}, not an ordinary file"):
            read_file(path, limit_bytes=10)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        read_file(tmp_path / "loop", limit_bytes=10)


def test_a_file_is_read_up_to_its_limit_and_a_mark_at_its_beginning_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_file(path, limit_bytes=6) == b"\xef\xbb\xbfabc"
    assert read_text(path, limit_bytes=6) == "abc"
    with pytest.raises(OSError, match="more than 5 bytes"):
        read_file(path, limit_bytes=5)


def test_toml_with_a_byte_order_mark_is_read_and_a_huge_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert read_toml(path) == {"x": 1}
    with path.open("wb") as file:
        file.truncate(TOML_BYTES + 1)
    with pytest.raises(CosamError, match="more than 4,194,304 bytes"):
        read_toml(path)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 500 + "]" * 500,
        "x = " + "[" * 5000,
        "x = " + "{a=" * 200 + "1" + "}" * 200,
        ".".join("a" * 500) + " = 1",
        f"[{'.'.join('a' * 500)}]",
        "x = " + "1" * 4301,
        "x = 0x" + "f" * 17,
        "x = [[9223372036854775808]]",
        "x = -9223372036854775809",
    ],
)
def test_toml_beyond_all_limits_is_refused(text: str) -> None:
    with pytest.raises(BeyondLimits, match=r"nested more than 32 deep|more than 64 bits"):
        parse_toml(text)


def test_toml_within_the_limits_is_what_tomllib_reads() -> None:
    text = f"x = {'[' * (TOML_DEPTH - 2)}{']' * (TOML_DEPTH - 2)}\ny = -9223372036854775808\n[a.b]\nz = true"
    assert parse_toml(text) == tomllib.loads(text)
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml("x")


class _Numbers(Settings):
    count: int = 1
    share: float | None = None
    rates: dict[str, float] = Field(default_factory=dict)
    sides: tuple[int, ...] = ()
    flag: bool = False
    either: int | bool = 0


@pytest.mark.parametrize("data", [{"count": True}, {"share": False}, {"rates": {"a": True}}, {"sides": [1, True]}])
def test_true_is_no_number(data: dict[str, object]) -> None:
    with pytest.raises(CosamError, match="true and false are not numbers"):
        validate(_Numbers, data, source="x")


def test_true_is_a_truth_value() -> None:
    found = validate(_Numbers, {"flag": True, "either": True, "count": 3, "rates": {"a": 1}}, source="x")
    assert (found.flag, found.either, found.count, found.rates) == (True, True, 3, {"a": 1.0})


HOSTILE = "a\x1b]52;c;aGk=\x07b\x9b2Jc\u202ed\udcff\x00\x7fe"


def test_no_control_character_reaches_a_terminal() -> None:
    shown = terminal_text(HOSTILE)
    assert all(char.isprintable() or char == "\ufffd" for char in shown)
    assert shown.replace("\ufffd", "") == "a]52;c;aGk=b2Jcde"
    assert terminal_text("a\r\nb\tc\n") == "a\nb\tc\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "gbk", "utf-8", "no-such-encoding"])
def test_a_text_is_written_in_any_encoding_at_its_length(encoding: str) -> None:
    text = "│ ±0.1 † ‡ § ↑ … 日本 ü"
    shown = terminal_text(text, encoding)
    assert len(shown) == len(text)
    shown.encode("ascii" if encoding.startswith("no-") else encoding)


def test_a_console_shows_titles_and_cells_without_escapes_and_keeps_its_own_colours() -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=True, color_system="truecolor", width=60)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold red"))
    console.print(table)
    console.print(HOSTILE)
    text = stream.getvalue()
    assert "\x1b[1;31m" in text
    for escape in ("\x1b]", "\x07", "\x9b", "\u202e", "\x00"):
        assert escape not in text
    assert isinstance(results_console(), SafeConsole)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libtorch.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'x'"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected
