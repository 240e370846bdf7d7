"""What does the service say of itself? Counters and histograms in the Prometheus text format."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
    values,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Upper bounds in seconds."""


class Family:
    """Figures of one name that somebody else counts: each with a value for every label.

    of_all: which gauge is told where several processes have one; counters are summed.
    """

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...],
        kind: Literal["counter", "gauge"] = "counter",
        of_all: Literal["max", "min"] = "max",
    ) -> None:
        self.name, self.meaning, self.labels, self.kind = name, meaning, labels, kind
        self.of_all = of_all
        self.samples: list[tuple[tuple[str, ...], float]] = []


class _Counted(Collector):
    """Figures that are asked for when they are read."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        for family in self._families():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            found = kind(f"shortlist_{family.name}", family.meaning, labels=family.labels)
            for of, number in family.samples:
                found.add_metric(of, number)
            yield found


_value_class: Any = values.MultiProcessValue
_file: Any = MmapedDict
_collector: Any = MultiProcessCollector


def share_figures(folder: Path, number: int) -> None:
    """Let the figures of this process be kept in a folder, with those of the others of a service.

    To be called once, before `Measures` is made. number: of this process. One that takes the place
    of another has its number and counts on from its figures, so that none are lost.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = _value_class(lambda: number)


class _Kept:
    """Families of one process in the files that are shared; a successor adds to its counters."""

    def __init__(self, folder: Path, number: int) -> None:
        self._files = {
            name: _file(str(folder / f"{name}_families-{number}.db"))
            for name in ("counter", "gauge_max", "gauge_min")
        }
        self._before: dict[str, float] = {}

    def write(self, families: Iterable[Family]) -> None:
        """Write the values as they are now; a gauge that is told no more counts for nothing."""
        told = set()
        for family in families:
            name = f"shortlist_{family.name}"
            is_counter = family.kind == "counter"
            file = self._files["counter" if is_counter else f"gauge_{family.of_all}"]
            of = f"{name}_total" if is_counter else name
            for values_of, number in family.samples:
                key = mmap_key(name, of, list(family.labels), list(values_of), family.meaning)
                if is_counter and key not in self._before:
                    self._before[key] = file.read_value(key)[0]
                file.write_value(key, self._before.get(key, 0.0) + number, 0.0)
                told.add(key)
        for which, nothing in (("gauge_max", float("-inf")), ("gauge_min", float("inf"))):
            for key, *_ in list(self._files[which].read_all_values()):
                if key not in told:
                    self._files[which].write_value(key, nothing, 0.0)


class Processes:
    """The figures of the process that starts the others of a service."""

    def __init__(self, folder: Path) -> None:
        self._up = _file(str(folder / "gauge_sum_first.db"))
        self._ended = _file(str(folder / "counter_first.db"))
        self._count = 0
        self.up(0)
        self._write_ended()

    def up(self, count: int) -> None:
        """Take how many processes answer."""
        name = "shortlist_processes"
        meaning = "Processes that answer."
        self._up.write_value(mmap_key(name, name, [], [], meaning), count, 0.0)

    def ended(self) -> None:
        """Take that a process ended although it should not have."""
        self._count += 1
        self._write_ended()

    def _write_ended(self) -> None:
        name = "shortlist_processes_ended"
        meaning = "Processes that ended by themselves, or were killed, and were replaced."
        key = mmap_key(name, f"{name}_total", [], [], meaning)
        self._ended.write_value(key, self._count, 0.0)

    def close(self) -> None:
        """Let go of the files."""
        self._up.close()
        self._ended.close()


