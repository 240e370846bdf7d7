"""Reader for files with one user a line: the user's id, then the ids of their items."""

import json
from pathlib import Path

import polars as pl

from shortlist.errors import DataError

_DIGITS = 19  # every number with fewer digits fits into 64 bits


def read_item_lines(path: Path) -> pl.DataFrame:
    """Read lines such as `7 12 5 90` into columns user_id, item_id, and position, counted from 0.

    A line with a user and no item is skipped; LightGCN's files have some. Errors: DataError.
    """
    lists: list[list[int]] = []
    with path.open(encoding="ascii", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not all(word.isdigit() and len(word) < _DIGITS for word in words):
                raise DataError(
                    f"{path}: line {number:,} is not a list of ids divided by spaces: {line[:60]!r}"
                )
            if words:
                lists.append([int(word) for word in words])
    frame = pl.DataFrame(
        {"user_id": [ids[0] for ids in lists], "item_id": [ids[1:] for ids in lists]},
        schema={"user_id": pl.Int64, "item_id": pl.List(pl.Int64)},
    )
    frame = frame.explode("item_id").drop_nulls()
    return frame.with_columns(position=pl.int_range(pl.len()).over("user_id"))


def lightgcn(folder: Path) -> dict[str, pl.DataFrame]:
    """Return the log of LightGCN's train.txt and test.txt, with its split."""
    parts = [
        read_item_lines(folder / f"{split}.txt").select(
            "user_id", "item_id", split=pl.lit(split, pl.String)
        )
        for split in ("train", "test")
    ]
    return {"interactions": pl.concat(parts)}


def s3_rec(folder: Path) -> dict[str, pl.DataFrame]:
    """Return S3-Rec's Beauty.txt and item attributes; each user's last item is the test."""
    log = read_item_lines(folder / "Beauty.txt")
    left = pl.len().over("user_id") - 1 - pl.col("position")
    split = pl.when(left == 0).then(pl.lit("test")).when(left == 1).then(pl.lit("val"))
    path = folder / "Beauty_item2attributes.json"
    try:
        known = {int(item): [int(x) for x in found] for item, found in _json(path).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected an object of lists of numbers, by item") from error
    return {
        "interactions": log.with_columns(split=split.otherwise(pl.lit("train"))),
        "items": pl.DataFrame(
            {"item_id": list(known), "attribute_ids": list(known.values())},
            schema={"item_id": pl.Int64, "attribute_ids": pl.List(pl.Int64)},
        ),
    }


def _json(path: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads(path.read_bytes())
    return found
