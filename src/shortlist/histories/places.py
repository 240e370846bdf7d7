"""Is a store of events in a file or in a Redis server, and how is it opened?"""

from pathlib import Path

from shortlist.errors import QueryError, suggest_path
from shortlist.histories.events import EventReader, EventStore, Keeping
from shortlist.histories.items import ItemStore, SQLiteItems
from shortlist.histories.redis_events import RedisEvents, RedisReader
from shortlist.histories.redis_items import RedisItems
from shortlist.histories.redis_server import SCHEMES, RedisPlace
from shortlist.histories.sqlite import SQLiteEvents, SQLiteReader

StorePlace = Path | RedisPlace


def is_address(text: str) -> bool:
    """Return whether a text is the address of a Redis server and not a path.

    >>> is_address("redis://localhost"), is_address("events.sqlite")
    (True, False)
    """
    return text.lower().startswith(SCHEMES)


def place_of(place: str | StorePlace) -> StorePlace:
    """Return the place that a path or an address names. Errors: QueryError."""
    if isinstance(place, str) and is_address(place):
        return RedisPlace.parse(place)
    if isinstance(place, str) and "://" in place:
        raise QueryError(
            f"{place.partition('://')[0]}:// names no store of events: give the path of a file, or "
            "an address redis://HOST:PORT/DB, rediss:// or unix://"
        )
    return place if isinstance(place, RedisPlace) else Path(place)


def beside(served: Path) -> Path:
    """Return the default file for the events of a served path: SERVED.events.sqlite beside it."""
    served = served.absolute()
    return served.with_name(f"{served.name}.events.sqlite")


def events_at(place: StorePlace, keeping: Keeping, a_minute: int) -> EventStore:
    """Open a store of events, or create it.

    keeping: how much is kept and for how long.
    a_minute: most events of a user per minute over all services, enforced by Redis only; 0: no
    limit.
    Errors: EventStoreError, MissingPackageError.
    """
    if isinstance(place, RedisPlace):
        return RedisEvents(place, keeping, a_minute)
    return SQLiteEvents(place, keeping)


def items_at(place: StorePlace) -> ItemStore:
    """Open the item changes of an existing store. Errors: QueryError, EventStoreError."""
    if isinstance(place, RedisPlace):
        return RedisItems(place, makes=False)
    if not place.is_file():
        raise QueryError(f"{place}: there is no such file.{suggest_path(place)}")
    return SQLiteItems(place)


def reader_at(place: StorePlace) -> EventReader:
    """Open an existing store for reading. Errors: EventStoreError."""
    return RedisReader(place) if isinstance(place, RedisPlace) else SQLiteReader(place)
