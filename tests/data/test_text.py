"""Text files: what was written is what is read, or the row that leaves a doubt is named."""

import csv
import io
import mmap
import os
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shortlist.data.lines import Layout, _regular, count_lines, read_quotes
from shortlist.data.readers import read_entities, read_frame, read_log
from shortlist.data.schema import Feature, Schema
from shortlist.data.text import TextFormat, open_text
from shortlist.errors import DataError

FEW = 200
EXAMPLES = int(os.environ.get("SHORTLIST_EXAMPLES", FEW))
"""`make data-fuzz` sets the variable, and draws anew each time."""

LOG = Schema(user="user", item="item", time="time")


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(odd=(), *, rows=400, separator="\t"):
    """A log with a title in its last column; odd: row -> title."""
    header = separator.join(["user", "item", "time", "title"])
    titles = {n: f"song {n}" for n in range(1, rows + 1)} | dict(odd)
    body = [separator.join([f"u{n % 7}", f"i{n}", f"{n}", titles[n]]) for n in titles]
    return "\n".join([header, *body, ""])


# --- heads


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_head_of_a_file_is_whole_lines_and_no_part_of_a_quoted_field(tmp_path, encoding):
    body = "".join(f'u{n},i{n},"a title, {n}\nof two lines"\n' for n in range(400))
    path = write(tmp_path / "log.csv", ("user,item,title\n" + body).encode(encoding))
    for most in range(1000, 1100):
        found = open_text(path, TextFormat(), most).lazy.collect()
        whole = open_text(path, TextFormat()).lazy.collect()
        assert 0 < found.height < 60
        assert found.equals(whole.head(found.height))


def test_tables_of_movielens_with_a_suffix_of_recbole_are_read_as_they_are(tmp_path):
    path = write(tmp_path / "u.user", "1|24|M|writer|85711\n2|53|F|other|94043\n")
    columns = ("user_id", "age", "gender", "job", "zip")
    found = read_frame(path, "users", text=TextFormat(columns=columns))
    assert found.rows()[1] == (2, 53, "F", "other", 94043)
    recbole = write(tmp_path / "ml.user", "user_id:token\tage:float\n1\t24\n")
    assert read_frame(recbole, "users").columns == ["user_id", "age"]


# --- quotes


def test_quotes_that_never_close_are_characters_and_no_row_vanishes(tmp_path):
    path = write(tmp_path / "log.tsv", lines({21: '"Heroes', 301: '12" remix'}))
    log = read_log(path, LOG)
    assert (log.report.rows_read, log.report.rows, log.report.text.quote) == (400, 400, "none")
    assert read_frame(path, "log")["title"][20] == '"Heroes'


def test_quotes_around_whole_rows_are_refused_as_they_may_be_characters(tmp_path):
    path = write(tmp_path / "log.tsv", lines({21: '"Heroes', 301: 'vinyl, 12"'}))
    with pytest.raises(DataError, match=r"row 21: .* a whole row itself.*data.quote = 'none'"):
        read_log(path, LOG)
    assert read_log(path, LOG_NONE).report.rows == 400
    # The same holds where another field of the file needs its quotes.
    path = write(
        tmp_path / "log.csv",
        lines({9: '"Walk, Run"', 21: '"Heroes', 301: '12"'}).replace("\t", ","),
    )
    with pytest.raises(DataError, match="row 21: "):
        read_log(path, LOG)


LOG_NONE = Schema(user="user", item="item", time="time", text=TextFormat(quote="none"))


def test_quotes_of_both_kinds_are_refused_with_the_row_and_the_key(tmp_path):
    path = write(tmp_path / "log.csv", lines({5: '"Walk, Run"', 8: '"Great" songs'}, separator=","))
    with pytest.raises(DataError, match=r"log\.csv: row 8: .*\"Great\" songs.*data.quote = 'none'"):
        read_log(path, LOG)


def test_quotes_are_quotes_where_all_close_and_may_hold_lines_and_stand_within_others(tmp_path):
    odd = {3: '"Walk, Run"', 4: '"say ""hi"""', 5: '"two\nlines, and more"', 6: '12" remix'}
    path = write(tmp_path / "log.csv", lines(odd, separator=","))
    found = read_frame(path, "log")
    assert found.height == 400
    assert found["title"][2:6].to_list() == [
        "Walk, Run",
        'say "hi"',
        "two\nlines, and more",
        '12" remix',
    ]
    assert read_log(path, LOG).report.text.quote == '"'


