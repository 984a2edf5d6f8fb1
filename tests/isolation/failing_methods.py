"""Methods that fail in ways of their own; the tests name them as ``failing_methods.py:Class``."""

import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import torch
from support.honest_method import Honest

from cosam_bench import MergingMethod, MethodCard, TrainingHooks


class Raises(Honest):
    def learn(self, domain, *, step):
        raise ZeroDivisionError("one over \x1b[31mnothing")


class RaisesInState(Honest):
    def state(self):
        raise KeyError("total")


class Leaves(Honest):
    def learn(self, domain, *, step):
        sys.exit("enough")


class Exits(Honest):
    def learn(self, domain, *, step):
        os._exit(7)


class Killed(Honest):
    def predict(self, batch):
        os.kill(os.getpid(), signal.SIGKILL)


class Segfaults(Honest):
    def learn(self, domain, *, step):
        ctypes.string_at(0)


class ExitsBehindAChild(Honest):
    """Its child keeps the connection open."""

    def learn(self, domain, *, step):
        if os.fork() == 0:
            time.sleep(600)
        os._exit(3)


class ClosesTheConnection(Honest):
    def learn(self, domain, *, step):
        for file in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(file).st_mode):
                    socket.socket(fileno=os.dup(file)).shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        time.sleep(600)


class Waits(Honest):
    def learn(self, domain, *, step):
        time.sleep(600)


class ReturnsAList(Honest):
    def predict(self, batch):
        return [0.0]


class ReturnsAnotherShape(Honest):
    def predict(self, batch):
        return torch.zeros(len(batch), 3, 3)


class ReturnsIntegers(Honest):
    def predict(self, batch):
        return super().predict(batch).int()


class ReturnsNan(Honest):
    def predict(self, batch):
        return super().predict(batch) * float("nan")


class ReturnsNoState(Honest):
    def state(self):
        return {"total": self.total}


class NeedsMemory(Honest):
    """Has memory for two images at once."""

    def predict(self, batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().predict(batch)


class Hangs(Honest):
    def learn(self, domain, *, step):
        subprocess.Popen(["sleep", "987.125"], start_new_session=True)
        time.sleep(600)


class TrainsItself(MergingMethod):
    """Trains with hooks of its own, in its own process."""

    card = MethodCard(title="Trains itself")

    def hooks(self, domain, *, step):
        return TrainingHooks()

    def merge(self, expert, domain, *, step):
        return expert


class ForgetsItsReturn(MergingMethod):
    card = MethodCard(title="no return")

    def merge(self, expert, domain, *, step):
        expert.tensors()


class KeepsAnUpdate(MergingMethod):
    card = MethodCard(title="an update in the memory")

    def merge(self, expert, domain, *, step):
        self.memory["last"] = expert
        return expert


class SaysMuch(Honest):
    def learn(self, domain, *, step):
        self.bench.note("one\nLast 0.99 \x1b[31m" + "a" * 1000)
        for number in range(20 * (step - 1)):
            self.bench.note(f"number {number}")
        super().learn(domain, step=step)


class OpensALibrary(Honest):
    def learn(self, domain, *, step):
        ctypes.CDLL(None)
        super().learn(domain, step=step)


class OpensALibraryByTorch(Honest):
    def learn(self, domain, *, step):
        with contextlib.suppress(OSError):
            torch.ops.load_library("/none/mine.so")
        super().learn(domain, step=step)


class OpensALibraryByText(Honest):
    def learn(self, domain, *, step):
        exec("ctypes.CDLL(None)")
        super().learn(domain, step=step)


class AsksTorchForGpus(Honest):
    """With a build of torch for CUDA, this makes torch open a library of the GPU's driver."""

    def learn(self, domain, *, step):
        with contextlib.suppress(OSError):  # there may be no such library here, and then nothing to count
            torch.cuda._raw_device_count_nvml()
        with torch.random.fork_rng():
            torch.manual_seed(step)
        super().learn(domain, step=step)
