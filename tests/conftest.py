"""Small worlds that many tests stand on: made once, seeded, without a network."""

import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import settings

from redis_here import RunningRedis
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import Feature, Schema
from shortlist.data.synthetic import World, planted_world

settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

WORLD_SCHEMA = Schema(
    time="timestamp",
    weight="rating",
    title="title",
    user_features=(Feature("region", "categorical"), Feature("age", "numeric")),
    item_features=(Feature("tags", "multi-valued"), Feature("price", "numeric")),
)


@pytest.fixture(scope="session", autouse=True)
def _so_many_threads():
    """One thread, or as many as the environment says: no answer may depend on it."""
    torch.set_num_threads(int(os.environ.get("SHORTLIST_THREADS", "1")))


@pytest.fixture(scope="session")
def world_schema() -> Schema:
    return WORLD_SCHEMA


@pytest.fixture(scope="session")
def world() -> World:
    return planted_world(users=300, items=200, events=6_000, seed=3)


@pytest.fixture(scope="session")
def split(world) -> Split:
    return Dataset.load(
        world.interactions, users=world.users, items=world.items, schema=WORLD_SCHEMA
    ).split("leave-last-out")


@pytest.fixture(scope="session")
def fitted(split) -> TwoTower:
    return TwoTower(dim=16, epochs=3, batch_size=128, seed=1).fit(split)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, object]]:
    """What a folder holds: every path below it, with a file's bytes and where a link leads."""

    def held(folder: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            found[name] = os.readlink(path) if path.is_symlink() else path.is_file()
            if path.is_file() and not path.is_symlink():
                found[name] = path.read_bytes()
        return found

    return held


@pytest.fixture
def tiny_log() -> pl.DataFrame:
    """Three users; user 1 has a tied time, user 3 a single event."""
    return pl.DataFrame(
        {
            "user_id": [1, 2, 1, 1, 2, 3, 2, 1],
            "item_id": [10, 10, 20, 30, 40, 20, 30, 40],
            "time": [5, 1, 2, 2, 3, 9, 7, 8],
        }
    )


@pytest.fixture(scope="session")
def redis():
    """One server for all tests, each with a prefix of its own; skips where there is none."""
    server = RunningRedis()
    yield server
    server.close()


@pytest.fixture
def own_redis():
    """Starts servers that a test may kill, and ends them."""
    started = []

    def start(*settings):
        started.append(RunningRedis(*settings))
        return started[-1]

    yield start
    for server in started:
        server.close()
