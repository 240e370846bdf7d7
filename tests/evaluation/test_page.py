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
    staying = replace(of_likes, staying=("view",))
    assert 'left out of the lists, except those met only in events of kind "view".' in words(
        staying.to_html()
    )


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
    assert "It is not shown to be better than popular, which needs no training" in alike
    assert "Other methods without training were not measured" in alike
    assert report.differences["recall@5"].low > 0
    weak = next(part for part in report.slices if part.enough and part.difference[5].low <= 0)
    assert f" ({weak.events:,} held-out" in words(report.to_html())
    odd = replace(weak, by="tags", name="red")
    assert f"tags = red ({weak.events:,} held-out" in words(
        replace(report, slices=(odd,)).to_html()
    )


def test_a_summary_names_groups_of_enough_users_and_counts_those_beyond_a_few(report):
    """Where the whole is no better than popular items, it names the groups that are."""
    level, more = Interval(0.0, -0.1, 0.1), Interval(0.2, 0.1, 0.3)
    some = replace(report.slices[0], by="tags", users=40, events=50, recall={5: more})
    weak = [replace(some, name=f"tag {n}", difference={5: level}) for n in range(10)]
    few = replace(some, name="rare", users=2, difference={5: level})
    good = replace(some, name="good", difference={5: more})
    said = "\n".join(replace(report, slices=(*weak, few, good)).in_short())
    assert "better than popular items for tags = tag 0 (50 held-out events)" in said
    assert "tag 7 (50 held-out events); 2 more groups." in said
    assert "rare" not in said
    worse = replace(
        report, slices=(*weak, good), differences={**report.differences, "recall@5": level}
    )
    assert "It is better than popular items only for tags = good (50" in "\n".join(worse.in_short())


def test_a_slice_of_few_users_and_equal_figures_have_no_interval(report):
    """Resampling two users, or equal figures, gives an interval that says nothing."""
    part, some = report.slices[0], Interval(0.5, 0.0, 1.0)
    few = replace(part, by="items", users=2, recall=dict.fromkeys(part.recall, some))
    none = replace(few, name="none", users=90, recall=dict.fromkeys(part.recall, Interval(0, 0, 0)))
    wide = replace(few, name="wide", users=90)
    shown = replace(report, slices=(few, none, wide))
    cells = list(shown.slices_table().columns[3].cells)
    assert cells == ["0.5000", "0.0000", "0.5000 ± 0.5000"]
    why = "A slice of fewer than 20 users, or of equal figures, has no interval."
    assert why in shown.slices_table().caption
    assert words(shown.to_html()).count("± 0.5000") == 1
    assert why not in replace(report, slices=(wide,)).slices_table().caption


def test_the_deepest_list_has_a_verdict_of_its_own(report):
    """A recall stage hands over hundreds: what is no better among the first 5 may be among 20."""
    level, more = Interval(0.0, -0.1, 0.1), Interval(0.2, 0.1, 0.3)
    ladder = tuple(
        replace(rung, difference=rung.difference | {"recall@5": level, "recall@20": more})
        for rung in report.ladder
    )
    said = "\n".join(replace(report, ladder=ladder).in_short())
    assert "It is not shown to be better than popular, popular of late, transitions or" in said
    assert "Among the first 20, it is better than every method without training" in said
    deep = next(iter(report.ladder)).metrics["recall@20"].mean
    assert f"Among the first 20 the shares are {report.metrics['recall@20'].mean:.1%}" in said
    assert f"{deep:.4f}" in words(report.to_html())
    level = tuple(
        replace(rung, difference=dict.fromkeys(rung.difference, level)) for rung in ladder
    )
    ahead = replace(level[0], difference=level[0].difference | {"recall@5": more})
    said = "\n".join(replace(report, ladder=(*level[1:], ahead)).in_short())
    assert "contains 0. It is better than popular." in said
    assert "The same holds" not in said
    said = "\n".join(replace(report, ladder=level).in_short())
    assert (
        "the 95 % interval of the difference contains 0. The same holds among the first 20." in said
    )
    assert said.count("It is not shown to be better than popular,") == 1


@pytest.mark.parametrize(("users", "start"), [(1, "1 user is too few"), (19, "19 users are too")])
def test_the_same_gain_of_a_few_users_is_no_verdict(report, users, start):
    same = dict.fromkeys(report.differences, Interval(1.0, 1.0, 1.0))
    alone = replace(report, users=users, ladder=(), differences=same)
    said = alone.in_short()
    assert said[1].startswith(start)
    assert not any("better than popular, which" in line for line in said)
    many = replace(alone, users=20).in_short()
    assert many[1].startswith(
        "It is better than popular, which needs no training, by 100.0% of the"
    )
    assert "interval" not in many[1]


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
    assert cold.counts["held_out_events"] > cold.users  # where all figures are 0, too
    assert "On average 0.0% of a user's held-out items" in said


