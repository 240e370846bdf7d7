"""Ids go out exactly as they came in, and hash the same for ever."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.vocabulary import Vocabulary, encoded, hash_ids
from shortlist.errors import QueryError

AWKWARD = [
    "007",
    "7",
    "é",
    "e\u0301",
    "zero\u200bwidth",
    "\u202ertl",
    "a\0b",
    "🦊",
    " x",
    "X" * 10_000,
]


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_string_ids_survive_the_round_trip(ids):
    ids = [i for i in ids if not any("\ud800" <= c <= "\udfff" for c in i)] or ["a"]
    vocabulary = Vocabulary(pl.Series(ids, dtype=pl.String), len(ids))
    rows = vocabulary.rows(ids)
    assert (rows == np.arange(1, len(ids) + 1)).all()
    assert vocabulary.external(rows).to_list() == ids


def test_awkward_strings_are_all_different_ids():
    vocabulary = Vocabulary(pl.Series(AWKWARD), len(AWKWARD))
    assert vocabulary.external(vocabulary.rows(AWKWARD)).to_list() == AWKWARD


@pytest.mark.parametrize("far", [1, 10**6, 2**61, None])
@given(st.lists(st.integers(-3, 3), max_size=20))
def test_ids_are_encoded_by_their_order_however_far_apart_they_are(far, numbers):
    column = pl.Series([n * (far or 1) for n in numbers], dtype=pl.Int64)
    column = column if far else column.cast(pl.String)
    ids, place = encoded(column)
    assert ids.to_list() == sorted(set(column.to_list()))
    assert place.tolist() == [ids.to_list().index(value) for value in column.to_list()]
    assert (ids.name, ids.dtype, place.dtype) == ("id", column.dtype, np.int32)


@pytest.mark.parametrize("big", [2**31, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_large_integers_never_go_through_a_float(big):
    vocabulary = Vocabulary(pl.Series([5, big, big - 1 if big > 0 else big + 1]), 3)
    assert vocabulary.rows([big]).tolist() == [2]
    assert vocabulary.external(np.array([2]))[0] == big


def test_an_unknown_id_is_row_zero_and_a_wrong_type_is_refused():
    numbers = Vocabulary(pl.Series([3, 1]), 2)
    assert numbers.rows([1, 2, 3]).tolist() == [2, 0, 1]
    with pytest.raises(QueryError, match="integers"):
        numbers.rows(["1"])
    with pytest.raises(QueryError, match="strings"):
        Vocabulary(pl.Series(["1"]), 1).rows([1])


def test_typed_ids_are_read_as_the_vocabularys_type():
    assert Vocabulary(pl.Series(["007"]), 1).parse(["007"]).to_list() == ["007"]
    assert Vocabulary(pl.Series([7]), 1).parse([" 7"]).to_list() == [7]
    with pytest.raises(QueryError, match="'x'"):
        Vocabulary(pl.Series([7]), 1, "user").parse(["x"])
    for other in ("007", "+7", "7.0"):  # another id, if it is one
        with pytest.raises(QueryError, match="integers"):
            Vocabulary(pl.Series([7]), 1, "user").parse([other])


def test_hashes_are_pinned_so_that_ties_never_move_between_versions():
    # 0xE220A8397B1DCDAF is the first output of splitmix64 seeded with 0 (Steele et al. 2014).
    assert hash_ids(pl.Series([0, 1, -1])).tolist() == [
        16294208416658607535,
        10451216379200822465,
        16490336266968443936,
    ]
    assert hash_ids(pl.Series(["a", "ab"])).tolist() == [15154452856141135343, 15470777570142415188]


def test_the_hash_of_a_string_does_not_depend_on_its_neighbours():
    many = pl.Series(["b", "aa", "", "xyz", "aa"])
    assert hash_ids(many)[1] == hash_ids(pl.Series(["aa"]))[0] == hash_ids(many)[4]
    assert hash_ids(many)[2] == hash_ids(pl.Series([""]))[0]
    assert hash_ids(many[2:])[1] == hash_ids(pl.Series(["xyz"]))[0]


def test_other_seeds_give_other_orders():
    ids = pl.Series(range(1000))
    first, second = (np.argsort(hash_ids(ids, seed)) for seed in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True),
    st.lists(st.integers(-9, 9), max_size=9),
)
def test_integers_are_found_alike_one_by_one_and_as_a_column(ids, others):
    vocabulary = Vocabulary(pl.Series([*ids], dtype=pl.Int64), len(ids))
    wanted = [*ids[::-1], *others]
    rows = [ids.index(i) + 1 if i in ids else 0 for i in wanted]
    for kind in (list, tuple, np.array, lambda some: pl.Series([*some, None], dtype=pl.Int64)):
        assert vocabulary.rows(kind(wanted))[: len(rows)].tolist() == rows
    assert [vocabulary.rows([i]).tolist() for i in wanted] == [[row] for row in rows]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True), st.text(max_size=2)
)
def test_strings_are_found_alike_one_by_one_and_as_a_column(ids, other):
    vocabulary = Vocabulary(pl.Series(ids, dtype=pl.String), len(ids))
    wanted = [text for text in [*ids[::-1], other] if text.isprintable()]
    rows = [ids.index(i) + 1 if i in ids else 0 for i in wanted]
    assert vocabulary.rows(pl.Series(wanted, dtype=pl.String)).tolist() == rows
    assert vocabulary.rows(wanted).tolist() == rows
    assert [vocabulary.rows([i]).tolist() for i in wanted] == [[row] for row in rows]


@pytest.mark.parametrize("odd", [[True], [1.0], [None, "1"], ["1", 1], np.array([[1]]), [b"1"]])
def test_ids_that_are_only_like_integers_are_refused(odd):
    with pytest.raises(QueryError, match="integers"):
        Vocabulary(pl.Series([1, 2]), 2).rows(odd)
