"""What do answers look like as JSON?"""

from typing import Any

from shortlist.serving.messages import Id, Ids, Message


class RecommendAnswer(Message):
    """Candidates, best first. Position i of each column belongs to query i.

    - bundle: id of the bundle that answered.
    - users: the users of the request; null for histories.
    - items: item ids of each list.
    - scores: scores of these items; a bigger score is better.
    - fallback: true if nothing was known of the query, so that the list holds popular items.
    - channels: the channel of each item; only from a blend.
    - unknown_items: number of unknown items in each list of `histories` or `recent`.
    - unknown_context: number of features of the moment that were missing, or had a value that
      training never saw; only from a bundle that reads such features.
    - without_events: true if the store of events was not available, so that no stored event was
      used; only from a service that keeps events.
    - requests: id of each list; only from a service that keeps events. An event with this id as
      `request` counts as a click on the list.
    """

    bundle: str
    users: Ids | None
    items: list[Ids]
    scores: list[list[float]]
    fallback: list[bool]
    channels: list[list[str]] = []
    unknown_items: list[int] = []
    unknown_context: list[int] = []
    without_events: bool = False
    requests: list[str] = []


class SimilarAnswer(Message):
    """The items or users that are similar to each id of `similar_to`, best first.

    - similar_to: the ids of the request.
    - items, users: ids of each list; only one of the two is there.
    - scores: scores of these ids; a bigger score is closer.
    - fallback: true if nothing was known of the id.
    """

    bundle: str
    similar_to: Ids
    items: list[Ids] = []
    users: list[Ids] = []
    scores: list[list[float]]
    fallback: list[bool]


class Reasons(Message):
    """Reasons as columns with one row per reason; an item's strongest reason comes first.

    - item: the explained item.
    - kind: kind of the reason, such as "event".
    - because: id of the item that an event met, or the name of another reason, as text.
    - contribution: part of the score. If `reasons_sum` is true, the contributions of an item sum to
      its score, or in a blend to its score in the named channel. Otherwise a contribution is what
      the score would lose without the event, and the contributions need not sum to the score.
    - title: title of the item in `because`; null if the reason is not an event.
    - channel: channel of a blend that the reason belongs to.
    """

    item: Ids
    kind: list[str]
    because: list[str]
    contribution: list[float | None]
    title: list[str | None]
    channel: list[str] = []


class ExplainAnswer(Message):
    """The reasons of each item. An item that cannot be scored for the query has none."""

    bundle: str
    items: Ids
    reasons: Reasons
    reasons_sum: bool


class HistoryAnswer(Message):
    """Known items that a user met, oldest first.

    - known: true if the bundle knows the user.
    - events: number of all events of the user, including those beyond `limit`.
    - items, titles: the newest of these items and their titles.
    """

    bundle: str
    user: Id
    known: bool
    events: int
    items: Ids
    titles: list[str]


class TitlesAnswer(Message):
    """The title of each item, or its id if it has no title; null for an unknown item."""

    bundle: str
    items: Ids
    titles: list[str | None]


class UsersAnswer(Message):
    """User ids that begin with the search text.

    - users: the first of these ids.
    - total: number of all such ids.
    """

    bundle: str
    users: Ids
    total: int


class LatestAnswer(Message):
    """The newest events that this process has stored since it started, newest first, at most 100.

    The columns have one value per event.

    - item_change: number of the last change of items in the bundle.
    - sequence: number of the event in the store.
    - titles: title of the item; null for an unknown item.
    - times: seconds since 1970.
    """

    bundle: str
    item_change: int
    sequence: list[int]
    users: Ids
    items: Ids
    titles: list[str | None]
    kinds: list[str | None]
    times: list[float]


class MapAnswer(Message):
    """At most 5,000 items in the plane of the first two principal components of their vectors.

    - x, y: coordinates of each item.
    - counts: number of training events of each item.
    - explained: share of the variance that each of the two components explains.
    """

    bundle: str
    items: Ids
    titles: list[str]
    x: list[float]
    y: list[float]
    counts: list[int]
    explained: list[float]


class ReportAnswer(Message):
    """What the bundle's manifest holds about its data, quality and index.

    - made_by: name and version of the program that wrote the bundle.
    - data: sizes of the training data, the split, and the rows that were learned from.
    - in_short: the report in sentences; null if the bundle was not evaluated by Shortlist.
    - metrics: metrics on held-out events; null if the bundle was not evaluated.
    - findings: findings about the training data.
    - plan: the plan of a blend; null for other retrievers.
    - index: settings and recall of the index; null without one.
    """

    bundle: str
    retriever: str
    made_by: str
    data: dict[str, Any]
    in_short: list[str] | None
    metrics: dict[str, Any] | None
    findings: list[dict[str, Any]]
    plan: dict[str, Any] | None
    index: dict[str, Any] | None


