"""The contract of every retriever of the table CHANNELS."""

import itertools
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
import torch

import shortlist
from answers import assert_same_up_to_rounding
from shortlist.asking.capabilities import Encodes, Explains, FindsSimilar, FindsSimilarUsers
from shortlist.asking.queries import Queries
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.channels.counting.als import ALS
from shortlist.channels.counting.history import ProfileOptions
from shortlist.channels.counting.inverted import Inverted
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.base import Learner
from shortlist.channels.table import CHANNELS
from shortlist.data.dataset import Dataset
from shortlist.data.histories import Events, LoggedHistories
from shortlist.data.interactions import Interactions, Role
from shortlist.data.predicates import allowed_rows, parse
from shortlist.data.ragged import Ragged
from shortlist.data.renewal import renewed
from shortlist.data.schema import Schema
from shortlist.data.updates import with_events
from shortlist.errors import DataError, ModelError, NotFittedError, QueryError, ShortlistError
from shortlist.training.lesson import Lesson

OPTIONS = {
    "inverted": {"attribute": "tags"},
    "als": {"factors": 8, "iterations": 3},
    "graph-filter": {"factors": 8},
    "two-tower": {"dim": 8, "epochs": 1, "batch_size": 256},
    "item-to-item": {"dim": 8, "epochs": 1, "batch_size": 256, "session_gap": 10**6},
    "user-to-user": {"dim": 8, "epochs": 1, "batch_size": 256},
}
"""What a kind needs, or makes it quick."""

SHORT = {"inverted", "item-cf", "user-cf", "user-to-user"}
"""Kinds that list only what has anything to do with the query."""

VARIANTS = {
    "two-tower gru": {"history": "gru", "history_reads": "items"},
    "two-tower comirec": {"history": "comirec"},
    "two-tower mind": {"history": "mind", "interests": 2},
}
"""Kinds with towers that train or search otherwise."""

WEIGHED = [
    kind
    for kind, channel in CHANNELS.items()
    if kind == "two-tower" or issubclass(getattr(channel, "options_type", object), ProfileOptions)
]
"""Kinds that can read data.weight."""

OURS = (
    *("popular", "inverted", "item-cf", "user-cf", "ease", "graph-filter", "als", "transitions"),
    *("two-tower", "item-to-item", "user-to-user", "blend"),
)
"""Kinds of which it is written down what they can do."""

KINDS = [*CHANNELS, *VARIANTS, "blend"]


@pytest.fixture(scope="module")
def channels(split):
    """Each kind, fitted once."""
    made = {}

    def get(name):
        if name not in made and name != "blend":
            kind = name.split()[0]
            options = OPTIONS.get(kind, {}) | VARIANTS.get(name, {})
            made[name] = CHANNELS[kind](**options).fit(split)
        if name not in made:
            parts = {"cf": get("item-cf"), "tags": get("inverted"), "ease": get("ease")}
            made[name] = Blend(parts, quotas={"cf": 5, "tags": 1, "ease": 4})
            made[name]._adopt()
        return made[name]

    return get


@pytest.fixture(params=KINDS)
def channel(request, channels):
    return channels(request.param)


def assert_same(channel, found, rows, scores):
    """By the answer rule: up to rounding where a tower encodes a query, else bit for bit."""
    if isinstance(channel, Learner):
        return assert_same_up_to_rounding((found.rows, found.scores), (rows, scores))
    np.testing.assert_array_equal(found.rows, rows)
    return np.testing.assert_array_equal(found.scores, scores)


def history(data, row):
    return data.items.external(data.log.item[data.log.user == row]).to_list()


def test_lists_are_distinct_candidates_the_user_has_not_met_best_first(channel):
    data = channel.data
    users = data.users.ids[:40]
    found = channel.recommend(users, 15)
    candidates = set(channel.candidate_rows().tolist())
    for query, user in enumerate(users):
        rows = found.rows[query][found.rows[query] >= 0].tolist()
        met = set(data.log.item[data.log.user == data.users.rows([user])[0]].tolist())
        assert len(set(rows)) == len(rows) > 0
        assert set(rows) <= candidates
        assert not set(rows) & met
        scores = found.scores[query]
        assert np.isfinite(scores[: len(rows)]).all()
        assert (np.diff(scores[: len(rows)]) <= 0).all()
        assert (scores[len(rows) :] == -np.inf).all()


