"""Planted worlds: logs drawn from known tastes, for tests, examples and runs at scale.

Every user likes one group of items most and a second one less; within a group and overall a few
items are far more popular than the rest. So it is known what a user will want next, and a retriever
that finds the groups beats popularity by a wide margin.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError

FIRST_USER_ID = 10_001  # ids that cannot be mistaken for row numbers
FIRST_ITEM_ID = 500_001

_MAIN, _SECOND = 0.80, 0.15  # shares of a user's events; the rest comes from all items
_ZIPF = 0.8
_START = 1_700_000_000  # unix seconds; the events span one year from here
_YEAR = 365 * 24 * 3600
_TASTE_ROUNDS = 6
_MOST_OF_CATALOGUE = 4  # no user meets more than 1 / 4 of the items

_THEMES = {
    "space": ("Comet", "Orbit", "Nebula", "Starship", "Eclipse", "Asteroid", "Galaxy", "Moonbase"),
    "crime": ("Alibi", "Witness", "Heist", "Ransom", "Verdict", "Detective", "Forger", "Suspect"),
    "romance": (
        "Kiss",
        "Wedding",
        "Letter",
        "Waltz",
        "Promise",
        "Bouquet",
        "Serenade",
        "Honeymoon",
    ),
    "sea": ("Harbour", "Tide", "Lighthouse", "Captain", "Reef", "Galleon", "Mermaid", "Regatta"),
    "horror": ("Crypt", "Vampire", "Séance", "Scream", "Coven", "Ghoul", "Asylum", "Werewolf"),
    "western": ("Saloon", "Sheriff", "Stagecoach", "Canyon", "Outlaw", "Rodeo", "Prairie", "Posse"),
    "music": ("Symphony", "Drummer", "Encore", "Cellist", "Ballad", "Chorus", "Overture", "Tenor"),
    "nature": ("Forest", "Wolf", "Glacier", "Meadow", "Heron", "Savannah", "Volcano", "Orchid"),
    "history": (
        "Empire",
        "Cathedral",
        "Legion",
        "Crusade",
        "Pharaoh",
        "Treaty",
        "Siege",
        "Dynasty",
    ),
    "sport": ("Goalkeeper", "Marathon", "Derby", "Boxer", "Trophy", "Pitcher", "Relay", "Umpire"),
    "family": ("Puppy", "Treehouse", "Grandmother", "Picnic", "Toyshop", "Circus", "Kite", "Teddy"),
    "politics": ("Senate", "Election", "Ballot", "Embassy", "Cabinet", "Scandal", "Summit", "Coup"),
}
_ADJECTIVES = (
    *("Silent", "Golden", "Broken", "Last", "Hidden", "Crimson", "Endless", "Borrowed", "Secret"),
    *("Wandering", "Frozen", "Second", "Burning", "Lonely", "Velvet", "Distant", "Perfect", "Lost"),
    *("Midnight", "Paper", "Stolen", "Electric", "Forgotten", "Final", "Gentle", "Hollow", "Wild"),
    *("Invisible", "Emerald", "Restless", "Seventh", "Sleeping", "Unlikely", "Winter", "Honest"),
    *("Fearless", "Blue", "Ancient", "Reluctant", "Impossible"),
)
_REGIONS = ("north", "east", "south", "west", "centre", "islands")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """A log, its users and items, and the tastes it was drawn from.

    interactions: user_id, item_id, timestamp (unix seconds), rating (1 to 5), in order of time. A
        user meets an item at most once.
    users: user_id, region and club (categorical), age (numeric, a few missing), interests
        (multi-valued).
    items: item_id, title, studio (categorical), price (numeric), tags (multi-valued). About half of
        what the features say about the group is noise.
    user_group, second_group: [users], the groups a user likes, aligned with the rows of `users`.
    item_group: [items], aligned with the rows of `items`.
    popularity: [items], the item's share of the events drawn without regard to taste.
    """

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    user_group: Rows
    second_group: Rows
    item_group: Rows
    popularity: NDArray[np.float64]

    @property
    def schema(self) -> Schema:
        """The schema of the three tables, with every feature declared."""
        return Schema(
            user="user_id",
            item="item_id",
            time="timestamp",
            weight="rating",
            title="title",
            user_features=(
                Feature("region", "categorical"),
                Feature("club", "categorical"),
                Feature("age", "numeric"),
                Feature("interests", "multi-valued"),
            ),
            item_features=(
                Feature("studio", "categorical"),
                Feature("price", "numeric"),
                Feature("tags", "multi-valued"),
            ),
        )

    def probabilities(self, users: Rows) -> NDArray[np.float64]:
        """Return the probability with which each user draws each item, [B, items].

        Ranking by it without seen items is the best that a retriever can do. An item a user has
        already met is drawn again, so very active users get fewer items of their groups than this.

        users: [B], rows of the frame `users`.
        """
        share = self.popularity / np.bincount(self.item_group, self.popularity)[self.item_group]
        main = self.user_group[users][:, None] == self.item_group
        second = self.second_group[users][:, None] == self.item_group
        anywhere = (1 - _MAIN - _SECOND) * self.popularity
        drawn: NDArray[np.float64] = (_MAIN * main + _SECOND * second) * share + anywhere
        return drawn


def planted_world(
    users: int = 2_000, items: int = 1_000, events: int = 50_000, seed: int = 0, groups: int = 10
) -> World:
    """Draw a world; the same arguments give the same world. Ten million events take some seconds.

    Errors: DataError for fewer than 4 items a group, more groups than the 12 themes, fewer events
    than users, or so many events that a user would meet more than a quarter of the items.

    >>> planted_world(users=50, items=64, events=500).interactions.shape
    (500, 4)
    """
    _check(users, items, events, groups)
    random = np.random.default_rng([seed, users, items, events, groups])
    item_group = random.permutation(np.arange(items) % groups)
    popularity = random.permutation(1.0 / (1.0 + np.arange(items)) ** _ZIPF)
    popularity /= popularity.sum()
    user_group = random.integers(0, groups, users)
    second_group = (user_group + random.integers(1, groups, users)) % groups
    activity = _activity(random, users, events, items // _MOST_OF_CATALOGUE)
    drawer = _Drawer(item_group, popularity, user_group, second_group)
    pairs = _draw_pairs(random, activity, drawer, items)
    return World(
        interactions=_log(random, pairs, items, drawer),
        users=_user_table(random, user_group, second_group, groups),
        items=_item_table(random, item_group, groups),
        user_group=user_group,
        second_group=second_group,
        item_group=item_group,
        popularity=popularity,
    )


def _check(users: int, items: int, events: int, groups: int) -> None:
    if not 2 <= groups <= len(_THEMES):
        raise DataError(f"groups must lie between 2 and {len(_THEMES)}, got {groups}.")
    if users < 1 or items < 4 * groups:
        raise DataError(
            f"a world of {groups} groups needs a user and {4 * groups} items, "
            f"got {users} users and {items} items."
        )
    most = users * (items // _MOST_OF_CATALOGUE)
    if not users <= events <= most:
        raise DataError(
            f"{users:,} users and {items:,} items give between {users:,} and {most:,} events, "
            f"got {events:,}."
        )


def _activity(random: np.random.Generator, users: int, events: int, most: int) -> Rows:
    """Return how many events each user has, [users]: a skewed distribution with sum `events`."""
    counts = np.full(users, min(3, events // users, most), dtype=np.int64)
    weight = random.lognormal(0.0, 1.0, users)
    while (missing := events - int(counts.sum())) > 0:
        room = counts < most
        counts += random.multinomial(missing, np.where(room, weight, 0.0) / weight[room].sum())
        counts = np.minimum(counts, most)
    return counts


@dataclass(frozen=True)
class _Drawer:
    """Draws items by taste: looks a random number up in cumulative popularity, group by group."""

    item_group: Rows
    popularity: NDArray[np.float64]
    user_group: Rows
    second_group: Rows

    def draw(self, random: np.random.Generator, users: Rows) -> Rows:
        order = np.argsort(self.item_group, kind="stable")
        bounds = np.concatenate([[0.0], np.cumsum(self.popularity[order])])
        ends = np.concatenate([[0], np.cumsum(np.bincount(self.item_group))])
        kind = random.random(len(users))
        group = np.where(kind < _MAIN, self.user_group[users], self.second_group[users])
        anywhere = kind >= _MAIN + _SECOND
        low = np.where(anywhere, 0.0, bounds[ends[group]])
        high = np.where(anywhere, bounds[-1], bounds[ends[group + 1]])
        point = low + random.random(len(users)) * (high - low)
        drawn = np.searchsorted(bounds, point, side="right") - 1
        # Rounding may put a point just after the last item's interval.
        chosen: Rows = order[np.minimum(drawn, len(order) - 1)]
        return chosen


def _draw_pairs(
    random: np.random.Generator, activity: Rows, drawer: _Drawer, items: int
) -> NDArray[np.int64]:
    """Return user * items + item for each event, sorted, without repeated pairs."""
    owners = np.repeat(np.arange(len(activity)), activity)
    pairs = np.empty(0, dtype=np.int64)
    rounds = 0
    while len(owners):
        # An active user soon has the hits of a group; later rounds draw from all items evenly.
        by_taste = rounds < _TASTE_ROUNDS
        drawn = drawer.draw(random, owners) if by_taste else random.integers(0, items, len(owners))
        fresh = np.sort(owners * items + drawn)
        fresh = fresh[np.concatenate([[True], fresh[1:] != fresh[:-1]])]
        place = np.searchsorted(pairs, fresh)
        known = pairs[np.minimum(place, len(pairs) - 1)] == fresh if len(pairs) else place < 0
        pairs = np.insert(pairs, place[~known], fresh[~known])
        missing = activity - np.bincount(pairs // items, minlength=len(activity))
        owners = np.repeat(np.arange(len(activity)), missing)
        rounds += 1
    return pairs


def _log(
    random: np.random.Generator, pairs: NDArray[np.int64], items: int, drawer: _Drawer
) -> pl.DataFrame:
    # The steps of a Poisson process give times in order, so that nothing must be sorted.
    steps = np.cumsum(random.standard_exponential(len(pairs)))
    time = _START + (steps * (_YEAR / (steps[-1] + 1))).astype(np.int64)
    user, item = np.divmod(random.permutation(pairs), items)
    liked = drawer.item_group[item] == drawer.user_group[user]
    rating = random.integers(1, 5, len(pairs)) + liked
    return pl.DataFrame(
        {
            "user_id": user + FIRST_USER_ID,
            "item_id": item + FIRST_ITEM_ID,
            "timestamp": time,
            "rating": rating.astype(np.int8),
        }
    )


def _noisy(random: np.random.Generator, group: Rows, groups: int) -> Rows:
    """Return the group for about half of the rows and any group for the others."""
    return np.where(random.random(len(group)) < 0.5, group, random.integers(0, groups, len(group)))


def _two_themes(first: Rows, second: Rows) -> pl.Series:
    themes = pl.Series(list(_THEMES))
    pairs = pl.DataFrame({"a": themes.gather(first), "b": themes.gather(second)})
    return pairs.select(pl.concat_list("a", "b").list.unique(maintain_order=True)).to_series()


def _user_table(
    random: np.random.Generator, group: Rows, second: Rows, groups: int
) -> pl.DataFrame:
    users = len(group)
    age = np.clip(20 + 4 * _noisy(random, group, groups) + random.normal(0, 6, users), 12, 90)
    unknown = pl.Series(random.random(users) < 0.02)
    clubs = pl.Series([f"{theme} club" for theme in _THEMES])
    frame = pl.DataFrame(
        {
            "user_id": np.arange(users) + FIRST_USER_ID,
            "region": pl.Series(_REGIONS).gather(random.integers(0, len(_REGIONS), users)),
            "club": clubs.gather(_noisy(random, group, groups)),
            "age": age.astype(np.int64),
            "interests": _two_themes(_noisy(random, group, groups), _noisy(random, second, groups)),
        }
    )
    return frame.with_columns(age=pl.when(~unknown).then(pl.col("age")))


def _item_table(random: np.random.Generator, group: Rows, groups: int) -> pl.DataFrame:
    items = len(group)
    studio = 3 * _noisy(random, group, groups) + random.integers(0, 3, items)
    studios = pl.Series([f"Studio {number + 1}" for number in range(3 * groups)])
    return pl.DataFrame(
        {
            "item_id": np.arange(items) + FIRST_ITEM_ID,
            "title": _titles(group),
            "studio": studios.gather(studio),
            "price": np.round(random.lognormal(2.0, 0.4, items), 2),
            "tags": _two_themes(group, random.integers(0, groups, items)),
        }
    )


def _titles(group: Rows) -> pl.Series:
    """Return titles such as "The Silent Comet": the noun tells the theme; no title occurs twice."""
    nouns = np.array([list(words) for words in _THEMES.values()])
    per_theme, adjectives = nouns.shape[1], len(_ADJECTIVES)
    number = pl.DataFrame({"group": group}).select(pl.int_range(pl.len()).over("group"))
    place = number.to_series().to_numpy()  # 0, 1, ... within the group
    noun = place % per_theme
    adjective = (place // per_theme + 5 * noun) % adjectives
    sequel = place // (per_theme * adjectives) + 1
    words = pl.DataFrame(
        {
            "adjective": pl.Series(_ADJECTIVES).gather(adjective),
            "noun": pl.Series(nouns.ravel().tolist()).gather(group * per_theme + noun),
            "sequel": sequel,
        }
    )
    title = pl.format("The {} {}", "adjective", "noun")
    again = pl.format("The {} {} {}", "adjective", "noun", "sequel")
    return words.select(pl.when(pl.col("sequel") == 1).then(title).otherwise(again)).to_series()
