"""Well-known data sets: fetched once, checked against a digest of their content, and cached."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import polars as pl

from shortlist.data.readers import read_frame
from shortlist.data.schema import Feature, Schema
from shortlist.errors import DataError
from shortlist.outputs import parents_of, temporary_in

_ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_WHEEL = "recbole==1.2.1"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"

_SECONDS_TO_ANSWER = 5.0  # a source that has not answered by then is given up
_SECONDS_TO_FETCH = 90.0
_MOST_BYTES = 32 * 2**20

_TABLES = ("interactions", "users", "items")
_ARCHIVE_FILES = ("u.data", "u.user", "u.item")
_WHEEL_FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")
_PARQUET_FILES = tuple(f"{table}.parquet" for table in _TABLES)
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


@dataclass(frozen=True)
class Release:
    """What the true data set looks like, whatever file format it came in.

    content: sha256 of the rows "user item rating timestamp", sorted. order: the same with the rows
    in order of user and time, equal times as the file has them: what `tie="file"` depends on.
    """

    users: int
    items: int
    content: str
    order: str


ML_100K = Release(
    users=943,
    items=1_682,
    content="9befbf29c6a3084766a684c2264ff754d5aed18fc6320e7dd50a05bebc6a839c",
    order="05ec10e0dce0611ec7fc054505dea299a9ba630d3b914f3e1a2fad5398789c91",
)


@dataclass(frozen=True)
class MovieLens:
    """MovieLens-100K: 100,000 ratings of 1,682 films by 943 people (Harper & Konstan 2015).

    interactions: user_id, item_id, rating (1 to 5), timestamp (unix seconds), in the order of the
    source. users: user_id, age, gender, occupation, zip_code. items: item_id, title with its year
    in brackets, year (unknown for one), genres (a list).
    source: one sentence on where it came from. tried: what was tried before, and why it failed.
    """

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    source: str
    tried: tuple[str, ...] = ()

    @property
    def schema(self) -> Schema:
        """The schema of the three frames; every rating is a positive."""
        return Schema(
            time="timestamp",
            weight="rating",
            title="title",
            user_features=(
                Feature("age", "numeric"),
                Feature("gender", "categorical"),
                Feature("occupation", "categorical"),
            ),
            item_features=(Feature("year", "numeric"), Feature("genres", "multi-valued")),
        )


def movielens_100k(directory: Path | None = None, cache: Path | None = None) -> MovieLens:
    """Return MovieLens-100K from `directory`, or else from the cache, or else fetch and cache it.

    directory: a folder (or one with a folder `ml-100k` in it) of GroupLens's own files (u.data,
    u.user, u.item), of RecBole's (ml-100k.inter, .user, .item), or of interactions.parquet,
    users.parquet and items.parquet. Nothing is fetched or cached then.

    Fetched from GroupLens or, where that cannot be reached, out of the wheel of RecBole 1.2.1,
    which pip downloads from wherever it is set up to look; nothing is installed. `cache` defaults
    to $SHORTLIST_CACHE, else `shortlist` in $XDG_CACHE_HOME or ~/.cache.

    The data is free for research; its terms forbid passing it on.
    """
    if directory is not None:
        return _from_directory(Path(directory))
    folder = (cache if cache is not None else cache_folder()) / "ml-100k"
    tried: list[str] = []
    kept = _from_cache(folder, tried)
    if kept is not None:
        return kept
    sources: tuple[tuple[str, Callable[[Path], None]], ...] = (
        ("GroupLens", _fetch_archive),
        (f"the copy in the {_WHEEL.replace('==', ' ')} wheel", _fetch_wheel),
    )
    for name, fetch in sources:
        with tempfile.TemporaryDirectory() as place:
            try:
                fetch(Path(place))
                found = replace(_from_directory(Path(place)), source=f"MovieLens-100K from {name}.")
            except DataError as error:
                tried.append(f"{name}: {error}")
                continue
        return _into_cache(replace(found, tried=tuple(tried)), folder)
    listed = "; ".join(tried)
    raise DataError(
        f"MovieLens-100K cannot be had ({listed}). Give a folder that holds it with --data DIR, "
        "or use the planted world with --synthetic."
    )


def cache_folder() -> Path:
    """Return where fetched data is kept; the folder need not exist."""
    chosen = os.environ.get("SHORTLIST_CACHE")
    if chosen:
        return Path(chosen)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "shortlist"


# --- folders --------------------------------------------------------------------------------------


def _from_directory(directory: Path) -> MovieLens:
    readers: Mapping[tuple[str, ...], Callable[[Path], dict[str, pl.DataFrame]]] = {
        _ARCHIVE_FILES: _read_archive_files,
        _WHEEL_FILES: _read_wheel_files,
        _PARQUET_FILES: _read_parquet_files,
    }
    for folder in (directory, directory / "ml-100k"):
        for files, read in readers.items():
            if all((folder / file).is_file() for file in files):
                return _verified(_tidy(read(folder), folder), folder)
    wanted = "; or ".join(", ".join(files) for files in readers)
    raise DataError(f"{directory}: expected the files {wanted}.")


def _read_archive_files(folder: Path) -> dict[str, pl.DataFrame]:
    users = ("user_id", "age", "gender", "occupation", "zip_code")
    films = ("item_id", "title", "released", "video", "url", *_GENRES)
    items = _read_bare(folder / "u.item", "|", films)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
    return {
        "interactions": _read_bare(
            folder / "u.data", "\t", ("user_id", "item_id", "rating", "timestamp")
        ),
        "users": _read_bare(folder / "u.user", "|", users),
        "items": items.select(
            "item_id",
            "title",
            year=pl.col("released").str.extract(r"(\d{4})$"),
            genres=pl.concat_list(flags).list.drop_nulls(),
        ),
    }


def _read_bare(path: Path, separator: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read a file of GroupLens, which has no header and speaks Latin-1."""
    text = path.read_bytes().decode("latin-1").encode()
    with _as_data_error(path):
        return pl.read_csv(
            io.BytesIO(text),
            has_header=False,
            new_columns=list(columns),
            separator=separator,
            quote_char=None,
            infer_schema=False,
        )


