"""Work that is done ahead of its use."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from cosam_bench.core.prefetch import map_in, prefetch, prefetch_map, prefetch_threads


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not running()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whoever_is_ready_first(workers: int) -> None:
    third = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            third.set()
        if item == 0 and workers == 3:
            assert third.wait(10)
        return item**2

    assert list(prefetch_map(work, range(9), workers=workers, depth=4)) == [item**2 for item in range(9)]


def test_without_workers_nothing_is_done_ahead() -> None:
    done: list[int] = []
    results = prefetch_map(done.append, range(4), workers=0, depth=3)
    next(results)
    assert done == [0]


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_than_the_depth_is_under_way(workers: int) -> None:
    begun: list[int] = []
    with closing(prefetch_map(begun.append, range(50), workers=workers, depth=5)) as results:
        for used, _ in enumerate(results, start=1):
            time.sleep(0.001)  # time for a worker that went on too far
            assert len(begun) <= used + 5
    assert begun == list(range(50)) or workers == 4


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_exception_surfaces_where_its_result_would_come(workers: int) -> None:
    found: list[float] = []
    results = prefetch_map(lambda n: 6 / (3 - n), range(9), workers=workers, depth=8)
    with pytest.raises(ZeroDivisionError):
        found.extend(results)
    assert found == [2, 3, 6], "what came before it was handed over, although it had failed long before"


def failing(items: list[int]) -> Iterator[int]:
    yield from items
    raise OSError("no such picture")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_exception_of_the_items_comes_after_the_results_before_it(workers: int) -> None:
    found: list[int] = []
    with pytest.raises(OSError, match="no such picture"):
        found.extend(prefetch_map(abs, failing([-1, 2, -3]), workers=workers, depth=8))
    assert found == [1, 2, 3]


def test_two_maps_may_share_their_threads_and_one_may_feed_the_other() -> None:
    names: set[str] = set()

    def named(item: int) -> int:
        names.add(threading.current_thread().name)
        return item + 1

    with prefetch_threads(2) as threads:
        inner = map_in(threads, named, range(20), depth=4)
        assert list(map_in(threads, named, inner, depth=4)) == list(range(2, 22))
    assert len(names) <= 2


def test_threads_end_where_the_loop_does_though_its_traceback_is_kept() -> None:
    def broken() -> None:
        with closing(prefetch_map(abs, range(99), workers=2, depth=9)) as results:
            for _ in results:
                assert running()
                raise ValueError("in the loop")

    with pytest.raises(ValueError, match="in the loop") as kept:
        broken()
    assert kept.value.__traceback__ is not None
    assert not running()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_waiting_stops_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.02)
        return item

    with pytest.raises(KeyboardInterrupt), closing(prefetch_map(work, range(1000), workers=1, depth=100)) as got:
        list(got)
    assert not running()
    assert len(begun) < 10


def draws(count: int, order: torch.Generator, *, threads: list[str] | None = None) -> Iterator[float]:
    for _ in range(count):
        if threads is not None:
            threads.append(threading.current_thread().name)
        yield torch.rand((), generator=order).item()


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_draws_come_in_their_order_from_one_thread(depth: int, count: int) -> None:
    threads: list[str] = []
    order, same = (torch.Generator().manual_seed(0) for _ in range(2))
    found = list(prefetch(draws(count, order, threads=threads), depth=depth))
    assert found == list(draws(count, same))
    assert len(set(threads)) <= 1
    assert (threading.current_thread().name in threads) == (depth == 0 and count > 0)
    assert torch.equal(order.get_state(), same.get_state())


def test_as_many_are_made_ahead_as_were_asked_for() -> None:
    made = [threading.Event() for _ in range(6)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(prefetch(items(), depth=2)) as numbers:
        assert next(numbers) == 0
        assert all(event.wait(timeout=10) for event in made[:3])
        assert not made[4].wait(timeout=0.05)
        assert next(numbers) == 1
        assert made[3].wait(timeout=10)


@pytest.mark.parametrize("depth", [0, 3])
def test_what_an_item_raises_comes_in_its_place(depth: int) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("no such picture")

    numbers = prefetch(items(), depth=depth)
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(OSError, match="no such picture"):
        next(numbers)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_no_thread_is_left_and_nothing_is_made_once_it_was_stopped(stop: type[BaseException]) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    before = threading.active_count()
    with pytest.raises(stop), closing(prefetch(items(), depth=2)) as numbers:  # noqa: PT012 (one loop)
        for number in numbers:
            if number == 3:
                raise stop
    assert threading.active_count() == before
    assert len(made) <= 7
