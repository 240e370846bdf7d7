"""Recommend items without any event: a model that reads features needs no new training.

Run it as it is: python examples/new_items.py.
"""

import shortlist
from shortlist.data.synthetic import planted_world


def main() -> None:
    world = planted_world(users=400, items=200, events=8_000)
    schema = shortlist.Schema(
        time="timestamp",
        title="title",
        item_features=(
            shortlist.Feature("tags", "multi-valued"),
            shortlist.Feature("price", "numeric"),
        ),
    )
    data = shortlist.Dataset.load(world.interactions, items=world.items, schema=schema)
    model = shortlist.TwoTower(mode="listwise", history="mean", dim=32, epochs=10)
    model.fit(data.split("leave-last-out"))

    # A film for people who like what the first item is about. The old model stays as it is.
    tags = world.items["tags"][0].to_list()
    new = {"id": 600_001, "title": "A film of tomorrow", "tags": tags, "price": 9.5}
    changed = model.change_items(add=[new])
    near = changed.similar([600_001], k=3)
    print(
        f"near {new['title']} ({', '.join(tags)})", *changed.data.titles(near.rows[0]), sep="\n  "
    )

    # Recommend only items that meet a condition.
    user = data.user_ids[0]
    cheap = shortlist.Queries([user], where={"column": "price", "max": 10})
    found = changed.recommend(cheap, k=3)
    print("at most 10 for", user, *changed.data.titles(found.rows[0]), sep="\n  ")

    # Sold-out items are no longer candidates; users who met them keep them in their history.
    sold_out = changed.change_items(remove=found.ids[0])
    print("and then", *sold_out.data.titles(sold_out.recommend(cheap, k=3).rows[0]), sep="\n  ")


if __name__ == "__main__":
    main()
