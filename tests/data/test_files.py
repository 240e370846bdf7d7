"""Files and folders as sources: all of them are read, alike, and a fault names the one file."""

import gzip
import os

import polars as pl
import pyarrow as pa
import pytest

from shortlist.data.dataset import Dataset
from shortlist.data.readers import is_text, read_log
from shortlist.data.schema import Schema
from shortlist.data.text import TextFormat
from shortlist.errors import DataError

SCHEMA = Schema(time="time")
LOG = pl.DataFrame({"user_id": [3, 1, 2, 1], "item_id": [7, 7, 8, 9], "time": [1, 2, 3, 4]})
EVENTS = LOG.rename({"user_id": "user", "item_id": "item"})


@pytest.fixture
def folder(tmp_path):
    """The log in two parts."""
    (tmp_path / "log").mkdir()
    LOG.head(2).write_csv(tmp_path / "log" / "a.csv")
    LOG.tail(2).write_csv(tmp_path / "log" / "b.csv")
    (tmp_path / "log" / "_SUCCESS").write_text("")
    return tmp_path / "log"


def test_a_list_a_pattern_and_a_folder_are_read_as_one_log_in_order(folder):
    files = [folder / "a.csv", folder / "b.csv"]
    for source in (
        files,
        [str(file) for file in files],
        folder,
        folder / "*.csv",
        f"{folder}/?.csv",
    ):
        log = read_log(source, SCHEMA)
        found, report = log.events, log.report
        assert found.equals(EVENTS)
        assert (report.rows_read, report.rows) == (4, 4)
        assert is_text(source)


def test_a_fault_names_the_file_and_its_own_row(folder):
    (folder / "b.csv").write_text("user_id,item_id,time\n2,8,3\n1,,4\n")
    with pytest.raises(DataError, match=r"log/b\.csv: column 'item_id', row 2: the id is missing"):
        read_log(folder, SCHEMA)
    (folder / "b.csv").write_text("user_id,item_id,time\n2,8,3\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"log/b\.csv: row 2: 4 fields"):
        read_log(folder, SCHEMA)


def test_files_with_other_columns_or_written_otherwise_or_of_other_kinds_are_refused(folder):
    (folder / "b.csv").write_text("user_id,item_id\n2,8\n")
    with pytest.raises(
        DataError, match=r"b\.csv: column 'time' is not in this file and in .*a\.csv"
    ):
        read_log(folder, SCHEMA)
    (folder / "b.csv").write_text("user_id;item_id;time\n2;8;3\n")
    with pytest.raises(DataError, match=r"b\.csv: its separator is ';', that of .*a\.csv ','"):
        read_log(folder, SCHEMA)
    LOG.write_parquet(folder / "c.parquet")
    with pytest.raises(DataError, match=r"files of several kinds, such as .*\.csv"):
        read_log(folder, SCHEMA)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("days", [1, 2])
def test_folders_that_say_a_column_are_read_as_one(tmp_path, kind, days):
    for day, part in list(
        LOG.drop("time").group_by(pl.int_range(pl.len()) % days, maintain_order=True)
    ):
        place = tmp_path / "log" / f"time=2024-01-0{day[0] + 1}"
        place.mkdir(parents=True)
        getattr(part, f"write_{kind}")(place / f"part.{kind}")
    log = read_log(tmp_path / "log", SCHEMA)
    found, report = log.events, log.report
    assert report.time_unit is not None
    assert found["time"].n_unique() == days
    assert found.height == 4


def test_what_cannot_be_fetched_or_found_is_told_in_a_sentence(tmp_path):
    recipe = tmp_path / "https://example.org/log.csv"  # as a path beside a recipe
    for address in ("https://example.org/log.csv", "s3://bucket/log.parquet", recipe):
        with pytest.raises(DataError, match="are not fetched: download it first"):
            read_log(address, SCHEMA)
    with pytest.raises(DataError, match="no file matches this pattern"):
        read_log(tmp_path / "*.csv", SCHEMA)


def test_files_of_several_characters_between_fields_and_packed_ones_are_read(tmp_path):
    text = "\n".join(f"{user}::{item}::{time}" for user, item, time in LOG.iter_rows())
    (tmp_path / "ratings.dat").write_text(text)
    schema = Schema(time="time", text=TextFormat(columns=("user_id", "item_id", "time")))
    log = read_log(tmp_path / "ratings.dat", schema)
    assert log.events.equals(EVENTS)
    assert log.report.text.separator == "::"
    raw = LOG.write_csv().encode()
    for name, pack in (("log.csv.gz", gzip.compress), ("log.csv.zst", zstd)):
        (tmp_path / name).write_bytes(pack(raw))
        assert read_log(tmp_path / name, SCHEMA).events.equals(EVENTS)


def zstd(raw):
    return pa.compress(raw, codec="zstd", asbytes=True)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(DataError, match="this is a pipe or a device"):
        Dataset.load(tmp_path / "log.csv")


@pytest.mark.parametrize("time", [pl.Int32, pl.Float64])
def test_a_text_file_and_parquet_files_of_other_widths_are_read_as_one(tmp_path, time):
    parts = LOG[:2], LOG[2:3], LOG[3:]
    parts[0].write_csv(tmp_path / "a.csv")
    parts[1].with_columns(pl.col("time").cast(time)).write_parquet(tmp_path / "b.parquet")
    parts[2].write_parquet(tmp_path / "c.parquet")
    wanted = EVENTS["time"].to_list()
    for names in (["a.csv", "b.parquet", "c.parquet"], ["b.parquet", "c.parquet"]):
        found = read_log([tmp_path / name for name in names], SCHEMA).events
        assert found.drop("time").equals(EVENTS.drop("time").tail(len(found)))
        assert found["time"].to_list() == wanted[-len(found) :]
