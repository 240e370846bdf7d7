"""How are the files of MovieLens-100K read, in GroupLens's format and in RecBole's?"""

import io
from pathlib import Path

import polars as pl

from shortlist.data.readers import read_frame

RAW_FILES = ("u.data", "u.user", "u.item")
"""The files of GroupLens that are needed."""

WHEEL_FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")
"""The same files in RecBole's format."""

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def raw_tables(folder: Path) -> dict[str, pl.DataFrame]:
    """Read GroupLens's own files into the form of `tidy`."""
    users = ("user_id", "age", "gender", "occupation", "zip_code")
    films = ("item_id", "title", "released", "video", "url", *_GENRES)
    items = _read_bare(folder / "u.item", "|", films)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
    return tidy(
        _read_bare(folder / "u.data", "\t", ("user_id", "item_id", "rating", "timestamp")),
        _read_bare(folder / "u.user", "|", users),
        items.select(
            "item_id",
            "title",
            year=pl.col("released").str.extract(r"(\d{4})$"),
            genres=pl.concat_list(flags).list.drop_nulls(),
        ),
    )


def wheel_tables(folder: Path) -> dict[str, pl.DataFrame]:
    """Read RecBole's files into the form of `tidy`."""
    items = read_frame(folder / "ml-100k.item", "items")
    return tidy(
        read_frame(folder / "ml-100k.inter", "interactions"),
        read_frame(folder / "ml-100k.user", "users"),
        items.select(
            "item_id",
            pl.col("movie_title").list.join(" ").alias("title"),
            pl.col("release_year").alias("year"),
            pl.col("class").alias("genres"),
        ),
    )


def tidy(
    interactions: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """Bring the tables of every source into one form.

    interactions: user_id, item_id, rating (1 to 5), timestamp (unix seconds), in the order of the
        source.
    users: user_id, age, gender, occupation, zip_code.
    items: item_id, title with its year in brackets, year (missing for one film), genres (a list).
    """
    name = pl.col("title").str.replace_all(r"\s+", " ").str.strip_chars()
    # "(V)" after the year marks a film made for video.
    name = name.str.strip_suffix(" (V)").replace("unkonwn", "unknown")
    bracketed = name.str.extract(r"\((\d{4})\)$")
    year = pl.coalesce(bracketed, pl.col("year").cast(pl.String).str.extract(r"^(\d{4})$"))
    title = (
        pl.when(bracketed.is_null() & year.is_not_null())
        .then(pl.format("{} ({})", name, year))
        .otherwise(name)
    )
    return {
        "interactions": interactions.select(
            pl.col("user_id", "item_id", "rating", "timestamp").cast(pl.Int64)
        ),
        "users": users.select(
            pl.col("user_id", "age").cast(pl.Int64),
            pl.col("gender", "occupation", "zip_code").cast(pl.String),
        ),
        "items": items.select(
            pl.col("item_id").cast(pl.Int64),
            title.alias("title"),
            year.cast(pl.Int64).alias("year"),
            pl.col("genres").cast(pl.List(pl.String)),
        ),
    }


def _read_bare(path: Path, separator: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read a file of GroupLens, which has no header and is written in Latin-1."""
    text = path.read_bytes().decode("latin-1").encode()
    return pl.read_csv(
        io.BytesIO(text),
        has_header=False,
        new_columns=list(columns),
        separator=separator,
        quote_char=None,
        infer_schema=False,
    )
