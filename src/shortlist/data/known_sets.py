"""The known public data sets: where to get them, what they hold, and how they are measured."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from shortlist.data.fetching import Source
from shortlist.data.item_lines import lightgcn, s3_rec
from shortlist.data.movielens import RAW_FILES, WHEEL_FILES, raw_tables, wheel_tables
from shortlist.data.schema import Feature, Schema
from shortlist.data.text import TextFormat
from shortlist.errors import DataError, suggest

Settings = Mapping[str, Any]
Tables = dict[str, pl.DataFrame]

TABLES = ("interactions", "users", "items")
"""The names of the tables in a recipe, and of the .parquet files of a converted set."""


class Counts(NamedTuple):
    """The numbers of rows, users and items in a log."""

    rows: int
    users: int
    items: int

    def __str__(self) -> str:
        return f"{self.rows:,} rows of {self.users:,} users and {self.items:,} items"


@dataclass(frozen=True)
class Form:
    """One form in which a data set is published, and how it is read.

    files: the files it must have, in one folder.
    counts: what its log holds.
    data, features, split, model, training: sections of its recipe; paths in `data` are file names.
    k: the list lengths of its evaluation.
    protocol: how it is measured and published figures, as comments of the recipe.
    convert: makes tables of files that a recipe cannot read. They are written as
        interactions.parquet and so on, which `data` names.
    rows_beside: the number of rows of the user and item tables, where it is known.
    """

    files: tuple[str, ...]
    counts: Counts
    data: Settings
    protocol: tuple[str, ...]
    features: Settings = field(default_factory=dict)
    split: Settings = field(default_factory=lambda: LEAVE_LAST_OUT)
    training: Settings = field(default_factory=lambda: {"mode": "listwise"})
    model: Settings = field(default_factory=dict)
    k: tuple[int, ...] = (10, 20, 100)
    convert: Callable[[Path], Tables] | None = None
    rows_beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def schema(self) -> Schema:
        """The schema that the recipe describes."""
        known = {"columns", "encoding", "separator"} & self.data.keys()
        text = {name: self.data[name] for name in known}
        rest = {k: v for k, v in self.data.items() if k not in {*TABLES, *known}}
        lists = {name: tuple(value) for name, value in rest.items() if isinstance(value, list)}
        if "columns" in text:
            text["columns"] = tuple(text["columns"])
        return Schema(
            **(rest | lists),
            split=self.split.get("column"),
            text=TextFormat(**text),
            title=self.features.get("title"),
            user_features=_features(self.features.get("users", {})),
            item_features=_features(self.features.get("items", {})),
        )

    def paths(self, folder: Path) -> dict[str, Path]:
        """Return the paths of the tables in `data`."""
        return {table: folder / self.data[table] for table in TABLES if table in self.data}


@dataclass(frozen=True)
class KnownSet:
    """One data set that `shortlist data NAME` fetches.

    title: its name and paper.
    page: where its publisher describes it.
    terms: what its licence allows, in one sentence.
    sources: where to fetch it, in the order they are tried.
    forms: the forms it is found in; the first is the usual one.
    folders: other names of a folder that holds it.
    content, order: sha256 of the lines "user item rating timestamp" of the interactions, sorted as
        text, and in order of user and time (equal times as in the file). Empty where only the
        counts are checked.
    """

    title: str
    page: str
    terms: str
    sources: tuple[Source, ...]
    forms: tuple[Form, ...]
    folders: tuple[str, ...] = ()
    content: str = ""
    order: str = ""

    @property
    def counts(self) -> Counts:
        """The counts of the usual form."""
        return self.forms[0].counts


def known_set(name: str) -> KnownSet:
    """Return a set by its name. Errors: DataError that lists the names."""
    if name not in KNOWN_SETS:
        raise DataError(f"no data set '{name}' is known.{suggest(name.lower(), KNOWN_SETS)}")
    return KNOWN_SETS[name]


def recipe_text(name: str, form: Form, folder: Path) -> str:
    """Return a recipe that reads a set in this form from a folder, with its protocol in comments.

    Paths are absolute, so that SHORTLIST_DATA does not redirect them.
    """
    known = KNOWN_SETS[name]
    place = Path(os.path.abspath(folder))
    paths = {table: str(path) for table, path in form.paths(place).items()}
    sections = {
        "data": {**form.data, **paths},
        "features": form.features,
        "split": form.split,
        "model": form.model,
        "training": form.training,
        "evaluation": {"k": list(form.k)},
    }
    comments = (
        f"{known.title}: {form.counts}.",
        f"From {known.page}",
        f"Terms: {known.terms}",
        *form.protocol,
    )
    lines = [f"# {line}" for line in comments]
    for section, content in sections.items():
        if content:
            lines += ["", f"[{section}]", *(f"{k} = {_toml(v)}" for k, v in content.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _converted(form: Form, files: tuple[str, ...], convert: Callable[[Path], Tables]) -> Form:
    return replace(form, files=files, convert=convert)


def _features(kinds: Settings) -> tuple[Feature, ...]:
    return tuple(Feature(name, kind) for name, kind in kinds.items())


# --- the sets -------------------------------------------------------------------------------------

LEAVE_LAST_OUT: Settings = {"kind": "leave-last-out"}
_GIVEN: Settings = {"column": "split"}
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_RESEARCH = "free for research; neither the data nor a part of it may be passed on or sold."
_GENRES: Settings = {"items": {"genres": "multi-valued"}, "title": "title"}
_PARQUET: Settings = {table: f"{table}.parquet" for table in TABLES}

_ML_100K = Form(
    files=tuple(_PARQUET.values()),
    counts=Counts(100_000, 943, 1_682),
    rows_beside={"users": 943, "items": 1_682},
    data={**_PARQUET, "time": "timestamp", "tie": "file"},
    features={
        "users": {"age": "numeric", "gender": "categorical", "occupation": "categorical"},
        "items": {"genres": "multi-valued", "year": "numeric"},
        "title": "title",
    },
    model={"dropout": 0.2},
    training={
        "mode": "listwise",
        "mask_known": True,
        "batch_size": 512,
        "epochs": 8,
        "patience": 3,
    },
    protocol=(
        "Protocol: every rating is a positive; each user's last film is the test, the one before",
        "it validation; all films are ranked but those the user has rated. 415 of 943 users have a",
        'tied last time: tie = "file" takes the order of the file, as published figures do.',
        "HR@10 / NDCG@10: popularity .0859 / .0439; this recipe .2382 / .1330 (mean of 3 seeds).",
    ),
)

_ML_1M_PROTOCOL = (
    "Protocol: every rating is a positive; each user's last film is the test, the one before",
    "it validation; all films are ranked but those the user has rated.",
    "Published on the 5-core cut (999,611 ratings of 3,416 films), HR@10 / NDCG@10: popularity",
    ".0369 / .0180; SASRec .2392 / .1259 with one negative, .3152 / .1821 with full cross-entropy;",
    "BERT4Rec .2843 / .1537 (Klenitskiy & Vasilev 2023); gSASRec .3003 / .1726.",
)
_ML_1M = Form(
    files=("ratings.dat", "users.dat", "movies.dat"),
    counts=Counts(1_000_209, 6_040, 3_706),
    rows_beside={"users": 6_040, "items": 3_883},
    data={
        "interactions": "ratings.dat",
        "users": "users.dat",
        "items": "movies.dat",
        "columns": ["user_id", "item_id", "rating", "timestamp"],
        "users_columns": ["user_id", "gender", "age", "occupation", "zip_code"],
        "items_columns": ["item_id", "title", "genres"],
        "separator": "::",
        "encoding": "latin-1",
        "time": "timestamp",
        "tie": "file",
    },
    features={
        "users": {"gender": "categorical", "age": "categorical", "occupation": "categorical"},
        **_GENRES,
    },
    protocol=(
        *_ML_1M_PROTOCOL,
        "This recipe keeps the films with fewer than five ratings too, which have 598 of the rows.",
    ),
)
_ML_1M_5_CORE = Form(
    files=_ML_1M.files,
    counts=Counts(999_611, 6_040, 3_416),
    data={
        **{key: value for key, value in _ML_1M.data.items() if key not in ("time", "tie")},
        "order": "file",
    },
    features=_ML_1M.features,
    protocol=(*_ML_1M_PROTOCOL, "This is that cut; its lines are taken to be in order."),
)
_ML_1M_SEQUENCES = Form(
    files=("sasrec_5core_sequences.parquet",),
    counts=_ML_1M_5_CORE.counts,
    data={
        "interactions": "sasrec_5core_sequences.parquet",
        "user": "sas_user_id",
        "item": "sas_item_id",
        "time": "position",
    },
    split=_GIVEN,
    model={"dropout": 0.2},
    training={"mode": "listwise", "batch_size": 1024, "epochs": 10, "patience": 3},
    protocol=(*_ML_1M_PROTOCOL, "This is that cut. This recipe reaches .2942 / .1709 (seed 0)."),
)

_ML_LATEST_SMALL = Form(
    files=("ratings.csv", "movies.csv"),
    counts=Counts(100_836, 610, 9_724),
    rows_beside={"items": 9_742},
    data={
        "interactions": "ratings.csv",
        "items": "movies.csv",
        "user": "userId",
        "item": "movieId",
        "time": "timestamp",
        "tie": "file",
    },
    features=_GENRES,
    training={"mode": "listwise", "mask_known": True, "batch_size": 512, "epochs": 8},
    protocol=(
        "Protocol: every rating is a positive; each user's last film is the test, the one before",
        "it validation; all films are ranked but those the user has rated. There are no published",
        "figures: the publisher changes this set from time to time, and advises against reporting",
        "results on it. The counts above are those of September 2018.",
    ),
)

_BEAUTY = Form(
    files=("interactions.parquet", "items.parquet"),
    counts=Counts(198_502, 22_363, 12_101),
    data={"interactions": "interactions.parquet", "time": "position"},
    split=_GIVEN,
    model={"history_length": 50},
    k=(10, 100),
    protocol=(
        "Protocol: 5-core; each user's last item is the test, the one before it validation; all",
        "items are ranked but those of the user. 52 test items never occur before.",
        "HR@10 / NDCG@10: popularity .0115 / .0055; SASRec .0605 / .0318 as first published",
        "(S3-Rec), .0921 / .0531 with sampled softmax; eSASRec .0928 / .0523; this recipe .0935 /",
        ".0543 (mean of 3 seeds).",
    ),
)

_GOWALLA = Form(
    files=("interactions.parquet",),
    counts=Counts(1_027_370, 29_858, 40_981),
    data={"interactions": "interactions.parquet"},
    split=_GIVEN,
    model={
        "history": "mean",
        "history_length": 1000,
        "history_dropout": 0.3,
        "user_layers": [128],
        "item_neighbours": 50,
        "popularity": 0.06,
        "dropout": 0.0,
    },
    training={
        "mode": "listwise",
        "sampler": "uniform",
        "negatives": 4096,
        "shared": True,
        "correct_positives": False,
        "mask_known": True,
        "similarity": "dot",
        "temperature": 0.1,
        "batch_size": 2048,
        "learning_rate": 0.005,
        "epochs": 7,
        "validate_every": 7,
        "monitor": "recall@20",
        "refit": "train+validation",
    },
    k=(20, 100),
    protocol=(
        "Protocol: LightGCN's split for train and test, without times; validation is carved out",
        "of train, and the final fit is on both. All items are ranked but those of train.",
        "Recall@20 / NDCG@20: popularity .0416 / .0317; MF-BPR .1627 / .1378; LightGCN .1830 /",
        ".1554; SimpleX .1872 / .1557; this recipe .1870 / .1547.",
    ),
)

_S3_REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data"
_LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla"

KNOWN_SETS: Mapping[str, KnownSet] = {
    "ml-100k": KnownSet(
        title="MovieLens-100K (Harper & Konstan 2015)",
        page="https://grouplens.org/datasets/movielens/100k/",
        terms=_RESEARCH,
        sources=(
            Source(
                "GroupLens", (f"{_GROUPLENS}/ml-100k.zip",), ("0e33842e24a9c977be4e0107933c0723",)
            ),
            Source("the copy in the recbole 1.2.1 wheel", wheel="recbole==1.2.1"),
        ),
        forms=(
            _ML_100K,
            _converted(_ML_100K, RAW_FILES, raw_tables),
            _converted(_ML_100K, WHEEL_FILES, wheel_tables),
        ),
        content="9befbf29c6a3084766a684c2264ff754d5aed18fc6320e7dd50a05bebc6a839c",
        order="05ec10e0dce0611ec7fc054505dea299a9ba630d3b914f3e1a2fad5398789c91",
    ),
    "ml-1m": KnownSet(
        title="MovieLens-1M (Harper & Konstan 2015)",
        page="https://grouplens.org/datasets/movielens/1m/",
        terms=_RESEARCH,
        sources=(
            Source(
                "GroupLens", (f"{_GROUPLENS}/ml-1m.zip",), ("c4d9eecfca2ab87c1945afe126590906",)
            ),
        ),
        forms=(_ML_1M, _ML_1M_5_CORE, _ML_1M_SEQUENCES),
    ),
    "ml-latest-small": KnownSet(
        title="MovieLens latest, small, of September 2018 (Harper & Konstan 2015)",
        page="https://grouplens.org/datasets/movielens/latest/",
        terms="free for research; what the licence in its README asks for goes with every copy.",
        sources=(Source("GroupLens", (f"{_GROUPLENS}/ml-latest-small.zip",)),),
        forms=(_ML_LATEST_SMALL,),
    ),
    "amazon-beauty": KnownSet(
        title="Amazon Beauty, 5-core, as S3-Rec cuts it (Zhou et al. 2020; McAuley et al. 2015)",
        page="https://github.com/RUCAIBox/CIKM2020-S3Rec",
        terms="the publisher states none; reviews of Amazon customers, for research.",
        sources=(
            Source(
                "the repository of S3-Rec",
                (f"{_S3_REC}/Beauty.txt", f"{_S3_REC}/Beauty_item2attributes.json"),
            ),
        ),
        forms=(
            _BEAUTY,
            _converted(_BEAUTY, ("Beauty.txt", "Beauty_item2attributes.json"), s3_rec),
        ),
        folders=("amazon-beauty-s3rec",),
    ),
    "gowalla": KnownSet(
        title="Gowalla check-ins as LightGCN cuts them (He et al. 2020; Cho et al. 2011)",
        page="https://github.com/gusye1234/LightGCN-PyTorch",
        terms="the publisher states none; check-ins collected for research.",
        sources=(
            Source(
                "the repository of LightGCN", (f"{_LIGHTGCN}/train.txt", f"{_LIGHTGCN}/test.txt")
            ),
        ),
        forms=(_GOWALLA, _converted(_GOWALLA, ("train.txt", "test.txt"), lightgcn)),
        folders=("gowalla-lightgcn",),
    ),
}
"""The data sets that can be requested by name."""
