"""The doctor names every mistake that is planted here, and is silent where nothing is wrong.

`python -m tests.doctor.test_seeded_mistakes` writes the tables of docs/doctor.md anew.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import softplus

from shortlist.asking.queries import Queries
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.batches import PairBatches, _long
from shortlist.data.dataset import Dataset, Split
from shortlist.data.features import FeatureTable
from shortlist.data.ragged import Ragged, windows
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.synthetic import World, planted_world
from shortlist.doctor import CHECKS, Finding, Subject, TrainingWatch, examine
from shortlist.doctor.page import findings_table, table
from shortlist.errors import ModelError, TrainingError
from shortlist.evaluation.evaluate import evaluate
from shortlist.index.exact import ExactIndex
from shortlist.losses import BinaryCrossEntropyLoss
from shortlist.sampling import InBatchSampler, PopularitySampler
from shortlist.training.fitting import Epoch
from shortlist.training.objective import Objective
from shortlist.training.progress import Quiet

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"

USER_FEATURES = (Feature("club", "categorical"), Feature("age", "numeric"))
ITEM_FEATURES = (Feature("tags", "multi-valued"), Feature("price", "numeric"))
SMALL: dict[str, Any] = {
    "dropout": 0.2,
    "dim": 16,
    "epochs": 6,
    "batch_size": 128,
    "learning_rate": 0.01,
}
LATER = 1_000_000
"""Added to ids that are to be unknown before the cut."""


# ---------------------------------------------------------------- the world things go wrong in


@cache
def world(users: int = 240, seed: int = 5) -> World:
    return planted_world(users=users, items=160, events=20 * users, seed=seed)


def load(
    log: pl.DataFrame | None = None,
    *,
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    more: Sequence[Feature] = (),
    side: str = "item",
    kind: str = "leave-last-out",
    tie: Any = "hash",
) -> Split:
    """Load the world with some of its frames, or declared features, replaced."""
    w = world()
    schema = Schema(
        time="timestamp",
        tie=tie,
        user_features=USER_FEATURES + tuple(more) * (side == "user"),
        item_features=ITEM_FEATURES + tuple(more) * (side == "item"),
    )
    return Dataset.load(
        w.interactions if log is None else log,
        users=w.users if users is None else users,
        items=w.items if items is None else items,
        schema=schema,
    ).split(kind)


@cache
def split() -> Split:
    return load()


@cache
def plain() -> Split:
    """The log alone, without features, cut at a moment."""
    return Dataset.load(world().interactions, schema=Schema(time="timestamp")).split("global-time")


@cache
def _trained() -> TwoTower:
    return TwoTower(**SMALL).fit(split())


def trained() -> TwoTower:
    """A trained retriever of one's own, to break."""
    settings, states = deepcopy(_trained().state())  # a retriever holds the tensors it is given
    return TwoTower.from_state(_trained().data, settings, states)


def before(given: Split | None = None, **options: Any) -> Subject:
    """What the doctor sees of a recipe before training."""
    unfitted = TwoTower(**(SMALL | options))
    return Subject(
        model=unfitted.model_section,
        training=unfitted.training_section,
        data=replace((given or split()).training_data("train")),  # its own: some are broken
    )


def after(retriever: TwoTower) -> Subject:
    return Subject.of_retriever(retriever)


def fit(given: Split | None = None, **options: Any) -> Subject:
    """Train, measure, and let the doctor see it."""
    retriever = TwoTower(**(SMALL | options)).fit(given or split())
    return Subject.of_retriever(retriever, evaluate(retriever, k=(10,)).to_dict())


def beside_simple() -> Subject:
    """The model that has hardly learned, measured beside methods without training."""
    retriever = TwoTower(**(SMALL | {"learning_rate": 1e-9})).fit(split())
    return Subject.of_retriever(retriever, evaluate(retriever, k=(10,), ladder=True).to_dict())


# -------------------------------------------------- mistakes of the code, as a mutant of one part


class Mutant(Objective):
    """An objective that hands something else to the right formula."""

    change: Callable[[float, torch.Tensor], torch.Tensor] = staticmethod(lambda tau, q: q)
    positive_change: Callable[[float, torch.Tensor], torch.Tensor] | None = None
    tau: Callable[[float], float] = staticmethod(lambda tau: tau)

    def forward(self, *arguments: Any, negatives: Any, positive_log_q: Any, **rest: Any) -> Any:
        change, tau = self.change, self.temperature
        return super().forward(
            *arguments,
            negatives=negatives._replace(log_q=change(tau, negatives.log_q)),
            positive_log_q=(self.positive_change or change)(tau, positive_log_q),
            **rest,
        )

    def _current_temperature(self) -> float:
        return self.tau(self._temperature)


