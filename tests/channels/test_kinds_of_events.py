"""Kinds of events in every channel: what is read asks, what is a target is counted and answered.

Each counting channel is held against a dense oracle on a tiny log, whose sums are written out here.
"""

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.channels.counting.als import ALS
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.graph_filter import GraphFilter
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.transitions import Transitions
from shortlist.channels.counting.user_cf import UserCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.batches import PairBatches
from shortlist.data.dataset import Dataset
from shortlist.data.pairs import ItemPairs, sessions_and_targets
from shortlist.data.schema import Feature, Schema
from shortlist.data.sequences import SequenceBatches
from shortlist.doctor import Subject, examine
from shortlist.errors import QueryError
from shortlist.evaluation.evaluate import evaluate

BUY, VIEW = 3.0, 0.5
TABLE = {"buy": {"target": True, "weight": BUY}, "view": {"weight": VIEW, "seen": False}}
ITEMS = 14


def log(seed=0, users=24, events=260):
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": random.integers(1, users + 1, events),
            "item_id": np.minimum(random.integers(1, ITEMS + 1, events), ITEMS),
            "t": random.permutation(events),
            "e": np.where(random.random(events) < 0.35, "buy", "view"),
        }
        # Item 14 is viewed alone: it can be asked with, and never be answered.
    ).with_columns(e=pl.when(pl.col("item_id") == ITEMS).then(pl.lit("view")).otherwise("e"))


