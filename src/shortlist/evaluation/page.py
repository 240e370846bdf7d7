"""How is a report shown to readers who have never seen one? As one self-contained HTML page.

The page has no script and fetches nothing, no font and no image; its content security policy also
forbids both. All text goes through `make`, which escapes it.
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from shortlist.evaluation.ladder import SHOWN
from shortlist.evaluation.significance import FEW, Interval, p_text
from shortlist.evaluation.verdict import in_short

if TYPE_CHECKING:
    from shortlist.evaluation.compare import Comparison, Difference
    from shortlist.evaluation.report import Report
    from shortlist.evaluation.slices import Slice

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --card: #fff; --ink: #1b2130; --quiet: #565e70;
  --line: #e3e3dd; --own: #7486e0; --other: #8b93a5; --mark: #a4480a; }
@media (prefers-color-scheme: dark) { :root { --page: #13151b; --card: #1b1e26; --ink: #e8eaf0;
  --quiet: #a6adbd; --line: #2d313c; --own: #5a6cc4; --other: #6b7385; --mark: #ffb277; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem 1.25rem; margin: 1rem 0; overflow-x: auto; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; } .quiet { color: var(--quiet); font-size: .875rem; }
.verdict { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; padding: .25rem .5rem; border-top: 1px solid var(--line);
  vertical-align: middle; }
thead > tr > * { border-top: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: .875rem; }
th, td { overflow-wrap: normal; } th { font-weight: 500; }
tbody th { overflow-wrap: anywhere; min-width: 4.5rem; } .number { text-align: right; }
.number span, td.number { white-space: nowrap; } tr.own th, tr.own td { font-weight: 700; }
tr.group th { color: var(--quiet); padding-top: .75rem; }
td.plot { min-width: 9rem; width: 30%; } svg { display: block; width: 100%; height: 1.1rem; }
.bar { fill: var(--other); } .own .bar, .bar.own { fill: var(--own); }
.whisker { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.tick { stroke: var(--mark); stroke-width: 3; vector-effect: non-scaling-stroke; }
dt { font-weight: 600; margin-top: .4rem; } dd { margin: 0; }
@media (max-width: 40rem) { section { padding: .75rem; } table { font-size: .8125rem; }
  th, td { padding: .25rem .2rem; } thead th { font-size: .75rem; }
  .plot { display: none; } td.number, .number span { white-space: normal; } }
@media print { section { break-inside: avoid; } }
"""

SPLITS = {
    "leave-last-out": "Each user's last event{kind} was held out, and the model had to predict its "
    "item.",
    "global-time": "All events from one moment on were held out. The model knew only the events "
    "before that moment and had to predict the items of the held-out events{kind}.",
    "random": "A random share of each user's events{kind} was held out, and the model had to "
    "predict their items.",
    "column": "A column of the log says which events were held out; the model had to predict the "
    "items of the held-out events{kind}.",
    "rolling": "The log was cut at several moments. For each one the model was trained on the "
    "events before it, and had to predict the items of the events{kind} from then to the next one.",
    "cold-items": "Some items were held out with all their events. The model had to recommend "
    "these items without having seen any of their events.",
}
"""What each kind of split measures, for readers who do not know the names of the kinds.

{kind} is where the kinds of events that are predicted are named."""

METRICS = {
    "recall": "the share of a user's held-out items that are among the first k of their list",
    "hit_rate": "the share of users with at least one of them among the first k",
    "ndcg": "like recall, but a hit counts more the higher its place in the list",
    "mrr": "1 divided by the place of the first hit, and 0 without a hit",
    "precision": "the share of the first k places that hold a held-out item",
    "map": "the precision at the place of each hit, averaged",
}

LISTS = {
    "coverage": "the share of all items that are in at least one list",
    "gini": "how unequally the places in the lists are shared among the items: 0 if all items "
    "have the same number, near 1 if a few items have nearly all",
    "popularity_percentile": "the mean popularity of the listed items: 0.5 for lists drawn at "
    "random, 1 for the most popular item",
    "average_popularity": "the mean number of training events of the listed items",
    "novelty": "how little known the listed items are, in bits: one bit more means half as many "
    "training events",
    "diversity": "how different the items of one list are: 0 if all are alike, 1 if they have "
    "nothing in common",
}


