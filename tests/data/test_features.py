"""Raw columns to tensors: missing values have a defined row, statistics see training only."""

import polars as pl
import pytest
import torch

from shortlist.data.features import ID, FeatureTable, MultiValuedEncoder, NumericEncoder
from shortlist.data.schema import Feature
from shortlist.errors import DataError

IDS = pl.Series("id", [7, 8, 9])
FRAME = pl.DataFrame(
    {
        "id": [8, 7, 9],
        "colour": ["red", "blue", "green"],
        "size": [3.0, 1.0, 100.0],
        "tags": ["a|b", None, "c|a"],
        "text": [[1.0, 2.0], None, [3.0, 4.0]],
    }
)
FEATURES = (
    Feature("colour", "categorical"),
    Feature("size", "numeric"),
    Feature("tags", "multi-valued"),
    Feature("text", "vector"),
)


@pytest.fixture
def table() -> FeatureTable:
    """Ids 7 and 8 are trained; 9 is not."""
    return FeatureTable.fit(FEATURES, FRAME, IDS, trained=2)


def test_a_value_first_seen_after_training_is_unknown(table):
    assert table.columns["colour"].tolist() == [0, 1, 2, 0]


def test_numbers_are_standardised_on_training_entities_only(table):
    # Trained sizes are 1 and 3: mean 2, standard deviation 1.
    assert table.columns["size"].tolist() == [[0, 1], [-1, 0], [1, 0], [98, 0]]


def test_multi_valued_features_keep_known_values_and_may_be_empty(table):
    tags = table.columns["tags"]
    lists = [
        tags.values[a:b].tolist() for a, b in zip(tags.offsets, tags.offsets[1:], strict=False)
    ]
    assert lists == [[], [], [1, 2], [1]]


def test_missing_vectors_are_zeros(table):
    assert table.columns["text"].tolist() == [[0, 0], [0, 0], [1, 2], [3, 4]]


def test_an_untrained_row_keeps_its_features_but_has_no_id(table):
    taken = table.take(torch.tensor([3, 1, 0]))
    assert taken[ID].tolist() == [0, 1, 0]
    assert taken["size"][0].tolist() == [98, 0]
    assert taken["tags"].offsets.tolist() == [0, 1, 1, 1]


def test_an_entity_without_a_row_in_the_table_is_missing_everything():
    table = FeatureTable.fit(FEATURES, FRAME, pl.Series("id", [7, 1000]), trained=2)
    assert table.columns["colour"][2] == 0
    assert table.columns["size"][2].tolist() == [0, 1]


def test_a_constant_number_does_not_divide_by_zero():
    assert NumericEncoder.fit(pl.Series([4, 4])).encode(pl.Series([4, None])).tolist() == [
        [0, 0],
        [0, 1],
    ]


def test_lists_and_delimited_text_give_the_same_codes():
    text, lists = pl.Series(["x | y", "y|", ""]), pl.Series([["x", "y"], ["y"], []])
    encoder = MultiValuedEncoder.fit(text, "|")
    assert encoder.values == ("x", "y")
    for one, two in zip(encoder.encode(text), encoder.encode(lists), strict=True):
        assert torch.equal(one, two)


def test_numbers_too_large_to_standardise_are_refused_by_name():
    with pytest.raises(DataError, match=r"'price'.*too large"):
        NumericEncoder.fit(pl.Series("price", [1e300, 1.0]))