def test_the_walk_in_machine_code_finds_what_the_plain_one_finds(tmp_path):
    text = lines({3: '"a,b"', 7: '"x" y', 9: '"1\n2"', 20: '3" z'}, separator=",").encode()
    layout = Layout("log", 0, b",", 4, True, ",")
    small = read_quotes(text, layout, '"')
    large = read_quotes(text + b"u,i,1,t\n" * 20_000, layout, '"')
    assert (small.good, small.bad, small.first_bad, small.inner) == (2, 1, 8, 2)
    assert large[1:] == small[1:]
    assert large.records == small.records + 20_000


def test_blocks_of_any_size_find_what_one_walk_through_the_file_finds(monkeypatch):
    random = Random(0)
    usual = [
        "a",
        "12345",
        "",
        "x" * 70,
        '"a,b"',
        '"say ""hi"""',
        '""',
        '""""',
        '"' + "y" * 80 + '"',
    ]
    odd = ['"two\nlines"', '"a,b,c\nd,e,f"', '12" x', '"x" y', '"open', '"\n"', "one,more", "\r"]
    for columns in (1, 2, 3, 5):
        for end in ("\n", "\r\n"):
            for share in (0, 0, 0.01, 0.1):
                rows = (
                    ",".join(random.choice(odd if random.random() < share else usual) for _ in row)
                    for row in [range(columns)] * random.randrange(1, 60)
                )
                data = (end.join(rows) + random.choice([end, end * 3, ""])).encode()
                layout = Layout("log", 0, b",", columns, True, ",")
                plain = read_quotes(data, layout, '"')
                with monkeypatch.context() as patch:
                    patch.setattr("shortlist.data.lines._SMALL", 0)
                    for size in (64, 200, 1 << 20):
                        patch.setattr("shortlist.data.lines._BLOCK", size)
                        assert read_quotes(data, layout, '"') == plain


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fields_in_quotes_are_read_64_bytes_at_a_time(end):
    row = f'"say ""a, b""",12345,"","{"x" * 50}"{end}'
    data, found = (row * 100).encode(), np.zeros(11, dtype=np.int64)
    taken = _regular(np.frombuffer(data, "<u8", len(data) // 64 * 8), 44, 34, 4, found)
    assert len(data) - len(row) - 64 < taken <= len(data)
    assert taken == len(row) * found[0]
    assert found[1] == 3 * found[0]


def test_a_long_file_leaves_the_memory_behind_what_was_looked_at(tmp_path):
    given = []

    class Watched(mmap.mmap):
        def madvise(self, option, start, length):
            given.append((option, start, length))

    for field in ("some words", '"some words"'):
        path = write(tmp_path / "log.csv", f"{field},2\n" * 300_000)
        with path.open("rb") as file:
            data = Watched(file.fileno(), 0, access=mmap.ACCESS_READ)
        layout = Layout("log", 0, b",", 2, True, ",")
        if count_lines(data, layout, '"') is None:
            assert read_quotes(data, layout, '"').records == 300_000
        assert all(option == mmap.MADV_DONTNEED for option, *_ in given)
        assert sum(length for *_, length in given) >= len(data)
        assert max(length for *_, length in given) < 2 << 20
        given.clear()


# --- lines


@pytest.mark.parametrize("title", ["Walk, Run", "7, 8"])
def test_a_field_too_many_is_refused_though_its_column_is_not_asked_for(tmp_path, title):
    text = "user,title,item,time\n" + "".join(f"{n},{n},{n},{n}\n" for n in range(50_000))
    path = write(tmp_path / "log.csv", text.replace("\n40000,40000,", f"\n40000,{title},"))
    with pytest.raises(DataError, match=r"row 40,001: 5 fields where the header has 4: '40000,.*'"):
        read_log(path, LOG)


def test_a_field_too_few_is_refused(tmp_path):
    path = write(tmp_path / "log.tsv", lines().replace("i9\t9\t", "i9\t"))
    with pytest.raises(DataError, match=r"row 9: 3 fields where the header has 4"):
        read_log(path, LOG)


def test_line_ends_of_any_kind_and_blank_lines_at_the_end_change_nothing(tmp_path):
    plain = read_log(write(tmp_path / "log.tsv", lines()), LOG).events
    for end in ("\r\n", "\r"):
        for tail in ("", end * 3):
            text = lines().rstrip("\n").replace("\n", end) + tail
            assert read_log(write(tmp_path / "log.tsv", text), LOG).events.equals(plain)


def test_decimals_with_a_comma_are_numbers_where_that_is_said_and_ids_stay(tmp_path):
    path = write(tmp_path / "log.csv", "user;item;w\n1,5;1;0,5\n2,5;2;3\n")
    with pytest.raises(DataError, match=r"row 1: .*got '0,5'.*data.decimal = ','"):
        read_log(path, Schema(user="user", item="item", weight="w"))
    text = TextFormat(decimal=",")
    found = read_log(path, Schema(user="user", item="item", weight="w", text=text)).events
    assert found.rows() == [("1,5", 1, 0.5), ("2,5", 2, 3.0)]
    assert read_frame(path, "log", text=text)["w"].to_list() == [0.5, 3.0]


# --- missing values


def test_null_ids_are_refused_or_dropped_and_counted(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,time\n\\N,1,1\n2,,2\n3,1,3\n4,\\N,x\n3,2,4\n")
    with pytest.raises(DataError, match=r"column 'user', row 1: .*data.null_ids = \"drop\""):
        read_log(path, LOG)
    log = read_log(path, Schema(user="user", item="item", time="time", null_ids="drop"))
    assert log.events["user"].to_list() == [3, 3]
    assert log.report.rows_read == 5
    assert "3 rows without a user or an item left out." in log.report.lines()


@pytest.mark.parametrize("word", ["NULL", "NA", "None", "nan"])
def test_words_for_nothing_are_no_ids_unless_they_are_kept(tmp_path, word):
    path = write(tmp_path / "log.csv", f"user,item\n1,1\n{word},2\n3,{word}\n")
    with pytest.raises(DataError, match=rf"row 2: the id '{word}' .*null_values = \[\"{word}\"\]"):
        read_log(path, Schema(user="user", item="item"))
    kept = read_log(path, Schema(user="user", item="item", null_ids="keep"))
    assert kept.events["user"].to_list() == ["1", word, "3"]
    text = TextFormat(null_values=(word,))
    left = read_log(path, Schema(user="user", item="item", null_ids="drop", text=text))
    assert left.events.rows() == [(1, 1)]
    frame = pl.DataFrame({"user": ["1", word], "item": [1, 2]})
    with pytest.raises(DataError, match="row 2: the id"):
        read_log(frame, Schema(user="user", item="item"))


def test_such_words_stay_values_of_features_and_are_told(tmp_path):
    path = write(tmp_path / "users.csv", "user,country\n1,NA\n2,\\N\n3,DE\n")
    said = []
    found = read_entities(path, "user", [Feature("country", "categorical")], notes=said)
    assert found["country"].to_list() == ["NA", None, "DE"]
    assert "'NA' is read as a value, 1 time" in said[-1]


def test_one_text_id_among_numbers_is_told(tmp_path):
    body = "".join(f"{n},1\n" for n in range(1, 200))
    path = write(tmp_path / "log.csv", f"user,item\n{body}x7,1\n")
    report = read_log(path, Schema(user="user", item="item")).report
    assert "1 id of 200 is text among numbers, the first 'x7' in row 200" in report.notes[0]


# --- the right row is blamed

GOOD = {
    "time": [str(1_600_000_000 + n) for n in range(9)],
    "iso": [f"2024-01-0{n + 1}" for n in range(9)],
    "weight": [f"{n}.5" for n in range(9)],
    "vector": ["1|2"] * 9,
}


READ = {
    "time": lambda path: read_log(path, Schema(user="user", item="item", time="time")),
    "iso": lambda path: read_log(path, Schema(user="user", item="item", time="iso")),
    "weight": lambda path: read_log(path, Schema(user="user", item="item", weight="weight")),
    "vector": lambda path: read_entities(path, "item", [Feature("vector", "vector")]),
}


@pytest.mark.parametrize(
    ("column", "bad", "said"),
    [
        ("time", "soon", "the time 'soon'"),
        ("time", "007", "the time '007'"),
        ("time", "", "the time is missing"),
        ("iso", "2024/01/02", "the time '2024/01/02'"),
        ("iso", "7", "the time '7'"),
        ("weight", "good", "got 'good'"),
        ("weight", '"1,5"', "got '1,5'. If all decimals have a comma"),
        ("weight", "", "the weight is missing"),
        ("weight", "inf", "inf"),
        ("weight", "-1", "-1"),
        ("vector", "1|x", "['1', 'x']"),
        ("vector", "1", "equally long: 1 here"),
    ],
)
@pytest.mark.parametrize("row", [1, 6])
def test_one_bad_value_is_blamed_on_its_own_row(tmp_path, column, bad, said, row):
    values = [*GOOD[column][: row - 1], bad, *GOOD[column][row:]]
    body = "".join(f"{n},{n},{value}\n" for n, value in enumerate(values))
    path = write(tmp_path / "log.csv", f"user,item,{column}\n{body}")
    with pytest.raises(DataError) as caught:
        READ[column](path)
    assert f"{path}: column '{column}', row {row}: " in str(caught.value)
    assert said in str(caught.value)


# --- what is written is what is read

FIELD = st.text(st.sampled_from("ab7éж,;\t|:\"' \r\n\\N#"), max_size=6)
CELLS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FIELD, min_size=width, max_size=width), min_size=1, max_size=8)
)


