"""One worker at a time: its process, its folder and its messages."""

from __future__ import annotations

import selectors
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cosam_bench.core.arithmetic import rounding_settings
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.isolation.faults import WorkerFault, death
from cosam_bench.isolation.messages import BadMessage, Channel, ChannelClosed, Message
from cosam_bench.isolation.payloads import Tensors
from cosam_bench.isolation.server_handle import PATIENCE_SECONDS, ServerLost, import_path, running_server, server_lock
from cosam_bench.isolation.worker_folders import new_worker_folder, remove_worker_folder
from cosam_bench.method.places import Place

_FILE_BYTE = b"+"
STATE = "before.safetensors"
_HEAD_BYTES = 1 << 24  # of what a worker sends
_MOST_BYTES = 1 << 30


class _WatchedChannel(Channel):
    """A channel that also notices when the process at the other end has ended, whoever keeps its socket open."""

    def __init__(self, connection: socket.socket, worker: Worker) -> None:
        connection.setblocking(False)
        super().__init__(connection, head_bytes=_HEAD_BYTES)
        self._connection = connection
        self._worker = worker

    def _wait(self, *, is_sending: bool) -> None:
        event = selectors.EVENT_WRITE if is_sending else selectors.EVENT_READ
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, event)
            if self._worker.status is None:
                selector.register(self._worker.server.control, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(0 if self._worker.status is not None else None)]
                if self._connection in ready:
                    return
                if self._worker.status is not None:
                    raise ChannelClosed("the process has ended")
                self._worker.hear()
                if self._worker.status is not None:
                    selector.unregister(self._worker.server.control)


