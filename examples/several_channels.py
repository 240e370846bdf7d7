"""Several channels, one list: what each is worth alone, what the blend adds, and who found what.

Run it as it is: python examples/several_channels.py. In this world item-cf finds as much as the
blend, and the intervals say so: a channel that adds nothing on your data is better left out.
"""

import shortlist
from shortlist.data.synthetic import planted_world


def main() -> None:
    world = planted_world(users=400, items=200, events=8_000)
    schema = shortlist.Schema(time="timestamp", title="title")
    data = shortlist.Dataset.load(world.interactions, items=world.items, schema=schema)
    split = data.split("leave-last-out")

    # Channels that count beside one that learns; each is a retriever of its own.
    channels = {
        "towers": shortlist.TwoTower(mode="listwise", history="mean", dim=32, epochs=10),
        "item-cf": shortlist.ItemCF(),
        "popular": shortlist.Popular(),
    }
    blend = shortlist.Blend(channels, method="reciprocal-rank", fallback=["popular"])
    blend.fit(split)  # fits every channel

    for name, retriever in {**channels, "all together": blend}.items():
        recall = shortlist.evaluate(retriever, k=[20], ladder=False).metrics["recall@20"]
        print(f"{name:13} recall@20 {recall.mean:.3f} ({recall.low:.3f} to {recall.high:.3f})")

    user = data.user_ids[0]
    found = blend.recommend([user], k=5)
    for title, channel in zip(blend.data.titles(found.rows[0]), found.by[0], strict=True):
        print(f"{title}: from {found.channels[channel]}")

    # Why is the first one there? The user's own events contribute, says item-cf.
    reasons = channels["item-cf"].explain([user], [[found.ids[0][0]]])
    print(reasons.head(3))


if __name__ == "__main__":
    main()
