"""Prefetching: work done in background threads before its results are needed, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import repeat
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def prefetch_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, depth: int
) -> Generator[_Result, None, None]:
    """Yield ``work(item)`` for each item in order; while one result is used, up to ``depth`` more are computed.

    An exception of ``work`` is raised in place of its result, and one of ``items`` in place of their next. However the
    iteration ends, the threads end with it, after their current item. Wrap it in ``contextlib.closing``: otherwise an
    error in the loop keeps the threads alive as long as its traceback.

    Args:
        work: called in the threads, once per item.
        workers: number of threads; 0 calls ``work`` when its result is needed.

    >>> list(prefetch_map(len, ["a", "bcd", "ef"], workers=2, depth=1))
    [1, 3, 2]
    """
    with prefetch_threads(workers) as threads:
        yield from map_in(threads, work, items, depth=depth)


@contextmanager
def prefetch_threads(workers: int) -> Iterator[ThreadPoolExecutor | None]:
    """Some threads for ``map_in``, which end with the context, after their current items; None for 0 workers."""
    if workers == 0:
        yield None
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # waits for running items, which cannot be stopped


def map_in(
    threads: ThreadPoolExecutor | None, work: Callable[[_Item], _Result], items: Iterable[_Item], *, depth: int
) -> Generator[_Result, None, None]:
    """As ``prefetch_map``, in threads that several such maps may share.

    Args:
        threads: from ``prefetch_threads``; None calls ``work`` when its result is needed.
    """
    if threads is None:
        yield from map(work, items)
        return
    waiting: deque[Future[_Result]] = deque()
    for begun in _begun(threads, work, items):
        waiting.append(begun)
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begun(
    threads: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[Future[_Result]]:
    """One future per item; if ``items`` fail, a last one that failed so, to be raised after the results before it."""
    try:
        for item in items:
            yield threads.submit(work, item)
    except Exception as error:
        failed: Future[_Result] = Future()
        failed.set_exception(error)
        yield failed


def prefetch(items: Iterator[_Item], *, depth: int) -> Generator[_Item]:
    """Yield the same items in the same order; while one is used, up to ``depth`` more are made.

    One thread makes them one after another, so that what they draw from a random generator keeps its order. An
    exception is raised in place of its item. However the iteration ends, the thread ends with it, after its current
    item.

    Args:
        items: not to be used elsewhere from now on.
        depth: 0 makes each item when it is needed, without a thread.

    >>> list(prefetch(iter("abc"), depth=2))
    ['a', 'b', 'c']
    """
    none_left = object()
    with closing(
        prefetch_map(lambda _: next(items, none_left), repeat(None), workers=min(1, depth), depth=depth)
    ) as made:
        for item in made:
            if item is none_left:
                return
            yield item  # type: ignore[misc]  # an item, since it is not the end marker
