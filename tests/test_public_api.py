"""The public names, pinned: a change here is a change for every user."""

import re
from pathlib import Path

import shortlist
from shortlist.data.synthetic import planted_world
from shortlist.index import INDEXES
from shortlist.losses import LOSSES
from shortlist.retrievers import RETRIEVERS
from shortlist.sampling import HARD, SAMPLERS
from shortlist.towers import TOWERS

ROOT = Path(__file__).parent.parent


def test_public_names_are_these():
    assert shortlist.__all__ == [
        "ALS",
        "EASE",
        "Blend",
        "Bundle",
        "Candidates",
        "Dataset",
        "Feature",
        "GraphFilter",
        "Inverted",
        "ItemCF",
        "ItemToItem",
        "Popular",
        "Queries",
        "Report",
        "Schema",
        "ShortlistError",
        "Split",
        "TwoTower",
        "UserCF",
        "UserToUser",
        "compare",
        "evaluate",
        "load",
        "plan",
        "save",
    ]
    assert all(hasattr(shortlist, name) for name in shortlist.__all__)


def test_the_tables_hold_these():
    assert set(LOSSES) == {
        "bce",
        "bpr",
        "cosine_contrastive",
        "gbce",
        "hinge",
        "nce",
        "neg",
        "sampled_softmax",
        "softmax",
        "squared_cosine",
        "triplet_logistic",
    }
    assert set(SAMPLERS) == {
        "catalogue",
        "in_batch",
        "in_batch_streaming",
        "memory",
        "mixed",
        "mixture",
        "popularity",
        "uniform",
    }
    assert set(HARD) == {"dropped", "exposed", "hardest", "mined", "semi_hard"}
    assert set(TOWERS) == {"attention", "comirec", "gru", "mean", "mind", "recency"}
    assert set(INDEXES) == {
        "annoy",
        "exact",
        "faiss-flat",
        "faiss-hnsw",
        "faiss-ivf",
        "milvus",
        "scann",
    }
    assert set(RETRIEVERS) == {
        "als",
        "blend",
        "ease",
        "graph-filter",
        "inverted",
        "item-cf",
        "item-to-item",
        "popular",
        "two-tower",
        "user-cf",
        "user-to-user",
    }


def test_the_quick_start_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    world = planted_world(users=200, items=150, events=4_000)
    users = world.interactions["user_id"] - 10_000
    world.interactions.with_columns(users).write_csv(tmp_path / "interactions.csv")
    world.items.select("item_id", "title").write_csv(tmp_path / "items.csv")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["served"].recommend([1], k=10).ids[0]) == 10
    assert (tmp_path / "bundle" / "manifest.json").exists()
