"""Schema and Feature: what can be declared, and what is refused at once."""

import dataclasses

import pytest

from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError


def test_a_misspelt_kind_is_answered_with_the_nearest_one():
    with pytest.raises(DataError, match=r"feature 'age'.*Did you mean 'numeric'"):
        Feature("age", "numerical")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_feature_needs_a_name(name):
    with pytest.raises(DataError, match="must be a column name"):
        Feature(name, "numeric")


def test_an_empty_separator_would_split_into_letters_and_is_refused():
    with pytest.raises(DataError, match="separator"):
        Feature("genres", "multi-valued", separator="")


def test_two_roles_cannot_share_a_column():
    with pytest.raises(DataError, match="time and weight both name the column 'x'"):
        Schema(time="x", weight="x")


def test_a_misspelt_tie_is_answered_with_the_nearest_one():
    with pytest.raises(DataError, match="Did you mean 'file'"):
        Schema(tie="fil")  # type: ignore[arg-type]


def test_min_weight_without_a_weight_column_is_refused():
    with pytest.raises(DataError, match="min_weight needs a weight column"):
        Schema(min_weight=3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_min_weight_is_a_finite_number(bad):
    with pytest.raises(DataError, match="finite"):
        Schema(weight="rating", min_weight=bad)


def test_a_feature_cannot_be_declared_twice_or_be_the_id():
    age = Feature("age", "numeric")
    with pytest.raises(DataError, match="'age' is declared twice"):
        Schema(user_features=(age, age))
    with pytest.raises(DataError, match="is the id column"):
        Schema(item_features=(Feature("item_id", "categorical"),))


def test_features_given_as_a_list_become_a_tuple_and_the_schema_can_be_hashed():
    schema = Schema(item_features=[Feature("genres", "multi-valued")])  # type: ignore[arg-type]
    assert schema.item_features == (Feature("genres", "multi-valued"),)
    assert hash(schema) == hash(dataclasses.replace(schema))


def test_features_are_feature_objects():
    with pytest.raises(DataError, match="must hold Feature objects, got 'genres'"):
        Schema(item_features=("genres",))  # type: ignore[arg-type]


def test_roles_leave_out_what_is_not_there():
    schema = Schema("u", "i", weight="w", split="s")
    assert schema.roles() == {"user": "u", "item": "i", "weight": "w", "split": "s"}
