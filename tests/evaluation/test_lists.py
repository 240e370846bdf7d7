"""Lists from a file have the figures of the retriever that made them; gaps are named."""

import re
from pathlib import Path

import polars as pl
import pytest

import shortlist
from shortlist import Dataset, ItemCF, Popular, Queries, Schema, evaluate
from shortlist.data.synthetic import planted_world
from shortlist.errors import DataError, QueryError
from shortlist.evaluation.lists import Listed


@pytest.fixture(scope="module")
def split():
    world = planted_world(users=60, items=60, events=800, seed=2)
    return Dataset.load(world.interactions, schema=Schema(time="timestamp")).split("leave-last-out")


@pytest.fixture(scope="module")
def fitted(split):
    return ItemCF().fit(split)


@pytest.fixture(scope="module")
def lists(fitted):
    ids = fitted.data.users.ids
    frame = fitted.recommend(Queries(ids, before="test"), 10).to_frame()
    users = ids.gather(frame["query"]).alias("user")
    return frame.with_columns(users).select("user", "item", "rank").cast(pl.Int64)


@pytest.mark.parametrize("order", [{"rank": "rank"}, {"score": "score"}, {}])
def test_lists_have_the_figures_of_the_retriever_that_made_them(
    order, split, fitted, lists, tmp_path
):
    mixed = lists.sample(fraction=1, shuffle=True, seed=1) if order else lists
    if "score" in order:
        mixed = mixed.with_columns(score=-mixed["rank"])
    mixed.write_csv(tmp_path / "lists.csv")
    ours = evaluate(fitted, k=(5, 10))
    for source in (mixed, tmp_path / "lists.csv"):
        report = shortlist.evaluate_lists(source, split, **order, k=(5, 10))
        assert report.metrics == ours.metrics
        assert report.slices == ours.slices
    paired = shortlist.compare(fitted, Listed(mixed, split, **order), k=(5, 10))
    assert {(each.mean, each.p) for each in paired.differences["second"].values()} == {(0.0, 1.0)}


def test_items_met_before_are_taken_out_as_from_our_own_lists(split, fitted, lists):
    data = fitted.data
    first = data.users.ids[0]
    met = data.items.external(data.log.item[data.log.user == 1][:3])
    before = pl.DataFrame({"user": [first] * 3, "item": met}).cast(pl.Int64)
    ranked = before.with_columns(rank=pl.Series([-2, -1, 0]))
    padded = pl.concat([ranked, lists.cast(pl.Int64)])
    clean = shortlist.evaluate_lists(lists, split, rank="rank", k=(5,))
    assert shortlist.evaluate_lists(padded, split, rank="rank", k=(5,)).metrics == clean.metrics


def test_what_lists_lack_is_a_miss_and_is_said(split, fitted, lists):
    kept = lists.filter(pl.col("user") != fitted.data.users.ids[0])
    strange = pl.DataFrame({"user": [-5, kept["user"][0]], "item": [kept["item"][0], -9]})
    whole = pl.concat([kept.select("user", "item"), strange])
    report = shortlist.evaluate_lists(whole, split, k=(10,))
    assert [note.split(" ", 1)[0] for note in report.notes[-3:]] == ["1", "1", "1"]
    wholes = (f"of the lists' {whole['user'].n_unique():,} users", f"{len(whole):,} entries had")
    assert all(text in note for text, note in zip(wholes, report.notes[-2:], strict=True))
    assert report.users == 60
    # Best first in the place of the first item: an unknown item keeps its place as a miss.
    first = pl.DataFrame({"user": kept["user"].unique(), "item": -9}).cast(pl.Int64)
    pushed = shortlist.evaluate_lists(
        pl.concat([first, kept.select("user", "item")]), split, k=(1,)
    )
    assert pushed.metrics["recall@1"].mean == 0


def test_a_report_on_lists_claims_nothing_about_how_they_were_made(split, fitted, lists):
    report = shortlist.evaluate_lists(lists, split, rank="rank", k=(5, 50))
    assert report.candidate_items == evaluate(fitted, k=(5,)).candidate_items
    assert report.popularity_catalogue == evaluate(fitted, k=(5, 50)).popularity_catalogue
    assert "this model" not in report.costs
    page = report.to_html("last year")
    assert "no items were sampled" not in page
    assert "full ranking" not in (report.table().title or "")
    assert "which was made elsewhere" in page
    short = "60 of 60 users had a list of fewer than 50 items"
    assert short in page
    assert short in "\n".join(report.in_short())