CATALOGUE = pl.DataFrame(
    {"item_id": range(1, ITEMS + 1), "colour": ["red", "blue"] * (ITEMS // 2 - 1) + ["grey"] * 2}
)


def data_of(frame, table=TABLE, **schema):
    named = Schema(
        time="t",
        event="e",
        events=table,
        item_features=(Feature("colour", "categorical"),),
        **schema,
    )
    return Dataset.load(frame, items=CATALOGUE, schema=named).split("leave-last-out")


@pytest.fixture(scope="module")
def split():
    return data_of(log())


def matrices(data):
    """R: the most that an event of a pair counts, [users + 1, items + 1]; T: that of pairs with a
    target, 0 of others.
    """
    known, kinds = data.training_log, data.training_log.kinds
    read = np.zeros((len(data.users) + 1, len(data.items) + 1))
    aimed = np.zeros(read.shape, dtype=bool)
    for user, item, kind in zip(known.user, known.item, known.kind, strict=True):
        read[user, item] = max(read[user, item], kinds.weights[kind])
        aimed[user, item] |= kinds.targets[kind]
    return read, read * aimed


def shown(data, scores):
    """What the scores [items + 1] of a query answer: candidates with a score, best first."""
    rows = data.candidates(with_features=False)
    kept = {int(row): scores[row] for row in rows if scores[row] != 0 and np.isfinite(scores[row])}
    return dict(sorted(kept.items(), key=lambda pair: -pair[1]))


def answers(retriever, users, **asked):
    found = retriever.recommend(Queries(users=users, before="validation", **asked), ITEMS)
    return [
        {int(r): float(s) for r, s in zip(rows, scores, strict=True) if r >= 0}
        for rows, scores in zip(found.rows, found.scores, strict=True)
    ]


def compare(retriever, data, read, wanted, rtol=1e-4):
    """The answers of every known user are the dense scores `wanted` [users + 1, items + 1]."""
    rows = [row for row in range(1, data.users.trained + 1) if read[row].any()]
    users = data.users.external(np.array(rows))
    for row, got in zip(rows, answers(retriever, users, exclude_seen=False), strict=True):
        expected = shown(data, wanted[row])
        assert set(got) == set(expected)
        for item, score in got.items():
            assert score == pytest.approx(expected[item], rel=rtol, abs=1e-6)


def co_counts(left, right):
    counts = left.T @ right
    np.fill_diagonal(counts, 0)
    return counts


def swing_of(read, aimed, alpha=1.0):
    met, sums = [set(np.flatnonzero(row)) for row in read], np.zeros((read.shape[1],) * 2)
    goals = [set(np.flatnonzero(row)) for row in aimed]
    for u in range(len(met)):
        for v in range(u + 1, len(met)):
            both = met[u] & met[v]
            gain = (max(len(met[u]), 1) * max(len(met[v]), 1)) ** -0.5 / (alpha + len(both))
            for i in both:
                for j in goals[u] & goals[v] - {i}:
                    sums[i, j] += gain
    return sums


def inverse(sums, power=1.0):
    return np.divide(1.0, sums**power, out=np.zeros(len(sums)), where=sums > 0)


SIMILARITIES = {
    "cosine": lambda r, t: (
        co_counts(r, t) * inverse((r**2).sum(0), 0.5)[:, None] * inverse((t**2).sum(0), 0.5)
    ),
    "dot": co_counts,
    "conditional": lambda r, t: (
        co_counts(r > 0, (t > 0).astype(float))
        * inverse((r > 0).sum(0))[:, None]
        * inverse((t > 0).sum(0), 0.5)
    ),
    "jaccard": lambda r, t: np.nan_to_num(
        co_counts(r > 0, (t > 0).astype(float))
        / ((r > 0).sum(0)[:, None] + (t > 0).sum(0) - co_counts(r > 0, (t > 0).astype(float))).clip(
            1
        )
    ),
    "swing": swing_of,
}


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_item_cf_counts_what_was_met_against_targets(split, similarity):
    data = split.training_data()
    read, aimed = matrices(data)
    model = ItemCF(similarity=similarity).fit(split)
    compare(model, data, read, read @ SIMILARITIES[similarity](read, aimed))


def test_transitions_go_from_what_was_met_to_targets(split):
    data = split.training_data()
    events = data.training_log
    steps = np.zeros((len(data.items) + 1,) * 2)
    for at, i in enumerate(events.item):
        for other in range(events.indptr[events.user[at]], events.indptr[events.user[at] + 1]):
            d = other - at
            if 0 < abs(d) <= 3 and events.kind[other] == 0:
                near = 2.0 ** -((abs(d) - 1) / 2.0) * (1 if d > 0 else 0.2)
                steps[i, events.item[other]] += near * events.worth[at] * events.worth[other]
    np.fill_diagonal(steps, 0)
    met = np.bincount(events.item, minlength=len(steps)).astype(float)
    aimed = np.bincount(events.targets.item, minlength=len(steps)).astype(float)
    steps *= inverse(met, 0.4)[:, None] * inverse(aimed, 0.1)
    model = Transitions(window=3, decay=2.0, recency=1e9).fit(split)
    read, _ = matrices(data)
    compare(model, data, read, read @ steps)


def test_user_cf_compares_all_that_was_met_and_lends_targets(split):
    data = split.training_data()
    read, aimed = matrices(data)
    unit = read * inverse((read**2).sum(1), 0.5)[:, None]
    similar = unit @ unit.T
    np.fill_diagonal(similar, 0)
    compare(UserCF(neighbours=100).fit(split), data, read, similar @ aimed)
    sets, goals = (read > 0).astype(float), (aimed > 0).astype(float)
    shared = sets @ sets.T
    union = (sets.sum(1)[:, None] + sets.sum(1) - shared).clip(1)
    similar = shared / union
    np.fill_diagonal(similar, 0)
    jaccard = UserCF(similarity="jaccard", neighbours=100).fit(split)
    compare(jaccard, data, read, similar @ goals)


def test_ease_rebuilds_targets_from_all_that_was_met(split):
    data, l2 = split.training_data(), 5.0
    read, aimed = matrices(data)
    weights = np.zeros((read.shape[1],) * 2)
    for item in range(1, data.items.trained + 1):
        others = np.delete(np.arange(1, data.items.trained + 1), item - 1)
        x = read[:, others]
        ridge = x.T @ x + l2 * np.eye(len(others))
        weights[others, item] = np.linalg.solve(ridge, x.T @ aimed[:, item])
    compare(EASE(l2=l2).fit(split), data, read, read @ weights, rtol=1e-3)


def test_als_folds_users_in_from_all_and_fits_items_to_targets(split):
    data = split.training_data()
    read, aimed = matrices(data)
    read, aimed = read[:, : data.items.trained + 1], aimed[:, : data.items.trained + 1]
    factors, alpha, rounds = 3, 10.0, 4
    mass = [alpha * part.sum(1) + part.shape[1] for part in (read, aimed.T)]
    average = [mass[0].mean(), mass[1][1:].mean()]
    random = np.random.default_rng(0)
    items = random.standard_normal((data.items.trained + 1, factors), dtype=np.float32)
    items = items.astype(np.float64) / factors
    items[aimed.sum(0) == 0] = 0

    def solved(fixed, events, side):
        ridge = 10.0 * (mass[side] / average[side]) ** 0.5
        rows = []
        for row, q in enumerate(events):
            system = fixed.T @ (fixed * (1 + alpha * q)[:, None]) + ridge[row] * np.eye(factors)
            aim = np.minimum(q, 1) + alpha * q
            rows.append(np.linalg.solve(system, fixed.T @ aim))
        return np.array(rows)

    for _ in range(rounds):
        users = solved(items, read, 0)
        users[0] = 0
        items = solved(users, aimed.T, 1)
        items[aimed.sum(0) == 0] = 0
    # An event of an item that never was a target says nothing.
    mass[0] = alpha * (read * (aimed.sum(0) > 0)).sum(1) + read.shape[1]
    model = ALS(factors=factors, iterations=rounds, alpha=alpha).fit(split)
    asked = solved(items, read * (aimed.sum(0) > 0), 0) @ items.T
    compare(model, data, read, asked, rtol=2e-3)


def test_the_graph_is_of_all_that_was_met_and_targets_alone_are_answered(split):
    data = split.training_data()
    read, _ = matrices(data)
    graph = read * inverse(read.sum(1), 0.5)[:, None] * inverse(read.sum(0), 0.5)
    largest = np.linalg.norm(graph, 2) ** 2
    model = GraphFilter(filter="gf-cf", low_pass=0.0).fit(split)
    compare(model, data, read, read @ (graph.T @ graph) / largest, rtol=1e-3)


def test_popularity_and_inverted_lists_count_targets_by_their_weight(split):
    data = split.training_data()
    events = data.training_targets
    counts = np.bincount(events.item, minlength=len(data.items) + 1) * BUY
    nobody = Popular().fit(split).recommend(Queries(histories=[[]], exclude_seen=False), 20)
    found = dict(zip(nobody.rows[0].tolist(), nobody.scores[0].tolist(), strict=True))
    assert {row: score for row, score in found.items() if score > 0} == shown(data, counts)
    lists = Inverted(attribute="colour").fit(split).lookup([["red"], ["grey"]], 20)
    red = data.items.rows([i for i in range(1, ITEMS - 1) if i % 2])
    listed = dict(zip(lists.rows[0].tolist(), lists.scores[0].tolist(), strict=True))
    del listed[-1]
    assert listed == shown(data, np.where(np.isin(np.arange(len(counts)), red), counts, 0))
    # Item 14 is grey, and was viewed alone.
    assert data.items.rows([ITEMS])[0] not in lists.rows[1]


SMALL = {"dim": 4, "epochs": 2, "batch_size": 64}
KINDS = {
    "popular": {},
    "inverted": {"attribute": "colour"},
    "item-cf": {},
    "transitions": {"attribute": "colour", "second_hop": 0.2},
    "user-cf": {},
    "ease": {},
    "graph-filter": {"factors": 4},
    "als": {"factors": 4, "iterations": 3},
    "two-tower": SMALL,
    "item-to-item": SMALL | {"session_gap": 20.0},
    "user-to-user": SMALL,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_was_a_target_is_not_answered_and_what_is_not_seen_is(kind, split):
    model = RETRIEVERS[kind](**KINDS[kind]).fit(split)
    data = model.data
    known = data.log.before("validation")
    users = np.unique(known.targets.user).astype(np.int64)
    found = model.recommend(Queries(users=data.users.external(users), before="validation"), ITEMS)
    viewed_alone = data.items.rows([ITEMS])[0]
    if kind not in ("popular", "two-tower", "item-to-item"):  # these place items by features
        assert viewed_alone not in found.rows
    bought = {(int(u), int(i)) for u, i in zip(known.user, known.item, strict=True)} & {
        (int(u), int(i)) for u, i in zip(known.targets.user, known.targets.item, strict=True)
    }
    given = {(int(u), int(r)) for u, rows in zip(users, found.rows, strict=True) for r in rows}
    assert not given & bought
    viewed = {(int(u), int(i)) for u, i in zip(known.user, known.item, strict=True)} - bought
    assert given & viewed


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_which_all_is_target_changes_no_bit(kind):
    frame = log(3)
    plain = Schema(time="t", item_features=(Feature("colour", "categorical"),))
    frame = frame.unique(["user_id", "item_id", "t"]).sort("t")
    table = {"buy": {"target": True}, "view": {"target": True}}
    splits = [
        Dataset.load(frame, items=CATALOGUE, schema=plain).split("leave-last-out"),
        data_of(frame, table),
    ]
    found = []
    for split in splits:
        model = RETRIEVERS[kind](**KINDS[kind]).fit(split)
        users = model.data.users.ids.head(20)
        by_id = model.recommend(Queries(users=users, before="test"), 8)
        by_list = model.recommend(Queries(histories=[[1, 2, 3], [4], [99]]), 8)
        found.append((by_id.rows, by_id.scores, by_list.rows, by_list.scores))
        figures = evaluate(model, k=[5]).metrics["recall@5"]
        found[-1] += (np.array(figures),)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "popular"])
def test_what_is_read_after_the_cut_changes_nothing(kind):
    frame = log(5)
    split = data_of(frame)
    after = split.log.keep((split.log.role >= 1) & (split.log.kind == 1))
    assert len(after) > 20
    late = pl.DataFrame(
        {
            "user_id": split.dataset.user_ids.gather(after.user),
            "t": after.time,
        }
    )
    # Other items are viewed after the cut: those of the same users, the other way round.
    other = frame.join(late.with_columns(late=True), on=["user_id", "t"], how="left")
    other = other.with_columns(
        item_id=pl.when("late").then((pl.col("item_id") * 5) % (ITEMS - 1) + 1).otherwise("item_id")
    ).drop("late")
    assert not other.equals(frame)
    found = []
    for rows in (frame, other):
        model = RETRIEVERS[kind](**KINDS[kind]).fit(data_of(rows))
        report = evaluate(model, on="validation", k=[5])
        users = model.data.users.ids.head(20)
        got = model.recommend(Queries(users=users, before="validation"), 8)
        found.append((model.data.items.ids.to_list(), got.rows, got.scores, report.metrics))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])
    assert found[0][3] == found[1][3]