class Measures:
    """The figures of one service, in a registry of their own.

    shared: the folder in which several processes keep theirs, and the number of this one; then
    `text` gives those of all.
    """

    def __init__(self, shared: tuple[Path, int] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._own = CollectorRegistry()
        self._all = self.registry
        self._shared: _Kept | None = None
        self._counted: list[Callable[[], Iterable[Family]]] = []
        if shared is not None:
            self._all = CollectorRegistry()
            _collector(self._all, str(shared[0]))
            self._shared = _Kept(*shared)
        stage = Histogram(
            "shortlist_stage_seconds",
            "Time of each stage of an answer.",
            ["stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._parse, self._recommend, self._encode, self._total = (
            stage.labels(name) for name in ("parse", "recommend", "encode", "total")
        )
        self._requests = Counter(
            "shortlist_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._known: dict[tuple[str, int], Counter] = {}
        self._queries = self._counter("queries", "Users and histories candidates were given for.")
        self._fallback = self._counter("fallback", "Of them, those that got popular items.")
        self.unknown_items = self._counter(
            "unknown_items", "Items of histories that the bundle does not know."
        )
        self.unknown_context = self._counter(
            "unknown_context", "Features of the moment of a query that were missing or never seen."
        )
        self.waiting = self._gauge("waiting", "Requests that wait or are being answered.", "sum")
        self.waiting.set(0)  # those of a process in whose place this one came have gone with it
        self._events = Counter(
            "shortlist_events",
            "Events that came: kept, sent before, or refused with their request.",
            ["outcome"],
            registry=self.registry,
        )
        self._kept, self._repeated, self.refused_events = (
            self._events.labels(outcome) for outcome in ("kept", "repeated", "refused")
        )
        self.trimmed = self._counter(
            "events_trimmed", "Events that newer ones of the same user pushed out of the store."
        )
        self.without_events = self._counter(
            "without_events", "Answers for which the store of events did not answer in time."
        )
        self.store_up = self._gauge(
            "event_store_up", "Whether the store of events did what was asked last.", "min"
        )
        self.item_change = self._gauge(
            "item_change", "The number of the last change of items that is served.", "min"
        )
        self.items_left_out = self._gauge(
            *(
                "item_changes_left_out",
                "Values of changes of items that do not fit what is served.",
            ),
            "max",
        )
        self._loads = Counter(
            "shortlist_bundle_loads",
            "Bundles that were taken into service, or refused.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("served", "refused"):
            self._loads.labels(outcome)
        self._bundle = Info("shortlist_bundle", "What is served.", registry=self._own)
        self._loaded_at = self._gauge(
            *("bundle_loaded_timestamp_seconds", "When the bundle was taken into service."), "max"
        )

    def stages(self, parse: float, recommend: float, encode: float) -> None:
        """Take the seconds that the stages of one answer took."""
        self._parse.observe(parse)
        self._recommend.observe(recommend)
        self._encode.observe(encode)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Take one request: its route as the table has it, never as the client wrote it."""
        counter = self._known.get((route, status))
        if counter is None:
            counter = self._known[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        self._total.observe(seconds)

    def answered(self, queries: int, fallback: int) -> None:
        """Take how many queries one answer held, and how many of them by popular items."""
        self._queries.inc(queries)
        if fallback:
            self._fallback.inc(fallback)

    def kept(self, events: int, repeated: int) -> None:
        """Take how many events of a request were kept, and how many had been sent before."""
        self._kept.inc(events)
        if repeated:
            self._repeated.inc(repeated)

    def served(self, bundle: str, retriever: str, loaded_at: float) -> None:
        """Take what is served from now on."""
        self._bundle.info({"id": bundle, "retriever": retriever})
        self._loaded_at.set(loaded_at)
        self._loads.labels("served").inc()

    def refused(self) -> None:
        """Take that a bundle was refused."""
        self._loads.labels("refused").inc()

    def counted(self, families: Callable[[], Iterable[Family]]) -> None:
        """Tell these figures, too; families: called whenever they are read."""
        self._counted.append(families)
        self.registry.register(_Counted(families))

    def keep(self) -> None:
        """Let other processes see the figures that are asked for when they are read."""
        if self._shared is not None:
            self._shared.write([each for families in self._counted for each in families()])

    def text(self) -> bytes:
        """Return everything in the Prometheus text format."""
        self.keep()
        return generate_latest(self._all) + generate_latest(self._own)

    def _gauge(self, name: str, meaning: str, of_all: Literal["sum", "min", "max"]) -> Gauge:
        return Gauge(
            *(f"shortlist_{name}", meaning), registry=self.registry, multiprocess_mode=of_all
        )

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"shortlist_{name}", meaning, registry=self.registry)
