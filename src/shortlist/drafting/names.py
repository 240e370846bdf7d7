"""What does the name of a column mean? Words from public logs, mostly English and Chinese."""

from collections.abc import Sequence

NUMBERED = ("id", "ids", "key", "code", "no", "hash", "index", "idx", "uuid", "guid", "nr")
"""Words after a noun that make it an id."""

USERS = (
    *("user", "customer", "reviewer", "visitor", "member", "client", "account", "player"),
    *("reader", "buyer", "viewer", "listener", "subscriber", "person", "patient", "student"),
    *("username", "consumer", "shopper", "guest", "uid", "cid", "msno", "steam", "profile"),
    *(
        "usr",
        "reviewername",
        "learner",
        "fan",
        "login",
        "passenger",
        "kunde",
        "nutzer",
        "utilisateur",
        "usuario",
        "cliente",
        "用户",
        "会员",
        "买家",
    ),
)
SESSIONS = ("session", "visit", "basket", "cart", "order", "transaction", "invoice", "会话")
WEAK_USERS = (*SESSIONS, "device", "cookie", "browser", "author", "playlist", "ip")

ITEMS = (
    *("item", "iid", "product", "sku", "movie", "film", "video", "vid", "article", "asin"),
    *("business", "track", "song", "music", "book", "isbn", "news", "goods", "content", "aid"),
    *("game", "app", "poi", "venue", "location", "doc", "document", "post", "photo", "recipe"),
    *("course", "job", "ad", "campaign", "album", "show", "episode", "place", "restaurant"),
    *("hotel", "listing", "anime", "joke", "question", "exercise", "problem", "pid"),
    *("nid", "gid", "creative", "offer", "stock", "stockcode", "clip", "note", "spu", "mid"),
    *("itm", "material", "podcast", "beer", "wine", "dish", "repo"),
    *(
        "artikel",
        "produkt",
        "produit",
        "producto",
        "商品",
        "物品",
        "视频",
        "电影",
        "文章",
        "内容",
        "歌曲",
    ),
)
WEAK_ITEMS = (
    "artist",
    "url",
    "page",
    "title",
    "brand",
    "name",
    "shop",
    "merchant",
    "seller",
    "description",
)

TIMES = (
    *("timestamp", "time", "ts", "date", "datetime", "created", "unix", "day", "dat", "stamp"),
    *("when", "utc", "ms", "at", "clock", "datum", "zeit", "fecha", "时间", "日期"),
)
DURATIONS = (
    *("duration", "play", "played", "playing", "watch", "watching", "stay", "dwell", "spent"),
    *("length", "times"),
)
"""Words for how long or how often; a column of clock times with such a word is a time."""

NOT_WHEN = (
    *("since", "last", "first", "birth", "release", "released", "register", "registered"),
    *("signup", "conversion", "end", "due", "updated", "expires", "delivery", "profile"),
    *("comment", "zone"),
)
"""Words for times of something else than the event."""

EVENTS = (
    *("event", "behavior", "behaviour", "action", "interaction", "activity", "feedback"),
    *("type", "btag", "行为"),
)

RATINGS = (
    "rating",
    "ratings",
    "stars",
    "star",
    "overall",
    "rate",
    "score",
    "bewertung",
    "note",
    "评分",
    "grade",
)
CLICKS = ("click", "clicks", "clicked", "label", "conversion", "like", "purchase", "bought", "view")
AMOUNTS = (
    *("weight", "ratio", "count", "plays", "playcount", "hours", "quantity", "qty", "strength"),
    *("listens", "frequency", "minutes"),
)

OF_PEOPLE = ("user", "gender", "sex", "age", "occupation", "job", "country", "city", "性别", "年龄")

CAPTIONS = ("name", "headline", "label", "bezeichnung", "titel", "titre", "nombre", "标题", "名称")

OTHERS = (
    *("category", "categories", "cat", "type", "title", "brand", "price", "time", "date"),
    *("timestamp", "count", "num", "desc", "description", "genre", "genres", "seller", "age"),
    *("gender", "level", "rating", "rank", "position", "pos", "url", "city", "country", "state"),
    *("status", "channel", "text", "duration", "language", "lang", "agent", "group", "cost"),
    *("click", "helpful", "verified", "image", "images", "artist", "name", "summary", "tag"),
    *("tags", "geohash", "store", "shop", "merchant", "attribution", "zip", "active"),
)
"""Words for properties of a user or an item; with such a word a column is not the id itself."""

OTHERS_ZH = ("类", "名", "价", "时间", "日期", "品牌", "等级", "性别", "年龄", "城市", "标题", "数")


def bare(words: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Return the words of a name without those that mean "id", and whether there was one.

    >>> bare(("visitorid",)), bare(("user", "id")), bare(("asin",))
    ((('visitor',), True), (('user',), True), (('asin',), False))
    """
    kept = tuple(word for word in words if word not in NUMBERED)
    numbered = len(kept) < len(words)
    found = []
    for word in kept:
        noun = word.removesuffix("id")
        if word not in (*USERS, *ITEMS) and noun != word and noun in (*USERS, *ITEMS, *WEAK_USERS):
            found.append(noun)
            numbered = True
        else:
            found.append(word)
    return tuple(found), numbered


def says(words: Sequence[str], known: Sequence[str], weak: Sequence[str] = ()) -> int:
    """Return how clearly a name means one of the known nouns: from 4, surely, to 0, not at all.

    >>> says(("customer", "id"), USERS), says(("item", "category"), ITEMS)
    (4, 0)
    """
    nouns, numbered = bare(words)
    if any(not word.isascii() and noun in word for word in nouns for noun in known):
        about = any(other in word for word in nouns for other in OTHERS_ZH)
        return 1 if about else 4
    others = [noun for noun in nouns if noun not in known]
    if len(nouns) > len(others):
        if not others:
            return 4 if numbered else 3
        return 0 if set(others) & set(OTHERS) else 2
    if set(nouns) & set(weak) and (numbered or len(nouns) == 1):
        return 1
    return 0


def mentions(words: Sequence[str], known: Sequence[str]) -> bool:
    """Return whether one of the words is known; a Chinese word may be part of a longer one."""
    return any(
        word in known or (not word.isascii() and any(noun in word for noun in known))
        for word in words
    )
