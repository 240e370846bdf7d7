"""Small invented files, written as public logs and exports are: one writer a family."""

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

USERS, ITEMS, EVENTS = 40, 30, 12
START = 1_600_000_000


class Event(NamedTuple):
    user: int
    item: int
    time: int
    kind: str
    rating: int


def events() -> list[Event]:
    """Events in order of time; users of one taste meet items of one half."""
    random = np.random.default_rng(5)
    found = []
    for number in range(USERS * EVENTS):
        user = int(random.integers(USERS)) if number >= USERS else number
        item = (int(random.integers(ITEMS // 2)) + (user % 2) * (ITEMS // 2)) % ITEMS
        kind = ("pv", "pv", "cart", "buy")[int(random.integers(4))]
        time = START + number * 3607
        found.append(Event(user, item, time, kind, int(random.integers(1, 6))))
    return found


LOG = events()
GENRES = ("Action", "Comedy", "Drama", "Horror", "Sci-Fi")
TITLES = [
    f"{word} of the {other}"
    for word in ("Night", "House", "Song", "End", "Edge", "Sons")
    for other in ("Sea", "Hill", "Moon", "City", "Rain")
]


@dataclass(frozen=True)
class Family:
    """write: makes the files in a folder. roles: what [data] must say. features, title: of items.

    unsure: keys that must be marked for checking. files: the names of log, items and users.
    """

    write: Callable[[Path], Any]
    files: dict[str, str]
    roles: dict[str, Any]
    unsure: set[str] = field(default_factory=set)
    features: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    title: str | None = None


def lines(path: Path, rows: Any, separator: str = ",", *, encoding: str = "utf-8") -> None:
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def objects(path: Path, rows: Any) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def quoted(path: Path, header: list[str] | None, rows: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(([header] if header else []) + list(rows))


def iso(seconds: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def genres(item: int) -> list[str]:
    return [GENRES[item % 5], GENRES[(item + 1 + item % 3) % 5]][: 1 + item % 2]


def movielens_dat(at: Path) -> None:
    lines(at / "ratings.dat", ((e.user + 1, e.item + 1, e.rating, e.time) for e in LOG), "::")
    rows = ((i + 1, f"{TITLES[i]} é ({1980 + i})", "|".join(genres(i))) for i in range(ITEMS))
    lines(at / "movies.dat", rows, "::", encoding="latin-1")
    people = (
        (u + 1, "FM"[u % 2], (1, 18, 25, 35)[u % 4], u % 7, 10000 + u * 7) for u in range(USERS)
    )
    lines(at / "users.dat", people, "::")


def movielens_100k(at: Path) -> None:
    lines(at / "u.data", ((e.user + 1, e.item + 1, e.rating, e.time) for e in LOG), "\t")
    flags = ([int(genre in genres(i)) for genre in GENRES] for i in range(ITEMS))
    rows = ([i + 1, f"{TITLES[i]} (1995)", "01-Jan-1995", "", *f] for i, f in enumerate(flags))
    lines(at / "u.item", rows, "|", encoding="latin-1")
    people = (
        (u + 1, 20 + u, "FM"[u % 2], ("writer", "other")[u % 2], 10000 + u) for u in range(USERS)
    )
    lines(at / "u.user", people, "|")


def amazon_reviews(at: Path) -> None:
    objects(
        at / "Beauty.json.gz",
        (
            {
                "overall": float(e.rating),
                "verified": e.user % 3 > 0,
                "reviewTime": iso(e.time, "%m %d, %Y"),
                "reviewerID": f"A{e.user:012d}X",
                "asin": f"B00{e.item:07d}",
                "reviewerName": f"Name {e.user % 7}",
                "reviewText": f'He said "{number}", twice.',
                "summary": f"Text {number}",
                "unixReviewTime": e.time,
            }
            for number, e in enumerate(LOG)
        ),
    )
    objects(
        at / "meta_Beauty.json.gz",
        (
            {
                "asin": f"B00{i:07d}",
                "title": TITLES[i],
                "brand": f"Brand {i % 4}",
                "category": ["Beauty", GENRES[i % 5]],
                "price": 3.5 + i,
                "imageURL": [],
                "description": [f"Long text number {i}"],
            }
            for i in range(ITEMS)
        ),
    )


def amazon_ratings(at: Path) -> None:
    rows = ((f"B00{e.item:07d}", f"A{e.user:012d}X", float(e.rating), e.time) for e in LOG)
    lines(at / "Books.csv", rows)


def yelp(at: Path) -> None:
    objects(
        at / "yelp_academic_dataset_review.json",
        (
            {
                "review_id": f"r{n:05d}",
                "user_id": f"u_{e.user}q",
                "business_id": f"b-{e.item}x",
                "stars": float(e.rating),
                "useful": n % 3,
                "funny": 0,
                "cool": n % 2,
                "text": f"Text {n}\nwith lines",
                "date": iso(e.time),
            }
            for n, e in enumerate(LOG)
        ),
    )
    objects(
        at / "yelp_academic_dataset_business.json",
        (
            {
                "business_id": f"b-{i}x",
                "name": TITLES[i],
                "city": f"City {i % 3}",
                "latitude": 40 + i / 7,
                "stars": 1 + i % 5 / 2,
                "is_open": i % 2,
                "categories": ", ".join(genres(i)),
                "attributes": {"WiFi": "free"},
                "hours": None,
            }
            for i in range(ITEMS)
        ),
    )


def yoochoose(at: Path) -> None:
    rows = sorted(LOG, key=lambda e: e.user)
    form = "%Y-%m-%dT%H:%M:%S.123Z"
    lines(
        at / "yoochoose-clicks.dat",
        (
            (e.user + 1, iso(e.time, form), 214_536_500 + e.item, "S" if n % 9 else e.item % 3)
            for n, e in enumerate(rows)
        ),
    )


def taobao(at: Path) -> None:
    rows = (
        (1000 + e.user, 2_268_318 + e.item, 2_520_377 + e.item % 4, e.kind, e.time) for e in LOG
    )
    lines(at / "UserBehavior.csv", sorted(rows))


def retailrocket(at: Path) -> None:
    kinds = {"pv": "view", "cart": "addtocart", "buy": "transaction"}
    rows = [
        (
            e.time * 1000,
            100 + e.user,
            kinds[e.kind],
            355 + e.item,
            4000 + n if e.kind == "buy" else "",
        )
        for n, e in enumerate(LOG)
    ]
    lines(
        at / "events.csv", [("timestamp", "visitorid", "event", "itemid", "transactionid"), *rows]
    )


def hm(at: Path) -> None:
    header = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
    rows = [
        (
            iso(e.time, "%Y-%m-%d"),
            f"{e.user:04x}" * 8,
            f"01087{e.item:05d}",
            0.01 + e.item / 97,
            1 + e.item % 2,
        )
        for e in LOG
    ]
    lines(at / "transactions_train.csv", [header, *rows])
    quoted(
        at / "articles.csv",
        [
            "article_id",
            "product_code",
            "prod_name",
            "product_type_no",
            "product_type_name",
            "detail_desc",
        ],
        [
            (
                f"01087{i:05d}",
                108700 + i,
                TITLES[i],
                250 + i % 4,
                f"Type {i % 4}",
                f"A long, long description of the product with number {i} and much more of it",
            )
            for i in range(ITEMS)
        ],
    )


def lastfm_1k(at: Path) -> None:
    form = "%Y-%m-%dT%H:%M:%SZ"
    rows = [
        (
            f"user_{e.user:06d}",
            iso(e.time, form),
            f"f1b1cf71-bd35-4e99-8624-{e.item:012x}",
            f'Artist "{e.item % 9}',
            "" if e.item % 11 == 3 else f"a2f5-track-{e.item:08x}",
            TITLES[e.item],
        )
        for e in LOG
    ]
    lines(at / "userid-timestamp-artid-artname-traid-traname.tsv", rows, "\t")


def steam(at: Path) -> None:
    rows = [
        (
            151_603_712 + e.user,
            TITLES[e.item] + (", Part 2" if e.item % 4 == 0 else ""),
            ("purchase", "play")[n % 2],
            1.0 if n % 2 == 0 else 0.5 + n % 77,
            0,
        )
        for n, e in enumerate(LOG)
    ]
    quoted(at / "steam-200k.csv", None, rows)


def kuairec(at: Path) -> None:
    header = (
        "user_id",
        "video_id",
        "play_duration",
        "video_duration",
        "time",
        "date",
        "timestamp",
        "watch_ratio",
    )
    rows = [
        (
            e.user,
            e.item,
            1000 + e.rating * n,
            5000 + e.item,
            iso(e.time) + ".438",
            f"{iso(e.time, '%Y%m%d')}.0",
            e.time + 0.438,
            e.rating / 3,
        )
        for n, e in enumerate(LOG)
    ]
    lines(at / "big_matrix.csv", [header, *rows])
    quoted(
        at / "item_categories.csv",
        ["video_id", "feat"],
        [(i, str([i % 5, 9 + i % 3])) for i in range(ITEMS)],
    )


def kuairand(at: Path) -> None:
    header = (
        "user_id",
        "video_id",
        "date",
        "hourmin",
        "time_ms",
        "is_click",
        "is_like",
        "long_view",
        "play_time_ms",
        "duration_ms",
        "is_rand",
        "tab",
    )
    rows = [
        (
            e.user,
            e.item,
            iso(e.time, "%Y%m%d"),
            iso(e.time, "%H00"),
            e.time * 1000 + 7,
            int(e.rating > 2),
            int(e.rating > 4),
            0,
            1200 * e.rating,
            9000 + e.item,
            0,
            e.item % 3,
        )
        for e in LOG
    ]
    lines(at / "log_standard_4_08_to_4_21_pure.csv", [header, *rows])
    lines(
        at / "user_features_pure.csv",
        [
            ("user_id", "user_active_degree", "is_lowactive_period", "follow_user_num"),
            *((u, ("full_active", "high_active")[u % 2], 0, u * 3) for u in range(USERS)),
        ],
    )


def tmall(at: Path) -> None:
    header = ("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type")
    rows = [
        (
            328_862 + e.user,
            323_294 + e.item,
            833 + e.item % 5,
            2882 + e.item % 4,
            2661 + e.item % 3,
            iso(e.time, "%m%d").lstrip("0"),
            {"pv": 0, "cart": 1, "buy": 2}[e.kind],
        )
        for e in LOG
    ]
    lines(at / "user_log_format1.csv", [header, *rows])


def tenrec(at: Path) -> None:
    header = (
        "user_id",
        "item_id",
        "click",
        "follow",
        "like",
        "share",
        "video_category",
        "watching_times",
        "gender",
        "age",
    )
    rows = [
        (
            e.user,
            5000 + e.item,
            int(e.rating > 2),
            0,
            int(e.rating > 4),
            0,
            e.item % 2,
            e.rating,
            1 + e.user % 2,
            1 + e.user % 5,
        )
        for e in LOG
    ]
    lines(at / "ctr_data_1M.csv", [header, *rows])


def recbole(at: Path) -> None:
    header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    lines(at / "ml.inter", [header, *((e.user, e.item, e.rating, e.time) for e in LOG)], "\t")
    header = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    lines(
        at / "ml.item",
        [header, *((i, TITLES[i], 1990 + i % 9, " ".join(genres(i))) for i in range(ITEMS))],
        "\t",
    )
    header = ("user_id:token", "age:token", "gender:token", "occupation:token")
    lines(
        at / "ml.user",
        [header, *((u, 20 + u % 30, "FM"[u % 2], f"job{u % 4}") for u in range(USERS))],
        "\t",
    )


def otto(at: Path) -> None:
    sessions = [[e for e in LOG if e.user == u] for u in range(USERS)]
    kinds = {"pv": "clicks", "cart": "carts", "buy": "orders"}
    objects(
        at / "otto.jsonl",
        (
            {
                "session": 11_098_528 + u,
                "events": [
                    {"aid": 11_830 + e.item, "ts": e.time * 1000 + 25, "type": kinds[e.kind]}
                    for e in some
                ],
            }
            for u, some in enumerate(sessions)
        ),
    )


def criteo(at: Path) -> None:
    header = (
        "timestamp",
        "uid",
        "campaign",
        "conversion",
        "conversion_timestamp",
        "conversion_id",
        "attribution",
        "click",
        "click_pos",
        "cost",
        "time_since_last_click",
        "cat1",
    )
    rows = [
        (
            n * 3,
            20_073_966 + e.user,
            22_589_171 + e.item,
            int(e.rating == 5),
            n * 4 if e.rating == 5 else -1,
            n if e.rating == 5 else -1,
            0,
            int(e.rating > 2),
            -1,
            e.item / 1e5,
            -1,
            5_824_233 + e.item % 3,
        )
        for n, e in enumerate(LOG)
    ]
    lines(at / "criteo_attribution_dataset.tsv", [header, *rows], "\t")


def spreadsheet(at: Path) -> None:
    header = ("Kunde", "Artikel", "Datum", "Bewertung")
    form = "%d.%m.%Y %H:%M"
    rows = [(f"K{e.user:03d}", f"Ä-{e.item}", iso(e.time, form), f"{e.rating},5") for e in LOG]
    lines(at / "export.csv", [header, *rows], ";", encoding="utf-8-sig")
    header = ("Artikel", "Bezeichnung", "Preis", "Warengruppe")
    rows = [(f"Ä-{i}", TITLES[i], f"{i},99", GENRES[i % 5]) for i in range(ITEMS)]
    lines(at / "artikel.csv", [header, *rows], ";", encoding="utf-16")


def bare_spreadsheet(at: Path) -> None:
    rows = [(e.user + 1, 7000 + e.item, f"{e.rating},5", iso(e.time, "%Y-%m-%d")) for e in LOG]
    lines(at / "export.csv", rows, ";")


def parquet(at: Path) -> None:
    zone = pl.Datetime("us", "Europe/Berlin")
    log = pl.DataFrame(
        {
            "customer": [{"id": e.user, "country": "DE"} for e in LOG],
            "product_id": pl.Series([f"p{e.item}" for e in LOG], dtype=pl.Categorical),
            "created_at": pl.Series([datetime.fromtimestamp(e.time, UTC) for e in LOG]).cast(zone),
            "price": pl.Series([Decimal(f"{e.item}.99") for e in LOG], dtype=pl.Decimal(10, 2)),
            "tags": [genres(e.item) for e in LOG],
        }
    )
    log.write_parquet(at / "log.parquet")
    pl.DataFrame(
        {
            "product_id": pl.Series([f"p{i}" for i in range(ITEMS)], dtype=pl.Categorical),
            "label": [TITLES[i] for i in range(ITEMS)],
            "tags": [genres(i) for i in range(ITEMS)],
            "embedding": [[0.1 * i, 0.5, 1.0 / (i + 1)] for i in range(ITEMS)],
            "listed": [date(2020, 1, 1) + timedelta(days=i) for i in range(ITEMS)],
            "price": pl.Series([Decimal(f"{i}.99") for i in range(ITEMS)], dtype=pl.Decimal(10, 2)),
            "stock": [{"shop": 1, "web": 2}] * ITEMS,
        }
    ).write_parquet(at / "products.parquet")


def hive(at: Path) -> None:
    days = sorted({iso(e.time, "%Y-%m-%d") for e in LOG})
    for day in days:
        folder = at / "log" / f"day={day}"
        folder.mkdir(parents=True)
        some = [e for e in LOG if iso(e.time, "%Y-%m-%d") == day]
        pl.DataFrame(
            {"user_id": [e.user for e in some], "item_id": [e.item for e in some]}
        ).write_parquet(folder / "part-0.parquet")


def pattern(at: Path) -> None:
    for part in range(4):
        some = [(e.user, e.item, e.time) for e in LOG[part * 120 : part * 120 + 120]]
        lines(at / f"part-{part}.csv.gz", [("user", "item", "ts"), *some])


def mind(at: Path) -> None:
    met: dict[int, list[int]] = {}
    rows = []
    for number, event in enumerate(LOG):
        past = met.setdefault(event.user, [event.item])[:6]
        clock = iso(event.time, "%m/%d/%Y %I:%M:%S %p")
        shown = f"N{event.item}-1 N{(event.item + 3) % ITEMS}-0"
        rows.append((number, f"U{event.user}", clock, " ".join(f"N{item}" for item in past), shown))
        met[event.user].append(event.item)
    lines(at / "behaviors.tsv", rows, "\t")
    news = [
        (
            f"N{i}",
            GENRES[i % 5].lower(),
            f"sub{i % 7}",
            TITLES[i],
            f"Abstract {i} of news",
            "",
            "[]",
        )
        for i in range(ITEMS)
    ]
    lines(at / "news.tsv", news, "\t")


def sequences(at: Path) -> None:
    by_user = [[e for e in LOG if e.user == u] for u in range(USERS)]
    pl.DataFrame(
        {
            "user_id": list(range(USERS)),
            "item_ids": [[e.item for e in some] for some in by_user],
            "timestamps": [[e.time for e in some] for some in by_user],
        }
    ).write_parquet(at / "sequences.parquet")


def sequences_in_brackets(at: Path) -> None:
    by_user = [[e for e in LOG if e.user == u] for u in range(USERS)]
    rows = [(u, str([e.item for e in some])) for u, some in enumerate(by_user)]
    quoted(at / "sequences.csv", ["user", "sequence"], rows)


def aimed_at(target: str, *others: str) -> dict[str, dict[str, bool]]:
    """What [data.events] says of kinds whose names are known."""
    return {target: {"target": True}} | {kind: {"seen": False} for kind in others}


FAMILIES: dict[str, Family] = {
    "mind": Family(
        mind,
        {"log": "behaviors.tsv", "items": "news.tsv"},
        {
            "columns": ["column_1", "user_id", "column_3", "item_id", "column_5"],
            "user": "user_id",
            "item": "item_id",
            "item_separator": " ",
        },
        {"user", "item_separator", "time", "title"},
        features={"column_2": "categorical", "column_3": "categorical"},
        title="title",
    ),
    "sequences": Family(
        sequences,
        {"log": "sequences.parquet"},
        {"user": "user_id", "item": "item_ids", "time": "timestamps"},
    ),
    "sequences-in-brackets": Family(
        sequences_in_brackets,
        {"log": "sequences.csv"},
        {"user": "user", "item": "sequence", "order": "file"},
        {"item", "order"},
    ),
    "movielens-dat": Family(
        movielens_dat,
        {"log": "ratings.dat", "items": "movies.dat", "users": "users.dat"},
        {
            "columns": ["user_id", "item_id", "rating", "timestamp"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "weight": "rating",
            "min_weight": 1,
            "encoding": "latin-1",
        },
        {"encoding", "title"},
        features={"column_3": "multi-valued"},
        users={"column_2": "categorical", "column_4": "categorical"},
        title="title",
    ),
    "ml-100k": Family(
        movielens_100k,
        {"log": "u.data", "items": "u.item", "users": "u.user"},
        {
            "columns": ["user_id", "item_id", "rating", "timestamp"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "weight": "rating",
            "min_weight": 1,
        },
        {"title"},
        title="title",
    ),
    "amazon-reviews": Family(
        amazon_reviews,
        {"log": "Beauty.json.gz", "items": "meta_Beauty.json.gz"},
        {
            "user": "reviewerID",
            "item": "asin",
            "time": "unixReviewTime",
            "weight": "overall",
            "min_weight": 1.0,
        },
        features={"brand": "categorical", "category": "multi-valued", "price": "numeric"},
        title="title",
    ),
    "amazon-ratings": Family(
        amazon_ratings,
        {"log": "Books.csv"},
        {
            "columns": ["item_id", "user_id", "rating", "timestamp"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "weight": "rating",
            "min_weight": 1,
        },
        {"user"},
    ),
    "yelp": Family(
        yelp,
        {
            "log": "yelp_academic_dataset_review.json",
            "items": "yelp_academic_dataset_business.json",
        },
        {
            "user": "user_id",
            "item": "business_id",
            "time": "date",
            "weight": "stars",
            "min_weight": 1.0,
        },
        features={"city": "categorical", "categories": "multi-valued"},
        title="name",
    ),
    "yoochoose": Family(
        yoochoose,
        {"log": "yoochoose-clicks.dat"},
        {
            "columns": ["user_id", "timestamp", "item_id", "column_4"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
        },
        {"user", "item"},
    ),
    "taobao": Family(
        taobao,
        {"log": "UserBehavior.csv"},
        {
            "columns": ["user_id", "item_id", "column_3", "event", "timestamp"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "event": "event",
            "events": aimed_at("buy", "pv", "cart"),
        },
        {"user", "item", "event", "events"},
    ),
    "retailrocket": Family(
        retailrocket,
        {"log": "events.csv"},
        {
            "user": "visitorid",
            "item": "itemid",
            "time": "timestamp",
            "event": "event",
            "events": aimed_at("transaction", "view", "addtocart"),
        },
        {"events"},
    ),
    "h-and-m": Family(
        hm,
        {"log": "transactions_train.csv", "items": "articles.csv"},
        {"user": "customer_id", "item": "article_id", "time": "t_dat"},
        features={"product_type_no": "categorical", "product_type_name": "categorical"},
        title="prod_name",
    ),
    "last-fm-1k": Family(
        lastfm_1k,
        {"log": "userid-timestamp-artid-artname-traid-traname.tsv"},
        {
            "columns": [
                "user_id",
                "timestamp",
                "item_id",
                "column_4",
                "column_5",
                "column_6",
            ],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
        },
        {"user", "item", "title"},
        features={"column_4": "categorical"},
        title="column_6",
    ),
    "steam": Family(
        steam,
        {"log": "steam-200k.csv"},
        {
            "columns": ["user_id", "item_id", "event", "column_4", "column_5"],
            "user": "user_id",
            "item": "item_id",
        },
        {"user", "item", "time"},
    ),
    "kuairec": Family(
        kuairec,
        {"log": "big_matrix.csv", "items": "item_categories.csv"},
        {
            "user": "user_id",
            "item": "video_id",
            "time": "time",
            "weight": "watch_ratio",
            "min_weight": 1 / 3,
        },
        {"weight"},
        features={"feat": "multi-valued"},
    ),
    "kuairand": Family(
        kuairand,
        {"log": "log_standard_4_08_to_4_21_pure.csv", "users": "user_features_pure.csv"},
        {
            "user": "user_id",
            "item": "video_id",
            "time": "time_ms",
            "weight": "is_click",
            "min_weight": 1,
        },
        {"weight", "min_weight"},
        users={"user_active_degree": "categorical", "follow_user_num": "numeric"},
    ),
    "tmall": Family(
        tmall,
        {"log": "user_log_format1.csv"},
        {"user": "user_id", "item": "item_id", "time": "time_stamp"},
    ),
    "tenrec": Family(
        tenrec,
        {"log": "ctr_data_1M.csv"},
        {"user": "user_id", "item": "item_id", "weight": "click", "min_weight": 1},
        {"time", "weight", "min_weight"},
        users={"gender": "categorical", "age": "numeric"},
    ),
    "recbole": Family(
        recbole,
        {"log": "ml.inter", "items": "ml.item", "users": "ml.user"},
        {
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "weight": "rating",
            "min_weight": 1,
        },
        features={"class": "multi-valued"},
        title="movie_title",
    ),
    "otto": Family(
        otto,
        {"log": "otto.jsonl"},
        {
            "user": "session",
            "item": "events.aid",
            "time": "events.ts",
            "event": "events.type",
            "events": aimed_at("orders", "clicks", "carts"),
        },
        {"events"},
    ),
    "criteo": Family(
        criteo,
        {"log": "criteo_attribution_dataset.tsv"},
        {
            "user": "uid",
            "item": "campaign",
            "time": "timestamp",
            "weight": "click",
            "min_weight": 1,
        },
        {"weight", "min_weight"},
    ),
    "spreadsheet": Family(
        spreadsheet,
        {"log": "export.csv", "items": "artikel.csv"},
        {
            "user": "Kunde",
            "item": "Artikel",
            "time": "Datum",
            "weight": "Bewertung",
            "min_weight": 1.5,
            "decimal": ",",
        },
        features={"Preis": "numeric", "Warengruppe": "categorical"},
        title="Bezeichnung",
    ),
    "bare-spreadsheet": Family(
        bare_spreadsheet,
        {"log": "export.csv"},
        {
            "columns": ["user_id", "item_id", "rating", "timestamp"],
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "weight": "rating",
            "min_weight": 1.5,
            "separator": ";",
            "decimal": ",",
        },
        {"user", "item", "separator"},
    ),
    "parquet": Family(
        parquet,
        {"log": "log.parquet", "items": "products.parquet"},
        {"user": "customer.id", "item": "product_id", "time": "created_at"},
        features={"tags": "multi-valued", "embedding": "vector"},
        title="label",
    ),
    "hive": Family(hive, {"log": "log"}, {"user": "user_id", "item": "item_id", "time": "day"}),
    "pattern": Family(
        pattern, {"log": "part-*.csv.gz"}, {"user": "user", "item": "item", "time": "ts"}
    ),
}
