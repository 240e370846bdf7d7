"""The repr of an object shows what it holds, in one line, and safely in a notebook."""

import polars as pl
import pytest

from shortlist import Blend, Dataset, ItemCF, Popular, Queries, Schema, evaluate, load, save
from shortlist.errors import QueryError

LOG = pl.DataFrame(
    {
        "user_id": ["u1", "u1", "u1", "u2", "u2", "u2"],
        "item_id": ["<b>", "b", "c", "b", "<b>", "c"],
        "timestamp": [1, 2, 3, 1, 2, 3],
    }
)


@pytest.fixture
def split():
    return Dataset.load(LOG, schema=Schema(time="timestamp")).split()


def test_data_and_splits_show_their_size(split):
    assert repr(split.dataset) == "Dataset(users=2, items=3, events=6)"
    assert repr(split) == "Split(kind=leave-last-out, train=2, validation=2, test=2)"


def test_a_retriever_shows_whether_it_is_fitted_and_what_it_knows(split, tmp_path):
    assert repr(Blend({"a": ItemCF()})) == "Blend(fitted=False)"
    model = ItemCF()
    assert repr(model) == "ItemCF(fitted=False)"
    assert repr(model.fit(split)) == "ItemCF(users=2, items=2)"
    save(model, tmp_path / "bundle")
    bundle = load(tmp_path / "bundle")
    assert repr(bundle) == f"Bundle(id={bundle.id[:12]}, retriever=item-cf)"


def test_candidates_show_their_lists_with_everything_escaped(split):
    found = Popular().fit(split).recommend(Queries(histories=[["b"], []]), k=2)
    assert repr(found) == "Candidates(queries=2, k=2, candidates=3, fallback=0)"
    shown = found._repr_html_()
    assert "<b>" not in shown
    assert shown.count("&lt;b&gt;") == 2
    assert shown.count("<tr>") == 3  # the head, and a row a query
    frame = found.to_pandas()
    assert frame["item"].tolist() == found.to_frame()["item"].to_list()


def test_a_report_is_a_line_a_frame_and_a_picture_of_the_same_figures(split):
    pytest.importorskip("matplotlib")
    report = evaluate(ItemCF().fit(split), k=[1, 2])
    ndcg, recall = report.metrics["ndcg@1"].mean, report.metrics["recall@1"].mean
    assert repr(report) == (
        f"Report(split=leave-last-out test, users=2, recall@1={recall:.4f}, ndcg@1={ndcg:.4f})"
    )
    frame = report.to_frame()
    assert frame.columns == ["method", "metric", "k", "mean", "low", "high"]
    for method, figures in (("this model", report.metrics), ("popular", report.popularity)):
        for name, figure in figures.items():
            metric, k = name.split("@")
            own = frame.filter(method=method, metric=metric, k=int(k)).drop("method", "metric", "k")
            assert own.rows() == [tuple(figure)]
    assert "hit_rate" not in report._repr_html_()  # the same as recall here
    axes = report.plot("ndcg@2").axes[0]
    drawn = dict(
        zip((label.get_text() for label in axes.get_yticklabels()), axes.patches, strict=True)
    )
    for method, bar in drawn.items():
        wanted = frame.filter(method=method, metric="ndcg", k=2)["mean"].item()
        assert bar.get_width() == wanted
    with pytest.raises(QueryError, match="ndcg@7"):
        report.plot("ndcg@7")
    with pytest.raises(QueryError, match="no figure 3"):
        report.plot(3)
