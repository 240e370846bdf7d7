"""From two CSV files to candidates: read, split, train, measure, save, load, ask.

Run it as it is: python examples/csv_to_candidates.py. It writes a small world of films into a
temporary folder and reads that. With files of your own, change SCHEMA and the ids of the queries.
"""

import tempfile
from pathlib import Path

import shortlist
from shortlist.data.synthetic import planted_world

SCHEMA = shortlist.Schema(user="user_id", item="item_id", time="timestamp", title="title")


def write_a_world(folder: Path) -> tuple[Path, Path]:
    """A log of events and a table of films, in which every user likes some kind of film."""
    world = planted_world(users=400, items=200, events=8_000)
    world.interactions.write_csv(folder / "events.csv")
    world.items.select("item_id", "title").write_csv(folder / "items.csv")
    return folder / "events.csv", folder / "items.csv"


def main(events: Path, items: Path, folder: Path) -> None:
    data = shortlist.Dataset.load(events, items=items, schema=SCHEMA)
    split = data.split("leave-last-out")  # each user's last event is held out for the test
    print(data, split, sep="\n")

    # A listwise two-tower model whose query tower reads the history of a user.
    model = shortlist.TwoTower(mode="listwise", history="mean", dim=32, epochs=10)
    model.fit(split)

    report = shortlist.evaluate(model, k=[10])
    for name in ("recall@10", "ndcg@10"):
        print(
            f"{name}: {report.metrics[name].mean:.3f}, popular: {report.popularity[name].mean:.3f}"
        )

    shortlist.save(model, folder / "bundle", metrics=report.to_dict())
    served = shortlist.load(folder / "bundle").retriever  # what `shortlist serve` answers from

    found = served.recommend([10_001], k=5)
    print("for user 10001:", *served.data.titles(found.rows[0]), sep="\n  ")

    # For somebody whom the model has never seen, a history is enough.
    stranger = shortlist.Queries(histories=[[500_001, 500_002]])
    found = served.recommend(stranger, k=5)
    print("after items 500001 and 500002:", *served.data.titles(found.rows[0]), sep="\n  ")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        main(*write_a_world(place), place)
