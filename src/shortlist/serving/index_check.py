"""Does the index still find what an exact scan finds? A thread compares some of what is asked."""

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
"""A request with more of them is not compared."""

REST = 20.0
"""The thread rests for so many times as long as it has worked, so that it takes 1/21 of a core."""


class IndexCheck:
    """Compares answers with those of an exact scan, after they were given, in a thread of its own.

    share: of the requests to a bundle with an approximate index. told: called with the recall of
    each that was compared. At most one waits; while one does, others are passed over and counted.
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
        """Take a request that was answered, if it is one of the sample; it costs nobody time."""
        exact = self._exact
        if exact is not None and exact[0] is not served:
            self._exact = None  # let go of a bundle that is served no more
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
        """Let the thread end; what is compared now is not waited for."""
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
        """Return the share of the exact answer that is found; None where nothing was known."""
        exact = self._exact
        if exact is None or exact[0] is not served:
            self._exact = exact = None  # two of them need not be in memory
            self._exact = exact = (served, searched_exactly(served.retriever))
        truth = exact[1].recommend(queries, k)
        found = served.retriever.recommend(queries, k)
        if truth.fallback.all():
            return None
        if not isinstance(truth, Blended):
            return recall_against(found, truth)
        # The scores of a blend are of its places, so a tie cannot be told.
        there = truth.rows >= 0
        both = [np.isin(t[t >= 0], f) for t, f in zip(truth.rows, found.rows, strict=True)]
        return float(sum(each.sum() for each in both)) / max(int(there.sum()), 1)