def _read_wheel_files(folder: Path) -> dict[str, pl.DataFrame]:
    items = read_frame(folder / "ml-100k.item", "items")
    with _as_data_error(folder / "ml-100k.item"):
        titled = items.select(
            "item_id",
            pl.col("movie_title").list.join(" ").alias("title"),
            pl.col("release_year").alias("year"),
            pl.col("class").alias("genres"),
        )
    return {
        "interactions": read_frame(folder / "ml-100k.inter", "interactions"),
        "users": read_frame(folder / "ml-100k.user", "users"),
        "items": titled,
    }


def _read_parquet_files(folder: Path) -> dict[str, pl.DataFrame]:
    return {table: read_frame(folder / f"{table}.parquet", table) for table in _TABLES}


def _tidy(tables: dict[str, pl.DataFrame], folder: Path) -> MovieLens:
    """Bring every source into one form."""
    name = pl.col("title").str.replace_all(r"\s+", " ").str.strip_chars()
    # "(V)" marks a film made for video, behind the year.
    name = name.str.strip_suffix(" (V)").replace("unkonwn", "unknown")
    bracketed = name.str.extract(r"\((\d{4})\)$")
    year = pl.coalesce(bracketed, pl.col("year").cast(pl.String).str.extract(r"^(\d{4})$"))
    title = (
        pl.when(bracketed.is_null() & year.is_not_null())
        .then(pl.format("{} ({})", name, year))
        .otherwise(name)
    )
    with _as_data_error(folder):
        return MovieLens(
            interactions=tables["interactions"].select(
                pl.col("user_id", "item_id", "rating", "timestamp").cast(pl.Int64)
            ),
            users=tables["users"].select(
                pl.col("user_id", "age").cast(pl.Int64),
                pl.col("gender", "occupation", "zip_code").cast(pl.String),
            ),
            items=tables["items"].select(
                pl.col("item_id").cast(pl.Int64),
                title.alias("title"),
                year.cast(pl.Int64).alias("year"),
                pl.col("genres").cast(pl.List(pl.String)),
            ),
            source=f"MovieLens-100K from {folder}.",
        )


# --- verification ---------------------------------------------------------------------------------


def digest(rows: pl.DataFrame) -> str:
    """Return the sha256 of a frame of integers: its rows as lines, numbers between spaces."""
    text = rows.write_csv(include_header=False, separator=" ", line_terminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


def _verified(found: MovieLens, where: Path) -> MovieLens:
    rows = found.interactions.select("user_id", "item_id", "rating", "timestamp")
    if digest(rows.sort(rows.columns)) != ML_100K.content:
        raise DataError(
            f"{where}: these are not the ratings of MovieLens-100K (their checksum differs); "
            "fetch them anew."
        )
    for table, frame, count in (
        ("users", found.users, ML_100K.users),
        ("items", found.items, ML_100K.items),
    ):
        ids = frame.to_series(0)
        if sorted(ids.to_list()) != list(range(1, count + 1)):
            raise DataError(f"{where}: expected {count:,} {table}, numbered from 1, once each.")
    in_time = rows.sort("user_id", "timestamp", maintain_order=True)
    if digest(in_time) != ML_100K.order:
        note = " Its ratings of equal time stand in another order than GroupLens's: with "
        note += "tie = 'file', published figures will not come out exactly."
        return replace(found, source=found.source + note)
    return found


@contextlib.contextmanager
def _as_data_error(where: Path | str) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, KeyError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where}: not as MovieLens-100K has it, or damaged: {said}.") from error