@pytest.mark.parametrize(
    ("recall", "verdict"),
    [
        (Interval(0.5, 0.4, 0.6), "It is better than lists drawn at random"),
        (Interval(0.1, 0.0, 0.9), "It is not shown to be better or worse than lists drawn"),
        (Interval(0.0, 0.0, 0.01), "It is worse than lists drawn at random"),
    ],
)
def test_items_that_counting_cannot_find_are_compared_with_chance(report, recall, verdict):
    """To be better than methods that must find nothing would be no merit."""
    new = replace(report.slices[0], by="items", name="new", events=9)
    cold = replace(report, slices=(new,), metrics={**report.metrics, "recall@5": recall})
    said = "\n".join(cold.in_short())
    assert f"{verdict}" in said
    assert f"would find about {5 / report.candidate_items:.1%}" in said
    assert "better than every method" not in said
    assert said.count("No held-out item has training events") == 1


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_held_out_items_that_the_user_had_met_are_counted(exclude_seen):
    """Left out they cannot be found; if they stay, the user's last items find them."""
    rows = [(u, i, t) for u in range(9) for t, i in enumerate([u % 4, 4, 5, 4])]
    log = pl.DataFrame(rows, ["user_id", "item_id", "t"], orient="row")
    split = Dataset.load(log, schema=Schema(time="t")).split()
    report = evaluate(Popular().fit(split), k=(2,), exclude_seen=exclude_seen)
    said = "\n".join(report.in_short())
    assert (
        "9 of the 9 held-out events had an item that the user had met before, which" in said
    ) is (exclude_seen)
    assert (
        "a list of the user's own last items would find many of them" in said
    ) is not exclude_seen


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


def test_a_comparison_on_a_few_users_has_no_verdict(split):
    found = compare(ItemCF().fit(split), Popular().fit(split), k=(5,))
    said = words(replace(found, users=2).to_html("few"))
    assert "2 users are too few to say which is better: 20 or more are needed." in said
    assert "first is better than" not in said
    assert "first is worse than" not in said


def test_a_comparison_says_in_words_who_is_better(split):
    models = [ItemCF().fit(split), Popular().fit(split), ItemCF().fit(split)]
    found = compare(*models, names=["cf", "popular", "twin"], k=(5,))
    said = words(found.to_html())
    better = found.differences["popular"]["recall@5"]
    assert better.holm < 0.05
    assert f"cf is better than popular by {better.mean:.4f} in recall@5" in said
    assert "cf and twin are not shown to differ: the difference is +0.0000 in recall@5" in said
    assert "Holm's method for 2 comparisons" in said


def test_lists_that_hold_the_whole_catalogue_are_said_to_tell_nothing(report):
    """Among the first 20 of 20 items everything is found, by any method."""
    small = replace(report, candidate_items=20)
    said = "\n".join(small.in_short())
    assert "A list of 20 items holds all 20 items, so that figures at 20 tell nothing." in said
    assert "Among the first 20" not in said
    assert "tell nothing" not in "\n".join(replace(report, candidate_items=21).in_short())
    elsewhere = replace(small, made_elsewhere=True)  # their lists can be shorter
    assert "tell nothing" not in "\n".join(elsewhere.in_short())


def test_a_comparison_says_that_lists_of_the_whole_catalogue_tell_nothing(split):
    found = compare(ItemCF().fit(split), Popular().fit(split), k=(5, 1000))
    said = (
        f"Lists of 1,000 items hold all {found.items:,} items, so that recall@1000 tells nothing."
    )
    assert said in found.table().caption
    assert said in found.to_html()
    assert "is better than" in found.to_html()  # by the first k


def test_a_model_that_is_a_method_without_training_differs_from_it_by_nothing(split):
    said = evaluate(ItemCF().fit(split), k=(5,), ladder=True).in_short()[1]
    assert (
        "not shown to be better than item-cf, which needs no training: the difference is 0" in said
    )


def test_the_cost_of_methods_that_cannot_find_anything_is_not_named(split, report):
    assert "The fit of item-cf, the best of the methods" in report.in_short()[-1]
    cold = evaluate(ItemCF().fit(split.dataset.split("cold-items")), k=(5,), ladder=True)
    assert "the best of the methods" not in cold.in_short()[-1]
    assert cold.in_short()[-1].startswith("On this machine")
    zero = {name: Interval(0.0, None, None) for name in report.ladder[0].metrics}
    nothing = tuple(replace(rung, metrics=rung.metrics | zero) for rung in report.ladder)
    assert "the best of the methods" not in replace(report, ladder=nothing).in_short()[-1]
