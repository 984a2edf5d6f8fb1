from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.web import Site, serving

from cosam_bench.core import resuming_downloader as resuming
from cosam_bench.core.downloads import download
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite

CONTENT = bytes(itertools.islice(itertools.cycle(range(251)), 1_000_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited between attempts, which take none here."""
    waited: list[float] = []
    monkeypatch.setattr(resuming.time, "sleep", waited.append)
    return waited


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_once_and_lies_alone(site: Site, tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT)
    to = tmp_path / "deep" / "a.zip"
    assert download(f"{site.url}/a.zip", to=to) == SHA256
    assert download(f"{site.url}/a.zip", to=to, sha256=SHA256) == SHA256
    assert to.read_bytes() == CONTENT
    assert left(to.parent) == ["a.zip"]
    assert page.asked == [None]


@pytest.mark.parametrize("how", [{}, {"etag": "", "last_modified": "Sat, 01 Jan 2022 00:00:00 GMT"}])
def test_cut_connections_are_gone_on_with(site: Site, waits: list[float], tmp_path: Path, how: dict[str, str]) -> None:
    page = site.add("a.zip", CONTENT, cuts=[300_000, 50_000], **how)
    said: list[str] = []
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip", say=said.append) == SHA256
    assert page.asked == [None, "bytes=300000-", "bytes=350000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert waits == [1.0, 1.0]
    assert said == [f"a.zip: the connection was cut after 0.3 MiB; trying again in {wait:.0f} s." for wait in waits]


def test_a_server_without_ranges_is_asked_for_everything_again(site: Site, waits: list[float], tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT, cuts=[300_000], has_ranges=False)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256
    assert page.asked == [None, "bytes=300000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(site: Site, waits: list[float], tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT, cuts=[300_000, *[0] * 5])
    to = tmp_path / "a.zip"
    with pytest.raises(CosamError, match=r"cut after 0\.3 .*0\.3 MiB are kept in .*a\.zip\.part; run the same command"):
        download(f"{site.url}/a.zip", to=to, sha256=SHA256)
    assert waits == [1.0, 1.0, 3.0, 10.0, 30.0]
    assert left(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    page.cuts.clear()
    assert download(f"{site.url}/a.zip", to=to, sha256=SHA256) == SHA256
    assert page.asked[-1] == "bytes=300000-"
    assert left(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("has_validator", [True, False])
def test_a_file_that_changed_meanwhile_is_never_mixed(
    site: Site, waits: list[float], tmp_path: Path, has_validator: bool
) -> None:
    other = CONTENT[::-1]
    how = {} if has_validator else {"etag": ""}
    site.add("a.zip", CONTENT, cuts=[300_000, *[0] * 5], **how)
    with pytest.raises(CosamError):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    page = site.add("a.zip", other, **how)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == hashlib.sha256(other).hexdigest()
    assert (tmp_path / "a.zip").read_bytes() == other
    assert page.asked == (["bytes=300000-"] if has_validator else [None])


def test_without_any_validator_the_published_hash_allows_going_on(
    site: Site, waits: list[float], tmp_path: Path
) -> None:
    page = site.add("a.zip", CONTENT, cuts=[300_000], etag='W/"weak"')
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256) == SHA256
    assert page.asked == [None, "bytes=300000-"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-999999/1000000"},
        {"Content-Range": "bytes 300000-999999/1000001"},
        {"Content-Range": "nonsense"},
        {"ETag": '"another"'},
    ],
)
def test_an_answer_that_does_not_continue_the_part_is_not_appended(
    site: Site, waits: list[float], tmp_path: Path, headers: dict[str, str]
) -> None:
    page = site.add("a.zip", CONTENT, cuts=[300_000, *[0] * 5])
    with pytest.raises(CosamError):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256)
    page.cuts.clear()
    page.asked.clear()
    page.headers = headers
    if "ETag" in headers:
        page.etag = None  # If-Range holds, but the answer names another version
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256) == SHA256
    assert page.asked == ["bytes=300000-", None]


def test_a_part_that_is_whole_already_is_taken(site: Site, tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    origin = {"url": f"{site.url}/a.zip", "etag": page.tag, "size_bytes": len(CONTENT)}
    (tmp_path / "a.zip.part.json").write_text(json.dumps(origin))
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256) == SHA256
    assert page.asked == ["bytes=1000000-"]


def test_a_part_that_is_longer_than_the_file_starts_anew(site: Site, tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": f"{site.url}/a.zip", "etag": page.tag}))
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256
    assert page.asked == ["bytes=1000004-", None]


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1}', '{"url": "http://elsewhere/a.zip", "etag": "x"}', '{"x": 1}'])
def test_a_part_of_unknown_origin_is_not_gone_on_with(site: Site, tmp_path: Path, note: str) -> None:
    page = site.add("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.zip.part.json").write_text(note)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256
    assert page.asked == [None]


def test_a_wrong_file_never_gets_the_name(site: Site, tmp_path: Path) -> None:
    site.add("a.zip", b"something else")
    with pytest.raises(CosamError, match=rf"a\.zip does not serve.* not {SHA256}\. Nothing was kept.*By hand\.$"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256, by_hand="By hand.")
    assert left(tmp_path) == []


def test_a_wrong_file_that_lies_there_is_replaced_and_said(site: Site, tmp_path: Path) -> None:
    site.add("a.zip", CONTENT)
    (tmp_path / "a.zip").write_bytes(b"old")
    said: list[str] = []
    download(f"{site.url}/a.zip", to=tmp_path / "a.zip", sha256=SHA256, say=said.append)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(said) == 1
    assert f"not {SHA256}); fetching it again" in said[0]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "not there; it may have moved"), (403, "the server refuses it"), (401, "login"), (302, "unexpected answer")],
)
def test_a_refusal_is_final_and_named(site: Site, waits: list[float], tmp_path: Path, status: int, reason: str) -> None:
    page = site.add("a.zip", CONTENT, statuses=[status])
    with pytest.raises(CosamError, match=rf"a\.zip could not be fetched: .*{reason}.*\({status} .*\)\. By hand\."):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip", by_hand="By hand.")
    assert (page.asked, waits, left(tmp_path)) == ([None], [], [])


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(site: Site, waits: list[float], tmp_path: Path, status: int) -> None:
    site.add("a.zip", CONTENT, statuses=[status, status], headers={"Retry-After": "7"})
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256
    assert waits == [7.0, 7.0]


def test_a_server_that_stays_broken_is_given_up_on(site: Site, waits: list[float], tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT, statuses=[500] * 9)
    with pytest.raises(CosamError, match="500"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    assert len(page.asked) == 3
    assert left(tmp_path) == []


def test_a_server_that_says_nothing_is_cut_off(
    site: Site, waits: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resuming, "SILENCE_SECONDS", 0.05)
    site.add("a.zip", CONTENT, wait_seconds=0.3)
    monkeypatch.setattr(resuming, "FIRST_TRIES", 1)
    with pytest.raises(CosamError, match="Read timed out"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.zip", "ftp://127.0.0.1/a.zip", "a.zip"])
def test_an_address_that_leads_nowhere_is_named(waits: list[float], tmp_path: Path, url: str) -> None:
    with pytest.raises(CosamError, match=f"^{url} could not be fetched"):
        download(url, to=tmp_path / "a.zip")
    assert left(tmp_path) == []


def test_a_web_page_is_not_taken_for_an_archive(site: Site, tmp_path: Path) -> None:
    site.add("a.zip", b"<html>Sign in", headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(CosamError, match="sends a web page in place of the file"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    assert left(tmp_path) == []


def test_bytes_are_kept_as_they_lie_on_the_server(site: Site, tmp_path: Path) -> None:
    # A server that calls a .tar.gz an encoding of a .tar would have it unpacked on the way.
    site.add("a.tar.gz", CONTENT, headers={"Content-Encoding": "gzip"})
    assert download(f"{site.url}/a.tar.gz", to=tmp_path / "a.tar.gz") == SHA256


def test_a_body_without_length_is_taken_to_its_end(site: Site, tmp_path: Path) -> None:
    site.add("a.zip", CONTENT, has_length=False)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256


def test_a_disk_that_fills_up_keeps_the_part(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site.add("a.zip", CONTENT)
    real = resuming.write_whole

    def full(file: object, block: bytes) -> None:
        if file.tell() >= 500_000:  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, block)  # type: ignore[arg-type]

    monkeypatch.setattr(resuming, "write_whole", full)
    with pytest.raises(CannotWrite, match=r"part cannot be written: No space left on device\. 0\.[57] MiB are kept in"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    monkeypatch.setattr(resuming, "write_whole", real)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256


def test_an_unbuffered_file_takes_a_block_in_pieces() -> None:
    taken: list[bytes] = []
    file = SimpleNamespace(write=lambda block: taken.append(bytes(block[:2])) or len(taken[-1]))
    resuming.write_whole(file, b"12345")  # type: ignore[arg-type]
    assert b"".join(taken) == b"12345"


def test_a_disk_without_room_is_told_before_anything_is_written(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site.add("a.zip", CONTENT)
    monkeypatch.setattr(resuming.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(CannotWrite, match=r"needs 1 MiB more, but .* has 1 MiB free"):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    assert left(tmp_path) == []


def test_ctrl_c_keeps_the_part_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = site.add("a.zip", CONTENT)
    real = resuming.write_whole

    def pressed(file: object, block: bytes) -> None:
        real(file, block)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(resuming, "write_whole", pressed)
    with pytest.raises(
        KeyboardInterrupt, match=r"^0\.2 MiB are kept in .*a\.zip\.part; run the same command to continue"
    ):
        download(f"{site.url}/a.zip", to=tmp_path / "a.zip")
    monkeypatch.setattr(resuming, "write_whole", real)
    assert download(f"{site.url}/a.zip", to=tmp_path / "a.zip") == SHA256
    assert page.asked == [None, "bytes=262144-"]


def test_two_processes_do_not_write_one_part(site: Site, tmp_path: Path) -> None:
    site.add("a.zip", CONTENT)
    with (tmp_path / "a.zip.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CosamError, match=r"Another process is fetching a\.zip"):
            download(f"{site.url}/a.zip", to=tmp_path / "a.zip")


def test_a_folder_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CannotWrite, match="taken cannot be made"):
        download(f"{site.url}/a.zip", to=tmp_path / "taken" / "a.zip")
