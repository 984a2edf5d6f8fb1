"""Messages of JSON and raw tensors over a socket; nothing in one is executed."""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from cosam_bench.method.cost_meter import Meter

_LENGTH = struct.Struct(">Q")
_HEAD_BYTES = 1 << 28  # a manifest of a million samples has 200 MB
_TENSOR_BYTES = 1 << 40
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}


class BadMessage(Exception):
    """What arrived is not a message, or not the one that is due."""


class ChannelClosed(Exception):
    """The other end is gone."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        kind: what it is.
        values: plain data by name.
        tensors: by name, on the CPU.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def number(self, name: str, *, most: float = float("inf")) -> float:
        """A value that is a finite number from 0 to ``most``.

        Raises:
            BadMessage: it is anything else.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value != value:
            raise BadMessage(f"{name!r} in its message {self.kind!r} is not a number from 0 to {most:g}")
        if value == float("inf"):
            raise BadMessage(f"{name!r} in its message {self.kind!r} is infinite")
        return value

    def count(self, name: str, *, most: int) -> int:
        """A value that is a whole number from 0 to ``most``.

        Raises:
            BadMessage: it is anything else.
        """
        value = self.number(name, most=most)
        if not isinstance(value, int):
            raise BadMessage(f"{name!r} in its message {self.kind!r} is not a whole number")
        return value

    def figures(self, name: str) -> dict[str, float]:
        """A table of finite numbers by name, as ``Meter.report`` takes them.

        Raises:
            BadMessage: it is anything else.
        """
        table, meter = self.values.get(name), Meter()
        if not isinstance(table, dict):
            raise BadMessage(f"{name!r} in its message {self.kind!r} is not a table of numbers")
        try:
            for key, value in table.items():
                meter.report(key, value)
        except ValueError as error:
            raise BadMessage(f"{name!r} in its message {self.kind!r} is refused: {error}") from None
        if not all(map(math.isfinite, meter.reported.values())):
            raise BadMessage(f"{name!r} in its message {self.kind!r} has a number that is not finite")
        return meter.reported

    def text(self, name: str) -> str:
        """A value as text that is safe to show: of a string, without control characters; empty for all else."""
        value = self.values.get(name)
        return printable(value) if isinstance(value, str) else ""


def printable(text: str) -> str:
    """A text without what a terminal would obey, and short enough to be read.

    >>> printable("red" + chr(27) + "[31m")
    'red\\\\x1b[31m'
    """
    shown = "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text[:_MOST_TEXT])
    return shown if len(text) <= _MOST_TEXT else f"{shown} ..."


_MOST_TEXT = 20_000  # characters


class Channel:
    """One end of a socket pair."""

    def __init__(self, connection: socket.socket, *, head_bytes: int = _HEAD_BYTES) -> None:
        """Use a connected socket.

        Args:
            head_bytes: the most that a message without its tensors may take.
        """
        self._socket = connection
        self._head_bytes = head_bytes

    def send(
        self, kind: str, values: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Send one message.

        Args:
            tensors: on any device, of the common dtypes.

        Raises:
            ChannelClosed: the other end is gone.
        """
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
        described = [[name, _dtype_name(tensor), list(tensor.shape)] for name, tensor in ready.items()]
        head = json.dumps({"kind": kind, "values": dict(values or {}), "tensors": described}).encode()
        self.send_bytes(_LENGTH.pack(len(head)) + head)
        for tensor in ready.values():
            if tensor.numel():
                self.send_bytes(_memory(tensor))

    def send_bytes(self, data: bytes | memoryview) -> None:
        """Send raw bytes, which the other end must expect."""
        rest = memoryview(data)
        try:
            while rest:
                self._wait(is_sending=True)
                sent = self._socket.send(rest)
                rest = rest[sent:]
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self, *, most_bytes: int = _TENSOR_BYTES) -> Message:
        """The next message.

        Args:
            most_bytes: of its tensors.

        Raises:
            BadMessage: it is not a message, or too large.
            ChannelClosed: the other end is gone.
        """
        (length,) = _LENGTH.unpack(self.receive_bytes(_LENGTH.size))
        if length > self._head_bytes:
            raise BadMessage("a message with too long a head")
        try:
            head = json.loads(self.receive_bytes(length))
            kind, values, described = head["kind"], head["values"], head["tensors"]
            shapes = {str(name): (_DTYPES[dtype], _shape(shape)) for name, dtype, shape in described}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadMessage(f"a message that cannot be read ({type(error).__name__})") from None
        if not isinstance(kind, str) or not isinstance(values, dict):
            raise BadMessage("a message without a kind or values")
        size_bytes = sum(dtype.itemsize * prod(shape) for dtype, shape in shapes.values())
        if size_bytes > most_bytes:
            raise BadMessage(f"tensors of {size_bytes} bytes, where at most {most_bytes} are expected")
        return Message(kind, values, {name: self._tensor(*facts) for name, facts in shapes.items()})

    def _tensor(self, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        with torch.inference_mode(False):  # what is made in inference mode cannot be trained on
            try:
                tensor = torch.empty(shape, dtype=torch.uint8 if dtype == torch.bool else dtype)
            except RuntimeError:  # torch's own of a full memory
                raise BadMessage(f"a tensor of shape {shape}, which does not fit into memory") from None
            if tensor.numel():
                self._fill(_memory(tensor))
            return tensor.ne(0) if dtype == torch.bool else tensor

    def receive_bytes(self, count: int) -> bytes:
        """The next bytes, exactly as many."""
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, rest: memoryview) -> None:
        try:
            while rest:
                self._wait(is_sending=False)
                received = self._socket.recv_into(rest)
                if not received:
                    raise ChannelClosed("the other end is closed")
                rest = rest[received:]
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def _wait(self, *, is_sending: bool) -> None:
        """Return once the socket can be used; a plain one blocks by itself."""

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def _memory(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _dtype_name(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise TypeError(f"tensors of {tensor.dtype} cannot be sent")
    return name


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or any(type(side) is not int or not 0 <= side < 1 << 40 for side in shape):
        raise ValueError("not a shape")
    return tuple(shape)
