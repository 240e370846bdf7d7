"""What does the service say of itself? Counters and histograms in the Prometheus text format."""

from collections.abc import Callable, Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Upper bounds in seconds."""


class Family:
    """Figures of one name that somebody else counts: each with a value for every label."""

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: tuple[str, ...],
        kind: Literal["counter", "gauge"] = "counter",
    ) -> None:
        self.name, self.meaning, self.labels, self.kind = name, meaning, labels, kind
        self.samples: list[tuple[tuple[str, ...], float]] = []


class _Counted(Collector):
    """Figures that are asked for when they are read."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        for family in self._families():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            found = kind(f"shortlist_{family.name}", family.meaning, labels=family.labels)
            for values, number in family.samples:
                found.add_metric(values, number)
            yield found


class Measures:
    """The figures of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.waiting = Gauge(
            "shortlist_waiting", "Requests that wait or are being answered.", registry=self.registry
        )
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
        self.store_up = Gauge(
            "shortlist_event_store_up",
            "Whether the store of events did what was asked last.",
            registry=self.registry,
        )
        self.item_change = self._gauge(
            "item_change", "The number of the last change of items that is served."
        )
        self.items_left_out = self._gauge(
            "item_changes_left_out", "Values of changes of items that do not fit what is served."
        )
        self._loads = Counter(
            "shortlist_bundle_loads",
            "Bundles that were taken into service, or refused.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("served", "refused"):
            self._loads.labels(outcome)
        self._bundle = Info("shortlist_bundle", "What is served.", registry=self.registry)
        self._loaded_at = Gauge(
            "shortlist_bundle_loaded_timestamp_seconds",
            "When the bundle was taken into service.",
            registry=self.registry,
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
        self.registry.register(_Counted(families))

    def text(self) -> bytes:
        """Return everything in the Prometheus text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"shortlist_{name}", meaning, registry=self.registry)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"shortlist_{name}", meaning, registry=self.registry)