def mutated(objective: Objective, **changes: Any) -> Objective:
    body = {name: staticmethod(change) for name, change in changes.items()}
    objective.__class__ = type("Mutant", (Mutant,), body)
    return objective


def wrong_objective(**changes: Any) -> Subject:
    subject = before()
    subject.objective = mutated(subject.objective, **changes)
    return subject


@dataclass(frozen=True)
class NegativesOnly(BinaryCrossEntropyLoss):
    def __call__(self, scores):
        return softplus(scores.masked_negative()).sum(dim=1)


def without_bfloat16() -> Subject:
    subject = before(precision="bfloat16")
    subject.machine_has_bfloat16 = False
    return subject


def lost_positive() -> Subject:
    subject = before(mode="pointwise", sampler="in_batch")
    subject.objective.loss = NegativesOnly()
    return subject


def without_bias() -> Subject:
    subject = before(mode="pointwise", sampler="in_batch")
    subject.objective.bias = None
    return subject


def forced_correction() -> Subject:
    subject = before(loss="hinge")
    subject.objective.correct_sampling = True
    return subject


def tempered_in_batch() -> Subject:
    subject = before()
    counts = torch.from_numpy(subject.data.item_counts)
    right = InBatchSampler.from_counts(counts)
    claimed = InBatchSampler.from_counts(counts.double().pow(0.75))
    other_law = {"log_q": lambda _, ids, batch: claimed.log_q(ids, batch)}
    subject.sampler = type("Claims", (InBatchSampler,), other_law)(right.frequency)
    return subject


def drawn_from_another_law() -> Subject:
    subject = before(sampler="popularity", negatives=64)
    counts = torch.from_numpy(subject.data.item_counts)
    drawn = PopularitySampler.from_counts(counts, negatives=64, alpha=0.75)
    claimed = PopularitySampler.from_counts(counts, negatives=64, alpha=0.25)
    subject.sampler = replace(drawn, frequency=claimed.frequency)
    return subject


def batches_with(gather: Callable[..., Ragged], **options: Any) -> Subject:
    """Histories as `gather(items, begin, events, length)` cuts them."""
    subject = before(**options)

    class Wrong(PairBatches):
        def gather(self, events):
            batch = super().gather(events)
            begin = self._start[self._user[events].long()]
            history = gather(self._item, begin, events, self.history_length)
            return replace(batch, history=_long(history))

    subject.batches.__class__ = Wrong
    return subject


def oldest(items, begin, events, length):
    return windows(items, begin, (events - begin).clamp(max=length))


def with_target(items, begin, events, length):
    first = torch.maximum(begin, events + 1 - length)
    return windows(items, first, events + 1 - first)


def unordered_with_target() -> Subject:
    given = Dataset.load(world().interactions.drop("timestamp"), schema=Schema()).split("random")
    subject = before(given)

    class Wrong(PairBatches):
        def _others(self, events, begin, end):
            return windows(self._item, begin, end - begin)

    subject.batches.__class__ = Wrong
    return subject


def oldest_when_serving() -> Subject:
    retriever = trained()
    length, encode = retriever.model_section.history_length, retriever.encode_users

    def cut(queries: Queries) -> torch.Tensor:
        if queries.histories is None:
            return encode(queries)
        return encode(Queries(histories=[h[:length] for h in queries.histories]))

    retriever.encode_users = cut
    return after(retriever)


def unknown_items_counted() -> Subject:
    retriever = trained()

    def kept(history: Ragged) -> Ragged:
        known = history.values <= retriever.data.items.trained
        return Ragged(history.values * known, history.offsets)

    retriever._known = kept
    return after(retriever)


def padded_to_the_longest() -> Subject:
    retriever = trained()

    def kept(history: Ragged) -> Ragged:
        longest = int(history.lengths.max())
        rows = torch.zeros(len(history.lengths), longest, dtype=torch.int64)
        place = torch.arange(len(history.values)) - history.offsets[history.owners()]
        rows[history.owners(), place] = history.values
        return Ragged(rows.flatten(), torch.arange(len(rows) + 1) * longest)

    retriever._known = kept
    return after(retriever)


# ------------------------------------------------------------------------- mistakes of the data