def test_an_event_of_a_request_is_of_the_kind_it_names_or_of_the_first_that_is_no_target(split):
    model = ItemCF().fit(split)

    def asked(**queries):
        found = model.recommend(Queries(**queries), ITEMS)
        return found.rows[0].tolist(), found.scores[0].tolist()

    plain = asked(histories=[[1, 2, 3]])
    assert plain == asked(histories=[[1, 2, 3]], kinds=[["view", None, "view"]])
    bought = asked(histories=[[1, 2, 3]], kinds=[["buy", "buy", "buy"]])
    rows = set(model.data.items.rows([1, 2, 3]).tolist())
    assert rows & set(plain[0])  # seen = false
    assert not rows & set(bought[0])
    log = model.data.log
    item = next(item for item in range(1, ITEMS) if item not in log.item[log.user == 1])
    user, new = model.data.users.ids[0], model.data.items.ids[item - 1]
    since = asked(users=[user], recent=[[new]], kinds=[["buy"]])
    assert since != asked(users=[user], recent=[[new]])
    wrong = [
        (
            {"histories": [[1]], "kinds": [["sell"]]},
            "'sell' is not a kind of events that this model reads. Known: buy, view",
        ),
        ({"histories": [[1]], "kinds": [None]}, r"kinds\[0\] needs one name for each of 1"),
        ({"histories": [[1]], "kinds": [[]]}, r"kinds\[0\] needs one name for each of 1"),
        ({"histories": [[1]], "kinds": []}, "one list for each of the 1"),
        ({"users": [user], "kinds": [["buy"]]}, "recent or histories"),
    ]
    for queries, message in wrong:
        with pytest.raises(QueryError, match=message):
            asked(**queries)