def test_equal_scores_go_by_the_tie_key(channel):
    if isinstance(channel, Blend):
        pytest.skip("quotas give each place its own score")
    found = channel.recommend(channel.data.users.ids[:40], 50)
    keys = channel.data.items.tie_keys.astype(object)
    tied = (np.diff(found.scores, axis=1) == 0) & (found.rows[:, 1:] >= 0)
    for query, place in zip(*np.nonzero(tied), strict=True):
        assert keys[found.rows[query, place]] < keys[found.rows[query, place + 1]]


def test_an_answer_does_not_depend_on_the_other_queries(channel):
    users = channel.data.users.ids[:7]
    together = channel.recommend(users, 10)
    for query, user in enumerate(users):
        alone = channel.recommend([user], 10)
        assert_same(
            channel, alone, together.rows[query : query + 1], together.scores[query : query + 1]
        )


def test_met_items_come_back_when_they_may(channel):
    users = channel.data.users.ids[:20]
    k = len(channel.candidate_rows())
    found = channel.recommend(Queries(users, exclude_seen=False), k)
    met = sum(
        len(set(found.rows[q].tolist()) & set(channel.data.log.item[channel.data.log.user == row]))
        for q, row in enumerate(channel.data.users.rows(users))
    )
    assert met > 0


def test_a_query_of_which_nothing_is_known_gets_popular_items_under_the_flag(channel):
    if isinstance(channel, Popular):
        pytest.skip("it needs nothing of the user")
    found = channel.recommend(Queries(histories=[[], [channel.data.items.ids[0]]]), 5)
    popular = Popular().fit_data(channel.data).recommend(Queries(histories=[[]]), 5)
    assert found.fallback.tolist() == [True, False]
    same = [row in set(channel.candidate_rows()) for row in popular.rows[0]]
    assert (found.rows[0] == popular.rows[0])[same].all()


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_filters_leave_exactly_the_matching_items_in_their_order(channel, share):
    data, users = channel.data, channel.data.users.ids[:10]
    random = np.random.default_rng(5)
    candidates = channel.candidate_rows()
    kept = random.choice(candidates, max(1, int(share * len(candidates))), replace=False)
    everything = channel.recommend(users, len(candidates))
    some = channel.recommend(Queries(users, allow=data.items.external(kept)), len(candidates))
    if isinstance(channel, Blend):
        for query in range(10):
            assert set(some.rows[query]) <= {*kept, -1}
        return
    for query in range(10):
        wanted = [row for row in everything.rows[query] if row in set(kept)]
        assert some.rows[query][some.rows[query] >= 0].tolist() == wanted


def test_a_condition_holds_for_every_item_of_the_answer(channel):
    where = {"and": [{"column": "price", "min": 0.2}, {"not": {"column": "tags", "eq": "never"}}]}
    allowed = allowed_rows(channel.data, parse(where))
    found = channel.recommend(Queries(channel.data.users.ids[:10], where=where), 10)
    assert (found.rows >= 0).any()
    assert all(allowed[row] for row in found.rows[found.rows >= 0])
    nothing = channel.recommend(Queries(channel.data.users.ids[:3], allow=[]), 10)
    assert (nothing.rows == -1).all()


def test_queries_taken_by_number_are_those_queries(split):
    data = split.training_data()
    besides = replace(data.log, role=np.roll(data.log.role, 3))
    data = replace(data, met=besides)
    which = torch.tensor([7, 2, 2, 11])
    users = data.users.ids.head(20)
    taken = next(row_blocks(Queries(users), data, timed=True)).take(which)
    asked = next(row_blocks(Queries(users.gather(which)), data, timed=True))
    for name in (field.name for field in fields(RowQueries)):
        ours, theirs = getattr(taken, name), getattr(asked, name)
        assert type(ours) is type(theirs), name
        for a, b in (
            zip(ours, theirs, strict=True) if isinstance(ours, Ragged) else [(ours, theirs)]
        ):
            assert a is b or (np.asarray(a) == np.asarray(b)).all(), name
    assert taken.met is not None
    assert taken.weight is not None


