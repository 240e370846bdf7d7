"""Does the index still find the exact neighbours? A thread compares a sample of the requests."""

import logging
from collections.abc import Callable
from queue import SimpleQueue
from random import Random
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Any

import numpy as np
import torch

from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blended
from shortlist.evaluation.searching import recall_against, searched_exactly
from shortlist.serving.served import Served

logger = logging.getLogger("shortlist.serving")

MOST_QUERIES = 32
"""Requests with more queries are not compared."""

REST = 20.0
"""The thread rests this many times as long as it has worked, so it uses 1/21 of a core."""


class IndexCheck:
    """Compares answered requests with an exact scan, in a thread of its own.

    At most one request waits. Meanwhile other requests are skipped, and so are requests with more
    than MOST_QUERIES queries; `skipped` counts both.

    share: share of the requests that are compared, if the bundle has an approximate index.
    told: called with the bundle and the recall of each compared request.
    seed: seed of the sample.
    """

    def __init__(self, share: float, told: Callable[[Served, float], None], seed: int = 0) -> None:
        self.share, self._told = share, told
        self.compared = self.skipped = 0
        self._random = Random(seed)
        self._busy = Lock()  # held from the offer of a request until it is compared
        self._asked: SimpleQueue[tuple[Served, Queries, int] | None] = SimpleQueue()
        self._stop = Event()
        self._thread: Thread | None = None
        self._exact: tuple[Served, Any] | None = None

    def offer(self, served: Served, queries: Queries, k: int) -> None:
        """Offer an answered request for the sample; it returns at once."""
        exact = self._exact
        if exact is not None and exact[0] is not served:
            self._exact = None  # free a bundle that is no longer served
        if not (served.approximate and self._random.random() < self.share):
            return
        if len(queries) > MOST_QUERIES or not self._busy.acquire(blocking=False):
            self.skipped += 1
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="check-index", daemon=True)
            self._thread.start()
        self._asked.put((served, queries, k))

    def close(self) -> None:
        """End the thread, without waiting for a comparison in progress."""
        self._stop.set()
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            started = perf_counter()
            try:
                with torch.inference_mode():
                    recall = self._compare(*asked)
                self.compared += 1
                if recall is not None:
                    self._told(asked[0], recall)
            except Exception:
                logger.exception("comparing the index with an exact scan failed")
            if self._stop.wait((perf_counter() - started) * REST):
                return
            self._busy.release()

    def _compare(self, served: Served, queries: Queries, k: int) -> float | None:
        """Return the recall; None if nothing was known of any query."""
        exact = self._exact
        if exact is None or exact[0] is not served:
            self._exact = exact = None  # so that two of them are not in memory
            self._exact = exact = (served, searched_exactly(served.retriever))
        truth = exact[1].recommend(queries, k)
        found = served.retriever.recommend(queries, k)
        if truth.fallback.all():
            return None
        if not isinstance(truth, Blended):
            return recall_against(found, truth)
        # The scores of a blend come from ranks, so ties of the channels are not visible.
        there = truth.rows >= 0
        both = [np.isin(t[t >= 0], f) for t, f in zip(truth.rows, found.rows, strict=True)]
        return float(sum(each.sum() for each in both)) / max(int(there.sum()), 1)
