"""How good is a retriever? Full ranking of the catalogue on held-out rows, by the serving code."""

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist import compiled
from shortlist.asking.capabilities import Answers
from shortlist.asking.clock import held_out_times
from shortlist.asking.queries import Queries, check_flag, checked_count
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import HOURLESS, TwoTower
from shortlist.data.interactions import BEFORE, Cut
from shortlist.data.training_data import FIT_BEFORE, TrainingData
from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.diversity import LISTS, Vectors, intra_list_distance, item_vectors
from shortlist.evaluation.ladder import SHOWN, Method, Rung, rungs
from shortlist.evaluation.report import MODEL, Cost, Report
from shortlist.evaluation.searching import channels_of, searched, searched_exactly
from shortlist.evaluation.significance import user_intervals
from shortlist.evaluation.slices import Cases, parts_of, sliced
from shortlist.metrics import (
    Metric,
    average_popularity,
    coverage,
    exposure,
    gini,
    hits,
    novelty,
    per_user,
    popularity_percentile,
    with_metrics,
)

USERS_AT_A_TIME = 16_384
SLOTS_AT_A_TIME = 8_000_000
"""Largest users × k of a block; it takes about 500 MB."""

WARM_UP = 64
"""Queries answered before the cost is measured; so many use the same code as a whole block."""

SEED = 0
DEEPEST = 1_000_000
"""Largest k: the arrays have a slot for each place, even if fewer items fill the list."""


class _Answers(NamedTuple):
    """The measured answers to all cases.

    figures: {metric@k: value of each user, [U]}.
    shown: {k: number of lists that hold each item row, [items + 1]}.
    fallbacks: number of users who got popular items.
    places: place of each held-out item in its user's list, from 1; 0 if absent, [E].
    distances: {k: intra-list distance of a sample of lists, [lists]}; see `diversity`.
    seconds: CPU seconds of the answers.
    """

    figures: dict[str, NDArray[np.float64]]
    shown: dict[int, NDArray[np.int64]]
    fallbacks: int
    places: NDArray[np.int64]
    distances: dict[int, NDArray[np.float64]]
    seconds: float


def _targets(data: TrainingData) -> tuple[str, ...]:
    """Return the names of the kinds of events that are predicted; empty for a log without kinds."""
    kinds = data.log.kinds
    if kinds is None:
        return ()
    return tuple(name for name, aimed in zip(kinds.names, kinds.targets, strict=True) if aimed)


def _staying(data: TrainingData) -> tuple[str, ...]:
    """Return the kinds of events whose items stay in the lists; empty for a log without kinds."""
    kinds = data.log.kinds
    if kinds is None:
        return ()
    return tuple(name for name, seen in zip(kinds.names, kinds.seen, strict=True) if not seen)


def evaluate(
    retriever: Answers,
    *,
    on: Cut = "test",
    k: Sequence[int] = (10, 20, 100),
    exclude_seen: bool = True,
    metrics: Sequence[Metric] = (),
    by: Sequence[str] = (),
    ladder: bool = False,
) -> Report:
    """Measure a fitted retriever, and popularity beside it, on the held-out rows of its data.

    Each user with held-out events is asked once, with the events known before the cut. The whole
    catalogue is ranked. A held-out item that cannot be recommended (not a candidate, or already
    met) counts as a miss and is reported. With kinds of events only targets are held out. The
    metrics are defined in `shortlist.metrics`.

    If a channel searches an approximate index, the report also has the figures through exact
    indexes and the recall of each index. The retriever is not changed.

    A retriever with model.request_time is asked at the time of the user's first held-out event. The
    report also has the figures without the clock: each query then has the time of the user's last
    known event, which is also the default of a query without a time.

    Args:
        retriever: a fitted retriever, or `lists.Listed`.
        on: the held-out rows, "test" or "validation".
        k: depths of the lists.
        exclude_seen: leave items out that the user met before the cut. Events below min_weight
            count as met, events of kinds with seen = false do not. False suits repeat consumption.
        metrics: additional metrics, functions like those in `metrics.PER_USER`; each is reported
            under the function's name.
        by: columns of the items' or users' table. Each adds slices to those by history, users and
            items; see `slices`.
        ladder: also measure the methods of `evaluation.ladder`, which need no training.

    Raises:
        ModelError: if the model was fitted on the rows to measure, or for an unknown column.
        QueryError: for an invalid retriever, cut or k.
    """
    return evaluate_beside(
        *(retriever, Untrained()),
        on=on,
        k=k,
        exclude_seen=exclude_seen,
        metrics=metrics,
        by=by,
        ladder=ladder,
    )


