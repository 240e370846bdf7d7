"""The short form of benchmarks/refresh_replay.py: the gain of a day, and its cost."""

from pathlib import Path

import pytest

from shortlist.runs.refreshing import Plan

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

FORGOTTEN = 0.05
"""What recall@20 of old items may lose, at most, beside a model that learns nothing new."""


@pytest.fixture
def replay(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import refresh_replay

    return refresh_replay


def test_a_refresh_follows_tastes_and_catalogue_and_old_items_keep_their_recall(replay):
    log = replay.planted(days=17, users=250, events=700, moves=0.04)
    rest, daily = replay.replay(
        *(log, replay.RECIPES["towers"], 11, Plan(least_users=10)),
        parts=1,
        only={"rest", "refresh, daily"},
    )
    assert daily["decisions"] == {"published": 6}
    gain = [model["recall@20"] for model in (daily, rest)]
    assert gain[0][1] > gain[1][2], (daily, rest)  # the intervals are apart
    kept = [model["recall_old_items@20"][0] for model in (daily, rest)]
    assert kept[0] > kept[1] - FORGOTTEN, (daily, rest)
