"""Training's batches are the same however many threads prepare them, and as many as the memory allows are kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from cosam_bench.core.devices import loading_threads
from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Sample, Split
from cosam_bench.evaluation.loader import Loader
from cosam_bench.sam.inputs import View
from cosam_bench.training import feeding, prepared_sample
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.sampling import sample_batches
from cosam_bench.training.training_batch import HostBatch, TrainingBatch, draw_batch

VIEW = View(48, 12, "pad", torch.device("cpu"))
SETTINGS: list[dict[str, Any]] = [
    {},
    {"loss_points": 8},
    {"jitter": True, "loss_points": 8},
    {"jitter": True, "empty_crops": "keep"},
    {"loss": "focal_dice_iou", "loss_grid": "model"},
]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(scope="module")
def samples(squares: Split) -> list[Sample]:
    """The squares; of every second one, some pixels are ignored."""
    ignored = [torch.rand(one.mask.shape, generator=seeded(row)) > 0.9 for row, one in enumerate(squares)]
    return [
        Sample(one.key, one.image, one.mask, None if row % 2 else ignored[row] & ~one.mask)
        for row, one in enumerate(squares)
    ]


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fed(
    samples: Any,
    prompts: Prompts,
    *,
    settings: dict[str, Any] | None = None,
    order: torch.Generator | None = None,
    with_digests: bool = False,
    **limits: int,
) -> Any:
    fit = FitSettings(**{"epochs": 3, "batch_size": 4} | (settings or {}))
    return feeding.host_batches(
        samples,
        prompts,
        fit=fit,
        prompt_kind="mix",
        view=VIEW,
        order=order or seeded(1),
        with_digests=with_digests,
        **limits,
    )


def same(found: Any, wanted: Any) -> bool:
    """Whether all tensors have the same bits."""
    if isinstance(found, Tensor):
        return isinstance(wanted, Tensor) and found.dtype == wanted.dtype and torch.equal(found, wanted)
    return bool(found == wanted)


def assert_same(found: HostBatch, wanted: tuple[Any, Tensor]) -> None:
    batch, target = found.placed(view=VIEW)
    assert type(batch) is type(wanted[0])
    assert torch.equal(target, wanted[1])
    assert not isinstance(batch, TrainingBatch) or batch.target is target
    assert torch.equal(batch.images, wanted[0].images)
    for one in fields(batch.prompts):
        assert same(getattr(batch.prompts, one.name), getattr(wanted[0].prompts, one.name)), one.name
    for name in ("weights", "masks", "ignored", "point_candidates", "is_unique"):
        assert same(getattr(batch, name, None), getattr(wanted[0], name, None)), name


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("workers", "kept_bytes"), [(0, 0), (1, 0), (4, 0), (4, 1 << 30), (2, 50_000)])
def test_batches_and_draws_are_those_of_one_batch_after_another(
    samples: list[Sample], prompts: Prompts, settings: dict[str, Any], workers: int, kept_bytes: int
) -> None:
    order, same_order = seeded(7), seeded(7)
    fit = FitSettings(**{"epochs": 3, "batch_size": 4} | settings)
    count = 0
    wanted = sample_batches(fit, count=len(samples), order=same_order)
    for (epoch, found), (epoch_too, indices) in zip(
        fed(samples, prompts, settings=settings, order=order, workers=workers, kept_bytes=kept_bytes),
        wanted,
        strict=True,
    ):
        drawn = draw_batch(samples, prompts, indices, fit=fit, prompt_kind="mix", view=VIEW, order=same_order)
        assert epoch == epoch_too
        assert_same(found, drawn)
        count += 1
    assert count == 6
    assert torch.equal(order.get_state(), same_order.get_state())


def test_samples_are_prepared_at_the_same_time(samples: list[Sample], prompts: Prompts) -> None:
    barrier = threading.Barrier(3)

    class Together(list[Sample]):
        def __getitem__(self, index: Any) -> Any:
            barrier.wait(timeout=10)
            return super().__getitem__(index)

    for settings in ({"batch_size": 3}, {"batch_size": 3, "jitter": True}):
        assert len(list(fed(Together(samples), prompts, settings=settings, workers=3))) == 6


class Counted(list[Sample]):
    """Samples that know how often each was read, and one of which cannot be read."""

    def __init__(self, samples: list[Sample], *, torn: int | None = None) -> None:
        super().__init__(samples)
        self.read: list[int] = []
        self.torn = torn

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        if index == self.torn:
            raise CosamError(f"square {index} cannot be read")
        return super().__getitem__(index)


@pytest.mark.parametrize("jitter", [False, True])
def test_what_is_under_way_is_bounded(samples: list[Sample], prompts: Prompts, jitter: bool) -> None:
    own = Counted(samples)
    with closing(fed(own, prompts, settings={"epochs": 50, "jitter": jitter}, workers=2)) as batches:
        next(batches)
        time.sleep(0.05)  # time for threads that went on too far
        assert len(own.read) <= 4 + 2 * (2 * 2) + 4  # the batch, what two maps of two threads begin, and a batch drawn


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_sample_that_cannot_be_read_fails_in_its_own_step(
    samples: list[Sample], prompts: Prompts, jitter: bool, workers: int
) -> None:
    [*_, last] = torch.randperm(len(samples), generator=seeded(1)).tolist()
    settings = {"batch_size": 1, "jitter": jitter}
    done: list[Any] = []
    with pytest.raises(CosamError, match=f"square {last} cannot be read"):
        done.extend(fed(Counted(samples, torn=last), prompts, settings=settings, workers=workers))
    assert len(done) == len(samples) - 1, "what came before it was handed over"


def test_prepared_samples_are_kept_for_later_epochs_until_the_limit(samples: list[Sample], prompts: Prompts) -> None:
    settings = {"flip": False, "epochs": 4}
    reads = {}
    for kept_bytes in (0, 25_000, 1 << 20):
        own = Counted(samples)
        assert len(list(fed(own, prompts, settings=settings, kept_bytes=kept_bytes))) == 8
        reads[kept_bytes] = len(own.read)
    size = prepared_sample.prepare(samples[1], fit=FitSettings(), view=VIEW).size_bytes
    assert size == 3 * 48 * 48 + 4 * 12 * 12
    assert reads[0] == 4 * 6
    assert reads[1 << 20] == 6
    assert reads[25_000] == 3 + 4 * 3  # three of them fit, with or without ignored pixels
    own = Counted(samples)
    list(fed(own, prompts, settings={"jitter": True, "epochs": 4}, kept_bytes=1 << 20))
    assert len(own.read) == 4 * 6, "a jittered sample never comes again"


@pytest.mark.parametrize(("jitter", "with_digests", "expected"), [(False, True, 6), (True, True, 0), (False, False, 0)])
def test_digests_are_computed_with_the_batch_where_they_will_be_asked_for(
    samples: list[Sample], prompts: Prompts, jitter: bool, with_digests: bool, expected: int
) -> None:
    drawn = fed(samples, prompts, settings={"epochs": 1, "jitter": jitter}, with_digests=with_digests)
    inputs = [one for _, batch in drawn for one in batch.inputs]
    assert len(inputs) == 6
    assert sum("digest" in vars(one) for one in inputs) == expected


def test_batches_are_drawn_ahead_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert feeding.prefetch_depth(cpu) == feeding.preparing_threads(cpu) == feeding.kept_bytes(cpu) == 0
    assert feeding.prefetch_depth(cuda) > 0
    assert 0 < feeding.kept_bytes(cuda) <= 4 << 30
    for cores, loading, preparing in [(1, 1, 0), (2, 1, 0), (4, 3, 3), (64, 8, 8)]:
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert loading_threads() == vars(Loader.for_device(cuda, with_digests=False))["_workers"] == loading
        assert feeding.preparing_threads(cuda) == preparing, "without them, the thread that draws prepares, too"


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("jitter", [False, True])
def test_ctrl_c_while_waiting_stops_what_has_not_begun(
    samples: list[Sample], prompts: Prompts, jitter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "prefetch_depth", lambda device: 2)
    monkeypatch.setattr(feeding, "preparing_threads", lambda device: 3)

    first = threading.Lock()  # taken by the thread that interrupts: a second Ctrl-C would leave threads behind

    class Slow(Counted):
        def __getitem__(self, index: Any) -> Any:
            if len(self.read) >= 3 and first.acquire(blocking=False):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.02)
            return super().__getitem__(index)

    own = Slow(samples)
    feed = feeding.training_feed(
        own,
        prompts,
        fit=FitSettings(epochs=100, batch_size=4, jitter=jitter),
        prompt_kind="box",
        view=VIEW,
        order=seeded(0),
        with_digests=False,
    )
    with pytest.raises(KeyboardInterrupt), feed as batches:
        list(batches)
    assert len(own.read) < 40


def test_a_second_interrupt_is_not_hidden_by_batches_that_are_still_drawn(
    squares: Split, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    class Held:
        def __len__(self) -> int:
            return len(squares)

        def __getitem__(self, row: int) -> Sample:
            entered.set()
            leave.wait(10)
            return squares[row]

    def interrupted(batches: Iterator[Any], *, depth: int) -> Iterator[Any]:
        threads.append(threading.Thread(target=next, args=(batches,)))
        threads[0].start()
        entered.wait(10)
        try:
            yield 0, None
        finally:
            raise KeyboardInterrupt  # while it waits for its thread

    monkeypatch.setattr(feeding, "prefetch", interrupted)
    feed = feeding.training_feed(
        Held(),  # type: ignore[arg-type]
        prompts,
        fit=FitSettings(epochs=1, batch_size=2),
        prompt_kind="box",
        view=VIEW,
        order=seeded(1),
        with_digests=False,
    )
    with pytest.raises(KeyboardInterrupt), feed as ready:
        next(ready)
    leave.set()
    threads[0].join()
