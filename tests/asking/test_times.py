"""Times and weights in a query are read like those of the log, or the query is refused."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.asking.rows import row_blocks
from shortlist.blending.blend import Blend
from shortlist.channels.counting.als import ALS
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.counting.user_cf import UserCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.moments import is_known
from shortlist.data.schema import Schema
from shortlist.errors import QueryError

START = 1_700_000_000


def data_of(steps, unit="auto", **schema):
    """Two users of three events each, at these steps."""
    log = pl.DataFrame(
        {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3, 2, 3, 4], "t": steps, "w": 2.0}
    )
    schema = Schema(time="t", time_unit=unit, **schema)
    return Dataset.load(log, schema=schema).split().training_data("all")


@pytest.fixture(scope="module")
def seconds():
    return data_of([START + step for step in (0, 60, 120, 30, 90, 150)])


def asked(data, time, **given):
    return next(row_blocks(Queries([1], time=time, **given), data)).asked.tolist()


@pytest.fixture(scope="module")
def timed(split):
    model = TwoTower(
        history="attention", history_time=True, dim=16, epochs=1, batch_size=256, user_features=[]
    ).fit(split)
    torch.manual_seed(0)
    for block in model.towers.query.history.blocks:
        torch.nn.init.normal_(block.time, std=2.0)
        torch.nn.init.normal_(block.found.weight, std=0.3)
    return model


def test_a_time_is_read_in_every_form_that_the_log_could_have(seconds):
    for time in (
        START + 61,
        np.int64(START + 61),
        float(START + 61),
        dt.datetime.fromtimestamp(START + 61, dt.UTC),
        dt.datetime.fromtimestamp(START + 61, dt.UTC).isoformat(),
        dt.datetime.fromtimestamp(START + 61, dt.UTC).replace(tzinfo=None),
        "2023-11-14T23:14:21+01:00",
        np.datetime64("2023-11-14T22:14:21", "s"),
        np.datetime64("2023-11-14T22:14:21", "ns"),
        torch.tensor([START + 61]),
    ):
        assert asked(seconds, time) == [START + 61]
        if not isinstance(time, torch.Tensor):
            assert asked(seconds, [time]) == [START + 61]
    dates = data_of([20240101, 20240102, 20240103] * 2)
    days = (dt.date(2024, 1, 31) - dt.date(1970, 1, 1)).days
    for time in (20240131, dt.date(2024, 1, 31), "2024-01-31", "2024-01-31T18:00:00"):
        assert asked(dates, time) == [days]
    plain = data_of([0.5, 1.0, 2.0] * 2, unit="number")
    assert asked(plain, 7.25) == [7.25]


def test_one_time_is_that_of_all_and_none_is_not_known(seconds):
    moments = pl.Series([dt.datetime(2023, 11, 14, 22, 13, 20), None])
    column = next(row_blocks(Queries([1, 2], time=moments), seconds)).asked
    assert is_known(column).tolist() == [True, False]
    assert column[0] == START
    queries = Queries([1, 2, 9], time=[START, None, "2023-11-14T22:13:21"])
    found = next(row_blocks(queries, seconds)).asked
    assert is_known(found).tolist() == [True, False, True]
    assert found[[0, 2]].tolist() == [START, START + 1]
    together = next(row_blocks(Queries(histories=[[1], []], time=START), seconds)).asked
    assert together.tolist() == [START, START]
    assert next(row_blocks(Queries([1]), seconds)).asked is None
    several = torch.cat([block.asked for block in row_blocks(queries, seconds, size=2)])
    assert torch.equal(several, found)


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (True, r"time\[0\]: True is no time"),
        ("soon", "'soon' is not an ISO 8601"),
        (float("nan"), "finite"),
        ((START + 60) * 1000, "size of milliseconds; write seconds"),
        (12, r"the time 12 would be 1970-01-01.*between 1990 and 2100"),
        (-(10**300), "between 1990 and 2100"),
        (10**400, "is no time"),
        ([START, START], "1 queries, 2 times"),
        ([[START]], r"\[\d+\] is no time"),
        ({"at": START}, "is no time"),
        (torch.tensor([START, START]), r"tensor \[1\]"),
    ],
)
def test_what_is_no_time_of_the_log_is_refused_and_says_what_to_write(seconds, time, said):
    with pytest.raises(QueryError, match=said):
        asked(seconds, time)


def test_times_and_weights_beside_events_are_as_many_as_these(seconds):
    for wrong, said in (
        ({"times": [[1]]}, "times describe the events in recent"),
        ({"recent": [[1, 2]], "times": [[START]]}, r"times\[0\] needs one time for each of 2"),
        ({"recent": [[1]], "times": [START]}, r"times\[0\] needs one time"),
        ({"recent": [[1]], "times": []}, "times needs one list for each of the 1"),
        ({"recent": [[1]], "weights": [["2"]]}, r"weights\[0\]\[0\] must be a number"),
        ({"recent": [[1]], "weights": [[-1.0]]}, "at least 0, got -1"),
        ({"recent": [[1]], "weights": [[float("inf")]]}, "at least 0, got inf"),
        ({"recent": [[1]], "weights": [[1.0]]}, r"no weights \(data.weight\)"),
        ({"recent": [[1]], "times": [[12]]}, r"times\[0\]\[0\]: the time 12"),
    ):
        data = seconds if "data.weight" in said else data_of([START] * 6, weight="w")
        with pytest.raises(QueryError, match=said):
            next(row_blocks(Queries([1], **wrong), data, timed=True))


def test_times_where_nothing_reads_them_or_the_log_has_none_are_refused(split, world):
    user = world.interactions["user_id"][0]
    model = Popular().fit(split)
    with pytest.raises(QueryError, match="time does nothing for this retriever"):
        model.recommend(Queries([user], time=START))
    with pytest.raises(QueryError, match="times do nothing for this retriever"):
        model.recommend(Queries([user], recent=[[1]], times=[[START]]))
    lines = Dataset.load(world.interactions, schema=Schema(order="file")).split().training_data()
    for data in (Dataset.load(world.interactions).split().training_data(), lines):
        with pytest.raises(QueryError, match=r"the log has no times \(data.time\)"):
            next(row_blocks(Queries([user], time=START), data))


def test_weights_are_refused_unless_a_channel_weighs_histories(split):
    user, item = split.training_data().users.ids[0], split.training_data().items.ids[0]
    given = Queries([user], recent=[[item]], weights=[[2.0]])
    for model in (ItemCF(), UserCF(), Popular(), Blend({"a": ItemCF(), "b": Popular()})):
        fitted = model.fit(split)
        for ask in (fitted.recommend, lambda asked, fitted=fitted: fitted.explain(asked, [[item]])):
            with pytest.raises(QueryError, match="weights do nothing for this retriever"):
                ask(given)
    weighs = {"a": Popular(), "b": UserCF(values="explicit")}
    for model in (Blend(weighs, quotas={"a": 1, "b": 9}), ALS(values="explicit", iterations=1)):
        assert len(model.fit(split).recommend(given, 5)) == 1


def test_events_of_a_question_with_their_times_are_read_like_those_of_the_log(timed):
    data = timed.data
    users = data.users.ids[:40]
    wanted = timed.encode_users(Queries(users))
    stored = data.histories.latest(torch.from_numpy(data.users.rows(users)), timed=True)
    items, times = (
        [part.tolist() for part in torch.split(column, stored.items.lengths.tolist())]
        for column in (stored.items.values, stored.time)
    )
    ids = [data.items.external(np.array(rows)).to_list() for rows in items]
    whole = Queries(histories=ids, times=times)
    torch.testing.assert_close(timed.encode_users(whole), wanted, atol=1e-5, rtol=1e-5)
    since = Queries(
        users,
        before="test",
        recent=[listed[-1:] for listed in ids],
        times=[listed[-1:] for listed in times],
    )
    torch.testing.assert_close(timed.encode_users(since), wanted, atol=1e-5, rtol=1e-5)
    untold = timed.encode_users(Queries(users, before="test", recent=since.recent))
    assert (untold - wanted).abs().max() > 0.01
    none = Queries(histories=ids, times=[[None] * len(listed) for listed in ids])
    plain = timed.encode_users(Queries(histories=ids))
    torch.testing.assert_close(timed.encode_users(none), plain, atol=1e-5, rtol=1e-5)


def test_a_recent_event_without_a_time_is_of_that_of_its_request(split):
    data = split.training_data()
    user, item = data.users.ids[0], data.items.ids[0]
    newest = data.newest_time

    def last(**given):
        queries = Queries([user], recent=[[item]], **given)
        return next(row_blocks(queries, data, timed=True)).time[-1].item()

    assert last() == newest
    assert last(time=newest + 60) == newest + 60
    assert last(time=newest + 60, times=[[newest + 7]]) == newest + 7
    assert last(time=[None]) == newest


def test_weights_of_events_of_a_question_count_like_those_of_the_log(split):
    model = ItemCF(values="explicit").fit(split)
    data = model.data
    users = data.users.ids[:20]
    stored = data.histories.latest(torch.from_numpy(data.users.rows(users)))
    ends = stored.items.offsets[1:] - 1
    recent = [[item] for item in data.items.external(stored.items.values[ends].numpy())]
    weights = [[weight] for weight in stored.weight[ends].tolist()]
    wanted = model.recommend(Queries(users), 10)
    found = model.recommend(Queries(users, before="test", recent=recent, weights=weights), 10)
    assert np.array_equal(found.rows, wanted.rows)
    assert np.array_equal(found.scores, wanted.scores)
    plain = model.recommend(Queries(users, before="test", recent=recent), 10)
    assert not np.array_equal(plain.scores, wanted.scores)