@pytest.mark.parametrize("most", [1, 3])
def test_a_quota_takes_the_best_of_the_whole_ranking_that_keep_to_it(channel, most):
    data = channel.data
    held = dict(data.item_frame.select("id", "studio").iter_rows())
    users = data.users.ids.head(15)
    found = channel.recommend(Queries(users, quota={"studio": most}), 30)
    everything = channel.recommend(Queries(users), len(data.items))
    assert (found.fallback == everything.fallback).all()
    for mine, ranking in zip(found.ids, everything.ids, strict=True):
        taken, count = [], {}
        for item in ranking:
            studio = held.get(item)
            if len(taken) < 30 and (studio is None or count.get(studio, 0) < most):
                count[studio] = count.get(studio, 0) + 1
                taken.append(item)
        if isinstance(channel, Blend):  # its order depends on the length of the list
            studios = [held[item] for item in mine if held.get(item) is not None]
            assert max(studios.count(studio) for studio in studios) <= most
            assert len(mine) == len(set(mine)) == len(taken)
        else:
            assert mine == taken


def test_denied_items_are_gone(channel):
    users = channel.data.users.ids[:5]
    first = channel.recommend(users, 3)
    denied = channel.data.items.external(np.unique(first.rows))
    again = channel.recommend(Queries(users, deny=denied), 3)
    assert not set(again.rows.ravel()) & set(first.rows.ravel())