class Untrained:
    """The methods without training, measured once for retrievers on the same rows.

    Several seeds of a recipe have the same rows, so that only the first evaluation measures them.
    """

    def __init__(self) -> None:
        self._of: tuple[TrainingData, tuple[Any, ...]] | None = None
        self._answers: dict[str, _Answers] = {}
        self._costs: dict[str, Cost] = {}

    def measured(
        self,
        data: TrainingData,
        asked: tuple[Any, ...],
        methods: Mapping[str, Method],
        answers: Callable[[str, Method], _Answers],
    ) -> tuple[dict[str, _Answers], dict[str, Cost]]:
        """Return the answers and the cost of each method, by its name.

        asked: the settings of the evaluation.
        methods: the unfitted methods.
        answers: asks a fitted method of this name.
        """
        if self._of is None or self._of[1] != asked or not _same_rows(self._of[0], data):
            self._of, self._answers, self._costs = (data, asked), {}, {}
        for name, method in methods.items():
            if name not in self._answers:
                fitted, seconds = _fitted(method, data)
                found = answers(name, fitted)
                users = len(next(iter(found.figures.values())))
                self._answers[name] = found
                self._costs[name] = Cost.of(found.seconds, users, seconds)
        return {n: self._answers[n] for n in methods}, {n: self._costs[n] for n in methods}


_COLUMNS = ("user", "item", "time", "weight", "role", "target", "hides", "kind")


def _same_rows(one: TrainingData, other: TrainingData) -> bool:
    """Tell whether two trainings have learned from the same rows, and hold out the same ones."""
    if one is other:
        return True
    same_ids = one.users.ids.equals(other.users.ids) and one.items.ids.equals(other.items.ids)
    met = [None if data.met is None else data.met.item for data in (one, other)]
    return (
        same_ids
        and (one.fit, one.kind) == (other.fit, other.kind)
        and np.array_equal(*met)  # type: ignore[arg-type]
        and all(
            np.array_equal(getattr(one.log, column), getattr(other.log, column))
            for column in _COLUMNS
        )
    )