def generator():
    return torch.Generator().manual_seed(0)


def expected_positives(events, *, first=True):
    """(user, item, history) of each target, with all that its user read before it."""
    found = []
    for at in np.flatnonzero(events.target):
        begin = events.indptr[events.user[at]]
        if at > begin or first:
            history = tuple(events.item[begin:at].tolist())
            found.append((int(events.user[at]), int(events.item[at]), history))
    return sorted(found)


def test_each_target_is_a_positive_once_after_all_that_was_read(split):
    events = split.training_data().training_log
    pairs = PairBatches(events, ordered=True, batch_size=16, history_length=99, with_known=True)
    found = []
    for batch in pairs.epoch(generator()):
        assert (batch.weight == BUY).all()
        histories = batch.history.values.split(batch.history.lengths.tolist())
        known = batch.known.values.split(batch.known.lengths.tolist())
        for user, item, history, of_user in zip(
            batch.users.tolist(), batch.positive.tolist(), histories, known, strict=True
        ):
            found.append((user, item, tuple(history.tolist())))
            # What was only viewed is no negative either, where known positives are masked.
            assert set(of_user.tolist()) == set(events.item[events.user == user].tolist())
    assert sorted(found) == expected_positives(events)
    assert pairs.positives == len(found)


@pytest.mark.parametrize("stretch", [None, 3])
def test_a_position_predicts_the_event_after_it_where_that_is_a_target(split, stretch):
    events = split.training_data().training_log
    batches = SequenceBatches(events, batch_size=32, history_length=50, stretch=stretch)
    found = []
    for batch in batches.epoch(generator()):
        assert len(batch.positive)
        starts = batch.history.offsets[batch.history.owners()[batch.place]]
        for user, item, start, place in zip(
            *(part.tolist() for part in (batch.users, batch.positive, starts, batch.place)),
            strict=True,
        ):
            history = tuple(batch.history.values[start : place + 1].tolist())
            found.append((user, item, history))
    assert sorted(found) == expected_positives(events, first=False)
    assert batches.positives == len(found)


