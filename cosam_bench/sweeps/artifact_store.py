"""What tasks make, at an address that all workers reach, such as ``s3://bucket/prefix``; any that fsspec knows.

    tasks/NAME        the tasks' small files, see ``task_store``
    blobs/AB/SHA256   the bytes of a file that a task made, under their hash

Blobs come first and the text that lists them last, so what a killed upload leaves counts for nothing. Where the file
system has a move, a file is written under a temporary name and moved; elsewhere it is one request, which object stores
do whole or not at all. What is downloaded is compared with its hash.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import replacing
from cosam_bench.core.hashing import sha256_file, sha256_text
from cosam_bench.sam.models import cache_folder

REQUESTS = 16
"""At once, of one process: each waits for the network, not for a core."""


class NotThere(CosamError):
    """A text is missing, too large or not UTF-8."""


_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


def is_address(text: str) -> bool:
    """Whether a text is an address, and not a path.

    >>> is_address("s3://bucket/study"), is_address("results")
    (True, False)
    """
    return "://" in text


def worker_folder(address: str) -> Path:
    """This machine's folder of results of the tasks that it does for a store: a cache, which may be deleted."""
    return cache_folder().absolute() / "stores" / sha256_text(address)[:16]


@dataclass(frozen=True)
class ArtifactStore:
    """A place for texts and files; made by ``open_store``.

    Attributes:
        address: as the user gave it.
        root: the same as its file system writes it.
        system: of fsspec.
        moves: whether the file system has a move, and folders.
    """

    address: str
    root: str = field(repr=False)
    system: Any = field(repr=False)
    moves: bool = field(repr=False)

    def names(self) -> set[str]:
        """The names of all tasks' files: one request per thousand.

        Raises:
            CosamError: the store does not answer.
        """
        self.system.invalidate_cache()
        with self._told("listed"):
            try:
                paths = self.system.ls(f"{self.root}/tasks", detail=False)
            except FileNotFoundError:
                return set()
        names = (path.rpartition("/")[2] for path in paths)
        return {name for name in names if name and not name.startswith(".")}

    def read(self, name: str, *, limit_bytes: int) -> str:
        """The text of a name.

        Raises:
            NotThere: it is missing, too large or not UTF-8.
            CosamError: the store does not answer.
        """
        return self._text(f"tasks/{name}", limit_bytes)

    def read_all(self, names: Iterable[str], *, limit_bytes: int) -> dict[str, str]:
        """The texts of names; what is missing, too large or not UTF-8 is left out.

        Raises:
            CosamError: the store does not answer.
        """

        def read(name: str) -> tuple[str, str | None]:
            with suppress(NotThere):
                return name, self.read(name, limit_bytes=limit_bytes)
            return name, None

        return {name: text for name, text in _at_once(read, names) if text is not None}

    def write_all(self, texts: Mapping[str, str]) -> None:
        """Write texts.

        Raises:
            CosamError: the store does not take them.
        """
        _at_once(lambda item: self._put(f"tasks/{item[0]}", item[1].encode()), texts.items())

    def remove(self, names: Iterable[str]) -> None:
        """Remove texts.

        Raises:
            CosamError: the store does not let them be removed.
        """

        def remove(name: str) -> None:
            with self._told("written"), suppress(FileNotFoundError):
                self.system.rm_file(f"{self.root}/tasks/{name}")

        _at_once(remove, names)

    def where(self, name: str) -> str:
        """The address of a text."""
        return f"{self.address.rstrip('/')}/tasks/{name}"

    def push(self, folder: Path, names: Iterable[str]) -> dict[str, str]:
        """Store files of a folder, and return their hashes by name.

        Args:
            folder: that the names start from.
            names: with ``/`` between their parts.

        Raises:
            CosamError: a file cannot be read, or the store does not take it.
        """

        def push(name: str) -> tuple[str, str]:
            digest = sha256_file(folder / name)
            self._put(_blob(digest), folder / name)
            return name, digest

        return dict(_at_once(push, names))

    def pull(self, folder: Path, files: Iterable[tuple[str, str]]) -> set[str]:
        """Bring files into a folder, except those that are there with the same bytes.

        Args:
            folder: that the names start from.
            files: names and their hashes.

        Returns:
            The names of those that the store does not have, or not with these bytes; none of them is written.

        Raises:
            CosamError: the store does not answer, or the folder cannot be written.
        """

        def pull(file: tuple[str, str]) -> str | None:
            name, digest = file
            path = folder / name
            is_there = path.is_file() and sha256_file(path) == digest
            return None if is_there or self._is_fetched(digest, path) else name

        return {name for name in _at_once(pull, files) if name is not None}

    def read_file(self, digest: str, *, limit_bytes: int) -> str:
        """The text of a stored file by its hash.

        Raises:
            NotThere: it is missing or damaged.
            CosamError: the store does not answer.
        """
        text = self._text(_blob(digest), limit_bytes)
        if sha256_text(text) != digest:
            raise NotThere(f"A file in {self.address} was damaged. Give the sweep's command again.")
        return text

    def _text(self, key: str, limit_bytes: int) -> str:
        with self._told("read"):
            try:
                data: bytes = self.system.cat_file(f"{self.root}/{key}")
                if len(data) > limit_bytes:
                    raise ValueError(f"it has more than {limit_bytes:,} bytes")
                return data.decode()
            except (FileNotFoundError, ValueError) as error:
                reason = "it is not there" if isinstance(error, FileNotFoundError) else error
                place = f"{self.address.rstrip('/')}/{key}"
                raise NotThere(f"{place} cannot be read: {reason}. Give the sweep's command again.") from None

    def _is_fetched(self, digest: str, path: Path) -> bool:
        """Whether the bytes of a hash were written to a path."""
        try:
            with replacing(path) as temporary:
                with self._told("read"), _absent_is_damaged():
                    self.system.get_file(f"{self.root}/{_blob(digest)}", str(temporary))
                if sha256_file(temporary) != digest:
                    raise _Damaged
        except _Damaged:
            return False
        return True

    def _put(self, key: str, content: bytes | Path) -> None:
        """Store bytes, or those of a file, so that they appear whole or not at all."""
        target = f"{self.root}/{key}"
        with self._told("written"):
            if not self.moves:
                self._send(content, target)
                return
            folder, _, name = target.rpartition("/")
            self.system.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{name}.{secrets.token_hex(4)}"
            try:
                self._send(content, temporary)
                self.system.mv(temporary, target)
            except BaseException:
                with suppress(Exception):
                    self.system.rm_file(temporary)
                raise

    def _send(self, content: bytes | Path, target: str) -> None:
        if isinstance(content, bytes):
            self.system.pipe_file(target, content)
        else:
            self.system.put_file(str(content), target)

    @contextmanager
    def _told(self, act: str) -> Iterator[None]:
        with told(self.address, act):
            yield


