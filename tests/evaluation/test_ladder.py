"""The ladder: each rung has its figures alone, on the same rows, paired by user."""

import numpy as np
import pytest

from shortlist import Dataset, ItemCF, Popular, Schema, TwoTower, compare, evaluate
from shortlist.channels.counting.transitions import Transitions
from shortlist.data.synthetic import planted_world

DAY = 86_400


@pytest.fixture(scope="module")
def split():
    world = planted_world(users=80, items=90, events=1_500, seed=6)
    return Dataset.load(world.interactions, schema=Schema(time="timestamp")).split("leave-last-out")


def test_every_rung_has_the_figures_of_the_method_alone(split):
    model = TwoTower(dim=4, epochs=1, batch_size=128).fit(split)
    report = evaluate(model, k=(5,), ladder=True)
    time = model.data.training_log.time
    span = (time.max() - time.min()).item()
    alone = {
        "popular": Popular(),
        "popular of late": Popular(half_life=span / 20),
        "transitions": Transitions(),
        "item-cf": ItemCF(),
    }
    assert [rung.name for rung in report.ladder] == list(alone)
    for rung in report.ladder:
        method = alone[rung.name].fit(split)
        by_itself = evaluate(method, k=(5,)).metrics
        assert rung.metrics == {name: by_itself[name] for name in ("recall@5", "ndcg@5")}
        paired = compare(model, method, k=(5,)).differences["second"]
        for name, difference in rung.difference.items():
            assert difference == pytest.approx(paired[name][:3])
    assert report.to_dict()["ladder"][0]["name"] == "popular"


def test_no_rung_is_fitted_on_held_out_rows(split):
    """A rung that had seen the last event would find it among the neighbours at once."""
    fitted = Popular().fit(split)
    before = evaluate(fitted, k=(5,), ladder=True).ladder
    frame = fitted.data.training_log
    assert all(rung.metrics["recall@5"].mean < 0.9 for rung in before)
    assert len(frame) < len(fitted.data.log)


def test_a_log_without_times_or_order_has_fewer_rungs():
    world = planted_world(users=60, items=60, events=800, seed=6)
    plain = Dataset.load(world.interactions, schema=Schema()).split("random")
    names = [rung.name for rung in evaluate(Popular().fit(plain), k=(5,), ladder=True).ladder]
    assert names == ["popular", "item-cf"]
    by_line = Dataset.load(world.interactions, schema=Schema(order="file")).split("leave-last-out")
    names = [rung.name for rung in evaluate(Popular().fit(by_line), k=(5,), ladder=True).ladder]
    assert names == ["popular", "transitions", "item-cf"]
    days = world.interactions.with_columns(timestamp=world.interactions["timestamp"] // DAY)
    by_day = Dataset.load(days, schema=Schema(time="timestamp", time_unit="day"))
    rungs = evaluate(Popular().fit(by_day.split("leave-last-out")), k=(5,), ladder=True).ladder
    assert np.isfinite([rung.metrics["ndcg@5"].mean for rung in rungs]).all()
    assert len(rungs) == 4
