"""Readers: every door gives the same table, every fault is named, every row is accounted for."""

import gzip

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.dataset import Dataset
from shortlist.data.id_columns import align_ids
from shortlist.data.readers import is_text, read_entities, read_frame, read_interactions
from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError

LOG = {"user_id": [2, 1, 2], "item_id": ["b", "a", "a"], "t": [5, 6, 5], "w": [1.0, 2.0, 3.0]}
SCHEMA = Schema(time="t", weight="w")


def log(**columns):
    return pl.DataFrame({**LOG, **columns})


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- doors


def test_every_door_gives_the_same_log_in_the_order_of_the_file(tmp_path):
    frame = log()
    frame.write_csv(tmp_path / "log.csv")
    frame.write_csv(tmp_path / "log.tsv", separator="\t")
    frame.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    atomic = "user_id:token\titem_id:token\tt:float\tw:float\n2\tb\t5\t1\n1\ta\t6\t2\n2\ta\t5\t3\n"
    write(tmp_path / "log.inter", atomic)
    expected = frame.rename({"user_id": "user", "item_id": "item", "t": "time", "w": "weight"})
    sources = [tmp_path / f"log.{kind}" for kind in ("csv", "tsv", "parquet", "csv.gz", "inter")]
    sources += [str(sources[0]), frame, frame.lazy(), pd.DataFrame(LOG), pa.table(LOG)]
    sources += [pa.RecordBatchReader.from_batches(pa.table(LOG).schema, pa.table(LOG).to_batches())]
    for source in sources:
        found, report = read_interactions(source, SCHEMA)
        assert found.equals(expected), source
        assert (report.rows_read, report.rows) == (3, 3)


def test_only_the_columns_asked_for_come_back():
    found, _ = read_interactions(log(extra=[1, 2, 3], s=["x", "y", "z"]), Schema(session="s"))
    assert found.columns == ["user", "item", "session"]


def test_a_csv_with_byte_order_mark_quotes_and_windows_line_ends_is_read(tmp_path):
    text = b'\xef\xbb\xbfuser_id,item_id\r\n"1","a,b"\r\n2,c\r\n'
    found, _ = read_interactions(write(tmp_path / "log.csv", text), Schema())
    assert found.rows() == [(1, "a,b"), (2, "c")]


def test_blank_lines_at_the_end_are_no_rows_and_those_within_are_faults(tmp_path):
    found, report = read_interactions(
        write(tmp_path / "log.csv", "user_id,item_id\n1,2\n\n\n"), Schema()
    )
    assert (found.rows(), report.rows_read) == ([(1, 2)], 1)
    with pytest.raises(DataError, match=r"column 'user_id', row 2: the id is missing"):
        read_interactions(write(tmp_path / "gap.csv", "user_id,item_id\n1,2\n\n3,4\n"), Schema())


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_strange_ids_survive_parquet_pandas_and_arrow(ids):
    kept = [value for value in ids if value.strip()] or ["x"]
    columns = {"user_id": kept, "item_id": kept}
    for source in (pl.DataFrame(columns), pd.DataFrame(columns), pa.table(columns)):
        found, report = read_interactions(source, Schema(null_ids="keep"))
        assert found["user"].to_list() == list(dict.fromkeys(kept))
        assert report.duplicates == len(kept) - len(set(kept))