@pytest.mark.parametrize("kind", sorted(RETRIEVERS))
def test_what_is_asked_before_fit_says_so_and_changes_nothing(kind, split, tmp_path):
    parts = {"a": CHANNELS["item-cf"](), "b": CHANNELS["popular"]()}
    fresh = Blend(parts) if kind == "blend" else CHANNELS[kind](**OPTIONS.get(kind, {}))
    asks = {
        "recommend": ([1],),
        "similar": ([1],),
        "explain": ([1], [[1]]),
        "encode_users": ([1],),
        "encodable_users": (),
        "candidate_rows": (),
        "use_exact_index": (),
        "place_items": (),
    }
    for name, arguments in asks.items():
        if hasattr(type(fresh), name):
            with pytest.raises(NotFittedError, match="not fitted yet"):
                getattr(fresh, name)(*arguments)
    for ask in (
        lambda: shortlist.evaluate(fresh),
        lambda: shortlist.compare(fresh, fresh),
        lambda: shortlist.save(fresh, tmp_path / "b"),
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            ask()
    assert not list(tmp_path.iterdir())
    assert not hasattr(fresh, "data")
    with pytest.raises(DataError, match=r"\.split\(\)"):
        fresh.fit(split.dataset)


def test_nobody_asked_is_answered_with_nothing(channel):
    for nobody in ([], Queries(users=()), Queries(histories=[])):
        found = channel.recommend(nobody, 5)
        assert found.rows.shape == (0, 5)
        assert found.ids == []


def test_more_than_there_is_gives_what_there_is(channel):
    found = channel.recommend(channel.data.users.ids[:3], 10**6)
    assert found.rows.shape[1] == len(channel.candidate_rows())
    with pytest.raises(QueryError, match="at least 1"):
        channel.recommend(channel.data.users.ids[:3], 0)


def test_a_bundle_gives_the_same_answers(channel, tmp_path):
    shortlist.save(channel, tmp_path / "b")
    loaded = shortlist.load(tmp_path / "b").retriever
    users = channel.data.users.ids[:20]
    a, b = channel.recommend(users, 12), loaded.recommend(users, 12)
    assert (a.rows == b.rows).all()
    assert (a.scores == b.scores).all()


@pytest.mark.parametrize(
    "name", ["item-cf", "transitions", "ease", "graph-filter", "als", "inverted", "item-to-item"]
)
def test_events_after_the_cut_are_out_of_sight(name, channels):
    channel = channels(name)
    users = channel.data.users.ids[:20]
    known = channel.data.log.before("validation")
    rows = channel.data.users.rows(users)
    lists = [channel.data.items.external(known.item[known.user == row]).to_list() for row in rows]
    before = channel.recommend(Queries(users, before="validation"), 10)
    assert (before.rows == channel.recommend(Queries(histories=lists), 10).rows).all()
    assert (before.rows != channel.recommend(users, 10).rows).any()


@pytest.mark.parametrize("kind", CHANNELS)
def test_what_is_held_out_is_not_learned(kind, channels, world, world_schema):
    """The last event of every user is another one, and no answer from before it changes."""
    log = world.interactions.with_row_index().sort("timestamp", "index", maintain_order=True)
    last = pl.col("index") == pl.col("index").last().over("user_id")
    other = pl.col("item_id").shift(7).fill_null(pl.col("item_id").last())
    changed = log.with_columns(pl.when(last).then(other).otherwise("item_id").alias("item_id"))
    split = Dataset.load(
        changed.drop("index"), users=world.users, items=world.items, schema=world_schema
    ).split("leave-last-out")
    fitted, again = channels(kind), CHANNELS[kind](**OPTIONS.get(kind, {})).fit(split)
    assert len(fitted.data.training_log) == len(again.data.training_log)
    asked = Queries(fitted.data.users.ids[:20].sort(), before="validation")
    ours, theirs = fitted.recommend(asked, 10), again.recommend(asked, 10)
    assert_same_up_to_rounding((theirs.ids, theirs.scores), (ours.ids, ours.scores))


@pytest.mark.parametrize("kind", CHANNELS)
def test_tensors_of_another_name_type_or_shape_are_refused(kind, channels):
    channel = channels(kind)
    settings, states = channel.state()
    for file, tensors in states.items():
        wrong = [{**tensors, "nonsense": torch.zeros(1)}]
        for name, tensor in tensors.items():
            other = torch.float16 if tensor.is_floating_point() else torch.float32
            wrong.append({key: value for key, value in tensors.items() if key != name})
            wrong += [{**tensors, name: changed} for changed in (tensor[None], tensor.to(other))]
        for each in wrong:
            with pytest.raises(ShortlistError):
                type(channel).from_state(channel.data, settings, {**states, file: each})


def test_what_was_met_besides_the_history_is_left_out_and_changes_no_score(channel):
    data, users = channel.data, channel.data.users.ids[:12]
    rows = data.users.rows(users)
    before = channel.recommend(users, 20)
    met = np.stack([before.rows[:, 0], before.rows[:, 2]], axis=1)
    besides = Interactions(
        np.repeat(rows, 2).astype(np.int32),
        met.ravel().astype(np.int32),
        len(data.users) + 1,
        role=np.tile(np.array([Role.TRAIN, Role.TEST], dtype=np.int8), len(rows)),
    )
    other = type(channel).from_state(replace(data, met=besides), *channel.state())
    after = other.recommend(users, 20)
    assert (after.fallback == before.fallback).all()
    for query in range(len(users)):
        left = [row for row in before.rows[query] if row >= 0 and row not in met[query]]
        if isinstance(channel, Blend):
            assert not set(after.rows[query]) & set(met[query])
        else:
            assert after.rows[query][: len(left)].tolist() == left
    allowed = other.recommend(Queries(users, exclude_seen=False), 20).rows
    assert (allowed == channel.recommend(Queries(users, exclude_seen=False), 20).rows).all()
    then = other.recommend(Queries(users, before="test"), 20).rows
    unseen = channel.recommend(Queries(users, before="test"), 20).rows
    for query in range(len(users)):
        assert met[query, 0] not in then[query]
        if met[query, 1] in unseen[query]:  # met after the cut only
            assert met[query, 1] in then[query]


@pytest.fixture(scope="module")
def unrated(world, world_schema):
    """The world with weights of 0 from ten of its users: they were there, and rated nothing."""
    users = world.interactions["user_id"].unique().sort()[:10]
    zero = pl.when(pl.col("user_id").is_in(users.implode())).then(0.0).otherwise(pl.col("rating"))
    log = world.interactions.with_columns(zero.alias("rating"))
    return users, Dataset.load(
        log, users=world.users, items=world.items, schema=world_schema
    ).split("leave-last-out")


@pytest.mark.parametrize("kind", sorted(CHANNELS))
def test_users_whose_weights_are_all_0_get_popular_items_where_weights_count(kind, unrated):
    users, split = unrated
    weighs = kind in WEIGHED and kind != "two-tower"
    options = OPTIONS.get(kind, {}) | ({"values": "explicit"} if weighs else {})
    options |= {"weighted": True} if kind == "two-tower" else {}
    channel = CHANNELS[kind](**options).fit(split)
    found = channel.recommend(users, 10)
    assert (found.rows >= 0).all()
    assert found.fallback.all() == weighs
    if weighs:
        popular = Popular().fit(split)
        for query, user in enumerate(users):
            ranking = popular.recommend([user], len(popular.candidate_rows())).rows[0]
            expected = [row for row in ranking if row in set(channel.candidate_rows())]
            assert found.rows[query].tolist() == expected[:10]
        assert not channel.recommend(channel.data.users.ids[20:30], 10).fallback.any()
        lists = [history(channel.data, row)[:5] for row in (1, 2)]
        assert not channel.recommend(Queries(histories=lists), 10).fallback.any()


@pytest.mark.parametrize("kind", WEIGHED)
def test_a_column_of_weights_that_are_all_0_is_refused_by_name(kind, world):
    log = world.interactions.head(500).with_columns(rating=pl.lit(0.0))
    split = Dataset.load(log, schema=Schema(time="timestamp", weight="rating")).split()
    options = {"weighted": True} if kind == "two-tower" else {"values": "explicit"}
    with pytest.raises(ModelError, match=r"data\.weight, which is 0 in all training rows"):
        CHANNELS[kind](**OPTIONS.get(kind, {}) | options).fit(split)


def test_what_was_met_since_counts_as_if_it_were_stored(channel):
    data, users = channel.data, channel.data.users.ids[3:9]
    rows = torch.from_numpy(data.users.rows(users))
    since = Ragged(torch.tensor([4, 9, 2]).repeat(2), torch.tensor([0, 1, 1, 3, 4, 5, 6]))
    log = LoggedHistories(data.log).append(rows, Events(since)).log
    stored = type(channel).from_state(replace(data, log=log), *channel.state())
    ids = data.items.external(since.values.numpy()).to_list()
    recent = [ids[a:b] for a, b in itertools.pairwise(since.offsets.tolist())]
    one, other = channel.recommend(Queries(users, recent=recent), 15), stored.recommend(users, 15)
    assert (one.fallback == other.fallback).all()
    assert_same_up_to_rounding((one.ids, one.scores), (other.ids, other.scores))
    for answer, met in zip(one.ids, recent, strict=True):
        assert not set(answer) & set(met)
    if not isinstance(channel, Popular):
        assert (one.rows != channel.recommend(users, 15).rows).any()


def test_a_filter_of_items_is_refused_where_no_items_are_chosen(channel):
    data, user = channel.data, channel.data.users.ids[:1].to_list()
    item = data.items.ids[0]
    asks = {}
    if isinstance(channel, Encodes):
        asks["the vector of a query"] = channel.encode_users
    if isinstance(channel, FindsSimilarUsers):
        asks["similar users"] = channel.similar
    filters = {
        "exclude_seen": False,
        "where": {"column": "price", "min": 0},
        "allow": [item],
        "deny": [item],
        "quota": {"studio": 3},
        "rows": torch.ones(len(data.items) + 1, dtype=torch.bool),
        "met": [[item]],
    }
    for what, ask in asks.items():
        for name, value in filters.items():
            with pytest.raises(QueryError, match=f"^{name} does nothing for {what}"):
                ask(Queries(user, **{name: value}))
        ask(Queries(user))
    if isinstance(channel, Explains):  # it is given the items, so that nothing is left out
        told = channel.explain(Queries(user), [[item]])
        for name, value in filters.items():
            assert channel.explain(Queries(user, **{name: value}), [[item]]).equals(told), name


def test_a_reason_is_a_part_of_the_score_or_what_it_loses_without_the_event(channel):
    if not isinstance(channel, Explains) or isinstance(channel, Blend):
        pytest.skip("it does not explain, or in the scores of its channels")
    data, users = channel.data, channel.data.users.ids[:5]
    found = channel.recommend(users, 3)
    reasons = channel.explain(users, found.ids)
    if channel.reasons_sum:
        sums = reasons.group_by("query", "item").agg(pl.col("contribution").sum())
        told = {(query, item): value for query, item, value in sums.iter_rows()}
        for query, (ids, scores) in enumerate(zip(found.ids, found.scores, strict=True)):
            for item, score in zip(ids, scores, strict=False):
                assert told[query, item] == pytest.approx(float(score), rel=2e-3, abs=1e-5)
        return
    # By hand for the strongest reason: the same history without the event, asked anew. The users
    # are strangers here, so that a model with user ids compares like with like.
    lists = [history(data, row) for row in data.users.rows(users)]
    items = data.items.ids[:20].to_list()
    reasons = channel.explain(Queries(histories=lists), [items] * len(lists))
    assert len(reasons)
    strongest = reasons.group_by("query", maintain_order=True).first()
    for query, item, _, because, lost in strongest.iter_rows():
        rest = [met for met in lists[query] if str(met) != because]
        whole, without = (
            dict(zip(answer.ids[0], answer.scores[0], strict=False))
            for answer in (
                channel.recommend(Queries(histories=[h], exclude_seen=False), 10**6)
                for h in (lists[query], rest)
            )
        )
        nothing = 0.0 if channel.candidate_rows().size > len(without) else None
        expected = whole.get(item, nothing) - without.get(item, nothing)
        assert lost == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_similar_items_are_others_best_first_and_popular_ones_for_the_unknown(channel):
    if not isinstance(channel, FindsSimilar):
        pytest.skip("it does not know which items are alike")
    items = channel.data.items.external(channel.candidate_rows()[:6])
    found = channel.similar([*items, -1], 4)
    assert found.fallback.tolist() == [False] * 6 + [True]
    for item, ids, scores in zip(items, found.ids, found.scores, strict=False):
        assert item not in ids
        assert len(set(ids)) == len(ids)
        assert (np.diff(scores[: len(ids)]) <= 0).all()
    assert len(found.ids[6]) == 4


def test_each_kind_claims_what_it_can_do(channels):
    explains = {name for name in KINDS if isinstance(channels(name), Explains)}
    alike = {name for name in KINDS if isinstance(channels(name), FindsSimilar)}
    assert explains >= {*OURS}
    assert alike & {*OURS} == {*OURS} - {"popular", "user-cf", "user-to-user"}


def test_new_events_make_a_new_retriever_and_leave_the_old_one_as_it_was(channel):
    data = channel.data
    before = channel.recommend(data.users.ids[:5], 5)
    state = dict(channel.__dict__)
    new = channel.observe(data)
    assert new is not channel
    assert type(new) is type(channel)
    assert channel.__dict__ == state
    assert (channel.recommend(data.users.ids[:5], 5).rows == before.rows).all()
    assert (new.recommend(data.users.ids[:5], 5).rows == before.rows).all()


def test_only_training_data_is_observed_and_what_to_give_is_said(channel):
    for junk in (None, "events", pl.DataFrame({"user": [1], "item": [1]})):
        with pytest.raises(DataError, match=r"got a \w+: write observe\(with_events\("):
            channel.observe(junk)


@pytest.fixture(scope="module")
def moved(split):
    """Data in which users and items have come and gone, and the newest events are held out."""
    data = split.training_data("train")
    rows = data.users.external(np.arange(1, 61)), data.items.external(np.arange(1, 31))
    newest = int(data.log.time.max())
    events = pl.DataFrame(
        {
            "user": [*rows[0], *range(1, 41), *rows[0]],
            "item": [*([777] * 60), *rows[1], *rows[1][:10], *rows[1], *rows[1]],
            "time": np.arange(160) * 100 + newest,
            "weight": [4.0] * 160,
        }
    )
    oldest = float(np.quantile(data.log.time, 0.3))
    came = with_events(data, events, learns=True)
    return renewed(data, came, window=newest + 15_900 - oldest, held_out=0.1)


def test_a_channel_goes_on_over_data_whose_ids_have_come_and_gone(channel, moved):
    """Counts and closed forms are those of a whole fit; the others know what is new, and answer."""
    before = dict(channel.__dict__)
    data = moved.data
    new = channel.refreshed(data, Lesson(moved.unlearned & ~moved.held_out, epochs=1))
    assert (type(new), new.data.items.ids.equals(data.items.ids)) == (type(channel), True)
    assert channel.__dict__.keys() == before.keys()
    assert all(channel.__dict__[name] is value for name, value in before.items())
    users = data.users.ids[:40]
    found = new.recommend(users, 15)
    again = type(new).from_state(data, *new.state()).recommend(users, 15)
    assert_same(new, found, again.rows, again.scores)
    assert len(data.items.ids.filter(data.items.ids == 777)) == 1
    if not isinstance(channel, Inverted):
        assert data.items.rows([777])[0] in new.candidate_rows()
    if not isinstance(channel, Learner | ALS | Blend):
        whole = type(channel)(channel.options).fit_data(data).recommend(users, 15)
        assert_same(new, found, whole.rows, whole.scores)


def test_what_is_fitted_needs_no_second_copy_of_the_data(split, channels):
    assert channels("ease").data is channels("als").data


@pytest.mark.parametrize(
    "name", ["item-cf", "transitions", "ease", "graph-filter", "als", "inverted", "popular"]
)
def test_users_and_histories_are_one_door(name, channels):
    channel = channels(name)
    row = 5
    user = channel.data.users.external(np.array([row]))
    one = channel.recommend(user, 10)
    other = channel.recommend(Queries(histories=[history(channel.data, row)]), 10)
    assert_same(channel, one, other.rows, other.scores)
