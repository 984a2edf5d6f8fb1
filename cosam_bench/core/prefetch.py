"""Work done ahead of its use in background threads, handed over in order."""

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
    """``work`` of each item, in the items' order; while one result is used, up to ``depth`` further ones are made.

    What ``work`` raises surfaces where its result would have come. However the iteration ends, the threads end with
    it, after what they are at. Use ``contextlib.closing`` around it: else an error in the loop would keep the threads
    for as long as its traceback lives.

    Args:
        work: one worker calls it for one item after another, in their order.
        workers: threads; 0 calls ``work`` when its result is asked for.

    >>> list(prefetch_map(len, ["a", "bcd", "ef"], workers=2, depth=1))
    [1, 3, 2]
    """
    if workers == 0:
        yield from map(work, items)
        return
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # waits for what is under way, which nothing can stop


def prefetch(items: Iterator[_Item], *, depth: int) -> Generator[_Item]:
    """The same items in the same order; while one is used, up to ``depth`` further ones are made.

    All of them are made by one thread, one after another, so what they draw from a generator stays in its order.
    An exception surfaces where its item would have come. However the iteration ends, the thread ends with it, after
    the item that it is at.

    Args:
        items: used by nobody else from now on.
        depth: 0 makes each item when it is asked for, without a thread.

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
            yield item  # type: ignore[misc]  # one of the items, being no end
