"""The server process as its parent sees it: started, asked, and ended."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.isolation.messages import Channel, ChannelClosed

_SERVER = "import sys; from cosam_bench.isolation.server import main; main()"
PATIENCE_SECONDS = 10.0  # for a killed process to end


class ServerLost(CosamError):
    """The process that forks workers has ended."""


class Server:
    """The process that forks workers, started when it is first needed and shared by all runs of this process."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes] | None, pid: int) -> None:
        self.owner = os.getpid()
        self.control = control
        self.channel = Channel(control)
        self._process = process
        self._pid = pid
        self._model: dict[str, Any] | None = None
        self._has_forked = False
        self.is_lost = False

    @classmethod
    def spawned(cls) -> Server:
        """A new interpreter, which holds nothing of this process."""
        own, other = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}
        with other:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        return cls(own, process, process.pid)

    @classmethod
    def forked(cls) -> Server:
        """A copy of this process, which is as fast as it is complete: see ``prepare``."""
        from cosam_bench.isolation.server import serve

        own, other = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            try:
                own.close()
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                serve(other)
            finally:
                os._exit(1)
        other.close()
        return cls(own, None, pid)

    def use_model(self, facts: Mapping[str, Any]) -> None:
        """Have the frozen model built, unless it is there already; this does not wait."""
        if self._model != dict(facts):
            self._model = dict(facts)
            self.send("model", self._model)

    def send(self, kind: str, values: Mapping[str, Any] | None = None) -> None:
        """Send the server a message."""
        self._has_forked |= kind == "fork"
        try:
            self.channel.send(kind, values)
        except ChannelClosed:
            raise self.lost() from None

    def lost(self) -> ServerLost:
        """The error if the server has ended; the next worker gets a new one."""
        self.is_lost = True
        return ServerLost("The process that starts isolated methods has ended. Run again; what was measured is kept.")

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        if not self.is_lost and self._process is not None:
            self.is_lost = self._process.poll() is not None
        elif not self.is_lost:
            with suppress(ChildProcessError):
                self.is_lost = os.waitpid(self._pid, os.WNOHANG)[0] == self._pid
        return self.is_lost

    def close(self) -> None:
        """End the server and its worker."""
        self.is_lost = True
        self.control.close()
        with suppress(ProcessLookupError, ChildProcessError, subprocess.TimeoutExpired):
            if self._process is not None:
                if not self._has_forked:
                    self._process.kill()  # it may not even have started, and has no worker
                self._process.wait(PATIENCE_SECONDS)
            else:
                os.waitpid(self._pid, 0)


def import_path() -> list[str]:
    """Where this process imports from, as absolute paths."""
    return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 (an entry may be empty: the working directory)


server_lock = threading.RLock()
"""Held by whoever uses the server: by one worker at a time."""

_server: Server | None = None
_model: dict[str, Any] | None = None


def prepare(*, fork: bool) -> None:
    """Start the server now, beside other work, if there is none.

    Args:
        fork: whether this process holds no data and no method's code, so that it may be copied instead of starting
            a new interpreter. It is copied only if it has one thread, since locks of others would never open.
    """
    global _server
    with server_lock:
        if _server is not None and (_server.owner != os.getpid() or _server.has_ended):
            _server = None
        if _server is None:
            _server = Server.forked() if fork and _is_alone() else Server.spawned()
            atexit.register(_server.close)
            if _model is not None:
                _server.use_model(_model)


def running_server() -> Server:
    """The server, started if there is none."""
    prepare(fork=False)
    assert _server is not None
    return _server


def _is_alone() -> bool:
    tasks = Path("/proc/self/task")
    has_one_thread = tasks.is_dir() and len(list(tasks.iterdir())) == 1
    return has_one_thread and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch ships it without types


def shut_down() -> None:
    """End the server, if there is one."""
    global _server
    with server_lock:
        if _server is not None and _server.owner == os.getpid():
            atexit.unregister(_server.close)
            _server.close()
        _server = None


def use_model(facts: Mapping[str, Any]) -> None:
    """Have the frozen model of the coming workers built, beside other work."""
    global _model
    with server_lock:
        _model = dict(facts)
        running_server().use_model(_model)
