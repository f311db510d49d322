"""Documents in random order without holding all of them."""

import heapq
from collections.abc import Callable, Iterable, Iterator

import numpy as np

_FIRST_PASS = 512
_GROWTH = 8


def shuffled(
    read: Callable[[], Iterable[str]], seed: int, least_bytes: int = 0
) -> Iterator[tuple[int, str]]:
    """(index, document) pairs in an order drawn uniformly from all orders by `seed`.

    Every document gets a uniform random key and they come in the order of the keys. One pass over
    the source keeps the documents of the smallest 512 keys; only if these are used up is the
    source read again, for eight times as many. Memory therefore follows how many documents are
    taken, not how many there are, and the order does not depend on how many are taken.

    Args:
      read: starts reading the documents from the first one; each call must give the same.
      seed: seed of the keys.
      least_bytes: documents of fewer UTF-8 bytes are left out (they keep their index and key).
    """
    given, keep = 0, _FIRST_PASS
    while True:
        rng = np.random.default_rng(seed)
        heap: list[tuple[float, int, str]] = []  # of the negated keys: the largest key on top
        candidates = 0
        for index, text in enumerate(read()):
            key = rng.random()
            # A character has at most 4 bytes; most texts need not be encoded to be told.
            if len(text) < least_bytes and (
                4 * len(text) < least_bytes or len(text.encode()) < least_bytes
            ):
                continue
            candidates += 1
            if len(heap) < keep:
                heapq.heappush(heap, (-key, -index, text))
            elif -heap[0][0] > key:
                heapq.heapreplace(heap, (-key, -index, text))
        chosen = sorted(heap, reverse=True)
        yield from ((-index, text) for _, index, text in chosen[given:])
        if candidates <= keep:
            return
        given, keep = keep, keep * _GROWTH
