"""Prefetching: work done in background threads before its results are needed, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def prefetch_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, depth: int
) -> Generator[_Result, None, None]:
    """Yield ``work(item)`` for each item in order; while one result is used, up to ``depth`` more are computed.

    An exception of ``work`` is raised in place of its result. However the iteration ends, the threads end with it,
    after their current item. Wrap it in ``contextlib.closing``: otherwise an error in the loop keeps the threads alive
    as long as its traceback.

    Args:
        work: called in the threads, once per item.
        workers: number of threads; 0 calls ``work`` when its result is needed.

    >>> list(prefetch_map(len, ["a", "bcd", "ef"], workers=2, depth=1))
    [1, 3, 2]
    """
    if workers == 0:
        yield from map(work, items)
        return
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for running items, which cannot be stopped


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
