"""Which metrics does the service export? Counters and histograms in the Prometheus format."""

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
"""Upper bounds of the histogram buckets in seconds."""


class Family:
    """A metric that is counted elsewhere and read when Prometheus asks.

    name: without the prefix `shortlist_`.
    meaning: its help text.
    labels: names of the labels.
    of_all: how gauges of several processes are combined; counters are summed.
    samples: label values and the number for each.
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
    """A collector of families, which are computed when the registry is read."""

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
    """Store the metrics of this process in a folder that all processes of a service share.

    Call it once, before the first `Measures`.

    number: number of this process. A process that replaces another one has the same number and
    continues its counters.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = _value_class(lambda: number)


class _Kept:
    """Writes the families of one process to shared files; its successor continues the counters."""

    def __init__(self, folder: Path, number: int) -> None:
        self._files = {
            name: _file(str(folder / f"{name}_families-{number}.db"))
            for name in ("counter", "gauge_max", "gauge_min")
        }
        self._before: dict[str, float] = {}

    def write(self, families: Iterable[Family]) -> None:
        """Write the current values; a gauge without a value is reset to a neutral one."""
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
    """The metrics of the main process, which starts the other processes of a service."""

    def __init__(self, folder: Path) -> None:
        self._up = _file(str(folder / "gauge_sum_first.db"))
        self._ended = _file(str(folder / "counter_first.db"))
        self._count = 0
        self.up(0)
        self._write_ended()

    def up(self, count: int) -> None:
        """Set the number of processes that answer."""
        name = "shortlist_processes"
        meaning = "Number of processes that answer requests."
        self._up.write_value(mmap_key(name, name, [], [], meaning), count, 0.0)

    def ended(self) -> None:
        """Count a process that ended unexpectedly."""
        self._count += 1
        self._write_ended()

    def _write_ended(self) -> None:
        name = "shortlist_processes_ended"
        meaning = "Processes that crashed or were killed, and were replaced."
        key = mmap_key(name, f"{name}_total", [], [], meaning)
        self._ended.write_value(key, self._count, 0.0)

    def close(self) -> None:
        """Close the files."""
        self._up.close()
        self._ended.close()


class Measures:
    """The metrics of one service, in a registry of their own.

    shared: (the folder for the metrics of several processes, the number of this process); `text`
    then returns those of all processes. None for a single process.
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
            "Seconds per stage of a request: parse, recommend, encode, and total for the request.",
            ["stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._parse, self._recommend, self._encode, self._total = (
            stage.labels(name) for name in ("parse", "recommend", "encode", "total")
        )
        self._requests = Counter(
            "shortlist_requests",
            "HTTP requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self._known: dict[tuple[str, int], Counter] = {}
        self._queries = self._counter(
            "queries", "Queries (users or histories) that were answered with candidates."
        )
        self._fallback = self._counter(
            "fallback", "Queries of which nothing was known, and which got popular items."
        )
        self.unknown_items = self._counter(
            "unknown_items", "Items of histories or recent events that the bundle does not know."
        )
        self.unknown_context = self._counter(
            "unknown_context",
            "Context features of queries that were missing, or had a value not seen in training.",
        )
        self.waiting = self._gauge(
            "waiting", "Requests that wait for a worker or are being answered.", "sum"
        )
        self.waiting.set(0)  # requests of a process that this one replaces have ended
        self._events = Counter(
            "shortlist_events",
            "Events by outcome: kept, repeated (sent before), or refused (counted per request).",
            ["outcome"],
            registry=self.registry,
        )
        self._kept, self._repeated, self.refused_events = (
            self._events.labels(outcome) for outcome in ("kept", "repeated", "refused")
        )
        self.trimmed = self._counter(
            "events_trimmed",
            "Events removed from the store because the user has too many newer ones.",
        )
        self.without_events = self._counter(
            "without_events",
            "Answers without stored events, because the event store failed or was too slow.",
        )
        self.store_up = self._gauge(
            "event_store_up",
            "1 if the last operation of the event store succeeded, otherwise 0.",
            "min",
        )
        self.item_change = self._gauge(
            "item_change", "Number of the last change of items that is served.", "min"
        )
        self.items_left_out = self._gauge(
            *(
                "item_changes_left_out",
                "Values of changes of items that do not fit the served bundle.",
            ),
            "max",
        )
        self._loads = Counter(
            "shortlist_bundle_loads",
            "Bundles by outcome: served or refused.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("served", "refused"):
            self._loads.labels(outcome)
        self._bundle = Info("shortlist_bundle", "The bundle that is served.", registry=self._own)
        self._loaded_at = self._gauge(
            *(
                "bundle_loaded_timestamp_seconds",
                "Time at which the served bundle was loaded, in seconds since 1970.",
            ),
            "max",
        )

    def stages(self, parse: float, recommend: float, encode: float) -> None:
        """Observe the stages of one answer, in seconds."""
        self._parse.observe(parse)
        self._recommend.observe(recommend)
        self._encode.observe(encode)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request.

        route: its path in the table of routes, never the path that the client sent.
        """
        counter = self._known.get((route, status))
        if counter is None:
            counter = self._known[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        self._total.observe(seconds)

    def answered(self, queries: int, fallback: int) -> None:
        """Count the queries of one answer, and those that got popular items."""
        self._queries.inc(queries)
        if fallback:
            self._fallback.inc(fallback)

    def kept(self, events: int, repeated: int) -> None:
        """Count the stored events of a request, and those that had been sent before."""
        self._kept.inc(events)
        if repeated:
            self._repeated.inc(repeated)

    def served(self, bundle: str, retriever: str, loaded_at: float) -> None:
        """Set the bundle that is served from now on."""
        self._bundle.info({"id": bundle, "retriever": retriever})
        self._loaded_at.set(loaded_at)
        self._loads.labels("served").inc()

    def refused(self) -> None:
        """Count a refused bundle."""
        self._loads.labels("refused").inc()

    def counted(self, families: Callable[[], Iterable[Family]]) -> None:
        """Export further metrics. families: returns them, whenever the registry is read."""
        self._counted.append(families)
        self.registry.register(_Counted(families))

    def keep(self) -> None:
        """Write the families to the shared folder, so that other processes can read them."""
        if self._shared is not None:
            self._shared.write([each for families in self._counted for each in families()])

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        self.keep()
        return generate_latest(self._all) + generate_latest(self._own)

    def _gauge(self, name: str, meaning: str, of_all: Literal["sum", "min", "max"]) -> Gauge:
        return Gauge(
            *(f"shortlist_{name}", meaning), registry=self.registry, multiprocess_mode=of_all
        )

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"shortlist_{name}", meaning, registry=self.registry)
