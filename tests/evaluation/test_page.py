"""The report as one page: right verdicts, nothing fetched or run, and all text escaped."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from shortlist import Dataset, ItemCF, Popular, Schema, Transitions, compare, evaluate
from shortlist.evaluation.page import make
from shortlist.evaluation.significance import Interval

VOID = {"meta"}
EVIL = """<script>alert("1")</script>'&"""


class Elements(HTMLParser):
    """The text of a page, and its elements; fails where one is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self.text = [], set(), []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.names.add(name)
        assert not {key for key, _ in attributes if key.startswith("on")}
        assert not {"src", "href", "action"} & {key for key, _ in attributes}
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.names.add(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def words(page):
    return " ".join("".join(Elements(page).text).split())


@pytest.fixture(scope="module")
def report(split):
    return evaluate(ItemCF().fit(split), k=(5, 20), ladder=True, by=["tags"])


def test_a_page_fetches_nothing_and_runs_nothing(report):
    page = report.to_html("my bundle")
    names = Elements(page).names
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "a"}
    assert not re.search(r"https?:|url\(|@import|javascript:", page)
    assert "default-src &#x27;none&#x27;" in page
    assert page == report.to_html("my bundle")


def test_a_reader_finds_the_figures_and_what_they_mean(report):
    said = words(report.to_html("my bundle"))
    assert "How good is my bundle?" in said
    assert f"For {report.metrics['recall@5'].mean:.1%} of the users the item that was held" in said
    for part in report.slices:
        assert part.name in said
    for rung in report.ladder:
        assert f"{rung.metrics['ndcg@5'].mean:.4f}" in said
    assert "Each user's last event was held out" in said
    assert "CPU µs a query" in said
    assert "It is computed from: tags." in said


def test_the_events_that_were_held_out_are_those_of_the_kinds_that_are_predicted(report):
    rows = [(u, i, i, "like" if i < 3 else "view") for u in range(9) for i in range(5)]
    log = pl.DataFrame(rows, ["user_id", "item_id", "t", "e"], orient="row")
    events = {"like": {"target": True}, "view": {}}
    schema = Schema(time="t", event="e", events=events)
    of_likes = evaluate(Popular().fit(Dataset.load(log, schema=schema).split()), k=(1,))
    said = words(of_likes.to_html())
    assert 'Each user\'s last event of kind "like" was held out, and the model' in said
    assert 'only events of kind "like" are predicted and measured.' in of_likes.lines()
    assert of_likes.to_dict()["split"]["targets"] == ["like"]
    assert not any("of kind" in line for line in report.lines())


def changed(report, name, more):
    """The report with another difference to one rung in every metric."""
    ladder = tuple(
        replace(rung, difference={metric: more for metric in rung.difference})
        if rung.name == name
        else replace(
            rung, difference={metric: Interval(0.2, 0.1, 0.3) for metric in rung.difference}
        )
        for rung in report.ladder
    )
    return replace(report, ladder=ladder)


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        (Interval(0.05, 0.02, 0.08), "the closest, transitions, is behind by 5.0%"),
        (Interval(0.01, -0.02, 0.04), "not shown to be better than transitions"),
        (Interval(0.02, 0.0, 0.04), "not shown to be better than transitions"),
        (
            Interval(-0.05, -0.08, -0.02),
            "It is worse than transitions, which needs no training. It is better than popular, "
            "popular of late and item-cf.",
        ),
    ],
)
def test_the_verdict_follows_the_interval_of_the_difference(report, more, verdict):
    assert verdict in words(changed(report, "transitions", more).to_html())


def test_a_verdict_names_every_method_that_was_measured(report):
    worse, equal = Interval(-0.05, -0.08, -0.02), Interval(0.003, -0.01, 0.015)
    ladder = changed(report, "transitions", worse).ladder
    level = tuple(
        replace(rung, difference=dict.fromkeys(rung.difference, equal))
        if rung.name == "item-cf"
        else rung
        for rung in ladder
    )
    assert (
        "It is worse than transitions, which needs no training. It is better than popular and "
        "popular of late. It is not shown to be better or worse than item-cf."
    ) in words(replace(report, ladder=level).to_html())


def test_slices_that_are_no_better_than_popular_items_are_named(split, report):
    alike = words(evaluate(Popular().fit(split), k=(5,)).to_html())
    assert "not shown to be better than popular items for users with" in alike
    assert "Other methods without training were not measured" in alike
    weak = next(part for part in report.slices if part.difference[5].low <= 0)
    assert f" ({weak.events:,} held-out" in words(report.to_html())
    odd = replace(weak, by="tags", name="red")
    assert f"tags = red ({weak.events:,} held-out" in words(
        replace(report, slices=(odd,)).to_html()
    )


def test_a_slice_in_which_nothing_is_found_is_said_to_be_so(report):
    zero, some = Interval(0.0, 0.0, 0.0), Interval(0.1, 0.05, 0.15)
    part = replace(report.slices[0], by="tags", events=7, difference={5: zero})
    missed = replace(part, name="red", recall={5: zero}, popularity={5: zero})
    level = replace(part, name="blue", recall={5: some}, popularity={5: some})
    said = words(replace(report, slices=(missed, level)).to_html())
    assert (
        "It finds none of the held-out items, among the first 5, for tags = red (7 held-out "
        "events)."
    ) in said
    assert "not shown to be better than popular items for tags = blue (7 held-out events)." in said


def test_a_model_that_cannot_reach_what_was_held_out_is_said_to_be(split):
    cold = evaluate(ItemCF().fit(split.dataset.split("cold-items")), k=(5,), ladder=True)
    said = words(cold.to_html())
    assert "It cannot recommend any of the held-out items" in said
    assert "Some items were held out with all their events" in said


def test_a_model_that_is_told_the_time_is_said_to_be(report):
    half = {name: Interval(figure.mean / 2, 0.0, 1.0) for name, figure in report.metrics.items()}
    clocked = replace(report, without_clock=half, gained_by_clock=half)
    said = f"Without that time it finds {report.metrics['recall@5'].mean / 2:.1%}"
    assert said in words(clocked.to_html())
    assert "Without that time it finds" not in words(report.to_html())


def test_whatever_a_user_wrote_is_text(report, split):
    parts = tuple(replace(part, by=EVIL, name=EVIL) for part in report.slices)
    page = replace(report, slices=parts, notes=(EVIL,), diversity_by=EVIL, split=EVIL)
    other = compare(Popular().fit(split), Transitions().fit(split), names=[EVIL, "b"], k=(5,))
    for html in (page.to_html(EVIL), other.to_html(), other.to_html(EVIL)):
        assert "<script" not in html
        assert EVIL in "".join(Elements(html).text)


def test_an_element_escapes_text_and_attributes_and_keeps_elements():
    inner = make("b", "a < b")
    made = make("td", "&", inner, aria_label='"x"', class_="own")
    assert made == '<td aria-label="&quot;x&quot;" class="own">&amp;<b>a &lt; b</b></td>'


def test_a_comparison_says_in_words_who_is_better(split):
    models = [ItemCF().fit(split), Popular().fit(split), ItemCF().fit(split)]
    found = compare(*models, names=["cf", "popular", "twin"], k=(5,))
    said = words(found.to_html())
    better = found.differences["popular"]["recall@5"]
    assert better.holm < 0.05
    assert f"cf is better than popular by {better.mean:.4f} in recall@5" in said
    assert "cf and twin are not shown to differ" in said
    assert "Holm's method for 2 comparisons" in said
