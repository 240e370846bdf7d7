"""What does a log say about the events themselves: their kinds, and columns such as device?"""

from collections.abc import Sequence

import polars as pl

from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.drafting.kinds import find_kinds

AIMS = (
    *("buy", "bought", "buying", "purchase", "purchased", "order", "orders", "ordered"),
    *("transaction", "transactions", "checkout", "pay", "paid", "payment", "sale", "购买", "下单"),
)
"""Names of kinds of events that are the goal of a shop."""

BEFORE_THEM = (
    *("pv", "view", "views", "viewed", "pageview", "click", "clicks", "clicked", "detail"),
    *("cart", "carts", "addtocart", "add", "basket", "fav", "favorite", "favourite", "wishlist"),
    *("to", "from", "product", "item", "page", "visit", "browse", "浏览", "点击", "加购", "收藏"),
)
"""Names of kinds that precede a purchase, and parts of such names."""

USERS, AMONG = 20, 3
"""Kinds become targets only if this many users in the head have this many targets each. With fewer
there would be too little to train and measure on."""

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

    Only names tell the use of a kind, so a table is returned only if every name is known. Purchases
    are targets; kinds that precede them are read, and their items can still be recommended.
    """
    if not event.is_text:
        return None, "numbers do not say what they mean"
    shares = event.given.cast(pl.String).value_counts(sort=True)[event.name].to_list()
    aims = [kind for kind in shares if _is(kind, AIMS)]
    others = [kind for kind in shares if kind not in aims]
    if strange := [kind for kind in others if not _is(kind, BEFORE_THEM)]:
        return None, f"the use of {strange[0]!r} is not known"
    if not aims:
        return None, "none of the names is known as a goal, such as a purchase"
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
    """Return a note on columns that may be event features, with recipe text; or None."""
    named = [c for c in columns if names.mentions(c.words, (*LATER, *SOONER)) and not c.is_nested]
    found = find_kinds(named, titled=False)
    entries = []
    for column in named:
        kind = found.features.get(column.name)
        if kind in ("categorical", "numeric"):
            known = "after" if names.mentions(column.words, LATER) else "before"
            entries.append(f'{column.name} = {{ kind = "{kind}", known = "{known}" }}')
    if not entries:
        return None
    return (
        f"[features.events] may hold {', '.join(entries)}: columns of the event itself, read for "
        'past events; known = "before" is right only if a request can state the value'
    )
