"""Fewer users than FEW: no output of a report has an interval, and no reader gives a verdict."""

import json
import re
from copy import deepcopy

import pytest

from shortlist import Dataset, ItemCF, Popular, Schema, compare, evaluate
from shortlist.data.synthetic import planted_world
from shortlist.doctor import Subject, examine
from shortlist.errors import DataError
from shortlist.evaluation.report import Report
from shortlist.evaluation.significance import FEW, Interval


def of_users(count):
    world = planted_world(users=count, items=40, events=8 * count, seed=3)
    return Dataset.load(world.interactions, schema=Schema(time="timestamp")).split()


@pytest.fixture(scope="module")
def few():
    split = of_users(FEW - 1)
    return split, evaluate(ItemCF().fit(split), k=(5, 10), ladder=True)


@pytest.fixture(scope="module")
def enough():
    return evaluate(ItemCF().fit(of_users(40)), k=(5, 10), ladder=True)


def ends(told):
    """Every low and high of nested JSON."""
    if isinstance(told, list):
        return [end for each in told for end in ends(each)]
    if not isinstance(told, dict):
        return []
    own = [told[name] for name in ("low", "high", "p", "holm") if name in told]
    return own + [end for each in told.values() for end in ends(each)]


def test_no_output_of_a_report_has_an_interval(few):
    _, report = few
    assert set(ends(report.to_dict())) == {None}
    frame = report.to_frame()
    assert frame["low"].null_count() == frame["high"].null_count() == len(frame) > 0
    assert frame["mean"].null_count() == 0
    cells = [
        cell
        for table in (report.table(), report.ladder_table(), report.slices_table(whole=True))
        for column in table.columns
        for cell in column.cells
    ]
    assert not [cell for cell in cells if "±" in cell]
    assert "fewer than 20 users" in report.table().caption
    page = report.to_html()
    assert not re.search(r"± \d|95 % interval -?\d|whisker\"", page)
    assert "interval" not in report._repr_html_().replace("95 % interval", "")


def test_a_comparison_has_neither_intervals_nor_p(few):
    split, _ = few
    found = compare(ItemCF().fit(split), Popular().fit(split), k=(5,))
    assert set(ends(found.to_dict())) == {None}
    why = "19 users are too few to say which is better: 20 or more are needed."
    assert why in found.table().caption
    assert set(found.table().columns[4].cells) == {"", "–"}
    assert why in found.to_html()


def test_only_the_slices_of_few_users_lack_an_interval(enough):
    told = enough.to_dict()["slices"]
    assert {part["users"] >= FEW for part in told} == {True, False}
    for part, slice_ in zip(told, enough.slices, strict=True):
        for k in (5, 10):
            figure, own = part["metrics"][f"recall@{k}"], slice_.recall[k]
            shown = slice_.half(k) != ""
            assert (figure["low"] is not None) is (figure["high"] is not None) is shown
            assert not shown or (figure["low"], figure["high"]) == own[1:]
            if part["users"] < FEW:
                assert own.side(-1.0) == 0  # nothing is above any value
                assert figure["difference"]["low"] is None


@pytest.mark.parametrize("name", ["few", "enough"])
def test_a_report_is_the_same_after_json(name, request):
    made = request.getfixturevalue(name)
    report = made if isinstance(made, Report) else made[1]
    told = json.loads(json.dumps(report.to_dict(), sort_keys=True))  # as a bundle keeps it
    read = Report.of_dict(told)
    assert read.to_dict() == report.to_dict()
    assert list(read.metrics) == list(report.metrics)
    assert next(iter(read.catalogue)) == next(iter(report.catalogue))
    assert read.in_short() == report.in_short()[: len(read.in_short())]  # the cost is last
    assert len(report.in_short()) == len(read.in_short()) + 1


def test_figures_of_another_program_are_no_report():
    figure = {"mean": 0.1, "low": 0.0, "high": 0.2}
    for told in (
        {"split": {"fit": "train"}, "users": 9, "metrics": {"recall@10": figure}},
        {**Report.of_nothing("").to_dict(), "slices": 5},
        {**Report.of_nothing("").to_dict(), "metrics": {"recall@10": {"mean": "x"}}},
    ):
        with pytest.raises(DataError, match="no report of evaluate"):
            Report.of_dict(told)


def paths(told, at=()):
    """The place of every value of nested JSON."""
    keys = told if isinstance(told, dict) else range(len(told)) if isinstance(told, list) else ()
    for key in keys:
        yield (*at, key)
        yield from paths(told[key], (*at, key))


def test_a_damaged_report_is_read_or_refused_by_name(enough):
    told = json.loads(json.dumps(enough.to_dict()))
    told |= {"slices": told["slices"][:1], "ladder": told["ladder"][:1]}
    read, refused = 0, 0
    for *above, last in list(paths(told)):
        for junk in (None, "x", {"mean": []}, KeyError):
            damaged = deepcopy(told)
            place = damaged
            for key in above:
                place = place[key]
            if junk is KeyError:
                del place[last]
            else:
                place[last] = junk
            try:
                read += len(Report.of_dict(damaged).in_short()) >= 0
            except DataError as error:
                refused += "no report of evaluate" in str(error)
    assert read > 100
    assert refused > 100


def worse(users, low, high):
    figure = {"mean": 0.1, "low": 0.0, "high": 0.2}
    less = {"mean": -0.4, "low": low, "high": high}
    rung = {"name": "item-cf", "metrics": {"ndcg@10": figure}, "difference": {"ndcg@10": less}}
    return {
        "users": users,
        "counts": {},
        "metrics": {"ndcg@10": figure},
        "difference": {"popularity": {"ndcg@10": less}},
        "ladder": [rung],
    }


@pytest.mark.parametrize("part", [{"low": -0.5, "high": -0.3}, {"low": None, "high": None}])
def test_the_doctor_judges_from_as_many_users_as_the_summary(part):
    """Figures that all users share decide, too; older bundles hold an interval of few users."""
    codes = [each.code for each in examine(Subject(report=worse(FEW, **part)))]
    assert codes == ["worse-than-popular", "worse-than-simple"]
    assert examine(Subject(report=worse(FEW - 1, **part))) == []
    more = Interval.of_dict({"mean": -0.4} | part, FEW)
    assert (more.side(), Interval.of_dict({"mean": -0.4} | part, FEW - 1).side()) == (-1, 0)