# --- sources --------------------------------------------------------------------------------------


def _fetch_archive(place: Path) -> None:
    """Put GroupLens's three files into `place`."""
    archive = _download(_ARCHIVE_URL)
    with _as_data_error("ml-100k.zip"), zipfile.ZipFile(io.BytesIO(archive)) as files:
        _extract(files, "ml-100k/", _ARCHIVE_FILES, place)


def _download(url: str) -> bytes:
    """Fetch a file, giving up soon where nobody answers.

    A time-out of the socket alone would not do: it does not count the look-up of the host's name,
    nor a server that sends a byte now and then. So the work is done aside, and waited for.
    """
    answered, finished = threading.Event(), threading.Event()
    body = io.BytesIO()
    faults: list[Exception] = []

    def work() -> None:
        try:
            with urlopen(url, timeout=_SECONDS_TO_ANSWER) as response:
                answered.set()
                while chunk := response.read(2**16):
                    body.write(chunk)
                    if body.tell() > _MOST_BYTES:
                        raise OSError(f"more than {_MOST_BYTES:,} bytes")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told by the caller
            faults.append(error)
        finally:
            answered.set()
            finished.set()

    threading.Thread(target=work, daemon=True).start()
    if not answered.wait(_SECONDS_TO_ANSWER):
        raise DataError(f"{url} did not answer within {_SECONDS_TO_ANSWER:g} seconds")
    if not finished.wait(_SECONDS_TO_FETCH):
        raise DataError(f"{url} was not complete after {_SECONDS_TO_FETCH:g} seconds")
    if faults:
        raise DataError(f"{url} cannot be fetched: {faults[0]}") from faults[0]
    return body.getvalue()


def _fetch_wheel(place: Path) -> None:
    """Put the three files of RecBole's copy into `place`; the wheel is read, never installed."""
    wheel = _download_wheel(place)
    with _as_data_error(wheel.name), zipfile.ZipFile(wheel) as files:
        _extract(files, _WHEEL_FOLDER, _WHEEL_FILES, place)


def _download_wheel(place: Path) -> Path:
    # One second of the time to answer goes to starting pip.
    limits = ["--retries=0", f"--timeout={_SECONDS_TO_ANSWER - 1:g}"]
    quiet = ["--no-input", "--quiet", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", *limits, *quiet]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(place), _WHEEL]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS_TO_FETCH, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"pip was not done after {_SECONDS_TO_FETCH:g} seconds") from error
    except OSError as error:
        raise DataError(f"pip cannot be run: {error}") from error
    wheels = sorted(place.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(
            f"pip cannot download it: {said[-1].strip() if said else 'no reason given'}"
        )
    return wheels[0]


def _extract(archive: zipfile.ZipFile, prefix: str, names: tuple[str, ...], place: Path) -> None:
    for name in names:
        member = archive.getinfo(prefix + name)
        if member.file_size > _MOST_BYTES:
            raise DataError(f"{name} is larger than {_MOST_BYTES:,} bytes")
        (place / name).write_bytes(archive.read(member))


# --- cache ----------------------------------------------------------------------------------------


def _from_cache(folder: Path, tried: list[str]) -> MovieLens | None:
    """Return what the cache holds; a cache that is damaged is told in `tried` and fetched anew."""
    if not folder.is_dir():
        return None
    try:
        # Bytes first: a Parquet reader must not see a file that is not what was written.
        note = json.loads((folder / "source.json").read_text())
        for file in _PARQUET_FILES:
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != note["sha256"][file]:
                raise DataError(f"{folder / file} has changed since it was written")
        found = _verified(_tidy(_read_parquet_files(folder), folder), folder)
        source = str(note["source"]).removesuffix(".") + ", kept in the cache."
    except (DataError, OSError, ValueError, KeyError, TypeError) as error:
        tried.append(f"the cache: {error}")
        return None
    return replace(found, source=source)


def _into_cache(found: MovieLens, folder: Path) -> MovieLens:
    """Keep a copy; readers see the whole of it or none. Return the data, its source saying so."""
    try:
        with parents_of(folder), temporary_in(folder.parent, "folder") as making:
            sums = {}
            for table, file in zip(_TABLES, _PARQUET_FILES, strict=True):
                frame: pl.DataFrame = getattr(found, table)
                frame.write_parquet(making / file)
                sums[file] = hashlib.sha256((making / file).read_bytes()).hexdigest()
            note = {"source": found.source, "sha256": sums}
            (making / "source.json").write_text(json.dumps(note, indent=2))
            if folder.exists():  # only a damaged copy, or one that another run has just made
                shutil.rmtree(folder)
            making.rename(folder)
    except OSError as error:
        reason = f" It was not cached: {error.strerror or error}."
        return replace(found, source=found.source + reason)
    return found
