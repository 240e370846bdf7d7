"""Where is a store of events, and how is it opened: a file of this machine, or a Redis server?"""

from pathlib import Path

from shortlist.errors import QueryError
from shortlist.histories.events import EventReader, EventStore, Keeping
from shortlist.histories.items import ItemStore, SQLiteItems
from shortlist.histories.redis_events import RedisEvents, RedisReader
from shortlist.histories.redis_items import RedisItems
from shortlist.histories.redis_server import SCHEMES, RedisPlace
from shortlist.histories.sqlite import SQLiteEvents, SQLiteReader

StorePlace = Path | RedisPlace


def is_address(text: str) -> bool:
    """Return whether a text is the address of a Redis server, and no path.

    >>> is_address("redis://localhost"), is_address("events.sqlite")
    (True, False)
    """
    return text.lower().startswith(SCHEMES)


def place_of(place: str | StorePlace) -> StorePlace:
    """Return what the path of a file or the address of a server names. Errors: QueryError."""
    if isinstance(place, str) and is_address(place):
        return RedisPlace.parse(place)
    if isinstance(place, str) and "://" in place:
        raise QueryError(
            f"{place.partition('://')[0]}:// names no store of events: give the path of a file, or "
            "redis://HOST:PORT/DB, rediss:// or unix://"
        )
    return place if isinstance(place, RedisPlace) else Path(place)


def beside(served: Path) -> Path:
    """Return where the events of a served path are kept, if nobody says another place."""
    served = served.absolute()
    return served.with_name(f"{served.name}.events.sqlite")


def events_at(place: StorePlace, keeping: Keeping, a_minute: int) -> EventStore:
    """Open a store, or make it. a_minute: events of a user, where several machines share it.

    Errors: EventStoreError, MissingPackageError.
    """
    if isinstance(place, RedisPlace):
        return RedisEvents(place, keeping, a_minute)
    return SQLiteEvents(place, keeping)


def items_at(place: StorePlace) -> ItemStore:
    """Open the changes of items of a store that is there. Errors: QueryError, EventStoreError."""
    if isinstance(place, RedisPlace):
        return RedisItems(place, makes=False)
    if not place.is_file():
        raise QueryError(f"{place}: there is no such file")
    return SQLiteItems(place)


def reader_at(place: StorePlace) -> EventReader:
    """Open a store that is there, to read. Errors: EventStoreError."""
    return RedisReader(place) if isinstance(place, RedisPlace) else SQLiteReader(place)