class Worker:
    """A worker process and its folder, for as long as the context is open.

    Attributes:
        act: the function of the method that runs now.
        place: where that function is.
        given_up: the rights that the process has given up.
        status: its wait status once it has ended.
        peak_bytes: its largest resident size, once it has ended.
    """

    def __init__(
        self, kind: str, values: Mapping[str, Any], tensors: Tensors | None = None, *, state: Path | None = None
    ) -> None:
        """A worker with one job, which starts with the context.

        Args:
            kind: the job's.
            values: of the job.
            tensors: of the job.
            state: a file that is copied into the worker's folder, as it must not see where it is.
        """
        self._job = (kind, dict(values), tensors)
        self._state = state
        self.act, self.place = "import", Place()
        self.given_up: tuple[str, ...] = ()
        self._is_confined = False
        self.status: int | None = None
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        server_lock.acquire()
        try:
            self._start()
        except BaseException:
            server_lock.release()
            raise
        return self

    def _start(self) -> None:
        self.server = running_server()
        kind, values, tensors = self._job
        self._folder = new_worker_folder()
        own, other = socket.socketpair()
        self._channel = _WatchedChannel(own, self)
        try:
            if self._state is not None:
                _copy(self._state, self._folder / STATE)
                values = {**values, "state": str(self._folder / STATE)}
            with other:
                self.server.send("fork", {"folder": str(self._folder)})
                socket.send_fds(self.server.control, [_FILE_BYTE], [other.fileno()])
            while (answer := self._control_message()).kind != "started":
                pass
            if answer.text("fault"):
                raise CosamError(f"The frozen model cannot be built in a process of its own: {answer.text('fault')}.")
            common = {"folder": str(self._folder), "path": import_path(), "arithmetic": rounding_settings()}
            hidden = [*values.get("hidden", []), str(self._folder.parent)]  # with the folders of other runs' workers
            self.send(kind, {"state": None, **values, "hidden": hidden, **common}, tensors)
        except BaseException:
            self._end()
            raise

    def _control_message(self) -> Message:
        try:
            return self.server.channel.receive()
        except (ChannelClosed, BadMessage):
            self.server.is_lost = True
            text = "was lost together with the process that had started it"
            raise WorkerFault("died", act=self.act, text=text, place=self.place) from None

    def hear(self) -> None:
        """Take a message of the server about this worker."""
        message = self._control_message()
        if message.kind == "ended":
            self.status = message.count("status", most=1 << 32)
            self.peak_bytes = message.count("peak_bytes", most=1 << 60)

    def send(self, kind: str, values: Mapping[str, Any] | None = None, tensors: Tensors | None = None) -> None:
        """Send the worker a message.

        Raises:
            WorkerFault: it has ended.
        """
        try:
            self._channel.send(kind, values, tensors)
        except ChannelClosed:
            raise self._dead() from None

    def receive(self, *, most_bytes: int = _MOST_BYTES) -> Message:
        """The next message that is not only about where the method is.

        Args:
            most_bytes: of its tensors.

        Raises:
            WorkerFault: the method failed, its process ended, or what it sent is no message.
        """
        while True:
            try:
                message = self._channel.receive(most_bytes=most_bytes)
            except ChannelClosed:
                raise self._dead() from None
            except BadMessage as error:
                raise self.bad(str(error)) from None
            if message.kind == "failed":
                raise WorkerFault.from_message(message)
            if message.kind == "act":
                self.act, line = message.text("act") or self.act, message.values.get("line")
                self.place = Place(message.text("file"), line if type(line) is int else 0)
            elif message.kind == "confined":
                given_up = message.values.get("given_up")
                if not self._is_confined and isinstance(given_up, list):
                    self.given_up = tuple(map(str, given_up))
                self._is_confined = True  # the first is from before the method's import; another is not the harness's
            else:
                return message

    def due(self, kind: str, *, most_bytes: int = _MOST_BYTES) -> Message:
        """The next message, which must be of this kind.

        Raises:
            WorkerFault: as for ``receive``, or it is another one.
        """
        message = self.receive(most_bytes=most_bytes)
        if message.kind != kind:
            raise self.bad(f"a message {message.text('kind') or message.kind[:40]!r} where {kind!r} was due")
        return message

    def receive_bytes(self, count: int) -> bytes:
        """Raw bytes.

        Raises:
            WorkerFault: the process ended.
        """
        try:
            return self._channel.receive_bytes(count)
        except ChannelClosed:
            raise self._dead() from None

    def finish(self) -> int:
        """Let the process end by itself, and return its largest resident size in bytes."""
        with suppress(WorkerFault):
            self.send("done")
        if self.status is None:
            self._kill(is_asked=False)
        return self.peak_bytes

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Turn what is wrong with a message of the worker into its fault."""
        try:
            yield
        except BadMessage as error:
            raise self.bad(str(error)) from None

    def bad(self, what: str) -> WorkerFault:
        """The fault of a worker that sent something else than it must."""
        rule = "only the harness may use the connection to its parent"
        text = f"broke its contract: its process sent {what} in {self.act}(); {rule}."
        return WorkerFault("contract", act=self.act, text=text, place=self.place)

    def _dead(self) -> WorkerFault:
        if self.status is None:
            self._kill(is_asked=False)
        how = "closed the connection to its parent" if self.status is None else death(self.status)
        return WorkerFault("died", act=self.act, text=how, place=self.place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End the process and all that it has started, and remove its folder."""
        try:
            self._end()
        finally:
            server_lock.release()

    def _end(self) -> None:
        self._channel.close()
        try:
            if self.status is None and not self.server.is_lost:
                with suppress(WorkerFault, ServerLost):
                    self._kill(is_asked=True)
        finally:
            remove_worker_folder(self._folder)

    def _kill(self, *, is_asked: bool) -> None:
        """Wait for the process to end; kill it at once if that is asked, else if it takes long."""
        if is_asked:
            self.server.send("kill")
        with selectors.DefaultSelector() as selector:
            selector.register(self.server.control, selectors.EVENT_READ)
            while self.status is None:
                if selector.select(PATIENCE_SECONDS if is_asked else 1.0):
                    self.hear()
                elif is_asked:
                    self.server.close()  # the system then kills the worker, too
                    return
                else:
                    is_asked = True
                    self.server.send("kill")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        why = error.strerror or error
        raise CannotWrite(f"{target} cannot be written: {why}. Free space in {target.parents[2]}.") from error