@given(
    st.lists(
        st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip() and text != "\\N"),
        min_size=1,
        unique=True,
    )
)
def test_strange_ids_survive_csv(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ids") / "log.csv"
    pl.DataFrame({"user_id": ids, "item_id": ids}).write_csv(path, quote_style="always")
    found, _ = read_interactions(path, Schema(null_ids="keep"))
    assert [str(value) for value in found["user"]] == ids


def test_ids_of_a_csv_are_integers_only_if_nothing_is_lost(tmp_path):
    path = write(tmp_path / "log.csv", f"user_id,item_id\n7,{2**63}\n007,1\n")
    found, _ = read_interactions(path, Schema())
    assert found.rows() == [("7", str(2**63)), ("007", "1")]
    path = write(tmp_path / "big.csv", f"user_id,item_id\n{2**53 + 1},-1\n")
    assert read_interactions(path, Schema())[0].rows() == [(2**53 + 1, -1)]


def test_float_looking_ids_of_a_csv_stay_as_they_were_written(tmp_path):
    path = write(tmp_path / "log.csv", "user_id,item_id\n1.0,1e5\n2.50,2\n")
    assert read_interactions(path, Schema())[0].rows() == [("1.0", "1e5"), ("2.50", "2")]
    path = write(tmp_path / "items.csv", "item_id,x\n1.0,1\n2.50,2\n")
    assert read_entities(path, "item_id")["id"].to_list() == ["1.0", "2.50"]


def test_columns_of_a_text_file_take_the_type_of_their_values(tmp_path):
    path = write(tmp_path / "items.csv", 'id,n,f,s,zip,v\n1,3,1.5,x,007,1.10\n2,,,"",8,2\n')
    frame = read_frame(path, "items")
    expected = ["Int64", "Int64", "Float64", "String", "String", "Float64"]
    assert [str(kind) for kind in frame.dtypes] == expected
    assert frame.row(1) == (2, None, None, None, "8", 2.0)
    assert read_frame(path, "items", ids=["v"])["v"].to_list() == ["1.10", "2"]


def test_atomic_files_give_lists_for_their_sequences(tmp_path):
    text = 'item_id:token\ttitle:token_seq\tv:float_seq\tx:y\n1\t"Star Wars\t0.5 1\tq\n'
    frame = read_frame(write(tmp_path / "a.item", text), "items")
    assert frame.columns == ["item_id", "title", "v", "x:y"]
    assert frame.row(0) == (1, ['"Star', "Wars"], [0.5, 1.0], "q")
    titled = read_entities(tmp_path / "a.item", "item_id", title="title")
    assert titled["title"].to_list() == ['"Star Wars']


def test_a_bad_number_in_an_atomic_float_sequence_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"column 'v', row 1: .* float_seq, and '0\.5 x'"):
        read_frame(write(tmp_path / "a.item", "item_id:token\tv:float_seq\n1\t0.5 x\n"), "items")


# --- faults


def test_a_missing_column_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(DataError) as caught:
        read_interactions(log().rename({"user_id": "userid"}), Schema())
    message = str(caught.value)
    assert message.startswith("the interactions frame: no column 'user_id'. Did you mean 'userid'?")
    assert "userid, item_id, t, w" in message


def test_a_missing_file_is_answered_with_the_nearest(tmp_path):
    write(tmp_path / "interactions.csv", "x")
    with pytest.raises(DataError, match=r"no such file. Did you mean 'interactions.csv'"):
        read_frame(tmp_path / "interaction.csv", "interactions")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("log.csv", "", "the file is empty"),
        ("log.parquet", "", "the file is empty"),
        ("log.csv", "user_id,item_id\n", "there are no rows"),
        ("log.csv", "user_id,item_id\n\n", "there are no rows"),
        ("log.csv", "user_id,item_id\n1,2,3\n", "row 1: 3 fields where the header has 2"),
        ("log.csv", b"user_id,item_id\n\xff,2\n", "row 1: b'\\xff,2' is not utf-8 text"),
        ("log.csv", "user_id,user_id,item_id\n1,2,3\n", "two columns are named 'user_id'"),
        ("log.csv.gz", gzip.compress(b"user_id,item_id\n1,2\n" * 99)[:-30], "cannot be read"),
        ("log.parquet", "user_id,item_id\n1,2\n", "cannot be read"),
        ("log.json", "{}", "no column 'user_id'"),
        ("log.xml", "{}", "cannot read '.xml' files; give .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, reason):
    with pytest.raises(DataError) as caught:
        read_interactions(write(tmp_path / name, content), Schema())
    assert str(tmp_path / name) in str(caught.value)
    assert reason in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="the folder holds no table"):
        read_frame(tmp_path, "items")


