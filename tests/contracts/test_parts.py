"""The keys of a part follow from its declaration alone."""

import inspect
import tomllib
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from shortlist.channels.learned.two_tower import TwoTower
from shortlist.config import Model, Training, template
from shortlist.config.parts import CHOICES, given, kept, keys_of, options_of, with_options
from shortlist.errors import ModelError
from shortlist.losses import LOSSES, SoftmaxLoss, build_loss
from shortlist.sections.training import CommonTraining

SECTION = {key: Model if key in Model.model_fields else Training for key in CHOICES}
PARTS = [(key, name) for key, choice in CHOICES.items() for name in choice.parts]


@dataclass(frozen=True)
class FocalLoss(SoftmaxLoss):
    """A loss with an option of its own."""

    gamma: Annotated[float, Field(ge=0, description="How little an easy positive counts.")] = 2.0


@pytest.fixture
def focal(monkeypatch):
    """The section [training] where the table has one loss more."""
    monkeypatch.setitem(LOSSES, "focal", FocalLoss)
    options_of.cache_clear()
    yield with_options(CommonTraining, *(key for key in CHOICES if SECTION[key] is Training))
    options_of.cache_clear()


def test_the_option_of_a_new_row_is_a_key_with_its_meaning_and_range_and_reaches_the_part(focal):
    field = focal.model_fields["gamma"]
    assert field.description == "focal: how little an easy positive counts. Unset: 2.0."
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        focal(loss="focal", gamma=-1.0)
    assert build_loss("focal", **given(focal(loss="focal", gamma=0.5), "loss")) == FocalLoss(0.5)
    assert build_loss("focal", **given(focal(loss="focal"), "loss")) == FocalLoss(2.0)
    with pytest.raises(ModelError, match=r"'bpr' does not use gamma: .* loss = 'focal'"):
        build_loss("bpr", **given(focal(loss="bpr", gamma=0.5), "loss"))


@pytest.mark.parametrize(("key", "name"), PARTS)
def test_whatever_a_part_can_be_given_is_a_key_of_the_recipe(key, name):
    choice = CHOICES[key]
    parameters = inspect.signature(choice.maker(choice.parts[name])).parameters.values()
    optional = {choice.prefix + one.name for one in parameters if one.default is not one.empty}
    assert optional <= SECTION[key].model_fields.keys(), "annotate it with a described Field"
    declared = {choice.prefix + name for name in options_of(key)}
    common = {"negatives", "shared"}  # of the modes, too
    assert optional - common <= declared


@pytest.mark.parametrize(("key", "name"), PARTS)
def test_an_option_is_refused_by_every_part_that_does_not_declare_it(key, name, monkeypatch):
    choice = CHOICES[key]
    monkeypatch.setattr(
        choice.parts[name], "refuses", {}, raising=False
    )  # whatever its reasons are
    for option, options in options_of(key).items():
        if name in {one.part for one in options}:
            continue
        value = next(iter(options[0].field.examples or ()), options[0].default)
        if key == "history" and value == Model.model_fields[option].default:
            value = True if value is False else value + 1
        with pytest.raises(ModelError, match=choice.prefix + option):
            TwoTower(**{key: name, choice.prefix + option: value})


@pytest.mark.parametrize("key", CHOICES)
def test_the_template_shows_the_options_of_parts_behind_the_key_that_names_the_part(key):
    text = template()
    shown = [line.removeprefix("# ").split(" = ")[0] for line in text.splitlines() if " = " in line]
    place = shown.index(key) + 1
    assert shown[place : place + len(keys_of(key))] == keys_of(key)
    tomllib.loads(text)


def test_two_parts_that_share_a_key_share_its_declaration(monkeypatch):
    @dataclass(frozen=True)
    class Wide(SoftmaxLoss):
        margin: Annotated[int, Field(description="Something else.")] = 1

    monkeypatch.setitem(LOSSES, "wide", Wide)
    options_of.cache_clear()
    with pytest.raises(TypeError, match="wide declare margin differently"):
        options_of("loss")
    options_of.cache_clear()


def test_a_model_keeps_the_options_of_its_own_parts_and_no_others():
    plain, chosen = Training(), Training(loss="hinge", margin=0.3, hard="mined", hard_ranks=(1, 9))
    added = {option for key in CHOICES for option in keys_of(key)}
    assert not added & kept(plain).keys()
    assert added & kept(chosen).keys() == {"margin", "hard_ranks", "hard_ceiling"}
    assert Training.model_validate({**kept(chosen), "hard_ranks": (1, 9)}) == chosen
    assert added & kept(Model(history="gru")).keys() == {"history_layers"}
