"""Learned parameters beside the towers are in the bundle, and in further training."""

import numpy as np
import pytest

from shortlist.bundle.bundle import load, save
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError
from shortlist.training.lesson import Lesson

LEARNS = {
    "a temperature": (TwoTower, {"learn_temperature": True}, {"objective.log_scale"}),
    "one of items": (
        ItemToItem,
        {"learn_temperature": True, "session_gap": "30d"},
        {"objective.log_scale"},
    ),
    "a bias": (TwoTower, {"mode": "pointwise"}, {"objective.bias"}),
    "two biases": (
        TwoTower,
        {"mode": "pointwise", "hard": "mined", "hard_ranks": [2, 20], "learn_temperature": True},
        {"objective.log_scale", "objective.bias", "hard.bias"},
    ),
}


@pytest.fixture(scope="module")
def split():
    log = planted_world(users=60, items=40, events=550, seed=3).interactions
    return Dataset.load(log, schema=Schema(time="timestamp", time_unit="s")).split()


@pytest.mark.parametrize("case", LEARNS)
def test_what_was_learned_beside_the_towers_is_in_the_bundle_and_goes_on(split, tmp_path, case):
    kind, options, names = LEARNS[case]
    section = {"dim": 4, "epochs": 2, "batch_size": 64, "learning_rate": 0.05}
    before = kind(**section, **options).fit(split, "train")
    assert before.learned.keys() == names
    save(before, tmp_path / "v1")
    again = load(tmp_path / "v1").retriever
    assert again.learned == before.learned
    still = again.training_section.model_copy(update={"learning_rate": 1e-12})
    again.training_section = still
    learn = np.zeros(len(again.data.log), dtype=bool)
    learn[::3] = True
    after = again.refreshed(again.data, Lesson(learn))
    assert after.learned == pytest.approx(before.learned, abs=1e-5)
    nothing = again.refreshed(again.data, Lesson(np.zeros_like(learn)))
    assert nothing.learned == before.learned


def test_a_bundle_that_learned_what_its_recipe_does_not_is_refused(split):
    towers = TwoTower(dim=4, epochs=1, batch_size=64).fit(split, "train")
    assert towers.learned == {}
    towers.learned = {"objective.bias": 1.0}
    with pytest.raises(ModelError, match=r"learned number 'objective\.bias'.*recipe has none"):
        towers.refreshed(towers.data, Lesson(np.zeros(len(towers.data.log), dtype=bool)))


def test_the_figures_kept_are_those_of_the_epoch_that_was_best(split):
    options = {"dim": 4, "batch_size": 64, "learning_rate": 0.05, "learn_temperature": True}
    options["dropout"] = 0.2
    constant = {"schedule": "constant"}
    long = TwoTower(**options, epochs=6, **constant).fit(split, "train")
    assert long.best_epoch < 6
    short = TwoTower(**options, epochs=long.best_epoch, **constant).fit(split, "train")
    assert long.learned == short.learned
