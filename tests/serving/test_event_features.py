"""Features of events sent to the service: stored, read by the next answer, exported."""

import numpy as np
import polars as pl
import pytest

from patience import PATIENT
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import EventFeature, Schema
from shortlist.data.updates import read_events
from shortlist.histories.events import Keeping
from shortlist.histories.export import LogWriter
from shortlist.histories.sqlite import SQLiteEvents, rows
from shortlist.serving.settings import Settings

WRITER = "writer-writer-writer"
SCHEMA = Schema(
    time="time",
    weight="stars",
    event_features=(
        EventFeature("device", "categorical", known="before"),
        EventFeature("dwell", "numeric", known="after"),
        EventFeature("stars", "numeric", known="after"),
    ),
)
RECIPE = {"data": {"interactions": "log.csv", "time": "time", "weight": "stars"}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    rng = np.random.default_rng(0)
    count = 600
    log = pl.DataFrame(
        {
            "user_id": np.arange(count) // 10,
            "item_id": rng.integers(30, size=count),
            "time": np.arange(count) % 10,
            "device": rng.choice(["tv", "phone"], count),
            "dwell": rng.exponential(30, count).round(1),
            "stars": rng.integers(1, 6, count),
        }
    )
    split = Dataset.load(log, schema=SCHEMA).split()
    model = TwoTower(dim=8, epochs=1, history_features=("device", "dwell", "stars")).fit(split)
    path = tmp_path_factory.mktemp("features") / "bundle"
    save(model, path, recipe=RECIPE)
    return path


@pytest.fixture
def shop(open_app, make_client, bundle, tmp_path):
    settings = Settings(events=tmp_path / "e.sqlite", write_token=WRITER, timeouts=PATIENT)
    app = open_app(bundle, settings)
    reader, writer = make_client(app), make_client(app, WRITER)

    def send(**event):
        return writer.post("/v1/events", {"events": [{"user": 3, "item": 5} | event]})

    return reader, send, tmp_path / "e.sqlite"


def test_the_next_answer_reads_what_events_said_of_themselves(shop, bundle):
    reader, send, _ = shop
    told = [{"device": "tv", "dwell": 200}, {}, {"device": "phone", "dwell": None}]
    for item, features in zip((5, 6, 7), told, strict=True):
        assert send(item=item, features=features, weight=4).status == 200

    def asked(**more):
        return reader.post("/v1/recommend", {"users": [3], "k": 10} | more).json

    model = load(bundle).retriever
    columns = {"device": [["tv", None, "phone"]], "dwell": [[200.0, None, None]]}
    columns["stars"] = [[4.0] * 3]
    same = {"recent": [[5, 6, 7]]}
    wanted = model.recommend(Queries([3], event_features=columns, **same), 10)
    assert asked()["items"] == wanted.ids
    assert np.allclose(asked()["scores"], wanted.scores, atol=1e-5)
    plain = model.recommend(Queries([3], **same), 10)
    assert not np.allclose(plain.scores, wanted.scores, atol=1e-5)
    # Events of the request come behind them, with features of their own.
    more = asked(recent=[[8]], event_features={"dwell": [[1.5]]})
    columns = {name: [[*values[0], None]] for name, values in columns.items()}
    columns["dwell"][0][-1] = 1.5
    queries = Queries([3], recent=[[5, 6, 7, 8]], event_features=columns)
    assert more["items"] == model.recommend(queries, 10).ids


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"devise": "tv"}, "no feature of events 'devise'. Did you mean 'device'?"),
        ({"stars": 3}, "'stars' is the weight of the event: send it as weight"),
        ({"dwell": "long"}, "events[0].features: dwell: "),
        ({"dwell": 1e300}, "events[0].features: dwell: "),
        ({"dwell": [1]}, "events[0].features"),
        ({"device": {}}, "events[0].features"),
        ([1], "events[0].features"),
    ],
)
def test_features_that_no_log_could_have_are_refused_by_name(shop, features, said):
    _, send, store = shop
    answer = send(features=features)
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert said in answer.json["error"]["message"]
    assert list(rows(store)) == []


def test_an_export_has_them_in_the_columns_that_training_reads(shop, bundle):
    _, send, store = shop
    send(features={"device": "tv", "dwell": 7}, weight=2)
    send(item=6)
    send(item=7, features={"device": 12, "dwell": True})
    data = load(bundle).retriever.data
    log = LogWriter(SCHEMA, data, kinds=False).frame(rows(store))
    assert log["device"].to_list() == ["tv", None, "12"]
    assert log["dwell"].to_list() == [7.0, None, 1.0]
    assert log["stars"].to_list() == [2.0, 1.0, 1.0]
    came = read_events(data, log, SCHEMA, learns=True).data
    columns = {
        name: came.event_features.told(name, came.log.columns[name])
        for name in ("device", "dwell", "stars")
    }
    new = came.log.user == data.users.rows([3])[0]
    assert [columns["device"][place] for place in np.flatnonzero(new)[-3:]] == ["tv", None, None]
    dwell = [columns["dwell"][place] for place in np.flatnonzero(new)[-3:]]
    assert dwell == [pytest.approx(7, abs=1e-4), None, pytest.approx(1, abs=1e-4)]
    # A bundle that declares a feature of the other kind has no value of it.
    other = Schema(time="time", event_features=(EventFeature("device", "numeric", known="before"),))
    assert LogWriter(other, data, kinds=False).frame(rows(store))["device"].to_list() == [None] * 3


def test_a_retry_is_known_by_its_features_too(shop):
    _, send, store = shop
    assert send(id="a", features={"device": "tv", "dwell": 7}).status == 200
    assert send(id="a", features={"dwell": 7.0, "device": "tv"}).json["repeated"] == 1
    assert "was used for another event" in send(id="a").json["error"]["message"]
    assert len(list(rows(store))) == 1


def test_features_leave_the_store_with_their_events(shop, tmp_path):
    from shortlist.histories.events import Event

    store = SQLiteEvents(tmp_path / "own.sqlite", Keeping(of_user=2))
    for item in range(5):
        store.append([[Event(1, item, features='{"dwell":1.0}'), Event(2, item)]])

    def held():
        return store._write.execute("SELECT count(*) FROM event_features").fetchone()[0]

    assert held() == 2
    assert store.latest([1, 2], 0, detailed=True)[0].features == ['{"dwell":1.0}'] * 2
    assert store.latest([1, 2], 0, detailed=True)[1].features == [None] * 2
    store.forget(1)
    assert held() == 0
    store.close()