def written(cells, separator, quoting, end, encoding):
    """The cells as Python's csv module writes them, under a header; None where it cannot."""
    target = io.StringIO(newline="")
    quote = None if quoting == csv.QUOTE_NONE else '"'
    try:
        writer = csv.writer(
            target, delimiter=separator, lineterminator=end, quoting=quoting, quotechar=quote
        )
        writer.writerow([f"c{n}" for n in range(len(cells[0]))])
        writer.writerows(cells)
        return target.getvalue().encode(encoding)
    except (csv.Error, UnicodeEncodeError):
        return None


@settings(max_examples=EXAMPLES, derandomize=EXAMPLES <= FEW)
@given(
    CELLS,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    st.booleans(),
)
def test_any_table_is_read_as_it_was_written_or_refused(
    tmp_path_factory, cells, separator, quoting, end, encoding, said
):
    if quoting != csv.QUOTE_ALL:  # csv writes them as they are, and then they end a line
        cells = [[cell.replace("\r", "") for cell in row] for row in cells]
    data = written(cells, separator, quoting, end, encoding)
    assume(data is not None)
    path = write(tmp_path_factory.mktemp("any") / "table.csv", data)
    begun = any(cell.startswith('"') for row in cells for cell in row)
    plain = quoting == csv.QUOTE_NONE
    quote = ("none" if plain else '"') if said or (plain and begun) else None
    told = "gb18030" if encoding == "gb18030" else None
    asked = TextFormat(separator=separator, encoding=told, quote=quote)
    try:
        text = open_text(path, asked)
    except DataError as error:
        # What is left to the file may be refused; who tells of the quotes gets all.
        refused = str(error)
    else:
        found = text.lazy.collect().head(text.rows)
        expected = [[None if cell in ("", "\\N") else cell for cell in row] for row in cells]
        while (
            len(cells[0]) == 1
            and expected
            and expected[-1] == [None]
            and found.height != len(expected)
        ):
            expected.pop()  # blank lines at the end
        assert [list(row) for row in found.iter_rows()] == expected
        return
    assert quote is None, refused
    assert "row " in refused or "the header: " in refused


def test_bytes_that_are_no_text_are_refused_by_their_first_line(tmp_path):
    path = write(tmp_path / "log.csv", b'us\r"er",item,x\n1,2,3\n')
    with pytest.raises(DataError, match="the first line cannot be read"):
        open_text(path, TextFormat())


def test_utf_16_without_its_mark_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "log.csv").write_bytes("user_id,item_id\n1,2\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r'log\.csv: this is no text in utf-16: .*"utf-16-le"'):
        read_frame(tmp_path / "log.csv", "log", text=TextFormat(encoding="utf-16"))