class Html(str):
    """Text that is HTML, from `make`, and is not escaped again."""

    __slots__ = ()


def make(name: str, *children: str, **attributes: str) -> Html:
    """Return an element; children that are not `Html` are escaped. `class_` sets `class`.

    >>> make("td", "<b>", make("i", "&"), class_="number")
    '<td class="number">&lt;b&gt;<i>&amp;</i></td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    inner = "".join(text if isinstance(text, Html) else escape(text) for text in children)
    return Html(f"<{name}{given}>{inner}</{name}>")


def report_page(report: "Report", title: str) -> str:
    """Return a report as one HTML page."""
    return _page(
        f"How good is {title}?",
        _summary(report),
        _each(report),
        _ladder(report),
        _slices(report),
        _quality(report),
        _lists(report),
        _costs(report),
        _measured(report),
    )


def comparison_page(found: "Comparison", title: str) -> str:
    """Return a comparison as one HTML page."""
    same = found.same_for_one()
    metrics = [m for m in next(iter(found.figures.values())) if m.split("@")[0] not in same]
    heads = [metric for metric in metrics if metric.split("@")[0] in SHOWN][: len(SHOWN)]
    said = [
        make("p", _better(found.first, name, heads[0], each[heads[0]]))
        for name, each in found.differences.items()
    ]
    lines = [make("p", line) for line in found.lines()]
    said = lines if found.users < FEW else [*said, *lines]
    corrected = len(found.differences) > 1
    note = (
        f"All were measured on the same {found.users:,} user{'' if found.users == 1 else 's'}, on "
        "the full catalogue. The "
        f"difference is {found.first} minus the other, paired by user, with its 95 % interval over "
        "users. p is the probability of a difference at least this large if both were equally "
        "good (paired t-test)"
        + (
            f", corrected by Holm's method for {len(found.differences)} comparisons, because with "
            "many comparisons one looks better by chance. The intervals are not corrected"
            if corrected
            else ""
        )
        + "."
    )
    rows: list[Html] = []
    for metric in metrics:
        top = max(_far(each[metric]) for each in found.figures.values())
        rows.append(_group(metric, 5))
        for name, figures in found.figures.items():
            own = name == found.first
            cells = [Html(""), Html("")]
            if not own:
                more = found.differences[name][metric]
                cells = [_signed(more.interval), Html(escape(p_text(more.holm)))]
            rows.append(
                _row(
                    name, _bar(figures[metric], top), _plus_minus(figures[metric]), *cells, own=own
                )
            )
    return _page(
        title,
        _section("Which is better?", *said, make("p", note, class_="quiet")),
        _section(
            "All figures",
            _table(("", "", "figure", f"{found.first} minus this", "p"), rows),
            _glossary(METRICS, metrics),
        ),
    )


def _page(title: str, *sections: Html | None) -> str:
    head = make(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        make("title", title),
        make("style", Html(STYLE)),
    )
    shown = [part for part in sections if part is not None]
    body = make("body", make("main", make("h1", title), *shown))
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _summary(report: "Report") -> Html:
    """Return the summary; its first two sentences are what a report says about the whole."""
    first, *others = in_short(report)
    verdict = [make("p", line, class_="verdict") for line in (first, *others[:1])]
    return _section("In short", *verdict, *(make("p", line) for line in others[1:]))


def _better(first: str, other: str, metric: str, more: "Difference") -> str:
    mean, ends = more.mean, more.interval.ends
    known = "" if ends is None else "95 % interval {:+.4f} to {:+.4f}, ".format(*ends)
    interval = f"in {metric} ({known}p {p_text(more.holm)})"
    if more.holm is None or more.holm >= 0.05:
        size = f"the difference is {mean:+.4f} {interval}"
        return f"{first} and {other} are not shown to differ: {size}."
    verdict = "better" if mean > 0 else "worse"
    return f"{first} is {verdict} than {other} by {abs(mean):.4f} {interval}."


def _ladder(report: "Report") -> Html | None:
    if not report.ladder:
        return None
    known = list(report.ladder[0].metrics)
    shown = known[: len(SHOWN)]
    deepest = [name for name in known if name.startswith("recall@")][-1:]
    shown += [name for name in deepest if name not in shown]  # A recall stage hands over hundreds.
    rows: list[Html] = []
    for name in shown:
        figures = {rung.name: rung.metrics[name] for rung in report.ladder}
        top = max(_far(each) for each in (*figures.values(), report.metrics[name]))
        rows.append(_group(name, 4))
        rows += [
            _row(
                rung.name,
                _bar(rung.metrics[name], top),
                _plus_minus(rung.metrics[name]),
                _signed(rung.difference[name]),
            )
            for rung in report.ladder
        ]
        own = report.metrics[name]
        rows.append(_row("this model", _bar(own, top), _plus_minus(own), Html(""), own=True))
    return _section(
        "Is it better than methods without training?",
        _table(("method", "", "figure", "this model minus the method (95 % interval)"), rows),
        _quiet(
            'Each method was fitted on the same events and measured on the same users. "popular" '
            'recommends the most popular items to everybody; "popular of late" counts recent '
            'events more; "transitions" counts which items follow the last items of the user; '
            '"item-cf" counts the users that items share. If the interval of a difference '
            "contains 0, neither is shown to be better."
        ),
        _glossary(METRICS, shown),
    )


def _each(report: "Report") -> Html | None:
    if not report.over:
        return None
    shown = [name for name in report.metrics if name.partition("@")[0] in SHOWN][: len(SHOWN)]
    best = max(_far(each.metrics[name]) for each in report.each.values() for name in shown)
    rows: list[Html] = []
    for name in shown:
        rows.append(_group(name, 5))
        rows += [
            _row(
                f"{report.over} {number}",
                _bar(each.metrics[name], best, tick=each.popularity[name].mean, own=True),
                _plus_minus(each.metrics[name]),
                _number(each.popularity[name].mean),
                Html(f"{each.users:,}"),
            )
            for number, each in report.each.items()
        ]
    return _section(
        f"How much do the {report.over}s differ?",
        _table(("", "", "this model", "popular", "users"), rows),
        _quiet(
            f"Each row is one training, with its 95 % interval over users. All other figures of "
            f"this page are means over these {len(report.each)} {report.over}s, with an interval "
            f"over {report.over}s and users."
        ),
    )


def _slices(report: "Report") -> Html | None:
    if not report.slices:
        return None
    k = next(iter(report.slices[0].recall))
    top = max(_far(_ends_shown(part, k)) for part in report.slices)
    rows: list[Html] = []
    for by, parts in groupby(report.slices, key=lambda part: part.by):
        rows.append(_group(_BY.get(by, by), 6))
        rows += [
            _row(
                part.name,
                _bar(_ends_shown(part, k), top, tick=part.popularity[k].mean, own=True),
                _plus_minus(_ends_shown(part, k)),
                _number(part.popularity[k].mean),
                Html(f"{part.users:,}"),
                Html(f"{part.events:,}"),
            )
            for part in parts
        ]
    heads = ("", "", f"recall@{k}", "popular", "users", "held-out events")
    return _section(
        "For which users and items is it good?",
        _table(heads, rows),
        _quiet(
            "The vertical mark is the figure of the most popular items for the same users. The "
            "head is the most popular items that together have a third of the training events; "
            "the torso has the next third, the tail the last; new items have none."
        ),
        *(_quiet(line) for line in report.slice_lines()),
    )


def _ends_shown(part: "Slice", k: int) -> Interval:
    """Return recall@k of a slice; without width if its users are too few for an interval."""
    return part.recall[k] if part.enough else Interval(part.recall[k].mean, None, None)


_BY = {
    "history": "Users by the number of their known events",
    "users": "Users with and without training events",
    "items": "Held-out items by popularity",
}


def _quality(report: "Report") -> Html:
    rows: list[Html] = []
    same = report.same_for_one()
    shown = [name for name in report.metrics if name.split("@")[0] not in same]
    by_k = sorted(shown, key=lambda name: int(name.partition("@")[2]))
    for k, names in groupby(by_k, key=lambda name: name.partition("@")[2]):
        rows.append(_group(f"the first {k}", 5))
        for name in names:
            own, other = report.metrics[name], report.popularity[name]
            top = max(_far(own), _far(other))
            bar = _bar(own, top, tick=other.mean, own=True)
            cells = (_plus_minus(own), _number(other.mean), _signed(report.differences[name]))
            rows.append(_row(name.partition("@")[0], bar, *cells))
    through = (
        []
        if report.exact is None
        else [
            _quiet(
                "These figures are through an approximate index. Through an exact one they are: "
                + ", ".join(
                    f"{name} {figure.mean:.4f}"
                    for name, figure in report.exact.items()
                    if name.split("@")[0] in SHOWN
                )
                + "."
            )
        ]
    )
    return _section(
        "How good are the lists?",
        _table(("", "", "this model", "popular", "difference (95 % interval)"), rows),
        *through,
        _quiet(
            (
                f"± is half of the 95 % interval of the mean, over {report.over}s and users of "
                "this kind."
                if report.over
                else "± is half of the 95 % interval of the mean over users of this kind. It does "
                "not cover other trainings of the model."
            )
            + " The vertical mark is the figure of the most popular items."
        ),
        *(_quiet(f"Here {one} equals {other} and is left out.") for one, other in same.items()),
        _glossary(METRICS, shown),
    )


def _lists(report: "Report") -> Html:
    rows: list[Html] = []
    by_k = sorted(report.catalogue, key=lambda name: int(name.partition("@")[2]))
    for k, names in groupby(by_k, key=lambda name: name.partition("@")[2]):
        rows.append(_group(f"the first {k}", 3))
        for name in names:
            kind = name.partition("@")[0]
            shown = (figures[name] for figures in (report.catalogue, report.popularity_catalogue))
            rows.append(_row(kind.replace("_", " "), *(_with_unit(kind, value) for value in shown)))
    by = f" It is computed from: {report.diversity_by}." if report.diversity_by else ""
    meanings = {**LISTS, "diversity": LISTS["diversity"] + "." + by} if by else LISTS
    return _section(
        "How do the lists use the catalogue?",
        _table(("", "this model", "popular"), rows),
        _glossary(meanings, list(report.catalogue)),
    )


def _costs(report: "Report") -> Html | None:
    if not report.costs:
        return None
    rows = [
        _row(
            name,
            Html("–" if cost.fit is None else f"{cost.fit:,.2f}"),
            Html(f"{cost.query:,.0f}"),
            own=name == "this model",
        )
        for name, cost in report.costs.items()
    ]
    return _section(
        "What does it cost?",
        _table(("", "CPU seconds of the fit", "CPU µs a query"), rows),
        _quiet(
            "CPU time over all threads of the measuring machine, with queries answered in blocks "
            "and the first answers not counted."
            + (
                " “–” means that the fit was not measured, because the model was fitted before."
                if any(cost.fit is None for cost in report.costs.values())
                else ""
            )
            + (" The cost of lists that were made elsewhere is not known." * report.made_elsewhere)
        ),
    )


def _measured(report: "Report") -> Html:
    seen = "Items a user had met before were left out of the lists"
    if not report.exclude_seen:
        seen = "Items a user had met before were left in the lists"
    elif report.staying:
        kinds = " or ".join(f'"{name}"' for name in report.staying)
        seen += f", except those met only in events of kind {kinds}"
    ranked = (
        f"Each of {report.users:,} users has one query, and all {report.candidate_items:,} items "
        "were ranked for each of them; no items were sampled."
    )
    if report.over == "fold":
        ranked = (
            f"Over the {len(report.each)} folds there were {report.users:,} queries, at most one "
            "of a user in each, and all items of the fold were ranked for each of them; no items "
            "were sampled."
        )
    fitted = f'The model was fitted on the rows "{report.fit}"'
    if report.made_elsewhere:
        ranked = (
            f"Each of {report.users:,} users has at most one list, which was made elsewhere: it "
            "is not known here from which items it was chosen."
        )
        fitted = f'The lists are said to be made from the rows "{report.fit}"'
    split = SPLITS.get(report.split, f"The split is of kind {report.split}.")
    lines = (
        split.replace("{kind}", report.of_targets),
        f"{ranked} {seen}.",
        f"{fitted} and measured on the {report.cut} rows.",
        *(f"{line[:1].upper()}{line[1:]}" for line in report.lines()),
    )
    return _section("How was it measured?", *(make("p", line) for line in lines))


def _section(title: str, *children: str) -> Html:
    """Return a section. It takes the keyboard focus, so that wide tables can be scrolled."""
    return make("section", make("h2", title), *children, tabindex="0", aria_label=title)


def _quiet(text: str) -> Html:
    return make("p", text, class_="quiet")


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    """Return a table; a column without a heading has row names (the first one) or bars."""
    cells = [
        make("th", head, scope="col", class_="number" if place else "name")
        if head
        else make("td", class_="plot" if place else "name")
        for place, head in enumerate(heads)
    ]
    return make("table", make("thead", make("tr", *cells)), make("tbody", *rows))


def _group(text: str, columns: int) -> Html:
    return make("tr", make("th", text, colspan=str(columns), scope="rowgroup"), class_="group")


def _row(name: str, *cells: Html, own: bool = False) -> Html:
    made = [
        make("td", cell, class_="plot" if cell.startswith("<svg") else "number") for cell in cells
    ]
    return make("tr", make("th", name, scope="row"), *made, class_="own" if own else "plain")


def _bar(figure: Interval, top: float, tick: float | None = None, *, own: bool = False) -> Html:
    """Return an SVG bar of the mean with its interval as a line.

    top: the value at full width. tick: a value to mark, such as that of popularity.
    """

    def at(value: float) -> str:
        return f"{max(0.0, min(1.0, value / top if top > 0 else 0.0)) * 200:.1f}"

    parts = [
        f'<rect class="bar{" own" if own else ""}" x="0" y="3" height="10" '
        f'width="{at(figure.mean)}"/>',
    ]
    label = f"{figure.mean:.4f}"
    if figure.ends is not None:
        low, high = figure.ends
        parts.append(f'<line class="whisker" x1="{at(low)}" x2="{at(high)}" y1="8" y2="8"/>')
        label += f", 95 % interval {low:.4f} to {high:.4f}"
    if tick is not None:
        parts.append(f'<line class="tick" x1="{at(tick)}" x2="{at(tick)}" y1="1" y2="15"/>')
    return Html(
        f'<svg viewBox="0 0 200 16" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _glossary(meanings: Mapping[str, str], names: Sequence[str]) -> Html:
    kinds = dict.fromkeys(name.partition("@")[0] for name in names)
    entries = (
        part
        for kind in kinds
        if kind in meanings
        for part in (make("dt", kind.replace("_", " ")), make("dd", meanings[kind]))
    )
    return make("dl", *entries, class_="quiet")


def _plus_minus(figure: Interval) -> Html:
    return Html(
        f"<span>{figure.mean:.4f}</span>" + (f" <span>{figure.half}</span>" if figure.half else "")
    )


def _signed(figure: Interval) -> Html:
    mean = f"<span>{figure.mean:+.4f}</span>"
    if figure.ends is None:
        return Html(mean)
    return Html(mean + " <span>({:+.4f} to {:+.4f})</span>".format(*figure.ends))


def _far(figure: Interval) -> float:
    """Return the largest value of a figure that a bar shows."""
    return figure.mean if figure.ends is None else figure.ends[1]


def _number(value: float) -> Html:
    return Html("–" if value != value else f"{value:.4f}")  # noqa: PLR0124 - NaN: there is none


def _with_unit(kind: str, value: float) -> Html:
    """Return a figure of the lists with its unit; a share has none."""
    digits, unit = _UNITS.get(kind, (4, ""))
    return Html("–" if value != value else f"{value:,.{digits}f}{unit}")  # noqa: PLR0124


_UNITS = {"average_popularity": (1, " events"), "novelty": (2, " bits")}
