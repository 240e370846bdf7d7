"""What does a log say of its events themselves: of which kind are they, and in which moment?"""

from collections.abc import Sequence

import polars as pl

from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.drafting.kinds import find_kinds

AIMS = (
    *("buy", "bought", "buying", "purchase", "purchased", "order", "orders", "ordered"),
    *("transaction", "transactions", "checkout", "pay", "paid", "payment", "sale", "购买", "下单"),
)
"""Names of kinds that are what a shop wants."""

BEFORE_THEM = (
    *("pv", "view", "views", "viewed", "pageview", "click", "clicks", "clicked", "detail"),
    *("cart", "carts", "addtocart", "add", "basket", "fav", "favorite", "favourite", "wishlist"),
    *("to", "from", "product", "item", "page", "visit", "browse", "浏览", "点击", "加购", "收藏"),
)
"""Names of kinds that come before one, and parts of such names."""

USERS, AMONG = 20, 3
"""So many users must have so many targets each in the head of a file, or few will be left to learn
from and to measure on."""

LATER = (
    *("dwell", "duration", "watch", "watched", "played", "playing", "play", "spent", "stay"),
    *("seconds", "price", "amount", "revenue", "cost", "quantity", "qty", "停留", "时长", "价格"),
)
SOONER = (
    *("device", "platform", "os", "browser", "page", "referrer", "referer", "source", "medium"),
    *("weather", "network", "screen", "tab", "locale", "language", "设备", "页面", "来源"),
)


def kinds_of_events(event: Column, user: Column) -> tuple[dict[str, dict[str, bool]] | None, str]:
    """Return a table for [data.events], or None; and the reason of either, in words.

    Only names tell what a kind is for, so a table is given where each name is known: what is bought
    is a target, what comes before it is read, and its item may still be answered.
    """
    if not event.is_text:
        return None, "numbers do not say what they mean"
    shares = event.given.cast(pl.String).value_counts(sort=True)[event.name].to_list()
    aims = [kind for kind in shares if _is(kind, AIMS)]
    others = [kind for kind in shares if kind not in aims]
    if strange := [kind for kind in others if not _is(kind, BEFORE_THEM)]:
        return None, f"what {strange[0]!r} is for is not known"
    if not aims:
        return None, "none of them is known to be what is aimed at"
    targets = user.values.filter(event.values.cast(pl.String).is_in(aims))
    enough = (targets.value_counts()["count"] >= AMONG).sum()
    if enough < USERS:
        return None, f"{len(targets):,} rows are {' or '.join(aims)}, too few to learn from alone"
    table = {kind: {"target": True} for kind in aims} | {kind: {"seen": False} for kind in others}
    return table, f"by their names: {' and '.join(aims)} predicted, {', '.join(others)} read"


def _is(kind: str, known: Sequence[str]) -> bool:
    words = Column(kind, pl.Series([0])).words
    return bool(words) and all(
        word in known or (not word.isascii() and any(noun in word for noun in known))
        for word in words
    )


def columns_of_events(columns: Sequence[Column]) -> str | None:
    """Say which columns of a log may be features of its events, as a recipe would; None if none."""
    named = [c for c in columns if names.mentions(c.words, (*LATER, *SOONER)) and not c.is_nested]
    found = find_kinds(named, titled=False)
    said = []
    for column in named:
        kind = found.features.get(column.name)
        if kind in ("categorical", "numeric"):
            known = "after" if names.mentions(column.words, LATER) else "before"
            said.append(f'{column.name} = {{ kind = "{kind}", known = "{known}" }}')
    if not said:
        return None
    return (
        f"[features.events] may hold {', '.join(said)}: columns of the event, read of past events, "
        'and "before" only if a request can tell it'
    )
