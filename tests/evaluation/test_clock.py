"""A model that reads the time of a request is measured with the time and without it."""

import datetime as dt
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.evaluation.compare import compare
from shortlist.evaluation.evaluate import evaluate, user_figures
from shortlist.metrics import hits, per_user

DAY = 86_400


def clocked(split):
    """A small model whose clock is loud, so that what it reads is seen."""
    model = TwoTower(dim=8, epochs=1, batch_size=256, request_time=True).fit(split)
    torch.manual_seed(0)
    clock = model.towers.query.clock
    for table in (clock.hour, clock.weekday, clock.since):
        torch.nn.init.normal_(table.weight[1:])
    return model


@pytest.fixture(scope="module")
def dataset():
    log = planted_world(users=60, items=60, events=900, seed=5).interactions
    return Dataset.load(log, schema=Schema(time="timestamp"))


@pytest.fixture(scope="module")
def model(dataset):
    return clocked(dataset.split())


def by_hand(model, time):
    """The recall of each user, asked one by one."""
    users, items, offsets = model.data.targets("test")
    found = []
    for number, user in enumerate(model.data.users.external(users)):
        queries = Queries([user], before="test", time=None if time is None else time[number])
        own = items[offsets[number] : offsets[number + 1]]
        top = model.recommend(queries, 10).rows
        of_one = hits(top, own, np.array([0, len(own)]))
        found.append(per_user(of_one, np.array([len(own)]), [10])["recall@10"][0])
    return np.array(found)


@pytest.mark.parametrize("kind", ["leave-last-out", "global-time"])
def test_it_is_asked_at_the_time_of_the_first_held_out_event_and_at_that_of_the_last_known(
    dataset, kind
):
    model = clocked(dataset.split(kind))
    data, log = model.data, model.data.log.at("test")
    first = [log.time[log.user == user].min().item() for user in data.targets("test")[0]]
    moments = [dt.datetime.fromtimestamp(second, dt.UTC).isoformat() for second in first]
    report = evaluate(model, k=[10])
    with_clock, without = by_hand(model, moments), by_hand(model, None)
    assert report.metrics["recall@10"].mean == pytest.approx(with_clock.mean())
    assert report.without_clock["recall@10"].mean == pytest.approx(without.mean())
    gained = report.gained_by_clock["recall@10"]
    assert gained.mean == pytest.approx((with_clock - without).mean())
    assert gained.low <= gained.mean <= gained.high
    assert np.allclose(user_figures(model, k=[10])["recall@10"], with_clock)
    assert (with_clock != without).any()


def test_both_figures_stand_in_every_form_of_the_report(model):
    report = evaluate(model, k=[10, 20])
    told = report.to_dict()["clock"]
    assert told.keys() == report.to_dict()["metrics"].keys()
    assert told["recall@10"]["without"]["mean"] == report.without_clock["recall@10"].mean
    assert told["recall@10"]["difference"]["mean"] == pytest.approx(
        report.metrics["recall@10"].mean - report.without_clock["recall@10"].mean
    )
    out = io.StringIO()
    Console(file=out, width=160).print(report.table())
    assert "no clock" in out.getvalue()
    assert f"{report.without_clock['recall@10'].mean:.4f}" in out.getvalue()
    said = " ".join(report.lines())
    assert "here that of the user's first held-out event" in said
    assert f"recall@10: {report.metrics['recall@10'].mean:.4f} with the clock" in said
    assert "here that of the held-out event" in str(compare(model, model, k=[5]).table().caption)


def test_a_report_of_any_other_model_says_nothing_of_a_clock(dataset):
    report = evaluate(ItemCF().fit(dataset.split()), k=[5])
    assert report.without_clock is None
    assert "clock" not in report.to_dict()
    assert not any("clock" in line for line in report.lines())


def test_a_blend_with_such_a_channel_is_measured_twice_too(dataset):
    channels = {
        "near": TwoTower(dim=8, epochs=1, batch_size=256, request_time=True),
        "cf": ItemCF(),
    }
    blend = Blend(channels, quotas={"near": 5, "cf": 5}).fit(dataset.split())
    report = evaluate(blend, k=[10])
    assert report.without_clock is not None
    user = blend.data.users.ids[0]
    asked = Queries([user], time=int(blend.data.newest_time) + DAY)
    assert len(blend.recommend(asked, 10).ids[0]) == 10