def test_parquet_cut_short_anywhere_is_refused(tmp_path):
    log().write_parquet(tmp_path / "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    for length in range(0, len(whole), 7):
        with pytest.raises(DataError, match=r"log\.parquet"):
            read_interactions(write(tmp_path / "log.parquet", whole[:length]), SCHEMA)


@pytest.mark.parametrize("source", [7, None, {"user_id": [1]}, [1]])
def test_what_is_no_table_is_refused(source):
    with pytest.raises(DataError, match="expected a path or a frame"):
        read_frame(source, "items")


def test_a_frame_without_rows_is_refused():
    with pytest.raises(DataError, match="the interactions frame: there are no rows"):
        read_interactions(log().head(0), Schema())


@pytest.mark.parametrize("values", [[1, "1"], ["1", 1], [1, True], [None, 1, "x"]])
def test_mixed_ids_of_pandas_are_refused(values):
    frame = pd.DataFrame({"user_id": pd.Series(values, dtype=object), "item_id": 1})
    with pytest.raises(DataError, match="column 'user_id': values are of mixed types"):
        read_interactions(frame, Schema())


def test_pandas_integers_with_a_gap_are_refused_by_row_and_nullable_ones_too():
    for dtype in ("float64", "Int64", object):
        column = pd.Series([1, 2, None], dtype=dtype)
        with pytest.raises(DataError, match="column 'user_id', row 3: the id is missing"):
            read_interactions(pd.DataFrame({"user_id": column, "item_id": 1}), Schema())


def test_pandas_float_ids_are_refused():
    frame = pd.DataFrame({"user_id": [1.0, 2.0], "item_id": [1, 2]})
    with pytest.raises(DataError, match="ids are floats"):
        read_interactions(frame, Schema())


def test_pandas_integers_beyond_any_type_are_refused():
    frame = pd.DataFrame({"user_id": pd.Series([2**70], dtype=object), "item_id": 1})
    with pytest.raises(DataError, match="cannot be read as one type"):
        read_interactions(frame, Schema())


def test_nan_in_pandas_is_a_missing_feature_and_in_polars_a_fault():
    features = [Feature("x", "numeric")]
    columns = {"item_id": [1, 2], "x": [1.0, float("nan")]}
    assert read_entities(pd.DataFrame(columns), "item_id", features)["x"].to_list() == [1.0, None]
    with pytest.raises(DataError, match="row 2: nan is not a finite number"):
        read_entities(pl.DataFrame(columns), "item_id", features)


def test_pandas_frames_with_repeated_or_unnamed_columns_are_refused():
    with pytest.raises(DataError, match="two columns are named 'a'"):
        read_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]), "items")
    with pytest.raises(DataError, match="column names must be text, got 0"):
        read_frame(pd.DataFrame([[1, 2]]), "items")


def test_a_column_nobody_asked_for_may_be_as_mixed_as_it_likes():
    frame = pd.DataFrame({**LOG, "junk": pd.Series([1, "x", None], dtype=object)})
    assert read_interactions(frame, SCHEMA)[1].rows == 3


@pytest.mark.parametrize("role", ["session", "split"])
def test_a_missing_session_or_split_is_refused_by_row(role):
    with pytest.raises(DataError, match=r"column 'x', row 2: the .* is missing"):
        read_interactions(log(x=["a", None, "b"]), Schema(**{role: "x"}))


# --- repeats and weights


def test_equal_rows_are_merged_and_counted():
    frame = pl.concat([log(), log(), log().head(1)])
    found, report = read_interactions(frame, SCHEMA)
    assert found.rows() == [(2, "b", 5, 1.0), (1, "a", 6, 2.0), (2, "a", 5, 3.0)]
    assert (report.rows_read, report.duplicates, report.conflicts, report.rows) == (7, 4, 0, 3)