def counts_of(column: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the number of all events of each entity, the held-out ones included."""
    counted = world().interactions.group_by(column).len("views")
    return frame.join(counted, on=column, how="left").with_columns(pl.col("views").fill_null(0))


def trained_on_test() -> Subject:
    subject = before()
    subject.data.__dict__["training_log"] = subject.data.log
    return subject


def counted_the_future() -> Subject:
    subject = before()
    subject.data.__dict__["item_counts"] = subject.data.log.item_counts(subject.data.items.trained)
    return subject


def later_ids() -> pl.DataFrame:
    """The log, its last tenth of time by users and items that nobody has met before."""
    log = world().interactions
    late = pl.col("timestamp") >= log["timestamp"].quantile(0.9)
    shift = pl.when(late).then(LATER).otherwise(0)
    return log.with_columns(pl.col("user_id") + shift, pl.col("item_id") + shift)


def scaled_by_the_future() -> Subject:
    w = world()
    log = later_ids().with_columns(pl.col("user_id") % LATER)
    later = w.items.with_columns(pl.col("item_id") + LATER, pl.col("price") * 10)
    subject = before(load(log, items=pl.concat([w.items, later]), kind="global-time"))
    data = subject.data
    foreign = FeatureTable.fit(ITEM_FEATURES, data.item_frame, data.items.ids, len(data.items))
    mixed = replace(data.item_features, encoders=foreign.encoders)
    subject.data = replace(data, item_features=mixed)
    return subject


def later_values() -> Subject:
    w = world()
    later = w.users.with_columns(pl.col("user_id") + LATER, club="new " + pl.col("club"))
    log = later_ids().with_columns(item_id=pl.col("item_id") % LATER)
    return before(load(log, users=pl.concat([w.users, later]), kind="global-time"))


def strangers() -> Subject:
    log = later_ids().with_columns(item_id=pl.col("item_id") % LATER)
    given = Dataset.load(log, schema=Schema(time="timestamp")).split("global-time")
    return fit(given, user_id=True, history="none", epochs=1)


def last_item_as_feature() -> Subject:
    last = (
        world()
        .interactions.sort("timestamp")
        .group_by("user_id")
        .agg(last=pl.col("item_id").last())
    )
    users = world().users.join(last, on="user_id", how="left")
    return before(load(users=users, more=[Feature("last", "categorical")], side="user"))


def hashed_last_item_as_feature() -> Subject:
    last = (
        world()
        .interactions.sort("timestamp")
        .group_by("user_id")
        .agg(last=pl.col("item_id").last())
    )
    code = (pl.col("last") * 7919 % 100_003).cast(pl.String)
    users = world().users.join(last.with_columns(code), on="user_id", how="left")
    return before(load(users=users, more=[Feature("last", "categorical")], side="user"))


def joined_with(feature: str, side: str) -> Subject:
    """A log joined with everything, in which a feature of items is declared of users, or so."""
    w = world()
    log = w.interactions.join(w.items, on="item_id").join(w.users, on="user_id")
    schema = Schema(time="timestamp", **{f"{side}_features": [Feature(feature, "categorical")]})
    return before(Dataset.load(log, schema=schema).split(), user_features=(), item_features=())


def asked_with(page: pl.Expr) -> Subject:
    """A log joined with its items, of which a column is declared as known before the event."""
    w = world()
    log = w.interactions.join(w.items, on="item_id").with_columns(page=page)
    known = EventFeature("page", "categorical", known="before")
    return before(
        Dataset.load(log, schema=Schema(time="timestamp", event_features=[known])).split()
    )


def repeated_events() -> Subject:
    log = world().interactions
    again = log.sort("timestamp").group_by("user_id").first()
    late = again.with_columns(timestamp=pl.lit(log["timestamp"].max() + 10, pl.Int64))
    return before(load(pl.concat([log, late.select(log.columns)])))


def coarse_times(tie: str) -> Subject:
    log = world().interactions.with_columns(pl.col("timestamp") // 4_000_000)
    subject = before(load(log, tie=tie))
    subject.tie = tie
    return subject


def half_without_features() -> Subject:
    items = world().items.with_columns(
        tags=pl.when(pl.int_range(pl.len()) % 2 == 0).then("tags"),
        price=pl.when(pl.int_range(pl.len()) % 2 == 0).then("price"),
    )
    return before(load(items=items), item_id=False)


def items_of_another_world() -> Subject:
    items = world().items.with_columns(pl.col("item_id") + LATER)
    return before(load(items=items))


def one_user_in_letters() -> Subject:
    log = world().interactions.with_columns(pl.col("user_id").cast(pl.String))
    first = log["user_id"][0]
    log = log.with_columns(pl.col("user_id").replace(first, f"x{first}"))
    return before(Dataset.load(log, schema=Schema(time="timestamp")).split())


def log_alone(log: pl.DataFrame, **more: Any) -> Subject:
    """What the doctor sees of a log that no model is asked for."""
    dataset = Dataset.load(log, schema=Schema(time="timestamp", **more))
    return Subject.of_log(dataset, {name: log[name].n_unique() for name in log.columns})


def changed_ids(share: int, change: pl.Expr) -> Subject:
    """The log with the ids of some users, one in so many, written otherwise."""
    user = pl.col("user_id").cast(pl.String)
    odd = pl.int_range(pl.len()) % share == 0
    return log_alone(
        world().interactions.with_columns(
            pl.when(odd).then(change).otherwise(user).alias("user_id")
        )
    )


def one_bot() -> Subject:
    log = world().interactions
    first, last = log["timestamp"].min(), log["timestamp"].max()
    times = pl.int_range(first, last, (last - first) // 3_000, eager=True).head(3_000)
    items = log["item_id"].sample(len(times), with_replacement=True, seed=1)
    bot = pl.DataFrame({"user_id": 77, "item_id": items, "timestamp": times})
    return log_alone(pl.concat([log.select(bot.columns), bot.select(pl.all().cast(pl.Int64))]))


def one_event_each() -> Subject:
    log = world().interactions
    return log_alone(log.with_columns(user_id=pl.int_range(pl.len()) + 1_000))


def one_more_item_feature(values: Any, kind: Any = "categorical") -> Subject:
    items = world().items.with_columns(values.alias("extra"))
    return before(load(items=items, more=[Feature("extra", kind)]))


# ----------------------------------------------------------------------- mistakes that show later


def exploded() -> Subject:
    watch = TrainingWatch(Quiet())
    retriever = TwoTower(**SMALL | {"learning_rate": 1e30, "similarity": "dot", "temperature": 1.0})
    with pytest.raises(TrainingError) as failure:
        retriever.fit(split(), progress=watch)
    return Subject(training=retriever.training_section, epochs=watch.epochs, failure=failure.value)


def refused() -> Subject:
    with pytest.raises(ModelError) as failure:
        TwoTower(loss="hinge", correct_sampling=True)
    return Subject(failure=failure.value)


def told(*scores: float, loss: float = 1.0) -> Subject:
    epochs = [Epoch(n, loss / n, score) for n, score in enumerate(scores, start=1)]
    return Subject(training=TwoTower(**SMALL).training_section, epochs=epochs)


def vectors(change: Callable[[torch.Tensor], torch.Tensor]) -> Subject:
    retriever = trained()
    retriever.item_vectors = change(retriever.item_vectors.clone())
    return after(retriever)


def one_nan(items: torch.Tensor) -> torch.Tensor:
    items[3, 2] = math.nan
    return items


def one_user_vector() -> Subject:
    retriever = trained()
    forward = retriever.towers.query.forward
    retriever.towers.query.forward = lambda *a: forward(*a) * 0 + 1
    return after(retriever)


def wiped_table() -> Subject:
    retriever = trained()
    with torch.no_grad():
        retriever.towers.item.id.weight[1:] = 0.01
    return after(retriever)


def inner_product_index() -> Subject:
    retriever = trained()
    items = retriever.item_vectors
    retriever.index = ExactIndex("dot").build(
        retriever.item_rows, items * items.norm(dim=1)[:, None]
    )
    return after(retriever)


def towers_trained_on() -> Subject:
    retriever = trained()
    with torch.no_grad():
        retriever.towers.item.id.weight[5] += 1
    return after(retriever)


def correction_when_serving() -> Subject:
    retriever = trained()
    log_q = torch.log(1 + torch.from_numpy(retriever.data.item_counts)).numpy()
    recommend = retriever.recommend

    def corrected(queries: Any, k: int = 10) -> Any:
        answer = recommend(queries, k)
        return replace(answer, scores=answer.scores - log_q[answer.rows].astype(np.float32))

    retriever.recommend = corrected
    return after(retriever)


def hard_at_the_top() -> Subject:
    retriever = trained()
    section = retriever.training_section
    retriever.training_section = section.model_copy(update={"hard": "mined", "hard_ranks": (1, 10)})
    return after(retriever)


def hard_among_known() -> Subject:
    retriever = trained()
    section = retriever.training_section
    retriever.training_section = section.model_copy(update={"hard": "mined", "hard_known": True})
    return after(retriever)


# ------------------------------------------------------------------------------------ both tables

SEEDED: list[tuple[str, str, Callable[[], Subject]]] = [
    (
        "softmax over cosines at temperature 1",
        "cosine-softmax-unscaled",
        lambda: before(temperature=1.0),
    ),
    (
        "BCE on a raw cosine",
        "bce-unscaled-cosine",
        lambda: before(mode="pointwise", temperature=1.0),
    ),
    (
        "BPR on a cosine at temperature 1",
        "temperature-too-high",
        lambda: before(mode="pairwise", temperature=1.0),
    ),
    (
        "triplet logistic with scale 1 on a cosine",
        "temperature-too-high",
        lambda: before(mode="pairwise", loss="triplet_logistic", scale=1.0),
    ),
    ("temperature 0.001", "temperature-too-low", lambda: before(temperature=0.001)),
    (
        "hinge with margin 3 on a cosine",
        "margin-out-of-reach",
        lambda: before(loss="hinge", margin=3.0),
    ),
    ("correction forced upon hinge, in code", "correction-unfit", forced_correction),
    ("correct_sampling = true with hinge, in a recipe", "refused", refused),
    (
        "log Q divided by the temperature",
        "logq-inside-temperature",
        lambda: wrong_objective(change=lambda tau, q: q / tau),
    ),
    (
        "log Q added",
        "logq-wrong-sign",
        lambda: wrong_objective(change=lambda tau, q: -q),
    ),
    ("log Q left out", "logq-ignored", lambda: wrong_objective(change=lambda tau, q: 0 * q)),
    (
        "the positive left uncorrected",
        "positive-uncorrected",
        lambda: wrong_objective(positive_change=lambda tau, q: 0 * q),
    ),
    (
        "temperature accepted and ignored",
        "temperature-ignored",
        lambda: wrong_objective(tau=lambda tau: 1.0),
    ),
    (
        "temperature applied twice",
        "temperature-twice",
        lambda: wrong_objective(tau=lambda tau: tau**2),
    ),
    (
        "log Q subtracted twice",
        "objective-differs",
        lambda: wrong_objective(change=lambda tau, q: 2 * q),
    ),
    ("in-batch BCE whose positive term is lost", "positive-term-lost", lost_positive),
    (
        "in-batch BCE at temperature 1",
        "in-batch-pointwise-collapse",
        lambda: before(mode="pointwise", sampler="in_batch", temperature=1.0),
    ),
    ("in-batch BCE without its learned bias", "in-batch-pointwise-collapse", without_bias),
    ("in-batch corrected by count^0.75", "logq-from-another-law", tempered_in_batch),
    (
        "drawn by count^0.75, corrected by count^0.25",
        "logq-from-another-law",
        drawn_from_another_law,
    ),
    (
        "popularity sampling, correction off",
        "popularity-sampling-uncorrected",
        lambda: before(sampler="popularity", correct_sampling=False),
    ),
    ("hinge over in-batch negatives", "loss-learns-ratio", lambda: before(loss="hinge")),
    ("in-batch softmax with 8 rows a batch", "too-few-negatives", lambda: before(batch_size=8)),
    (
        "one shared negative a batch, one epoch",
        "too-few-negatives",
        lambda: before(mode="pairwise", negatives=1, shared=True, epochs=1, batch_size=4096),
    ),
    (
        "hard negatives that may be known positives",
        "hard-negatives-are-positives",
        hard_among_known,
    ),
    ("hard negatives mined from ranks 1 to 10", "hard-negatives-too-near", hard_at_the_top),
    (
        "histories that keep the oldest events",
        "history-not-latest",
        lambda: batches_with(oldest, history_length=5),
    ),
    ("serving keeps the oldest events", "history-not-latest", oldest_when_serving),
    (
        "the target at the end of its own history",
        "target-in-history",
        lambda: batches_with(with_target),
    ),
    ("the target in its own unordered history", "target-in-history", unordered_with_target),
    ("unknown items counted in the mean", "padding-changes-vector", unknown_items_counted),
    (
        "histories padded to the longest of the batch",
        "padding-changes-vector",
        padded_to_the_longest,
    ),
    ("history_length = 2", "history-mostly-cut", lambda: before(history_length=2)),
    ("held-out events trained on", "held-out-in-training", trained_on_test),
    ("popularity counted on held-out events too", "held-out-in-training", counted_the_future),
    ("a price scaled by later items too", "held-out-in-training", scaled_by_the_future),
    ("events repeated after the cut", "duplicates-across-cut", repeated_events),
    ("the last item as a user feature", "feature-knows-target", last_item_as_feature),
    (
        "the last item, hashed, as a user feature",
        "feature-knows-target",
        hashed_last_item_as_feature,
    ),
    (
        "a genre of the item, joined to the log, as a user feature",
        "feature-follows-event",
        lambda: joined_with("studio", "user"),
    ),
    (
        "the page of the item itself as the page of the request",
        "context-knows-item",
        lambda: asked_with(pl.col("item_id").hash(3).cast(pl.String)),
    ),
    (
        "a shelf of the item as the page of the request",
        "context-knows-item",
        lambda: asked_with(pl.col("item_id") % 25),
    ),
    (
        "views of the whole log as an item feature",
        "feature-knows-target",
        lambda: before(
            load(items=counts_of("item_id", world().items), more=[Feature("views", "numeric")])
        ),
    ),
    ("tied times, tie = 'file'", "ties-by-file-order", lambda: coarse_times("file")),
    ("tied times, tie = 'hash'", "ties-by-hash", lambda: coarse_times("hash")),
    (
        "40 users",
        "few-test-users",
        lambda: before(
            Dataset.load(world(40).interactions, schema=Schema(time="timestamp")).split()
        ),
    ),
    (
        "held-out events of new items, no features",
        "held-out-items-unknown",
        lambda: before(
            Dataset.load(later_ids(), schema=Schema(time="timestamp")).split("global-time")
        ),
    ),
    (
        "items nobody has touched",
        "cold-items",
        lambda: before(
            Dataset.load(later_ids(), schema=Schema(time="timestamp")).split("global-time")
        ),
    ),
    ("an items table with other ids", "ids-not-shared", items_of_another_world),
    ("one user written in letters", "text-among-numbers", one_user_in_letters),
    (
        "one row in ten twice",
        "duplicate-events",
        lambda: log_alone(pl.concat([world().interactions, world().interactions.head(480)])),
    ),
    (
        "rows without a user",
        "missing-ids",
        lambda: log_alone(
            world().interactions.with_columns(
                pl.when(pl.int_range(pl.len()) % 9 > 0).then(pl.col("user_id"))
            ),
            null_ids="drop",
        ),
    ),
    ("a user with 3,000 events among users with 20", "bots", one_bot),
    ("a new user for each event", "one-event-users", one_event_each),
    (
        "an item for each event",
        "items-of-one-user",
        lambda: log_alone(world().interactions.with_columns(item_id=pl.int_range(pl.len()))),
    ),
    (
        "a year without events",
        "gap-in-time",
        lambda: log_alone(
            world().interactions.with_columns(
                pl.col("timestamp")
                + 31_536_000 * (pl.col("timestamp") > pl.col("timestamp").median()).cast(pl.Int64)
            )
        ),
    ),
    (
        "ten events in the year 2090",
        "times-out-of-range",
        lambda: log_alone(
            world().interactions.with_columns(
                pl.when(pl.int_range(pl.len()) < 10)
                .then(3_786_912_000)
                .otherwise(pl.col("timestamp"))
                .alias("timestamp")
            )
        ),
    ),
    (
        "one id in five has a letter",
        "ids-of-two-kinds",
        lambda: changed_ids(5, "x" + pl.col("user_id").cast(pl.String)),
    ),
    (
        "some ids with a zero in front",
        "ids-nearly-equal",
        lambda: changed_ids(5, "0" + pl.col("user_id").cast(pl.String)),
    ),
    (
        "a column with one value",
        "constant-column",
        lambda: log_alone(world().interactions.with_columns(country=pl.lit("NL"))),
    ),
    (
        "NULL as a value",
        "words-for-nothing",
        lambda: one_more_item_feature(pl.int_range(160).cast(pl.String).replace("7", "NULL")),
    ),
    ("later users with values of their own", "vocabulary-mostly-unknown", later_values),
    (
        "a feature with one value",
        "constant-feature",
        lambda: one_more_item_feature(pl.lit("same")),
    ),
    (
        "a feature nobody has",
        "missing-feature",
        lambda: one_more_item_feature(pl.lit(None, pl.Float64), "numeric"),
    ),
    (
        "the title as a category",
        "id-in-disguise",
        lambda: one_more_item_feature(pl.col("title")),
    ),
    (
        "item_id = false, and half of the items bare",
        "items-without-features",
        half_without_features,
    ),
    ("a learning rate of 1e-9", "loss-does-not-fall", lambda: fit(learning_rate=1e-9)),
    ("that model, beside popularity", "worse-than-popular", lambda: fit(learning_rate=1e-9)),
    ("that model, beside item-cf", "worse-than-simple", beside_simple),
    ("bfloat16 on a CPU without it", "bfloat16-emulated", without_bfloat16),
    ("three epochs of one batch", "too-few-steps", lambda: before(epochs=3, batch_size=8192)),
    ("three epochs at a low rate", "still-improving", lambda: fit(epochs=3, learning_rate=0.001)),
    ("a figure that only falls", "best-at-first-epoch", lambda: told(0.2, 0.15, 0.1)),
    ("a learning rate of 1e30", "training-stopped", exploded),
    ("a validation figure of NaN", "figures-not-finite", lambda: told(0.2, math.nan, 0.1)),
    ("only user ids, and users of a later day", "mostly-fallback", strangers),
    ("NaN in one item vector", "vectors-not-finite", lambda: vectors(one_nan)),
    ("item vectors with a common offset", "collapsed-vectors", lambda: vectors(lambda v: v + 100)),
    (
        "item vectors on one line",
        "few-dimensions-used",
        lambda: vectors(lambda v: v[:, :1] * torch.ones_like(v)),
    ),
    ("a user tower that ignores the user", "one-list-for-everyone", one_user_vector),
    ("an embedding table wiped", "dead-embeddings", wiped_table),
    ("an inner-product index under a cosine", "index-metric-differs", inner_product_index),
    ("towers trained on after indexing", "index-older-than-towers", towers_trained_on),
    ("log Q applied when serving", "served-score-differs", correction_when_serving),
]
"""What was done wrong, the code the doctor must give, and how it is done."""

CLEAN: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("listwise, in-batch, cosine", "leave-last-out", True, {}),
    ("pointwise BCE, uniform", "global-time", False, {"mode": "pointwise"}),
    ("pairwise BPR, uniform", "random", True, {"mode": "pairwise"}),
    ("listwise, dot product", "leave-last-out", False, {"similarity": "dot"}),
    ("listwise, euclidean", "global-time", True, {"similarity": "euclidean", "temperature": 0.5}),
    ("softmax, mixed negatives", "random", False, {"sampler": "mixed", "negatives": 100}),
    ("hinge, uniform", "leave-last-out", True, {"mode": "pairwise", "loss": "hinge"}),
    (
        "NCE, popularity",
        "global-time",
        False,
        {"loss": "nce", "sampler": "popularity", "negatives": 16, "shared": False},
    ),
    ("mean of 20 events", "random", True, {"history": "mean", "history_length": 20}),
    ("matrix factorisation", "leave-last-out", False, {"user_id": True, "history": "none"}),
    ("learned temperature", "global-time", True, {"learn_temperature": True}),
    ("NEG, uniform", "random", False, {"mode": "pointwise", "loss": "neg"}),
    ("known positives masked", "leave-last-out", False, {"mask_known": True, "hard": "mined"}),
]
"""Sound runs: what, split, whether features are read, options. Each has a world of its own."""


def clean_run(number: int) -> list[Finding]:
    """Train one of the sound runs; return what the doctor says before and after."""
    _, kind, with_features, options = CLEAN[number]
    w = planted_world(users=240, items=160, events=4_800, seed=number)
    schema = Schema(
        time="timestamp",
        user_features=USER_FEATURES if with_features else (),
        item_features=ITEM_FEATURES if with_features else (),
    )
    given = Dataset.load(w.interactions, users=w.users, items=w.items, schema=schema).split(kind)
    chosen = {"epochs": 8, "learning_rate": 0.02} | options
    return [*examine(before(given, **chosen)), *examine(fit(given, **chosen))]


@pytest.mark.parametrize("name", [name for name, _, _ in SEEDED])
def test_a_planted_mistake_is_found(name):
    code, plant = next((code, plant) for seeded, code, plant in SEEDED if seeded == name)
    found = {finding.code: finding for finding in examine(plant())}
    assert code in found
    numbers = any(character.isdigit() for character in found[code].evidence)
    assert numbers or code in {"refused", "correction-unfit"}


@pytest.mark.parametrize("number", range(len(CLEAN)), ids=[name for name, *_ in CLEAN])
def test_a_sound_run_raises_no_alarm(number):
    assert [f for f in clean_run(number) if f.severity != "info"] == []


def test_the_world_that_mistakes_are_planted_in_is_sound():
    assert [f for f in examine(before()) if f.severity != "info"] == []
    assert [f for f in examine(after(trained())) if f.severity != "info"] == []
    assert examine(log_alone(world().interactions)) == []


def test_a_positive_left_uncorrected_as_the_recipe_asks_is_no_mistake():
    subject = before(correct_positives=False)
    known = {finding.code for finding in examine(before())}
    assert {finding.code for finding in examine(subject)} == known
    subject.objective = mutated(subject.objective, change=lambda tau, q: 0 * q)
    assert {finding.code for finding in examine(subject)} - known == {"logq-ignored"}


def test_every_check_has_a_mistake_that_it_finds():
    assert {code for _, code, _ in SEEDED} == set(CHECKS)
    assert len(CLEAN) >= 10


def test_the_temperature_finding_prints_the_floor_and_the_best_probability():
    finding = next(f for f in examine(before(temperature=1.0)) if f.severity == "error")
    rows = before().negatives_a_row
    floor = math.log1p(rows * math.exp(-2))
    assert f"N = {rows:,}" in finding.evidence
    assert f"= {floor:.2f}" in finding.evidence
    assert f"{math.exp(-floor):.2g}" in finding.evidence


def page() -> str:
    """Return docs/doctor.md."""
    severity = {code: check.severity for code, check in CHECKS.items()}
    seeded = ((name, f"`{code}`", severity[code]) for name, code, _ in SEEDED)
    clean = (
        (name, kind, "yes" if features else "no", "no error, no warning")
        for name, kind, features, _ in CLEAN
    )
    return TEXT.format(
        findings=findings_table(),
        seeded=table(("what was done wrong", "found as", "severity"), seeded),
        clean=table(("run", "split", "features", "the doctor says"), clean),
        mistakes=len(SEEDED),
        runs=len(CLEAN),
        codes=len(CHECKS),
    )


def test_a_single_user_does_not_show_that_another_method_is_better():
    figure, one = {"ndcg@10": {"mean": 0.1}}, {"ndcg@10": {"mean": -0.4, "low": -0.4, "high": -0.4}}
    rung = {"name": "item-cf", "metrics": figure, "difference": one}
    told = {"users": 1, "counts": {}, "metrics": figure, "ladder": [rung]}
    report = told | {"difference": {"popularity": one}}
    assert examine(Subject(report=report)) == []


def test_tied_times_say_nothing_of_a_split_that_holds_out_no_last_event():
    subject = coarse_times("hash")
    assert "ties-by-hash" in {finding.code for finding in examine(subject)}
    subject.data = replace(subject.data, kind="cold-items")
    assert "ties-by-hash" not in {finding.code for finding in examine(subject)}


def test_popular_items_that_are_better_are_found_once():
    worse = {"ndcg@10": {"mean": -0.4, "low": -0.5, "high": -0.3}}
    figure = {"ndcg@10": {"mean": 0.1}}
    rungs = [{"name": n, "metrics": figure, "difference": worse} for n in ("popular", "item-cf")]
    told = {"users": 99, "counts": {}, "metrics": figure, "popularity": figure}
    report = told | {"difference": {"popularity": worse}}
    codes = [finding.code for finding in examine(Subject(report=report | {"ladder": rungs[:1]}))]
    assert codes == ["worse-than-popular"]
    both = {f.code: f for f in examine(Subject(report=report | {"ladder": rungs}))}
    assert both["worse-than-simple"].evidence.startswith("item-cf: ")


def test_the_page_says_what_the_doctor_does():
    assert PAGE.read_text() == page()


TEXT = """<!-- Written by `python -m tests.doctor.test_seeded_mistakes`; a test keeps it true. -->

# The doctor

[中文](doctor.zh.md)

    shortlist doctor RECIPE.toml     # before training: the recipe and its data
    shortlist doctor BUNDLE          # after it: the vectors, the index, the figures
    shortlist doctor LOG.csv         # the data alone, its columns guessed as `init` does
    shortlist train ...              # ends with its findings, and keeps them in the bundle

Each finding has a stable code, a severity, the mistake, the evidence (the numbers of
this case) and the cure. **error**: the result is wrong or worthless; **warning**: it probably costs
quality; **info**: what a reader of the figures should know. `shortlist doctor` exits with 1 if
there is an error, and `--json` prints one object.

Where possible, the doctor tests the behaviour of the code instead of reading its settings: it
compares the objective on random vectors with the formula, counts the draws of the sampler and
compares them with `log_q`, and computes a user's vector with and without padding. So it also finds
mistakes in a loss, sampler or tower of your own.

## {codes} checks

{findings}

## Planted mistakes: {mistakes} of {mistakes} found

`tests/doctor/test_seeded_mistakes.py` plants each one in a small synthetic data set.

{seeded}

## Sound runs: {runs} of {runs} without an alarm

Each is trained on a synthetic data set of its own, and checked before and after.

{clean}
"""


if __name__ == "__main__":
    PAGE.write_text(page())
