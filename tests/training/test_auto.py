"""Keys with the value "auto": bounded for every log, and equal to writing the numbers."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import load
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli import main
from shortlist.config import Model, Recipe, Training, load_recipe
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, RecipeError
from shortlist.runs import pipeline, tuning
from shortlist.runs.seeds import train_seeds
from shortlist.runs.whole import train
from shortlist.training.auto import Facts, settle
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.trainer import Trainer

MODEL = {"dim": "auto", "dropout": "auto"}
TRAINING = {key: "auto" for key in ("batch_size", "epochs", "warmup", "patience")}
QUICK = {"history_length": 8, "epochs": 2, "dim": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("auto")
    world = planted_world(users=90, items=40, events=900, seed=5)
    world.interactions.write_csv(place / "log.csv")
    return place


@pytest.fixture(scope="module")
def split(folder):
    return Dataset.load(folder / "log.csv", schema=Schema(time="timestamp")).split()


def recipe_of(folder, **changes):
    content = {
        "data": {"interactions": "log.csv", "time": "timestamp"},
        "model": {"history_length": 8, "dim": 8, "dropout": 0.2},
        "training": {"epochs": 2, "batch_size": "auto", "patience": "auto"},
        "evaluation": {"k": [5], "ladder": False},
    }
    return Recipe.from_dict(content | changes, folder)


def bytes_of(retriever):
    return {
        f"{file}.{name}": value.numpy().tobytes()
        for file, tensors in retriever.state()[1].items()
        for name, value in tensors.items()
    }


def numbers(positives, items, *, model=MODEL, training=TRAINING):
    found = settle(Model(**model), Training(**training), Facts(positives, items))
    return {key: one.value for key, one in found.chosen.items()}


@given(some.integers(0, 2**40), some.integers(0, 2**31), some.integers(1, 12))
def test_any_log_gives_numbers_that_the_sections_take(positives, items, heads):
    model = Model(history="attention", history_heads=heads, **MODEL)
    found = settle(model, Training(**TRAINING), Facts(positives, items))
    assert Training.model_validate(found.training.model_dump()) == found.training
    assert found.model.dim % (2 * heads) == 0
    steps = found.training.epochs * max(1, math.ceil(positives / found.training.batch_size))
    assert found.training.warmup <= steps / 20
    assert settle(found.model, found.training, Facts(1, 1)).chosen == {}


def test_more_events_never_mean_smaller_steps_or_more_epochs():
    found = [numbers(4**power, 1_000) for power in range(16)]
    sizes = [one["batch_size"] for one in found]
    epochs = [one["epochs"] for one in found]
    assert sizes == sorted(sizes)
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(sizes)) > 2
    assert len(set(epochs)) > 2


def test_rows_that_are_each_others_negatives_are_more_where_the_log_allows_it():
    drawn = TRAINING | {"sampler": "catalogue"}
    positives = [7_000, 150_000, 1_000_000]
    rows = [numbers(n, 10_000)["batch_size"] for n in positives]
    others = [numbers(n, 10_000, training=drawn)["batch_size"] for n in positives]
    assert (rows[0], rows[2]) == (others[0], others[2])
    assert rows[1] > others[1]


def test_a_reason_counts_one_step_and_many_steps():
    few, many = (settle(Model(), Training(batch_size=1024), Facts(n, 9)) for n in (49, 4_900))
    assert few.chosen["epochs"].reason.startswith("at 1 step per epoch")
    assert many.chosen["epochs"].reason.startswith("at 5 steps per epoch")


@pytest.mark.parametrize(
    ("positives", "items", "epochs", "why"),
    [
        (4_391, 3_006, 55, "at 18 steps per epoch, for 1,000 steps on a tiny log"),
        (300, 200, 100, "at 2 steps per epoch, the largest number"),
        (6_877, 5_119, 40, "at 27 steps per epoch, the largest number"),
        (900_000, 9_000, 20, "at 879 steps per epoch, the largest number"),
        (900_000, 90_000, 22, "at 879 steps per epoch, for a budget of 20,000 steps"),
        (9_000_000, 90_000, 10, "at 8,790 steps per epoch, the smallest number"),
    ],
)
def test_the_reason_for_the_epochs_names_the_bound_that_decided(positives, items, epochs, why):
    chosen = settle(Model(), Training(), Facts(positives, items)).chosen
    assert chosen["epochs"] == (epochs, why)


def test_a_batch_size_that_a_bound_decides_is_not_said_to_give_the_wanted_steps():
    said = [settle(Model(), Training(), Facts(n, 999)).chosen["batch_size"] for n in (900, 80_000)]
    assert said[0].reason == "the smallest number: 900 positives give 4 steps per epoch"
    assert said[1].reason == "so that 80,000 positives give 157 steps per epoch"


def test_a_number_that_is_given_stays_and_the_others_follow_from_it():
    alone = numbers(100_000, 1_000, model={"dropout": 0.1}, training={"batch_size": 1_000})
    assert alone.keys() == {"epochs", "patience"}
    more = numbers(100_000, 1_000, model={}, training={"batch_size": 4_000})
    assert more["epochs"] >= alone["epochs"]
    patience = [numbers(9, 9, training=TRAINING | {"epochs": n})["patience"] for n in (8, 20)]
    assert patience == [3, 5]


def test_the_sizes_of_an_untouched_recipe_follow_from_the_log():
    small, large = (numbers(n, n // 9, model={}, training={}) for n in (900, 900_000))
    assert small.keys() == large.keys() == {"dropout", "batch_size", "epochs", "patience"}
    assert small["batch_size"] < large["batch_size"]
    assert small["epochs"] > large["epochs"]


def test_a_recipe_without_sizes_trains_with_numbers_that_its_bundle_holds(folder, tmp_path):
    data = {"interactions": "log.csv", "time": "timestamp"}
    content = {"data": data, "training": {"validate_every": 25}, "evaluation": {"ladder": False}}
    run = train(Recipe.from_dict(content, folder), tmp_path / "bundle")
    said = load(tmp_path / "bundle").recipe
    chosen = run.retriever.numbers
    assert chosen["epochs"] * math.ceil(720 / chosen["batch_size"]) >= 200  # was 10
    assert {key: (said["model"] | said["training"])[key] for key in chosen} == chosen


def test_the_numbers_that_were_the_defaults_stay_valid_where_they_do_nothing(folder):
    counting = {
        "model": {"dropout": 0.2},
        "training": {"batch_size": 1024, "epochs": 10, "patience": 3},
        "channels": {"popular": {"kind": "popular"}},
    }
    recipe_of(folder, **counting)  # as an older bundle holds it
    with pytest.raises(RecipeError, match="epochs does nothing: no channel has towers"):
        recipe_of(folder, **counting | {"training": {"epochs": 11}})
    alone = {"history": "none", "user_id": True}
    recipe_of(folder, model=alone | {"dropout": 0.2})
    with pytest.raises(RecipeError, match="dropout applies to histories and hidden layers"):
        recipe_of(folder, model=alone | {"dropout": 0.3})


def test_a_bundle_of_channels_without_towers_holds_the_numbers_that_it_always_held(folder):
    recipe = recipe_of(folder, model={}, training={}, channels={"popular": {"kind": "popular"}})
    said = pipeline.settled(recipe, pipeline.build(recipe)).to_dict()
    assert said["model"]["dropout"] == 0.2
    assert [said["training"][key] for key in ("batch_size", "epochs", "patience")] == [1024, 10, 3]


def test_nothing_is_dropped_where_there_is_nothing_to_drop(split):
    sizes = {key: value for key, value in QUICK.items() if key != "history_length"}
    assert TwoTower(**sizes, history="none", user_id=True).fit(split).numbers["dropout"] == 0
    assert TwoTower(**sizes, history="mean").fit(split).numbers["dropout"] > 0


def test_towers_that_are_not_trained_have_numbers_too(split):
    retriever = TwoTower(dim=8, user_layers=(8,))
    retriever.set_data(split.training_data("train"))
    assert set(retriever.numbers) == {"dropout", "batch_size", "epochs", "patience"}
    assert retriever.encode_users(
        Queries(users=retriever.data.users.ids.head(1).to_list())
    ).shape == (1, 8)


def test_keys_that_an_older_bundle_lacks_have_the_numbers_of_then(split):
    fitted = TwoTower(**QUICK).fit(split)
    settings, states = fitted.state()
    older = {**settings, "model": {k: v for k, v in settings["model"].items() if k != "dropout"}}
    assert TwoTower.from_state(fitted.data, older, states).model_section.dropout == 0.2


def test_auto_gives_the_bytes_of_the_numbers_it_comes_to(split):
    said = {**QUICK, "history": "attention", "batch_size": "auto", "patience": "auto"}
    auto = TwoTower(**said, warmup="auto", dropout="auto").fit(split)
    assert auto.numbers.keys() == {"batch_size", "patience", "warmup", "dropout"}
    plain = TwoTower(**{**said, **auto.numbers}).fit(split)
    assert plain.numbers == {}
    assert bytes_of(auto) == bytes_of(plain)
    assert plain.training_section == auto.training_section


def test_a_second_fit_on_another_log_chooses_anew(split):
    retriever = TwoTower(**QUICK, batch_size="auto", dropout="auto")
    first = dict(retriever.fit(split).auto)
    more = planted_world(users=200, items=80, events=3_000, seed=5).interactions
    retriever.fit(Dataset.load(more, schema=Schema(time="timestamp")).split())
    assert retriever.auto.keys() == first.keys()
    assert retriever.auto["batch_size"] != first["batch_size"]


def test_a_refit_keeps_the_numbers_of_the_fit_it_follows(split, monkeypatch):
    made = []
    whole = Trainer.__init__

    def noted(self, *arguments, **options):
        made.append(options["training"])
        whole(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", noted)
    TwoTower(**QUICK, batch_size="auto", warmup="auto", refit="all").fit(split)
    assert len(made) == 2
    assert made[0] == made[1]


class Killed(BaseException):
    """Stands for a kill."""


def test_a_killed_training_goes_on_with_the_numbers_it_had(split, tmp_path, monkeypatch):
    said = {**QUICK, "batch_size": "auto", "warmup": "auto", "refit": "all"}
    unbroken = TwoTower(**said).fit(split)
    checkpoints, whole, taken = Checkpoints(tmp_path / "saved", every=0), Trainer._loss, 0

    def counted(*arguments):
        nonlocal taken
        taken += 1
        if taken == 7:  # in the refit
            raise Killed
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_loss", counted)
        with pytest.raises(Killed):
            TwoTower(**said).fit(split, checkpoints=checkpoints)
    resumed = TwoTower(**said).fit(split, checkpoints=checkpoints)
    assert bytes_of(resumed) == bytes_of(unbroken)
    assert resumed.numbers == unbroken.numbers


def test_the_bundle_and_its_recipe_hold_the_numbers_and_inspect_says_why(
    folder, tmp_path, capsys, monkeypatch
):
    run = train(recipe_of(folder), tmp_path / "bundle")
    there = load(tmp_path / "bundle")
    chosen = run.retriever.numbers
    assert chosen.keys() == {"batch_size", "patience"}
    assert {key: there.recipe["training"][key] for key in chosen} == chosen
    assert there.retriever.numbers == chosen
    assert there.retriever.auto == run.retriever.auto
    asked = Queries(users=there.retriever.data.users.ids.head(3).to_list())
    assert there.retriever.recommend(asked, 5).rows.tolist() == (
        run.retriever.recommend(asked, 5).rows.tolist()
    )
    again = train(Recipe.from_dict(there.recipe, folder), tmp_path / "again")
    assert bytes_of(again.retriever) == bytes_of(run.retriever)
    monkeypatch.setattr(sys, "argv", ["shortlist", "inspect", str(tmp_path / "bundle")])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "batch_size (auto)" in capsys.readouterr().out


def test_channels_have_their_own_numbers_in_the_recipe_of_the_bundle(folder, tmp_path):
    tables = {
        "first": {"kind": "two-tower", "dropout": "auto"},
        "second": {"kind": "user-to-user"},
        "third": {"kind": "popular"},
    }
    recipe = recipe_of(folder, channels=tables)
    run = train(recipe, tmp_path / "bundle")
    said = load(tmp_path / "bundle").recipe
    for name in ("first", "second"):
        own = run.retriever.channels[name].numbers
        assert {key: said["channels"][name][key] for key in own} == own
    assert {key: said["training"][key] for key in ("batch_size", "patience")} == {
        "batch_size": 1024,
        "patience": 3,
    }
    assert pipeline.settled(recipe, run.retriever).to_dict() == said
    pipeline.check(Recipe.from_dict(said, folder))


def test_several_seeds_go_on_from_bundles_that_hold_numbers(folder, tmp_path):
    recipe, trained = recipe_of(folder), []

    def carried_out(one, target):
        trained.append(target)
        return train(one, target)

    train_seeds(recipe, tmp_path, 2, carried_out)
    train_seeds(recipe, tmp_path, 2, carried_out)
    assert len(trained) == 2


def test_users_are_what_an_epoch_of_user_to_user_counts(split):
    fitted = UserToUser(**QUICK, batch_size="auto").fit(split)
    assert f"{len(fitted.encodable_users()):,} positives" in fitted.auto["batch_size"]
    of_an_item = len(split.training_data("train").training_targets) / fitted.data.items.trained
    assert fitted.auto["dropout"] == f"for {of_an_item:,.1f} positives per item"
    assert fitted.numbers["dropout"] == TwoTower(**QUICK).fit(split).numbers["dropout"] == 0.3


def test_auto_can_be_tried_set_and_refused_by_name(folder, tmp_path):
    pytest.importorskip("optuna")
    space = {"training.batch_size": ["auto", 64], "model.dropout": ["auto"]}
    found = tuning.tune(recipe_of(folder, tune={"space": space, "trials": 2}), tmp_path / "tuning")
    assert {trial.state for trial in found.trials} == {"complete"}
    best = load_recipe(tmp_path / "tuning" / "best.toml", ["training.warmup=auto"])
    assert best.training.warmup == "auto"
    assert best.model.dropout == "auto"
    with pytest.raises(RecipeError, match='batch_size must be a whole number, or "auto", got'):
        recipe_of(folder, training={"batch_size": "many"})
    with pytest.raises(RecipeError, match="encode_rows is for batches too large"):
        recipe_of(folder, training={"batch_size": "auto", "encode_rows": 8})
    pairs = {"positives": "i2i", "session_gap": 9}
    pipeline.check(recipe_of(folder, training=pairs, model={"dropout": "auto"}))
    items = recipe_of(folder, training=pairs, model={"dropout": 0.4})
    with pytest.raises(ModelError, match="dropout does nothing with positives = 'i2i'"):
        pipeline.check(items)
