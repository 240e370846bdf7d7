"""Several retrievers beside each other: pairs by user, names, and what cannot be compared."""

from copy import copy

import numpy as np
import polars as pl
import pytest

from shortlist import Dataset, ItemCF, Popular, Schema, Transitions, compare
from shortlist.errors import ModelError, QueryError
from shortlist.evaluation.evaluate import user_figures
from shortlist.evaluation.significance import bootstrap_interval, holm, paired_p


def test_each_other_is_paired_with_the_first_and_corrected_within_a_metric(split):
    models = {"cf": ItemCF().fit(split), "popular": Popular().fit(split)}
    models["walk"] = Transitions().fit(split)
    found = compare(*models.values(), names=list(models), k=(5,))
    figures = {name: user_figures(model, k=(5,)) for name, model in models.items()}
    for metric in ("recall@5", "ndcg@5"):
        gains = {n: figures["cf"][metric] - figures[n][metric] for n in ("popular", "walk")}
        chances = [paired_p(each) for each in gains.values()]
        for (name, gain), chance, corrected in zip(
            gains.items(), chances, holm(chances), strict=True
        ):
            got = found.differences[name][metric]
            assert got[:3] == pytest.approx(bootstrap_interval(gain, 0))
            assert (got.p, got.holm) == (chance, corrected)
    assert found.first == "cf"
    assert found.users == len(np.unique(models["cf"].data.log.at("test").user))
    said = found.to_dict()
    assert list(said["metrics"]) == ["cf", "popular", "walk"]
    assert set(said["difference"]["walk"]["ndcg@5"]) == {"mean", "low", "high", "p", "holm"}
    assert "corrected by Holm for 2 comparisons" in str(found.table().caption)


def test_a_page_shows_what_two_metrics_both_say_once(split):
    found = compare(ItemCF().fit(split), Popular().fit(split), k=(5,))
    assert found.same_for_one() == {"hit_rate": "recall", "map": "mrr"}  # one held-out item a user
    page = found.to_html()
    assert "recall@5" in page
    assert "hit_rate@5" not in page


def test_what_cannot_be_compared_is_named(split):
    model = Popular().fit(split)
    other = Popular().fit(split.dataset.split("random"))
    with pytest.raises(
        ModelError,
        match=r"'first' and 'third' cannot be compared: their splits \(leave-last-out and",
    ):
        compare(model, model, other)
    times = Popular().fit(split.dataset.split("global-time", at=0.3))  # not all users train
    with pytest.raises(ModelError, match=r"splits \(leave-last-out and global-time\) hold out"):
        compare(model, times)
    log = pl.DataFrame({"user_id": [1] * 4, "item_id": [1, 2, 3, 4], "time": range(4)})
    fewer = Popular().fit(Dataset.load(log, schema=Schema(time="time")).split())
    with pytest.raises(ModelError, match=r"their logs have different \w+ \([0-9,]+ and [0-9,]+\)"):
        compare(model, fewer)
    without = copy(model)
    without.data = model.data.without_log()
    with pytest.raises(ModelError, match="comparing 'second' needs the log"):
        compare(model, without)
    with pytest.raises(QueryError, match="two retrievers or more"):
        compare(model)
    for names in (["a"], ["a", "a"], "ab", [1, 2]):
        with pytest.raises(QueryError, match="names"):
            compare(model, model, names=names)
