"""A report names the index of every channel, and what it costs against exact search."""

import json

import pytest
import torch

from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.evaluation.compare import compare
from shortlist.evaluation.evaluate import WARM_UP, evaluate
from shortlist.evaluation.searching import searched_exactly
from shortlist.index import INDEXES, ExactIndex


class Lossy(ExactIndex):
    """Finds nothing but items of even ids."""

    is_exact = False

    def settings(self):
        return {"kept": "even"}

    def search(self, queries, k, *, exclude=None, allow=None):
        even = torch.arange(int(self.items.ids.max()) + 1) % 2 == 0
        return super().search(
            queries, k, exclude=exclude, allow=even if allow is None else even & allow
        )


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(INDEXES, "lossy", Lossy)


def lossy(model):
    return model.use_index(Lossy(model.index.similarity).build(*model.placed_vectors()))


@pytest.fixture
def indexed(fitted):
    """The shared model, searched through a lossy index until the test is over."""
    yield lossy(fitted)
    fitted.use_exact_index()


def share_of_even(model, k):
    """The share of the exact k best that are of even rows, over the users of the test rows."""
    users = model.data.users.external(model.data.targets("test")[0])
    rows = searched_exactly(model).recommend(Queries(users, before="test"), k).rows
    return float((rows % 2 == 0).mean())


def test_both_columns_and_the_recall_of_a_bare_retriever(indexed):
    report, index = evaluate(indexed, k=(5, 10)), indexed.index
    assert isinstance(index, Lossy)  # the caller's retriever searches as before
    exact = evaluate(searched_exactly(indexed), k=(5, 10))
    assert report.exact == exact.metrics
    assert report.metrics["recall@10"].mean < report.exact["recall@10"].mean
    channel = report.channels["two-tower"]
    assert (channel.index, channel.settings, channel.k) == ("lossy", {"kept": "even"}, 10)
    assert channel.recall == pytest.approx(share_of_even(indexed, 10), abs=0.01)  # ties
    told = json.loads(json.dumps(report.to_dict()))
    assert told["index"]["recall@10"] == {
        "exact": exact.metrics["recall@10"].mean,
        "indexed": report.metrics["recall@10"].mean,
    }
    assert told["channels"]["two-tower"]["recall"] == channel.recall
    assert [column.header for column in report.table().columns][1:3] == ["exact", "indexed"]
    (line,) = (line for line in report.lines() if line.startswith("two-tower"))
    assert "lossy (kept even), recall@10 0." in line


def test_each_channel_of_a_blend_is_named_and_measured_by_itself(indexed, split):
    other, popular = searched_exactly(indexed), Popular().fit(split)
    channels = {"near": indexed, "exact": other, "popular": popular}
    blend = Blend(channels, quotas={"near": 3, "exact": 1, "popular": 1})
    blend._adopt()
    report = evaluate(blend, k=(5,))
    assert {name: channel.index for name, channel in report.channels.items()} == {
        "near": "lossy",
        "exact": "exact",
    }
    assert report.channels["near"].recall < 0.8
    assert report.channels["exact"].recall == 1
    assert report.exact is not None
    assert report.exact == evaluate(searched_exactly(blend), k=(5,)).metrics
    assert report.metrics != report.exact
    assert blend.channels["near"] is indexed
    assert isinstance(indexed.index, Lossy)


def test_an_exact_index_is_named_and_asked_no_second_time(fitted, monkeypatch):
    asked = []
    recommend = TwoTower.recommend

    def counted(self, queries, k=10):
        asked.append(len(queries))
        return recommend(self, queries, k)

    monkeypatch.setattr(TwoTower, "recommend", counted)
    report = evaluate(fitted, k=(5,))
    assert asked == [WARM_UP, report.users]  # the first answers are not measured
    assert report.exact is None
    assert report.channels["two-tower"].recall == 1
    assert "index" not in report.to_dict()
    assert any("searched exactly (index exact)" in line for line in report.lines())


def test_a_comparison_names_the_indexes_of_both(indexed):
    found = compare(searched_exactly(indexed), indexed, k=(5,))
    first, second = found.to_dict()["channels"].values()
    assert (first["two-tower"]["index"], second["two-tower"]["index"]) == ("exact", "lossy")
    assert "lossy (kept even)" in str(found.table().caption)
