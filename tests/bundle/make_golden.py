"""Write the golden bundles of a format: python tests/bundle/make_golden.py tests/bundle/golden.

Run once for each new format or kind, by the version that introduces it; what it wrote is never
written again. Beside each bundle stands what it answers: KIND.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

from shortlist.asking.queries import Queries
from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.bundle import schema
from shortlist.bundle.bundle import load, save
from shortlist.bundle.store import FORMAT
from shortlist.channels.learned.base import Learner
from shortlist.channels.table import CHANNELS
from shortlist.config import Model, Training
from shortlist.config.blend import Blend as BlendSection
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.index import INDEXES

K = 6
SMALL = {"dim": 4, "epochs": 2, "batch_size": 64}
OPTIONS: dict[str, dict[str, Any]] = {
    "popular": {"segment": "region", "strength": 20.0},
    "inverted": {"attribute": "tags", "metric": "ctr", "list_length": 12},
    "item-cf": {"neighbours": 8, "shrinkage": 2.0},
    "user-cf": {"neighbours": 8},
    "ease": {"neighbours": 10},
    "graph-filter": {"factors": 4},
    "als": {"factors": 4, "iterations": 3, "bias": True},
    "transitions": {"neighbours": 8, "second_hop": 0.2, "attribute": "tags"},
    "two-tower": SMALL,
    "item-to-item": SMALL | {"session_gap": 10**6},
    "user-to-user": SMALL,
}
SECTIONS = (
    *("Fields", "Data", "Text", "Categorical", "MultiValued", "Numeric", "Vector"),
    *("LearnedSettings", "Epoch", "CountingSettings", "BlendSettings", "Channel"),
)
"""Tables of the manifest, as `bundle.schema` names them."""

INDEX = "faiss-hnsw"
"""The index of the channel with towers in the blend: its bytes are part of what is kept."""


def world() -> Split:
    """A log with every column and table a bundle can hold; ids of users are numbers, of items text.

    A row below min_weight is no event, but remembered where the format remembers it.
    """
    made = planted_world(users=40, items=32, events=240, seed=7, groups=4)
    text = pl.format("ü{}", "item_id").alias("item_id")
    log = made.interactions.with_columns(text)
    shown = log.select("user_id", "item_id", "timestamp").with_columns(
        pl.col("timestamp") - 1, clicked=pl.int_range(pl.len()) % 3 == 0
    )
    schema = Schema(
        time="timestamp",
        weight="rating",
        min_weight=2.0,
        title="title",
        click="clicked",
        user_features=(Feature("region", "categorical"), Feature("age", "numeric")),
        item_features=(Feature("tags", "multi-valued"), Feature("price", "numeric")),
    )
    return Dataset.load(
        log,
        users=made.users,
        items=made.items.with_columns(text),
        impressions=shown,
        schema=schema,
    ).split("leave-last-out")


def made(kind: str, split: Split) -> Any:
    """A fitted retriever of this kind, as small as it can be."""
    if kind != "blend":
        return RETRIEVERS[kind](**OPTIONS.get(kind, {})).fit(split)
    channels = {"near": "two-tower", "cf": "item-cf", "top": "popular"}
    blend = Blend(
        {name: RETRIEVERS[channel](**OPTIONS[channel]) for name, channel in channels.items()},
        method="calibrated",
        fallback=("top",),
    ).fit(split)
    near = blend.channels["near"]
    index = INDEXES[INDEX](near.training_section.similarity)
    near.use_index(index.build(*near.placed_vectors()))
    return blend


def answers(retriever: Any) -> list[dict[str, Any]]:
    """What the retriever answers to known users, to histories and to a stranger."""
    data = retriever.data
    users = data.users.ids.head(5).to_list()
    items = data.items.ids.to_list()
    asked = [
        {"users": users},
        {"users": users, "before": "test", "exclude_seen": False},
        {"histories": [items[:3], items[-2:], [], ["never seen"]]},
    ]
    answered = []
    for queries in asked:
        found = retriever.recommend(Queries(**queries), K)
        lists = [
            {"items": ids, "scores": [float(s) for s in scores[: len(ids)]], "fallback": bool(flag)}
            for ids, scores, flag in zip(found.ids, found.scores, found.fallback, strict=True)
        ]
        answered.append({"queries": queries, "k": K, "lists": lists})
    return answered


def described() -> str:
    """The keys of every table of settings, by its name, and the names of tables, as text."""
    sections = {name: getattr(schema, name) for name in SECTIONS}
    sections |= {"Model": Model, "Training": Training, "Blend": BlendSection}
    sections |= {
        f"options of {name}": kind.options_type
        for name, kind in CHANNELS.items()
        if not issubclass(kind, Learner)
    }
    lines = [
        f"{name}: {' '.join(sorted(schema.must_have(kind)))}" for name, kind in sections.items()
    ]
    tables = (*schema.DATA_FILES, *schema.OPTIONAL_FILES)
    return "\n".join([*sorted(lines), f"tables: {' '.join(sorted(tables))}"]) + "\n"


def main(target: Path) -> None:
    """Write one bundle and its answers for each kind that has none in this format."""
    split = world()
    folder = target / f"format-{FORMAT}"
    for kind in RETRIEVERS:
        if (folder / kind).exists():
            continue
        save(made(kind, split), folder / kind)
        given = answers(load(folder / kind).retriever)
        text = json.dumps(given, ensure_ascii=False, indent=1) + "\n"
        (folder / f"{kind}.json").write_text(text, encoding="utf-8")
    (folder / "keys.txt").write_text(described(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