class RefusedBundle(Message):
    """A bundle that was found and refused.

    - name: name of its folder.
    - reason: why it cannot be served.
    """

    name: str
    reason: str


class BundleAnswer(Message):
    """The bundle that is served.

    - bundle: its id.
    - name: name of its folder.
    - loaded_at: seconds since 1970.
    - item_change: number of the last change of items in it.
    - refused: bundles that were found and refused.
    """

    bundle: str
    retriever: str
    name: str
    loaded_at: float
    item_change: int
    metrics: dict[str, Any] | None
    refused: list[RefusedBundle]


class ReloadAnswer(Message):
    """The bundle that is served after the check.

    - changed: true if it is another bundle than before.
    - refused: bundles that were found and refused.
    """

    bundle: str
    changed: bool
    refused: list[RefusedBundle]


class ItemsAnswer(Message):
    """The state after a change of items.

    - items: number of candidates.
    - removed: number of items of the bundle and of changes that are not recommended.
    - change: number of the change.
    - repeated: true if the change had been made before, so that nothing was done.
    - durable: true if the change survives the process, which needs `serve --events`.
    - left_out: number of values of all changes that do not fit this bundle.
    """

    bundle: str
    items: int
    removed: int
    change: int
    repeated: bool
    durable: bool
    left_out: int


class ChangedValue(Message):
    """One value of a change.

    - part: a column of the items table, or "(added)", "(removed)" or "(available)".
    """

    item: Id
    part: str
    value: Any


class ItemChange(Message):
    """A change of items.

    - change: its number.
    - id: the sender's name of it.
    - made_at: seconds since 1970.
    - reverts: number of the change that this one reverts.
    - reverted: number of the change that reverts this one.
    - total: number of its values that are stored.
    - values: the first of these values.
    """

    change: int
    id: str | None
    made_at: float
    reverts: int | None
    reverted: int | None
    total: int
    values: list[ChangedValue]


class LeftOutValue(Message):
    """A value of a change that does not fit the bundle that is served, with the reason."""

    change: int
    item: Id
    reason: str


class ChangesAnswer(Message):
    """Changes of items, newest first, with at most 1,000 values in all.

    - change: number of the last change that is served.
    - watermark: the value for `train --items-watermark` if the items table has all these changes.
    - durable: true if changes survive the process.
    - left_out: values that do not fit the bundle, at most 1,000.
    - total_left_out: number of all values that do not fit the bundle.
    """

    bundle: str
    change: int
    watermark: str
    durable: bool
    changes: list[ItemChange]
    left_out: list[LeftOutValue]
    total_left_out: int


class EventsAnswer(Message):
    """The events of the request, as they are stored.

    - sequence: number of each event in the store.
    - repeated: how many of them had been sent before.
    """

    sequence: list[int]
    repeated: int


class ForgottenAnswer(Message):
    """A deleted user.

    - events: number of events that were removed from the store.
    - held_by: bundles in the served directory that still hold events of the user. The service
      answers as if they did not.
    """

    user: Id
    events: int
    held_by: list[str]


class FeedbackFigures(Message):
    """Click figures as columns; a row counts all lists, or those with one value of `by`.

    - by: all, bundle, fallback, slice (number of known events of the user) or channel.
    - value: the value of `by`.
    - lists: lists that were answered with an id; 0 for channels.
    - items: items of these lists.
    - clicked: lists with at least one click; 0 for channels.
    - clicks: items with an event after a list, once each.
    - shown: clicks on items that were in the list.
    - recall_at_10, recall_at_100, recall: clicks on the first 10 items, on the first 100, and on
      all items of the list, as a share of `clicks`; null without clicks.
    """

    by: list[str]
    value: list[str]
    lists: list[int]
    items: list[int]
    clicked: list[int]
    clicks: list[int]
    shown: list[int]
    recall_at_10: list[float | None]
    recall_at_100: list[float | None]
    recall: list[float | None]


class IndexFigures(Message):
    """Comparisons of an approximate index with an exact scan.

    - recall: share of the exact neighbours that the index finds, over the last 100 comparisons;
      null without comparisons, as for an exact index.
    - compared: number of requests that were compared.
    - skipped: number of sampled requests that were not compared, because the thread was busy or
      they had more than 32 queries.
    """

    recall: float | None
    compared: int
    skipped: int


class FeedbackAnswer(Message):
    """Click figures and alarms of this process since it started.

    - requests: number of new events by their request id: known (a list of the last day), late (an
      older list), unknown (not an id of this service), or none (no id was sent).
    - alarms: names of the guards whose threshold is crossed now.
    """

    bundle: str
    figures: FeedbackFigures
    requests: dict[str, int]
    index: IndexFigures
    alarms: list[str]


class StateAnswer(Message):
    """The state of the process: "alive" or "ready"."""

    status: str