def test_rows_that_differ_in_time_session_or_split_are_no_repeats():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 1], "x": [1, 2]})
    for role in ("time", "session", "split"):
        assert read_interactions(frame, Schema(**{role: "x"}))[1].rows == 2


REPEATS = pl.DataFrame(
    {"user_id": [1, 1, 2, 1, 1], "item_id": [5] * 5, "t": [0] * 5, "w": [2.0, 4.0, 1.0, 2.0, 3.0]}
)


@given(st.permutations(range(5)))
def test_a_conflict_keeps_the_largest_weight_whatever_the_order(order):
    found, report = read_interactions(REPEATS[list(order)], SCHEMA)
    assert sorted(found.rows()) == [(1, 5, 0, 4.0), (2, 5, 0, 1.0)]
    assert (report.duplicates, report.conflicts) == (1, 2)


def test_with_file_order_the_last_row_replaces_the_earlier_ones():
    found, report = read_interactions(REPEATS, Schema(time="t", weight="w", tie="file"))
    assert found.rows() == [(2, 5, 0, 1.0), (1, 5, 0, 3.0)]
    assert (report.duplicates, report.conflicts) == (1, 2)


def test_a_later_low_rating_takes_back_a_positive_in_file_order_only():
    frame = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [5, 5, 5], "w": [5, 1, 5]})
    for tie, users in (("file", [2]), ("hash", [1, 2])):
        found, report = read_interactions(frame, Schema(weight="w", min_weight=3, tie=tie))
        assert sorted(found["user"]) == users
        assert report.below_min_weight == 2 - len(users)


def test_rows_below_the_smallest_weight_are_left_out_and_counted():
    found, report = read_interactions(log(), Schema(weight="w", min_weight=2))
    assert found["weight"].to_list() == [2.0, 3.0]
    assert (report.below_min_weight, report.rows) == (1, 2)
    with pytest.raises(DataError, match="no row has a weight of at least 9"):
        read_interactions(log(), Schema(weight="w", min_weight=9))


def test_merging_agrees_with_a_plain_count_on_many_repeats():
    n = 5_000
    frame = pl.DataFrame(
        {
            "user_id": pl.int_range(n, eager=True) * 7 % 31,
            "item_id": pl.int_range(n, eager=True) * 5 % 37,
            "w": pl.int_range(n, eager=True) * 3 % 11,
        }
    )
    found, report = read_interactions(frame, Schema(weight="w"))
    best = {}
    for user, item, weight in frame.iter_rows():
        best[user, item] = max(weight, best.get((user, item), weight))
    assert {(user, item): weight for user, item, weight in found.rows()} == best
    assert report.rows == len(best)
    assert report.duplicates == n - len(set(frame.rows()))
    assert report.rows == report.rows_read - report.duplicates - report.conflicts


def test_the_report_says_in_words_what_was_left_out():
    frame = pl.concat(
        [REPEATS, pl.DataFrame({"user_id": [3], "item_id": [5], "t": [0], "w": [0.0]})]
    )
    _, report = read_interactions(frame, SCHEMA)
    said = " ".join(report.lines())
    assert said.startswith("the interactions frame: 6 rows read, 3 kept. 1 exact duplicate merged.")
    assert "2 rows repeated another with a different weight; the largest weight was kept." in said
    assert "1 row of weight 0 counted as positives" in said
    _, report = read_interactions(frame, Schema(time="t", weight="w", min_weight=1, tie="file"))
    said = " ".join(report.lines())
    assert "the last in the file was kept" in said
    assert "1 row below the smallest weight of a positive, 1, left out of training" in said


# --- entities


def test_entities_have_one_row_an_id_and_keep_all_columns():
    frame = pl.DataFrame({"age": [3, None], "user_id": ["x", "y"], "note": ["a", "b"]})
    found = read_entities(frame, "user_id", [Feature("age", "numeric")], name="users")
    assert found.columns == ["id", "age", "note"]
    assert found.rows() == [("x", 3, "a"), ("y", None, "b")]


