"""A loaded bundle that answers requests; a request keeps the same one from start to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.candidates import Candidates
from shortlist.asking.capabilities import Channel
from shortlist.asking.gone import popular_if_gone
from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blended
from shortlist.bundle.bundle import Bundle
from shortlist.compiled import load as load_compiled
from shortlist.data.event_columns import EventEncoder
from shortlist.data.predicates import Predicate, allowed_rows, parse
from shortlist.data.training_data import TrainingData
from shortlist.data.vocabulary import Vocabulary
from shortlist.errors import BundleError, QueryError, ShortlistError
from shortlist.evaluation.searching import channels_of
from shortlist.histories.events import Id
from shortlist.index.servers import ServerIndex
from shortlist.sections.events import Events, checked_events
from shortlist.serving.availability import Availability
from shortlist.serving.messages import RequestError

TRIED = 3
"""Number of known users in a self-test."""


class LeftOut(NamedTuple):
    """A change of an item that does not fit the bundle, with the reason."""

    change: int
    item: Id
    error: ShortlistError


@dataclass(frozen=True)
class Served:
    """A bundle in service.

    bundle: the bundle with the changes of items applied (`living`).
    directory: the folder that it was read from.
    loaded_at: seconds since 1970.
    base: the bundle as it was read; None if no changes were applied.
    change: number of the last applied change.
    left_out: values of changes that do not fit the bundle.
    availability: time windows of items; None without any.
    """

    bundle: Bundle
    directory: Path
    loaded_at: float
    base: Bundle | None = None
    change: int = 0
    left_out: tuple[LeftOut, ...] = ()
    availability: Availability | None = None

    @property
    def as_read(self) -> "Served":
        """The bundle without changes of items."""
        if self.base is None:
            return self
        return Served(self.base, self.directory, self.loaded_at)

    def available(self, now: float) -> Tensor | None:
        """Return which item rows are available, bool [items + 1]; None if all are."""
        return None if self.availability is None else self.availability.at(now)

    @property
    def id(self) -> str:
        """The bundle's id, which is in every answer."""
        return self.bundle.id

    @property
    def name(self) -> str:
        """The printable name of its folder."""
        return shown(self.directory.name)

    @property
    def kind(self) -> str:
        """The name of the retriever in the manifest."""
        return str(self.bundle.manifest.fields["retriever"])

    @property
    def retriever(self) -> Channel:
        """The retriever that answers."""
        return self.bundle.retriever

    @property
    def data(self) -> TrainingData:
        """The data the retriever was fitted on."""
        data: TrainingData = self.bundle.retriever.data
        return data

    @cached_property
    def min_weight(self) -> float | None:
        """The weight below which an event is not a positive; None without `data.min_weight`."""
        least: float | None = (self.bundle.recipe or {}).get("data", {}).get("min_weight")
        return least

    @cached_property
    def has_weights(self) -> bool:
        """True if the log has weights; otherwise the weight of a new event has no effect."""
        said = (self.bundle.recipe or {}).get("data", {})
        return said.get("weight") is not None or self.data.log.weight is not None

    @cached_property
    def kinds_of_events(self) -> Events:
        """The table of kinds of events in the bundle's recipe; empty without one."""
        said = (self.bundle.recipe or {}).get("data", {})
        return checked_events(said.get("event"), said.get("events", {}))

    @cached_property
    def kinds_by_weight(self) -> bool:
        """True if the kind of an event is given by its weight."""
        said = (self.bundle.recipe or {}).get("data", {})
        return bool(self.kinds_of_events) and said.get("event") == said.get("weight")

    @cached_property
    def reads_of_events(self) -> tuple[str, ...]:
        """Columns of new events, besides items and kinds, that the bundle reads."""
        timed = self.retriever.timed and self.data.log.time is not None
        weighted = self.retriever.weighs and self.data.log.weight is not None
        return ("times",) * timed + ("weights",) * weighted

    @cached_property
    def approximate(self) -> bool:
        """True if it searches with an approximate index that can be compared with an exact scan.

        This excludes an index in a server, whose vectors are not in this process.
        """
        indexes = [channel.index for channel in channels_of(self.retriever).values()]
        here = not any(isinstance(index, ServerIndex) for index in indexes)
        return here and not all(index.is_exact for index in indexes)

    @cached_property
    def features_of_events(self) -> Mapping[str, EventEncoder]:
        """Encoders of the features that an event may have, besides kind and weight."""
        features = self.data.event_features
        said = (self.bundle.recipe or {}).get("data", {})
        return {
            name: features.encoders[name] for name in features.held if name != said.get("weight")
        }

    def learned(self, store: str) -> int:
        """The number of the last event in this store that the bundle has learned from."""
        mark = self.bundle.watermark
        return mark.sequence if mark is not None and mark.store == store else 0

    @cached_property
    def _item_ids(self) -> Any:
        """The item ids by row - 1; integers as a numpy array, which JSON encodes directly."""
        ids = self.data.items.ids
        return ids.to_numpy() if ids.dtype == pl.Int64 else ids

    def recommend(self, queries: Queries, k: int) -> Candidates:
        """Answer queries. Errors: RequestError for a condition that does not fit the columns."""
        if queries.where is not None:
            self._try_condition(queries.where)
        found: Candidates = self.retriever.recommend(queries, k)
        return found

    def _try_condition(self, where: Any) -> None:
        try:
            allowed_rows(self.data, where)
        except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
            raise RequestError(
                "invalid_request", "where: the type of a value does not fit its column"
            ) from error

    def similar(self, asked: Any, k: int, now: float) -> Candidates:
        """Return the k most similar items, or users, that are available.

        asked: item ids, or `Queries` of users.
        now: seconds since 1970.
        """
        finds: Any = self.retriever
        found: Candidates = finds.similar(asked, k)
        mask = None if isinstance(asked, Queries) else self.available(now)
        if mask is None:
            return found
        shown = mask.numpy()
        width = k
        while True:
            visible = (found.rows >= 0) & shown[found.rows]
            if found.rows.shape[1] < width or bool((visible.sum(axis=1) >= k).all()):
                return _first(found, visible, k)
            width *= 4
            found = finds.similar(asked, width)

    def lists(self, found: Candidates) -> tuple[list[Any], list[Any]]:
        """Return the item ids and scores of each list, without empty places."""
        return self.named(found, self._item_ids)

    def named(self, found: Candidates, ids: Any) -> tuple[list[Any], list[Any]]:
        """Return the ids and scores of each list.

        ids: the id of each row, from row 1.
        """
        # As float64, scores have the same digits in JSON as on the command line.
        scores = found.scores.astype(np.float64)
        names, values = [], []
        for rows, row_scores, length in zip(
            found.rows, scores, (found.rows >= 0).sum(axis=1).tolist(), strict=True
        ):
            part = ids[rows[:length] - 1] if length else []
            names.append(part.to_list() if isinstance(part, pl.Series) else part)
            values.append(row_scores[:length])
        return names, values

    def channels(self, found: Candidates) -> list[list[str]] | None:
        """Return the channel of each candidate; None if the bundle is not a blend."""
        if not isinstance(found, Blended):
            return None
        names = np.array(found.channels)
        lengths = (found.rows >= 0).sum(axis=1)
        return [names[by[:length]].tolist() for by, length in zip(found.by, lengths, strict=True)]

    def channel_numbers(self, found: Candidates) -> tuple[tuple[str, ...], list[bytes]]:
        """Return the names of the channels, and each candidate's channel number, a byte each.

        Both are empty if the bundle is not a blend.
        """
        if not isinstance(found, Blended):
            return (), [b""] * len(found)
        lengths = (found.rows >= 0).sum(axis=1)
        by = found.by.astype(np.uint8)
        return found.channels, [
            line[:length].tobytes() for line, length in zip(by, lengths, strict=True)
        ]

    def titles(self, rows: Any) -> list[str | None]:
        """Return the title of each item row, None for row 0."""
        titles = self.data.titles(np.where(rows > 0, rows, 1)) if len(rows) else []
        return [t if row > 0 else None for t, row in zip(titles, rows, strict=True)]