def evaluate_beside(
    retriever: Answers,
    untrained: Untrained,
    *,
    on: Cut,
    k: Sequence[int],
    exclude_seen: bool,
    metrics: Sequence[Metric] = (),
    by: Sequence[str] = (),
    ladder: bool,
) -> Report:
    """Return what `evaluate` does, with methods without training that may be measured already."""
    data, ks = checked_data(retriever, on, exclude_seen), checked_depths(k)
    measured = with_metrics(metrics)
    cases = Cases(*data.targets(on))
    parts = parts_of(data, cases, on, by)  # Unknown columns fail before the expensive work.
    vectors = item_vectors(data)
    answers = _answers(retriever, cases, ks, on, exclude_seen, measured, vectors)
    clockless = None
    if retriever.reads_clock:
        clockless = _answers(retriever, cases, ks, on, exclude_seen, measured, clock=False)
    exact = searched_exactly(retriever)
    exactly = None if exact is retriever else _answers(exact, cases, ks, on, exclude_seen, measured)

    def asked(name: str, method: Method) -> _Answers:
        whole = (measured, vectors) if name == "popular" else ()
        return _answers(method, cases, ks, on, exclude_seen, *whole)

    below, costs = untrained.measured(
        *(data, (on, ks, exclude_seen, tuple(measured.items()))),
        {"popular": Popular(), **(rungs(data) if ladder else {})},
        asked,
    )
    baseline = below["popular"]
    if not retriever.made_elsewhere:
        costs = {MODEL: Cost.of(answers.seconds, len(cases.users)), **costs}
    candidates = retriever.candidate_rows()
    counts = _unreachable(data, cases, candidates, on, exclude_seen)
    return Report(
        cut=on,
        split=data.kind,
        fit=data.fit,
        exclude_seen=exclude_seen,
        users=len(cases.users),
        candidate_items=len(candidates),
        counts=counts | {"users_answered_by_fallback": answers.fallbacks},
        metrics=user_intervals(answers.figures, SEED),
        catalogue=_catalogue(answers, data, candidates),
        popularity=user_intervals(baseline.figures, SEED),
        popularity_catalogue=_catalogue(baseline, data, candidates),
        differences=user_intervals(
            {name: value - baseline.figures[name] for name, value in answers.figures.items()}, SEED
        ),
        notes=(*data.notes, *_moments(retriever, cases), *_hours(retriever)),
        channels=searched(retriever, cases.users, max(ks), on, exclude_seen=exclude_seen),
        exact=None if exactly is None else user_intervals(exactly.figures, SEED),
        without_clock=None if clockless is None else user_intervals(clockless.figures, SEED),
        gained_by_clock=None
        if clockless is None
        else user_intervals(
            {name: value - clockless.figures[name] for name, value in answers.figures.items()},
            SEED,
        ),
        ladder=tuple(_rung(n, answers, b) for n, b in below.items()) if ladder else (),
        slices=sliced(parts, cases, answers.places, baseline.places, ks, SEED),
        diversity_by=vectors.by,
        targets=_targets(data),
        staying=_staying(data),
        made_elsewhere=retriever.made_elsewhere,
        costs=costs,
    )


def _fitted(method: Method, data: TrainingData) -> tuple[Method, float]:
    """Return (the fitted method, the CPU seconds of the fit)."""
    with compiled.cpu_time() as spent:
        fitted = method.fit_data(data)
    return fitted, spent.seconds


def _rung(name: str, ours: _Answers, theirs: _Answers) -> Rung:
    shown = {n: value for n, value in theirs.figures.items() if n.split("@")[0] in SHOWN}
    more = {f"-{n}": ours.figures[n] - value for n, value in shown.items()}
    intervals = user_intervals(shown | more, SEED)
    difference = {n: intervals[f"-{n}"] for n in shown}
    return Rung(name, {n: intervals[n] for n in shown}, difference)


