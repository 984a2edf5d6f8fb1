"""The process that forks workers: it holds the harness and a frozen model, and never data or a method's code.

It has one thread, as torch computes with one until the fork, so that a worker's own threads start afresh.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from cosam_bench.core.hashing import digest_tensors
from cosam_bench.core.seeds import torch_generator
from cosam_bench.isolation.messages import Channel, ChannelClosed, Message
from cosam_bench.isolation.payloads import adapter_from
from cosam_bench.isolation.sandbox import Allowance, adopt_orphans, end_with_parent, kill_descendants
from cosam_bench.isolation.worker import Model, leave, run_worker
from cosam_bench.isolation.worker_folders import remove_worker_folder
from cosam_bench.sam.adapters.targets import add_side_layers
from cosam_bench.sam.build import build_sam


def main() -> None:
    """Serve the parent at the other end of the socket that is open as the file in the first argument."""
    serve(socket.socket(fileno=int(sys.argv[1])))


def serve(control: socket.socket) -> None:
    """Fork workers until the parent closes its end; then end this process."""
    end_with_parent(signal.SIGTERM)
    adopt_orphans()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a copied process has its original's handlers
        signal.signal(number, _end)
    server = _Server(control)
    try:
        server.serve()
    finally:
        kill_descendants()
        server.clear()
        leave()


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._channel = Channel(control)
        self._model: Model | None = None
        self._fault = ""
        self._worker = 0
        self._folder = ""
        self._allowance = Allowance.now()
        self._ended, self._wake = socket.socketpair()
        for end in (self._ended, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        self._channel.send("serving", {"pid": os.getpid()})
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._ended in ready:
                    self._reap()
                if self._control in ready:
                    try:
                        self._obey(self._channel.receive())
                    except ChannelClosed:
                        return

    def clear(self) -> None:
        """Remove the last worker's folder, which the parent cannot do if it was killed."""
        if self._folder:
            remove_worker_folder(Path(self._folder))

    def _obey(self, message: Message) -> None:
        if message.kind == "model":
            self._build(message.values)
        elif message.kind == "fork":
            _, [file], _, _ = socket.recv_fds(self._control, 1, 1)
            self._folder = message.values["folder"]
            self._fork(socket.socket(fileno=file))
        elif message.kind == "kill" and self._worker:
            with suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)

    def _build(self, values: dict[str, Any]) -> None:
        """Build the frozen model; what cannot be built is told when a worker needs it."""
        self._model, self._fault = None, ""
        gc.collect()
        try:
            checkpoint = values["checkpoint"]
            sam = build_sam(
                values["name"],
                checkpoint=Path(checkpoint) if checkpoint not in (None, "random") else checkpoint,
                seed=0,
                global_attention=values["global_attention"],
            )
            adapter = adapter_from(values["adapter"])
            add_side_layers(sam, adapter, generator=torch_generator(values["seed"], "adapter"))
            self._model = Model(sam, digest_tensors(sam.state_dict()))
        except Exception as error:  # the parent has built the same model, and so will say what is wrong
            self._fault = f"{type(error).__name__}: {error}"

    def _fork(self, connection: socket.socket) -> None:
        self._allowance.restore()  # the last worker may have changed it
        gc.freeze()  # a collection in the worker would otherwise copy every page
        worker = os.fork()
        if not worker:
            self._become_worker(connection)
        connection.close()
        self._worker = worker
        self._channel.send("started", {"pid": worker, "fault": self._fault})

    def _become_worker(self, connection: socket.socket) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for end in (self._ended, self._wake, self._control):
                end.close()
            os.setsid()
            run_worker(connection, self._model)
            code = 0
        finally:
            leave(code)

    def _reap(self) -> None:
        """Collect processes that have ended; with the worker, all that it has started."""
        with suppress(BlockingIOError):
            while self._ended.recv(1024):
                pass
        while self._worker:
            try:
                found, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not found:
                return
            if found == self._worker:
                self._worker = 0
                kill_descendants()
                unit = 1 if sys.platform == "darwin" else 1024
                self._channel.send("ended", {"status": status, "peak_bytes": usage.ru_maxrss * unit})


if __name__ == "__main__":
    main()