def _first(found: Candidates, which: NDArray[np.bool_], k: int) -> Candidates:
    """Keep the first k places of each list for which `which` [B, n] is True."""
    order = np.argsort(~which, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(which, order, axis=1)
    rows = np.where(kept, np.take_along_axis(found.rows, order, axis=1), -1)
    scores = np.where(kept, np.take_along_axis(found.scores, order, axis=1), -np.inf)
    return replace(found, rows=rows, scores=scores.astype(found.scores.dtype))


def shown(name: str) -> str:
    r"""Return a file name as printable text for the log and for JSON.

    >>> shown("v1"), shown("v\n2"), shown("v\udcff")
    ('v1', 'v\\n2', 'v\\udcff')
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def check_ids(ids: Sequence[Any], vocabulary: Vocabulary, place: str) -> Any:
    """Return the ids; refuse those of another type than in the data, as "1" is not 1.

    place: their place in the request, such as "items" or "events[].user".
    Errors: RequestError.
    """
    wanted: type = int if vocabulary.ids.dtype == pl.Int64 else str
    for position, value in enumerate(ids):
        if type(value) is not wanted:
            names = "integers" if wanted is int else "strings"
            raise RequestError(
                "invalid_request",
                f"{_at(place, position)}: {vocabulary.name} ids of this data are {names}, "
                f"got {value!r:.40}",
            )
    return ids


def _at(place: str, position: int) -> str:
    """The place of one id, such as "items[3]" or "events[3].user"."""
    return (place if "[]" in place else f"{place}[]").replace("[]", f"[{position}]")


def condition(tree: Any) -> Predicate:
    """Read a condition. Errors: RequestError."""
    try:
        return parse(tree)
    except QueryError as error:
        raise RequestError("invalid_request", str(error)) from None


def self_test(served: Served) -> None:
    """Answer some known users and an unknown one. Errors: BundleError for an invalid answer.

    This also loads compiled code and caches before the first request.
    """
    load_compiled()
    trained = served.data.users.trained
    asked = [Queries(histories=[[]])]
    if not served.data.knows_users:
        asked.append(Queries(histories=[served.data.items.ids.head(TRIED).to_list()]))
    elif trained:
        rows = np.unique(np.linspace(1, trained, TRIED).astype(np.int64))
        users = served.data.users.external(rows).to_list()
        asked += [Queries(users=users, exclude_seen=False), Queries(users=users)]
    for number, queries in enumerate(asked):
        with torch.inference_mode(), popular_if_gone():
            found = served.recommend(queries, 10)
        names, scores = served.lists(found)
        # A user who has met every item gets an empty list, so only the first two must have items.
        if number < 2 and not all(len(part) for part in names):
            raise BundleError("the self-test got an empty list of candidates")
        if not all(np.isfinite(part).all() for part in scores):
            raise BundleError("the self-test got a score that is not finite")