def user_figures(
    retriever: Answers, *, k: Sequence[int], on: Cut = "test", exclude_seen: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Return {metric@k: value of each user with held-out events, [U]}; see `evaluate`."""
    data, ks = checked_data(retriever, on, exclude_seen), checked_depths(k)
    return _answers(retriever, Cases(*data.targets(on)), ks, on, exclude_seen).figures


def checked_depths(k: Any) -> tuple[int, ...]:
    """Return the distinct depths in ascending order. Errors: QueryError."""
    if isinstance(k, np.ndarray) and k.ndim == 1:
        k = list(k)
    if not isinstance(k, list | tuple | range | set | frozenset) or not k:
        raise QueryError(f"k must be a list of depths, such as [10, 20, 100], got {k!r:.60}")
    depths = sorted({checked_count("each k", depth) for depth in k})
    if depths[-1] > DEEPEST:
        raise QueryError(f"k must be at most {DEEPEST:,}, got {depths[-1]}")
    return tuple(depths)


def checked_data(retriever: Any, on: Cut, exclude_seen: Any) -> TrainingData:
    """Return the data of a retriever, once it can be measured on these held-out rows.

    Errors: QueryError for an invalid argument, ModelError if the retriever was fitted on the rows.
    """
    if not hasattr(type(retriever), "recommend"):
        named = type(retriever).__name__
        cure = ": write bundle.retriever" if hasattr(retriever, "retriever") else ""
        raise QueryError(f"only a fitted retriever can be measured, got a {named}{cure}")
    if not isinstance(on, str) or on not in ("validation", "test"):
        raise QueryError(f"on must be 'validation' or 'test', got {on!r:.60}")
    check_flag("exclude_seen", exclude_seen)
    data: TrainingData = retriever.data
    if BEFORE[FIT_BEFORE[data.fit]] > BEFORE[on]:
        raise ModelError(
            f"this model was fitted on '{data.fit}', which includes the {on} rows: a figure on "
            "them would be worthless. The bundle keeps the figures of the fit before."
        )
    return data


def _moments(retriever: Answers, cases: Cases) -> tuple[str, ...]:
    """Return a note on the context of queries if users have several held-out events."""
    names = ", ".join(sorted(retriever.query_context))
    if not names or len(cases.items) == len(cases.users):
        return ()
    return (
        f"each user has one query, in the context ({names}) of the first held-out event, and the "
        "answer is measured on all held-out events of the user",
    )


def _hours(retriever: Answers) -> tuple[str, ...]:
    """Return a note if a channel reads the time of a query but the log has no hours."""
    learned = channels_of(retriever).values()
    told = any(isinstance(channel, TwoTower) and channel.hourless for channel in learned)
    return (f"{HOURLESS}.",) * told


def _answers(
    retriever: Answers,
    cases: Cases,
    ks: Sequence[int],
    cut: Cut,
    exclude_seen: bool,
    metrics: Mapping[str, Metric] | None = None,
    vectors: Vectors | None = None,
    *,
    clock: bool = True,
) -> _Answers:
    """Query every case in blocks of users, which bound the memory, and compare with the truth.

    vectors: item vectors for the diversity of lists; None leaves it out.
    clock: give a retriever with model.request_time the time of the held-out event.
    """
    time = held_out_times(retriever, cut) if clock else None
    figures: dict[str, list[NDArray[np.float64]]] = {}
    shown = {k: np.zeros(len(retriever.data.items) + 1, dtype=np.int64) for k in ks}
    places: list[NDArray[np.int64]] = []
    fallbacks, seconds = 0, 0.0
    distances: dict[int, list[NDArray[np.float64]]] = {k: [] for k in ks}
    spread = np.zeros(len(cases.users), dtype=np.bool_)
    if vectors is not None:
        spread[np.random.default_rng(0).permutation(len(spread))[:LISTS]] = True
    step = max(1, min(USERS_AT_A_TIME, SLOTS_AT_A_TIME // max(ks)))
    deepest = min(max(ks), len(shown[ks[0]]))

    def queries_of(block: slice) -> Queries:
        ids = retriever.data.users.external(cases.users[block])
        moments = None if time is None else time[block]
        return Queries(ids, before=cut, exclude_seen=exclude_seen, time=moments)

    # The first answers of a process compile loops and read files: they are not measured. So few
    # answers would not load compiled code, and the measured ones would wait for it.
    compiled.load()
    if len(cases.users):
        retriever.recommend(queries_of(slice(0, WARM_UP)), deepest)
    for at in range(0, len(cases.users), step):
        block = slice(at, at + step)
        queries = queries_of(block)
        start = process_time()
        answer = retriever.recommend(queries, deepest)
        seconds += process_time() - start
        top = _padded(answer.rows, max(ks))
        ends = cases.offsets[at : at + len(queries) + 1]
        wanted = cases.items[ends[0] : ends[-1]]
        found = hits(top, wanted, ends - ends[0])
        places.append(_places(top, found, wanted, ends - ends[0]))
        for name, values in per_user(found, np.diff(ends), ks, metrics).items():
            figures.setdefault(name, []).append(values)
        for k in ks:
            shown[k] += exposure(top[:, :k], len(shown[k]))
            if vectors is not None:
                some = top[spread[block], :k]
                distances[k].append(intra_list_distance(some, vectors.rows))
        fallbacks += int(answer.fallback.sum())
    whole = {name: np.concatenate(values) for name, values in figures.items()}
    apart = {k: np.concatenate(each) for k, each in distances.items() if each}
    return _Answers(whole, shown, fallbacks, np.concatenate(places), apart, seconds)


def _places(
    top: NDArray[np.int64],
    found: NDArray[np.bool_],
    items: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the place of each held-out item in its user's list, from 1; 0 if absent, [E]."""
    width = 1 + max(int(top.max(initial=0)), int(items.max(initial=0)))
    keys = np.repeat(np.arange(len(top)), np.diff(offsets)) * width + items
    order = np.argsort(keys)
    user, place = np.nonzero(found)
    at = np.searchsorted(keys, user * width + top[user, place], sorter=order)
    places = np.zeros(len(items), dtype=np.int64)
    places[order[at]] = place + 1
    return places


def _padded(rows: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Pad lists to `width` with -1; empty slots are misses."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=-1)


def _catalogue(
    answers: _Answers, data: TrainingData, candidates: NDArray[np.int64]
) -> dict[str, float]:
    """Return coverage, popularity, inequality, novelty and diversity of the lists, by k."""
    counts = np.zeros(len(data.items) + 1, dtype=np.int64)
    counts[: data.items.trained + 1] = data.item_counts
    figures: dict[str, float] = {}
    for k, by_row in answers.shown.items():
        slots, popularity = by_row[candidates], counts[candidates]
        figures[f"coverage@{k}"] = coverage(slots)
        figures[f"average_popularity@{k}"] = average_popularity(slots, popularity)
        figures[f"popularity_percentile@{k}"] = popularity_percentile(slots, popularity)
        figures[f"gini@{k}"] = gini(slots)
        figures[f"novelty@{k}"] = novelty(slots, popularity, int(counts.sum()))
        apart = answers.distances[k]
        apart = apart[~np.isnan(apart)]
        figures[f"diversity@{k}"] = float(apart.mean()) if len(apart) else float("nan")
    return figures


def met_below_min_weight(data: TrainingData, users: NDArray[np.int64], cut: Cut) -> int:
    """Count the events of these user rows before the cut whose items are met but not learned from.

    These are the events below min_weight and those of kinds that are not read.
    """
    return 0 if data.met is None else int(np.isin(data.met.before(cut).user, users).sum())


def _unreachable(
    data: TrainingData,
    cases: Cases,
    candidates: NDArray[np.int64],
    cut: Cut,
    exclude_seen: bool,
) -> dict[str, int]:
    """Count the held-out events that cannot be in any list, and the users without a history."""
    known = data.log.before(cut)
    owners = np.repeat(cases.users, np.diff(cases.offsets))
    width = len(data.items) + 1
    hiding = known if known.hides is None else known.keep(known.hides)
    pairs = [hiding.user.astype(np.int64) * width + hiding.item]
    if data.met is not None:
        others = data.met.before(cut)
        pairs.append(others.user.astype(np.int64) * width + others.item)
    held = owners * width + cases.items
    left_out = np.isin(held, np.concatenate(pairs)) & exclude_seen
    met = np.isin(held, known.user.astype(np.int64) * width + known.item)
    candidate = np.zeros(width, dtype=np.bool_)
    candidate[candidates] = True
    return {
        "held_out_events": len(cases.items),
        "held_out_items_not_candidates": int((~candidate[cases.items]).sum()),
        "held_out_items_already_seen": int(left_out.sum()),
        "held_out_items_met_before": int((met & ~left_out).sum()),
        "met_below_min_weight": met_below_min_weight(data, cases.users, cut) * exclude_seen,
        "users_without_history": int((np.diff(known.indptr)[cases.users] == 0).sum()),
    }
