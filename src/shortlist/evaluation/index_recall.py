"""What recall does an index lose, how much time does it save, and which settings will do?"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.plots import new_figure, plain_numbers, write_figure
from shortlist.index import INDEXES, ExactIndex, Hits, VectorIndex, build_index, check_kind
from shortlist.index.approximate import ApproximateIndex
from shortlist.index.servers import ServerIndex
from shortlist.index.settings import Choices, check_settings, grid_of, late_settings

SINGLES = 200  # Queries timed one by one.
BATCHES = 3  # Timed runs of all queries at once; the fastest is the least disturbed.


@dataclass(frozen=True)
class Measured:
    """Recall and speed of an index.

    recall: share of the exact k best items that were found.
    batched_us: microseconds of wall time per query, all queries at once.
    single_us: median microseconds of wall time of a single query.
    """

    recall: float
    batched_us: float
    single_us: float


@dataclass(frozen=True)
class IndexTrial:
    """One measured index.

    kind: a name of INDEXES.
    settings: its settings.
    build_seconds: wall time of the build.
    measured: its recall and speed.
    """

    kind: str
    settings: dict[str, Any]
    build_seconds: float
    measured: Measured


@dataclass(frozen=True)
class Tuning:
    """The result of `tune_index`.

    k: depth of the lists.
    target_recall: the recall to reach.
    trials: all measured indexes.
    chosen: the fastest trial that reaches the target, and index its index; None if none does.
    """

    k: int
    target_recall: float
    trials: list[IndexTrial]
    chosen: IndexTrial | None
    index: VectorIndex | None


def measure_index(
    index: VectorIndex,
    exact: VectorIndex | Hits,
    queries: Tensor,
    k: int,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> Measured:
    """Measure an index: all queries at once, then the first SINGLES one by one.

    exact: the exact index of the same items, or its answer to the same queries and exclusions.
    queries: [B, D].
    exclude: items that each query must not get, (values, offsets).

    An item that ties with the last item of the exact answer counts as found. Errors: QueryError
    without queries or for k < 1.
    """
    if k < 1 or not len(queries):
        raise QueryError(f"measuring needs k >= 1 and queries, got k = {k}, {len(queries)} queries")
    truth = exact
    if not isinstance(truth, Hits):
        truth = truth.search(queries, k, exclude=exclude)
    found, seconds = index.search(queries, k, exclude=exclude), []
    for _ in range(BATCHES):
        start = time.perf_counter()
        index.search(queries, k, exclude=exclude)
        seconds.append(time.perf_counter() - start)
    alone = []
    for row in range(min(SINGLES, len(queries))):
        lists = None if exclude is None else _list_of(exclude, row)
        start = time.perf_counter()
        index.search(queries[row : row + 1], k, exclude=lists)
        alone.append(time.perf_counter() - start)
    return Measured(
        recall=recall_of(found, truth),
        batched_us=min(seconds) / len(queries) * 1e6,
        single_us=median(alone) * 1e6,
    )


def recall_of(found: Hits, truth: Hits) -> float:
    """Return the share of the true items [B, k] among those found [B, k]; 1 without true items."""
    there = truth.ids >= 0
    if not there.any():
        return 1.0
    # Two indexes may round the score of an item differently.
    last = truth.scores.masked_fill(~there, float("inf")).amin(1, keepdim=True)
    good = (found.ids >= 0) & (found.scores >= last - 1e-5 * last.abs().clamp(min=1))
    return float(good.sum()) / int(there.sum())


def tune_index(
    kind: str,
    ids: Tensor,
    vectors: Tensor,
    tie_keys: Tensor | None,
    similarity: str,
    queries: Tensor,
    k: int,
    target_recall: float,
    limits: Choices | None = None,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    progress: Callable[[IndexTrial], None] | None = None,
) -> Tuning:
    """Build indexes of one kind, measure their settings, and choose the fastest good enough one.

    kind: a name of INDEXES.
    ids, vectors, tie_keys: as in `VectorIndex.build`.
    similarity: how vectors are compared.
    queries: held-out queries, [B, D].
    k: depth of the lists.
    target_recall: recall to reach, above 0 and at most 1. The fastest single query wins.
    limits: values to try per setting, in ascending order; they replace those in the class's `grid`.
    exclude: items that each query must not get, (values, offsets).
    progress: called with each trial.
    Errors: ModelError for an unknown kind or setting, or a target_recall out of range.
    """
    check_choices(kind, limits or {})
    if not 0 < target_recall <= 1:
        raise ModelError(f"target_recall must be above 0 and at most 1, got {target_recall}")
    exact = ExactIndex(similarity).build(ids, vectors, tie_keys)
    truth = exact.search(queries, k, exclude=exclude)
    trials: list[IndexTrial] = []
    chosen, best = None, None
    for index, seconds, settings in _built(kind, similarity, (ids, vectors, tie_keys), limits):
        for searching in _searching(index, settings):
            if isinstance(index, ApproximateIndex | ServerIndex):
                index.adjust(**searching)
            measured = measure_index(index, truth, queries, k, exclude=exclude)
            trial = IndexTrial(kind, settings | searching, seconds, measured)
            trials.append(trial)
            if progress is not None:
                progress(trial)
            if measured.recall >= target_recall:
                if chosen is None or measured.single_us < chosen.measured.single_us:
                    chosen, best = trial, index
                break
    return Tuning(k, target_recall, trials, chosen, best)


def check_choices(kind: str, limits: Choices) -> None:
    """Check the kind of an index, its setting names and values. Errors: ModelError."""
    check_kind(kind)
    for name, values in limits.items():
        for value in values:
            check_settings(INDEXES[kind], {name: value})


def plot_tunings(tunings: Sequence[Tuning], path: Path, *, overwrite: bool = False) -> None:
    """Plot the time of a single query against recall, one line per kind and build settings.

    path: a .png, .svg or .pdf file.
    Errors: ModelError without the extra "plot".
    """
    figure = new_figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for tuning in tunings:
        for label, line in _lines(tuning).items():
            measured = sorted((t.measured.recall, t.measured.single_us) for t in line)
            axes.plot(*zip(*measured, strict=True), marker="o", markersize=3, label=label)
        if tuning.chosen is not None:
            best = tuning.chosen.measured
            axes.plot(best.recall, best.single_us, marker="*", markersize=14, color="black")
    for target in sorted({tuning.target_recall for tuning in tunings}):
        axes.axvline(target, color="grey", linewidth=0.8, linestyle=":")
    depths = ", ".join(str(k) for k in sorted({tuning.k for tuning in tunings}))
    axes.set(xlabel=f"recall@{depths} against exact", ylabel="µs a query", yscale="log")
    recalls = [trial.measured.recall for tuning in tunings for trial in tuning.trials]
    least = min([*recalls, *(tuning.target_recall for tuning in tunings)])
    room = max(1 - least, 0.01) / 20  # margin of the axis
    axes.set_xlim(least - room, 1 + room)
    plain_numbers(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.set_title("Star: the cheapest setting that reaches the target (dotted)", fontsize=10)
    axes.legend(fontsize=8)
    write_figure(figure, path, overwrite=overwrite)


def _built(
    kind: str,
    similarity: str,
    items: tuple[Tensor, Tensor, Tensor | None],
    limits: Choices | None,
) -> Iterator[tuple[VectorIndex, float, dict[str, Any]]]:
    """Yield (index, build seconds, settings) for each combination of build settings.

    The settings that act when searching still hold all their values to try.
    """
    grid = {**grid_of(INDEXES[kind]), **(limits or {})}
    late = late_settings(INDEXES[kind])
    early = {name: values for name, values in grid.items() if name not in late}
    for values in product(*early.values()):
        settings = dict(zip(early, values, strict=True))
        index = build_index(kind, similarity, **settings)
        start = time.perf_counter()
        index.build(*items)
        seconds = time.perf_counter() - start
        yield index, seconds, settings | {name: grid[name] for name in grid if name in late}


def _searching(index: VectorIndex, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Pop the settings that act when searching from `settings`; return their combinations."""
    late = late_settings(type(index))
    grid = {name: settings.pop(name) for name in [*settings] if name in late}
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _lines(tuning: Tuning) -> dict[str, list[IndexTrial]]:
    """Group trials by kind and build settings."""
    kinds = {trial.kind for trial in tuning.trials}
    late = {name for kind in kinds for name in late_settings(INDEXES[kind])}
    lines: dict[str, list[IndexTrial]] = {}
    for trial in tuning.trials:
        built = [f"{name} {value}" for name, value in trial.settings.items() if name not in late]
        lines.setdefault(" ".join([trial.kind, *built]), []).append(trial)
    return lines


def _list_of(exclude: tuple[Tensor, Tensor], row: int) -> tuple[Tensor, Tensor]:
    """Return the exclusions of one query as those of a batch of one."""
    values, offsets = exclude
    start, end = offsets[row : row + 2].tolist()
    return values[start:end], offsets.new_tensor([0, end - start])