def test_partners_of_a_session_are_targets_as_often_as_expected(split):
    events = split.training_data().training_log
    sessions, targets = sessions_and_targets(events, gap=40)
    pairs = ItemPairs(sessions, batch_size=16, window=2, targets=targets)
    owners, values = sessions.owners(), sessions.values
    aimed = {(int(o), int(v)) for o, v, t in zip(owners, values, targets, strict=True) if t}
    counts = torch.zeros(len(split.dataset.item_ids) + 1, dtype=torch.float64)
    draws, random = 300, generator()
    for _ in range(draws):
        for batch in pairs.epoch(random):
            counts.index_add_(0, batch.positive, torch.ones(len(batch.positive)).double())
    for event in range(0, len(values), 7):
        near = pairs._events[pairs._events == event]
        if len(near):
            partner = int(pairs.gather(near, random).positive)
            assert (int(owners[event]), partner) in aimed
            assert partner != int(values[event])
    expected = pairs.expected_counts(len(counts) - 1)
    assert expected.sum() == pytest.approx(pairs.positives)
    torch.testing.assert_close(counts / draws, expected, rtol=0.15, atol=0.3)


def planted(order, users, steps=6, products=30, seed=0):
    """Users view v and buy f(v); in which order, says `order`: ("view", "buy") tells, the other
    way round the view of what is held out comes too late. What is bought says nothing of what is
    bought next.
    """
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for step, product in enumerate(random.permutation(products)[:steps]):
            items = {"view": 1000 + int(product), "buy": int(product)}
            rows += [(user, items[kind], 2 * step + at, kind) for at, kind in enumerate(order)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "t", "e"], orient="row")


def recall(frame, model, schema):
    split = Dataset.load(frame, schema=schema).split("leave-last-out")
    return evaluate(model.fit(split), k=[3]).metrics["recall@3"].mean


PLANTED = {
    "item-cf": ItemCF,
    "two-tower": lambda: TwoTower(
        dim=16, epochs=8, patience=8, batch_size=64, history="recency", learning_rate=0.05
    ),
    "gru": lambda: TwoTower(
        dim=16, epochs=8, patience=8, batch_size=256, history="gru", learning_rate=0.05
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_views_that_predict_purchases_are_worth_it_and_views_of_the_future_are_not(kind):
    kinds = Schema(time="t", event="e", events={"buy": {"target": True}, "view": {}})
    users = 200 if kind == "item-cf" else 100
    told = recall(planted(("view", "buy"), users), PLANTED[kind](), kinds)
    bought = planted(("view", "buy"), users).filter(pl.col("e") == "buy")
    alone = recall(bought, PLANTED[kind](), Schema(time="t"))
    late = recall(planted(("buy", "view"), users), PLANTED[kind](), kinds)
    # Chance is 3 of the 25 products that a user has not bought.
    assert told > 0.8
    assert alone < 0.3
    assert late < 0.3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "uniform"},
        {"sampler": "popularity", "correct_sampling": False},
        {"sampler": "mixed"},
    ],
)
def test_the_doctor_asks_no_sampler_for_an_item_that_was_only_read(options):
    split = data_of(log())
    tower = TwoTower(dim=4, epochs=1, batch_size=32, user_id=True, **options).fit(split)
    assert (tower.data.item_counts[1:] == 0).any()
    codes = {finding.code for finding in examine(Subject.of_retriever(tower))}
    assert "logq-from-another-law" not in codes
