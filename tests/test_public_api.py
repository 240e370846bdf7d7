"""The public names, pinned: a change here is a change for every user."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import shortlist
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.data.synthetic import planted_world
from shortlist.errors import install
from shortlist.index import INDEXES
from shortlist.losses import LOSSES
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
        "EventFeature",
        "Feature",
        "GraphFilter",
        "Inverted",
        "ItemCF",
        "ItemToItem",
        "Popular",
        "Queries",
        "Report",
        "Run",
        "Schema",
        "ShortlistError",
        "Split",
        "TextFormat",
        "Transitions",
        "TwoTower",
        "UserCF",
        "UserToUser",
        "compare",
        "evaluate",
        "evaluate_lists",
        "load",
        "plan",
        "save",
        "train",
        "use_plugins",
    ]
    assert all(hasattr(shortlist, name) for name in shortlist.__all__)


def test_a_name_is_imported_from_where_a_type_checker_is_told():
    """`shortlist.ALS` is found by a table; mypy and editors read imports that never run."""
    tree = ast.parse(Path(shortlist.__file__).read_text())
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert told == shortlist._HOMES
    assert set(shortlist.__all__) == {*told, "ShortlistError"}
    assert set(shortlist.__all__) <= set(dir(shortlist))


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'TwoTowers'"):
        shortlist.TwoTowers  # noqa: B018
    with pytest.raises(ImportError, match="TwoTowers"):
        from shortlist import TwoTowers  # noqa: F401


def test_on_windows_the_first_name_that_is_used_asks_for_wsl(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delitem(vars(shortlist), "TwoTower", raising=False)
    with pytest.raises(shortlist.ShortlistError, match="inside WSL"):
        shortlist.TwoTower  # noqa: B018


def test_no_name_goes_from_a_table_that_a_recipe_or_bundle_may_say():
    """A name that comes is pinned here with the release that brings it."""
    assert set(LOSSES) >= {
        "bce",
        "bpr",
        "cosine_contrastive",
        "gbce",
        "hinge",
        "nce",
        "neg",
        "sampled_softmax",
        "softmax",
        "squared",
        "squared_cosine",
        "triplet_logistic",
    }
    assert set(SAMPLERS) >= {
        "catalogue",
        "in_batch",
        "in_batch_streaming",
        "memory",
        "mixed",
        "mixture",
        "popularity",
        "uniform",
    }
    assert set(HARD) >= {"dropped", "exposed", "hardest", "mined", "semi_hard"}
    assert set(TOWERS) >= {"attention", "comirec", "gru", "hstu", "mean", "mind", "recency"}
    assert set(INDEXES) >= {
        "annoy",
        "exact",
        "faiss-flat",
        "faiss-hnsw",
        "faiss-ivf",
        "milvus",
        "scann",
    }
    assert set(RETRIEVERS) >= {
        "als",
        "blend",
        "ease",
        "graph-filter",
        "inverted",
        "item-cf",
        "item-to-item",
        "popular",
        "transitions",
        "two-tower",
        "user-cf",
        "user-to-user",
    }


def test_the_quick_start_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    code, chinese = (
        re.search(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL).group(1)
        for name in ("README.md", "README.zh.md")
    )
    assert code == chinese
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


def test_hints_name_packages_that_can_be_installed(monkeypatch):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    # What is installed here may be of an earlier pyproject.toml; test_release.py asks a new wheel.
    lines = [f"{one}; extra == '{extra}'" for extra, each in extras.items() for one in each]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: lines)
    for extra, packages in extras.items():
        hint = install(extra)
        assert hint.startswith("pip install '")
        for package in packages:
            name = re.match(r"[\w-]+", package)[0]
            assert (re.search(rf"'{name}\b", hint) is not None) == (name != "shortlist")
        assert "shortlist" not in hint  # what it is called on an index is not for a hint to promise
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert "pip install 'shortlist" not in sources