def test_ids_of_another_type_are_refused_with_their_column(split, lists):
    with pytest.raises(DataError, match=r"column 'item'.*are integers.*got 'x'.*the type of the"):
        Listed(lists.with_columns(item=pl.lit("x")), split)


def test_a_repeated_item_is_refused_with_its_second_row(split, lists):
    with pytest.raises(DataError, match=f"row {len(lists) + 1}: an item is twice"):
        Listed(pl.concat([lists, lists.head(2)]), split)


def test_equal_scores_are_ordered_as_our_own_whatever_the_order_of_rows():
    """Each of twenty users trains on an item of their own: all items are as popular."""
    log = pl.DataFrame(
        {"user_id": [u for u in range(20) for _ in "abc"], "item_id": range(60), "time": range(60)}
    )
    split = Dataset.load(log, schema=Schema(time="time")).split()
    popular = Popular().fit(split)
    asked = Queries(popular.data.users.ids, before="test", exclude_seen=False)
    ours = popular.recommend(asked, 20).ids
    items = pl.DataFrame({"item": popular.data.items.ids[:20]})
    level = pl.DataFrame({"user": range(20)}).join(items, how="cross")
    level = level.with_columns(score=pl.lit(0.5))
    for frame in (level, level.reverse(), level.sample(fraction=1, shuffle=True, seed=1)):
        assert Listed(frame, split, score="score").recommend(asked, 20).ids == ours


def test_equal_ranks_of_a_user_are_refused_with_the_row(split, lists):
    two = lists.with_columns(rank=pl.when(pl.col("rank") == 3).then(2).otherwise("rank"))
    with pytest.raises(DataError, match=r"row 3.*two items of a user have this rank"):
        Listed(two, split, rank="rank")


def test_what_is_no_list_is_refused(split, lists):
    twice = pl.concat([lists, lists.head(1)])
    with pytest.raises(DataError, match="an item is twice"):
        Listed(twice, split)
    with pytest.raises(DataError, match="no column 'place'"):
        Listed(lists, split, rank="place")
    with pytest.raises(DataError, match="not both"):
        Listed(lists, split, rank="rank", score="rank")
    with pytest.raises(DataError, match="both the column 'item'"):
        Listed(lists, split, user="item")
    with pytest.raises(DataError, match=r"a split, such as data.split\(\), got Dataset"):
        Listed(lists, split.dataset)
    with pytest.raises(DataError, match="one row a candidate"):
        Listed(lists.group_by("user").agg("item"), split)
    with pytest.raises(shortlist.ShortlistError, match=r"write \['title'\]"):
        shortlist.evaluate_lists(lists, split, by="title")
    with pytest.raises(QueryError, match="both its user and its item"):
        shortlist.evaluate_lists(lists.with_columns(user=-lists["user"] - 1), split)
    with pytest.raises(QueryError, match="ids"):
        shortlist.evaluate_lists(lists.with_columns(item=-lists["item"] - 1), split)
    with pytest.raises(shortlist.ShortlistError, match="fitted on 'all'"):
        evaluate(Listed(lists, split, fit="all"))


PAGES = [Path(__file__).parents[2] / "docs" / "guide" / f"reports{part}.md" for part in ("", ".zh")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_on_reports_shows_code_that_runs(page, tmp_path, monkeypatch, capsys):
    world = planted_world(users=60, items=60, events=800, seed=2)
    items = world.items.rename({"tags": "genres"})
    split = Dataset.load(world.interactions, items=items, schema=Schema(time="timestamp")).split()
    model = ItemCF().fit(split)
    ids = model.data.users.ids
    frame = model.recommend(Queries(ids, before="test"), 10).to_frame()
    monkeypatch.chdir(tmp_path)
    frame.with_columns(ids.gather(frame["query"]).alias("user_id"), item_id="item").write_csv(
        "lists.csv"
    )
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {"split": split, "model": model}
    exec(code, names)
    assert any(part.by == "genres" for part in names["report"].slices)
    assert names["paired"].differences["second"]["recall@10"].mean == 0


def test_the_two_pages_on_reports_show_the_same_figures():
    english, chinese = (
        re.findall(r"[+-]?\d+\.\d{4}", page.read_text(encoding="utf-8")) for page in PAGES
    )
    assert english == chinese
