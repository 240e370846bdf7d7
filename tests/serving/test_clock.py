"""Times of a request reach the model over HTTP, from a store and on the command line."""

import datetime as dt
import json
import sys

import numpy as np
import polars as pl
import pytest
import torch

from answers import assert_same_up_to_rounding
from patience import PATIENT
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.cli.app import main
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.serving.settings import Settings

HOUR, DAY = 3600, 86_400
NOW = 1_760_000_000
USERS = [10_001, 10_002, 10_003]
WRITER = "writer-writer-writer"


def log_in(unit):
    """A small planted log whose times are written in a unit."""
    log = planted_world(users=40, items=60, events=480, seed=5).interactions
    moments = (pl.col("timestamp") * 10**6).cast(pl.Datetime("us"))
    times = {
        "s": pl.col("timestamp"),
        "ms": pl.col("timestamp") * 1000,
        "us": moments,
        "yyyymmdd": moments.dt.strftime("%Y%m%d").cast(pl.Int64),
        "yyyymmddhhmmss": moments.dt.strftime("%Y%m%d%H%M%S").cast(pl.Int64),
        "float": pl.col("timestamp") + 0.5,
    }
    return log.with_columns(timestamp=times[unit])


def clocked(unit="s"):
    """A model that reads the clock and the times of events, loud so that both are seen."""
    split = Dataset.load(log_in(unit), schema=Schema(time="timestamp", weight="rating")).split()
    model = TwoTower(
        **{"dim": 8, "epochs": 1, "batch_size": 256, "request_time": True, "history_time": True},
        **{"history": "attention", "history_length": 8, "history_layers": 1, "history_heads": 1},
    ).fit(split)
    torch.manual_seed(0)
    query = model.towers.query
    for table in (query.clock.hour, query.clock.weekday, query.clock.since):
        torch.nn.init.normal_(table.weight[1:])
    torch.nn.init.normal_(query.history.blocks[0].time, std=2.0)
    torch.nn.init.normal_(query.history.blocks[0].found.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle in seconds, and one that reads no clock."""
    made = tmp_path_factory.mktemp("clock")
    save(clocked(), made / "clocked")
    split = Dataset.load(log_in("s"), schema=Schema(time="timestamp", weight="rating")).split()
    save(ItemCF(values="explicit").fit(split), made / "plain")
    return made


def asked(client, **value):
    said = client.post("/v1/recommend", {"users": USERS, "k": 10} | value)
    assert said.status == 200, said.body
    return said.json["items"], said.json["scores"]


def answered(retriever, **given):
    found = retriever.recommend(Queries(**({"users": USERS} | given)), 10)
    return found.ids, [row[: len(ids)] for row, ids in zip(found.scores, found.ids, strict=True)]


def moment(seconds):
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def test_the_answer_at_a_time_over_http_is_that_of_the_evaluation(folder, open_app, make_client):
    """A user as before the cut, asked at the time of the held-out event."""
    app = open_app(folder / "clocked")
    client, model = make_client(app), load(folder / "clocked").retriever
    data = model.data
    rows = data.targets("test")[0][:12]
    users, times = data.users.external(rows), data.times_of_targets("test")[:12]
    known = data.histories.latest(torch.from_numpy(rows), "test", timed=True)
    sizes = known.items.lengths.tolist()
    histories, when = (
        [part.tolist() for part in torch.split(column, sizes)]
        for column in (known.items.values, known.time)
    )
    histories = [data.items.external(np.array(items)).to_list() for items in histories]
    found = model.recommend(Queries(users, before="test", time=torch.from_numpy(times)), 10)
    wanted = found.ids, found.scores
    for time in (times.tolist(), [moment(second).isoformat() for second in times.tolist()]):
        online = asked(client, users=None, histories=histories, times=when, time=time)
        assert_same_up_to_rounding(online, wanted)
    other = asked(client, users=None, histories=histories, times=when, time=NOW)
    assert other != online


def test_without_a_time_the_service_takes_its_clock_and_the_library_none(
    folder, open_app, make_client, monkeypatch
):
    def then(retriever):
        return moment(NOW) if retriever.reads_clock else None

    client, model = make_client(open_app(folder / "clocked")), load(folder / "clocked").retriever
    monkeypatch.setattr("shortlist.serving.service.now", then)
    assert_same_up_to_rounding(asked(client), answered(model, time=NOW))
    assert asked(client) != asked(client, time=NOW + 5 * HOUR)
    later = answered(model, time=[NOW, NOW + DAY, None])
    assert_same_up_to_rounding(asked(client, time=[NOW, NOW + DAY, None]), later)
    reasons = [
        client.post("/v1/explain", {"user": USERS[0], "items": [500_001]} | more).json["reasons"]
        for more in ({}, {"time": NOW}, {"time": NOW + 5 * HOUR})
    ]
    assert reasons[0] == reasons[1] != reasons[2]
    plain = make_client(open_app(folder / "plain"))
    assert len(asked(plain)[0]) == len(USERS)


@pytest.mark.parametrize(
    ("bundle", "value", "said"),
    [
        ("plain", {"time": NOW}, "time does nothing for this retriever"),
        ("plain", {"recent": [[1], [], []], "times": [[NOW], [], []]}, "times do nothing"),
        ("clocked", {"time": NOW * 1000}, "size of milliseconds; write seconds"),
        ("clocked", {"time": "noon"}, "'noon' is not an ISO 8601"),
        ("clocked", {"time": True}, "time"),
        ("clocked", {"time": [NOW]}, "3 queries, 1 times"),
        ("clocked", {"times": [[NOW]] * 3}, "times describe the events in recent"),
        ("clocked", {"recent": [[1]] * 3, "times": [[1]] * 3}, r"times[0][0]: the time 1 would be"),
        ("clocked", {"recent": [[1]] * 3, "weights": [[-1]] * 3}, "weights[0][0]"),
        ("clocked", {"recent": [[1]] * 3, "kinds": [["x"]] * 3}, "the log has no kinds of events"),
        ("clocked", {"recent": [[1]] * 3, "weights": [[1.0]] * 2}, "one list for each of the 3"),
        ("clocked", {"recent": [[1]] * 3, "weights": [[1.0]] * 3}, "weights do nothing"),
    ],
)
def test_a_time_that_is_none_or_does_nothing_is_a_request_that_cannot_be_answered(
    folder, open_app, make_client, bundle, value, said
):
    client = make_client(open_app(folder / bundle))
    answer = client.post("/v1/recommend", {"users": USERS} | value)
    assert answer.status in (400, 422), answer.body
    assert said in answer.json["error"]["message"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "yyyymmdd", "yyyymmddhhmmss", "float"])
def test_stored_events_are_read_with_their_times(unit, open_app, make_client, tmp_path):
    save(clocked(unit), tmp_path / "bundle")
    settings = Settings(events=tmp_path / "events.sqlite", write_token=WRITER, timeouts=PATIENT)
    app = open_app(tmp_path / "bundle", settings)
    writer, client = make_client(app, WRITER), make_client(app)
    items, seconds = [500_003, 500_010, 500_003], [NOW - 9 * DAY, NOW - 3 * HOUR, NOW - 60]
    events = [
        {"user": USERS[0], "item": item, "time": second}
        for item, second in zip(items, seconds, strict=True)
    ]
    assert writer.post("/v1/events", {"events": events}).status == 200
    model = load(tmp_path / "bundle").retriever
    asked_at = moment(NOW).isoformat()
    times = [[moment(second) for second in seconds], [], []]
    wanted = answered(model, recent=[items, [], []], times=times, time=asked_at)
    assert_same_up_to_rounding(asked(client, time=asked_at), wanted)
    untold = answered(model, recent=[items, [], []], time=asked_at)
    assert not np.allclose(untold[1][0], wanted[1][0], rtol=1e-5)
    # What the request holds comes after what is stored, with its own times.
    more = answered(
        model,
        recent=[[*items, 500_020], [500_007], []],
        times=[[*times[0], moment(NOW - 30)], [None], []],
        time=asked_at,
    )
    sent = asked(
        client,
        recent=[[500_020], [500_007], []],
        times=[[moment(NOW - 30).isoformat()], [None], []],
        time=asked_at,
    )
    assert_same_up_to_rounding(sent, more)


def test_stored_events_have_their_weights_and_one_of_1970_no_time(
    folder, open_app, make_client, tmp_path
):
    settings = Settings(events=tmp_path / "events.sqlite", write_token=WRITER, timeouts=PATIENT)
    app = open_app(folder / "plain", settings)
    writer, client = make_client(app, WRITER), make_client(app)
    events = [{"user": USERS[0], "item": 500_003, "weight": 5.0, "time": 0.0}]
    assert writer.post("/v1/events", {"events": events}).status == 200
    model = load(folder / "plain").retriever
    given = {"recent": [[500_003, 500_004], [], []], "weights": [[5.0, 2.0], [], []]}
    sent = asked(client, recent=[[500_004], [], []], weights=[[2.0], [], []])
    assert_same_up_to_rounding(sent, answered(model, **given))
    one = answered(model, recent=[[500_003, 500_004], [], []])
    assert one[1][0].tolist() != answered(model, **given)[1][0].tolist()
    clock = open_app(folder / "clocked", settings)
    asked_at = moment(NOW).isoformat()
    found = asked(make_client(clock), time=asked_at)
    other = load(folder / "clocked").retriever
    at_the_request = answered(other, recent=[[500_003], [], []], time=asked_at)
    assert_same_up_to_rounding(found, at_the_request)


def run(capsys, monkeypatch, *arguments):
    """Run a command; return its exit code and what it printed."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_the_command_line_asks_at_a_time_at_each_of_a_file_or_now(
    folder, capsys, tmp_path, monkeypatch
):
    bundle, model = folder / "clocked", load(folder / "clocked").retriever
    for text in (NOW, moment(NOW).isoformat()):
        code, out, _ = run(
            capsys, monkeypatch, "recommend", bundle, "--user", USERS[0], "--time", text, "--json"
        )
        assert code == 0
        items = [row["item"] for row in json.loads(out)["users"][0]["items"]]
        assert items == model.recommend(Queries(USERS[:1], time=NOW), 10).ids[0]
    code, out, said = run(capsys, monkeypatch, "recommend", bundle, "--user", USERS[0])
    assert code == 0
    assert "UTC by this machine's clock" in said
    assert run(capsys, monkeypatch, "explain", bundle, "--user", USERS[0], "--time", NOW)[0] == 0
    users = tmp_path / "users.csv"
    users.write_text(f"user,when\n10001,{NOW}\n10002,\n10003,{NOW + 5 * HOUR}\n")
    found = tmp_path / "found.parquet"
    options = ["recommend", bundle, "--users-file", users, "--out", found]
    assert run(capsys, monkeypatch, *options, "--time-column", "when")[0] == 0
    lists = pl.read_parquet(found).group_by("user", maintain_order=True).agg("item")
    wanted = model.recommend(Queries(USERS, time=[NOW, None, NOW + 5 * HOUR]), 10).ids
    assert lists["item"].to_list() == wanted
    for wrong, message in (
        (["--time-column", "then"], "no column 'then'"),
        (["--time-column", "when", "--time", NOW], "give one of the two"),
    ):
        code, _, said = run(capsys, monkeypatch, *options, "--overwrite", *wrong)
        assert code == 2
        assert message in said
    users.write_text("user,when\n10001,1700000000\n10002,soon\n")
    code, _, said = run(capsys, monkeypatch, *options, "--overwrite", "--time-column", "when")
    assert code == 2
    assert "column 'when', row 2: 'soon' is not an ISO 8601" in said
    code, _, said = run(
        capsys, monkeypatch, "recommend", folder / "plain", "--user", USERS[0], "--time", NOW
    )
    assert code == 2
    assert "time does nothing for this retriever" in said