class _Damaged(Exception):
    """A blob is missing, or has other bytes than its name says."""


@contextmanager
def _absent_is_damaged() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _Damaged from None


@contextmanager
def told(address: str, act: str) -> Iterator[None]:
    """What a file system raises, as one sentence.

    Raises:
        CosamError: anything was raised that is not one, or what this module raises itself.
    """
    try:
        yield
    except (CosamError, _Damaged):
        raise
    except Exception as error:  # each file system has its own
        raise CosamError(f"The store {address} cannot be {act}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return f"{first}. Create the bucket or folder, or correct the address."
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return f"{first}. Check this machine's credentials and their rights."
    if isinstance(error, NotImplementedError):
        return "files of this kind of address cannot be written. Choose another address."
    return f"{first}. Check the address and the network."


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _at_once(act: Callable[[_Given], _Found], given: Iterable[_Given]) -> list[_Found]:
    """What comes of each, in their order; several at the same time."""
    given = list(given)
    if len(given) < 2:
        return [act(one) for one in given]
    with ThreadPoolExecutor(min(REQUESTS, len(given))) as pool:
        return list(pool.map(act, given))


@cache
def open_store(address: str) -> ArtifactStore:
    """The store at an address, of which the bucket must exist; asked once per process.

    Raises:
        CosamError: it is not an address, its scheme is unknown, a package is missing, or there is no such bucket.
    """
    scheme, separator, rest = address.partition("://")
    is_relative = scheme in ("file", "local") and not rest.startswith("/")  # to a folder of each worker's own
    if not separator or "::" in address or not rest.strip("/") or is_relative:
        raise CosamError(f"--store {address!r} is not an address. Write it as s3://bucket/prefix or file:///folder.")
    try:
        import fsspec
    except ImportError:
        raise CosamError('--store needs fsspec. Install it: pip install "cosam-bench[s3]".') from None
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        extra = ' Install it: pip install "cosam-bench[s3]".' if scheme in ("s3", "s3a") else f" {error}."
        raise CosamError(f"--store {address} needs a package that is not installed.{extra}") from None
    except ValueError:
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise CosamError(f"--store {address}: no file system is called {scheme!r}. Known: {known}.") from None
    except Exception as error:  # each file system has its own
        raise CosamError(f"The store {address} cannot be opened: {_reason(error)}") from None
    moves = type(system).mv is not fsspec.AbstractFileSystem.mv  # that one copies and removes
    store = ArtifactStore(address, root.rstrip("/"), system, moves)
    bucket = store.root.partition("/")[0]
    with told(address, "opened"):
        if ":" in bucket:  # of http, which is for reading
            raise NotImplementedError
        if bucket and not moves:
            _check_bucket(store, bucket)
    return store


def _check_bucket(store: ArtifactStore, bucket: str) -> None:
    try:
        store.system.info(bucket)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no bucket {bucket!r}") from None
    except PermissionError:  # some may use a part of a bucket only
        store.names()