def test_a_repeated_id_is_refused_by_name_and_row():
    frame = pl.DataFrame({"item_id": [4, 9, 4, 9]})
    with pytest.raises(DataError, match=r"row 3: the id 4 is already in row 1"):
        read_entities(frame, "item_id")


def test_a_column_called_id_beside_the_ids_is_left_out_and_refused_as_a_feature():
    frame = pl.DataFrame({"item_id": [1], "id": [2], "note": ["a"]})
    assert read_entities(frame, "item_id").rows() == [(1, "a")]
    with pytest.raises(DataError, match="the ids are in 'item_id'; rename"):
        read_entities(frame, "item_id", [Feature("id", "numeric")])


def test_a_table_may_call_its_ids_otherwise_than_the_log():
    log = pl.DataFrame({"user_id": [1, 1, 2], "sku": ["a", "b", "a"]})
    items = pl.DataFrame({"id": ["a", "b"], "price": [1.0, 2.0]})
    feature = Feature("price", "numeric")
    schema = Schema(item="sku", items_id="id", item_features=(feature,))
    data = Dataset.load(log, items=items, schema=schema)
    assert data.items is not None
    assert data.items.rows() == [("a", 1.0), ("b", 2.0)]


def test_a_declared_feature_or_title_that_is_missing_is_answered_with_the_nearest():
    frame = pl.DataFrame({"item_id": [1], "genre": ["x"]})
    with pytest.raises(DataError, match=r"items frame: no column 'genres'\. Did you mean 'genre'"):
        read_entities(frame, "item_id", [Feature("genres", "multi-valued")])
    with pytest.raises(DataError, match="no column 'title'"):
        read_entities(frame, "item_id", title="title")


def test_categories_of_a_csv_keep_their_zeros_and_numbers_are_numbers(tmp_path):
    path = write(
        tmp_path / "users.csv", "user_id,zip,version,age\n1,02138,1.10,30\n2,94043,1.1,x\n"
    )
    kinds = [Feature("zip", "categorical"), Feature("version", "categorical")]
    found = read_entities(path, "user_id", kinds, name="users")
    assert found["zip"].to_list() == ["02138", "94043"]
    assert found["version"].to_list() == ["1.10", "1.1"]
    with pytest.raises(DataError, match=r"users\.csv: column 'age', row 2: .* got 'x'"):
        read_entities(path, "user_id", [Feature("age", "numeric")], name="users")


def test_a_title_is_text_whatever_it_was(tmp_path):
    path = write(tmp_path / "items.csv", "item_id,title\n1,1984\n2,2001\n")
    assert read_entities(path, "item_id", title="title")["title"].to_list() == ["1984", "2001"]
    with pytest.raises(DataError, match="a title must be text"):
        read_entities(pl.DataFrame({"item_id": [1], "t": [{"a": 1}]}), "item_id", title="t")


# --- ids of two tables


def test_only_ids_written_as_text_change_their_type(tmp_path):
    numbers, text = pl.Series([1, 2]), pl.Series(["1", "007"])
    assert align_ids(numbers, numbers, left_text=False, right_text=False, where="x")[0] is numbers
    for left, right, flags in ((numbers, text, (True, False)), (text, numbers, (False, True))):
        found = align_ids(left, right, left_text=flags[0], right_text=flags[1], where="x")
        assert [series.dtype for series in found] == [pl.String, pl.String]
    with pytest.raises(DataError, match=r"users: ids are integers .1. in one table and text"):
        align_ids(text, numbers, left_text=True, right_text=False, where="users")
    with pytest.raises(DataError, match="give both the same type"):
        align_ids(numbers, text, left_text=False, right_text=True, where="users")


def test_text_files_are_known_by_their_names():
    assert [is_text(name) for name in ("a.csv", "b.tsv.gz", "c.inter", "d.parquet")] == [
        True,
        True,
        True,
        False,
    ]
    assert not is_text(log())
