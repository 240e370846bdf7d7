"""How is a known data set obtained, from the network or a local copy, and verified?"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from shortlist.data.dataset import Dataset
from shortlist.data.fetching import fetch, unpack
from shortlist.data.known_sets import TABLES, Counts, Form, KnownSet, Tables, known_set
from shortlist.data.movielens import tidy
from shortlist.data.readers import read_frame
from shortlist.errors import DataError, OutputError
from shortlist.outputs import parents_of, reason_of, remove, temporary_in

TABLE_FILES = tuple(f"{table}.parquet" for table in TABLES)
NOTE = "source.json"
"""The file beside fetched files that records their source and the sha256 of each."""

_COMMAND = "If you have the data already, use --from FILE_OR_FOLDER."
_DEMO = "Give a folder that holds it with --data DIR, or use the planted world with --synthetic."
_OTHER_ORDER = (
    " Its ratings of equal time are in another order than the publisher's: with tie = 'file', "
    "published figures are not reproduced exactly."
)


@dataclass(frozen=True)
class Obtained:
    """A known data set that is available and verified.

    folder: where its files are.
    form: how they are read.
    source: one sentence about where they came from.
    tried: the sources that failed before, with their reasons.
    """

    folder: Path
    form: Form
    source: str
    tried: tuple[str, ...] = ()

    def tables(self) -> Tables:
        """Read the files completely."""
        paths = self.form.paths(self.folder)
        return {table: read_frame(path, table) for table, path in paths.items()}


def fetched(
    name: str, place: Path, *, replaces: bool = False, otherwise: str = _COMMAND
) -> Obtained:
    """Return a set that is kept in the folder `place`, or fetch it into that folder.

    replaces: whether to fetch again if the folder's files are not those that were fetched.
    otherwise: advice for the error if no source can be reached.

    Errors: DataError with what each source said; OutputError if the folder cannot be written.
    """
    known, tried = known_set(name), list[str]()
    if os.path.lexists(place):
        try:
            return _kept(known, place)
        except DataError as error:
            others = _others(known, place)
            if not replaces or others:
                anew = f"move {others[0]} away first" if others else "add --overwrite"
                raise DataError(
                    f"{place} exists, and {error}. To use what it holds, give --from {place}; to "
                    f"fetch it again, {anew}."
                ) from error
            tried.append(f"{place}: {error}")
    for source in known.sources:
        with tempfile.TemporaryDirectory() as made:
            raw = Path(made)
            try:
                fetch(source, _groups(known), raw)
                found = _stored(known, raw, place, f"{known.title} from {source.name}.", replaces)
            except DataError as error:
                tried.append(f"{source.name}: {str(error).replace(f'{raw}/', '')}")
            else:
                return replace(found, tried=tuple(tried))
    raise DataError(
        f"{known.title} cannot be fetched. {' '.join(f'{reason}.' for reason in tried)} {otherwise}"
    )


def taken(name: str, origin: Path, place: Path) -> Obtained:
    """Return a set from a local folder or zip file.

    A folder that a recipe can read is used where it is. Files that must be unpacked or converted
    are put into the new folder `place`, or beside it if `place` holds the files themselves. Errors:
    DataError, OutputError.
    """
    known = known_set(name)
    source = f"{known.title} from {origin}."
    if origin.is_file() and origin.suffix.lower() == ".zip":
        _refuse_existing(place)
        with tempfile.TemporaryDirectory() as raw:
            unpack(origin, _groups(known), Path(raw))
            return _stored(known, Path(raw), place, source, replaces=False)
    if origin.is_file() and origin.name in {file for form in known.forms for file in form.files}:
        origin = origin.parent
    if not origin.is_dir():
        what = "expected a folder or a zip file with" if origin.exists() else "there is no such"
        listed = _listed(_groups(known)) if origin.exists() else "file or folder"
        raise DataError(f"--from {origin}: {what} {listed}.")
    folder, forms = _recognised(known, origin, (name, *known.folders))
    ready = [form for form in forms if form.convert is None]
    if ready:
        form, note = _true_form(known, folder, ready)
        return Obtained(folder, form, source + note)
    if place.exists() and place.samefile(folder):
        place = place.with_name(f"{place.name}-parquet")
    _refuse_existing(place)
    return _stored(known, folder, place, source, replaces=False)


def movielens_100k(
    directory: Path | None = None, cache: Path | None = None
) -> tuple[Tables, tuple[str, ...]]:
    """Return MovieLens-100K in the form of `movielens.tidy`, and lines on where it came from.

    directory: a folder that holds the set in any form; then nothing is fetched or kept.
    cache: where the fetched set is kept; by default `cache_folder`. If it cannot be written, the
        set is used without being kept.
    """
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside) / "ml-100k"
        if directory is not None:
            found = taken("ml-100k", Path(directory), place)
        else:
            kept = (cache if cache is not None else cache_folder()) / "ml-100k"
            try:
                found = fetched("ml-100k", kept, replaces=True, otherwise=_DEMO)
            except OutputError as error:
                found = fetched("ml-100k", place, otherwise=_DEMO)
                found = replace(found, source=f"{found.source} It was not kept: {error}.")
        return tidy(**found.tables()), (*found.tried, found.source)


def cache_folder() -> Path:
    """Return the folder where the demo keeps what it fetched; it need not exist."""
    chosen = os.environ.get("SHORTLIST_CACHE")
    if chosen:
        return Path(chosen)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "shortlist"


# --- folders --------------------------------------------------------------------------------------


def _recognised(
    known: KnownSet, folder: Path, below: Sequence[str] = ()
) -> tuple[Path, list[Form]]:
    """Find all files of a form in the folder or right below it; return the folder and the forms."""
    for place in (folder, *(folder / name for name in below)):
        forms = [f for f in known.forms if all((place / file).is_file() for file in f.files)]
        if forms:
            return place, forms
    raise DataError(f"{folder}: expected the files {_listed(_groups(known))}.")


def _groups(known: KnownSet) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(form.files for form in known.forms))


def _listed(groups: Sequence[tuple[str, ...]]) -> str:
    return "; or ".join(", ".join(group) for group in groups)


def _refuse_existing(place: Path) -> None:
    if os.path.lexists(place):
        raise OutputError(
            f"{place} exists already, and the files of this set go there: move it away, or give "
            "another place with --out"
        )


def _stored(known: KnownSet, raw: Path, place: Path, source: str, replaces: bool) -> Obtained:
    """Convert the files in `raw` if needed, verify them, and move them to `place`.

    The folder appears complete or not at all.
    """
    folder, forms = _recognised(known, raw)
    tables = None
    if (convert := forms[0].convert) is not None:
        with _as_data_error(known):
            tables = convert(folder)
    try:
        with parents_of(place), temporary_in(place.parent, "folder") as making:
            if tables is None:
                for file in forms[0].files:
                    shutil.copyfile(folder / file, making / file)
            else:
                for table, frame in tables.items():
                    frame.write_parquet(making / f"{table}.parquet")
            try:
                form, note = _true_form(known, making, forms)
            except DataError as error:
                raise DataError(str(error).replace(f"{making}/", "")) from error
            sums = {path.name: _sha256(path) for path in sorted(making.iterdir())}
            content = {"source": source + note, "sha256": sums}
            (making / NOTE).write_text(json.dumps(content, indent=2), encoding="utf-8")
            if replaces and os.path.lexists(place):
                remove(place)
            making.rename(place)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {reason_of(error)}") from error
    return Obtained(place, form, source + note)


def _kept(known: KnownSet, place: Path) -> Obtained:
    """Return a set fetched before. Checksums come first, so that altered files are never parsed."""
    try:
        note = json.loads((place / NOTE).read_text(encoding="utf-8"))
        sums = {str(file): str(digest) for file, digest in note["sha256"].items()}
        source = str(note["source"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("this command did not make it, or did not finish it") from error
    for file, digest in sums.items():
        try:
            same = _sha256(place / file) == digest
        except OSError:
            same = False
        if not same:
            raise DataError(f"its {file} is not what was fetched")
    _, forms = _recognised(known, place)
    form, _ = _true_form(known, place, forms)
    first, dot, rest = source.partition(". ")
    return Obtained(place, form, f"{first.removesuffix('.')}, kept in {place}.{dot[1:]}{rest}")


def _others(known: KnownSet, place: Path) -> list[Path]:
    """Return what was not fetched and so must not be removed; the folder itself without a note."""
    if not (place / NOTE).is_file():
        return [place]
    ours = {NOTE, *TABLE_FILES, *(file for form in known.forms for file in form.files)}
    return sorted(path for path in place.iterdir() if path.name not in ours)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- is it the true one? --------------------------------------------------------------------------


def _true_form(known: KnownSet, folder: Path, forms: Sequence[Form]) -> tuple[Form, str]:
    """Return the form whose counts the files have, and a note on their order. Errors: DataError."""
    held: Counts | None = None
    for given in forms:
        form = _as_written(given, folder)
        paths = form.paths(folder)
        dataset = Dataset.load(**paths, schema=form.schema)
        log = dataset.log
        held = Counts(dataset.report.rows, len(np.unique(log.user)), len(np.unique(log.item)))
        if held != form.counts:
            continue
        for table, rows in form.rows_beside.items():
            frame = dataset.users if table == "users" else dataset.items
            found = 0 if frame is None else frame.height
            if found != rows:
                raise DataError(f"{paths[table]}: expected {rows:,} {table}, found {found:,}")
        return form, _note_of_order(known, paths["interactions"])
    wanted = " or ".join(dict.fromkeys(str(form.counts) for form in forms))
    raise DataError(
        f"{forms[0].paths(folder)['interactions']}: not {known.title}: it holds {held}; expected "
        f"{wanted}"
    )


def _as_written(form: Form, folder: Path) -> Form:
    """Return the form without its encoding if somebody has converted the files to UTF-8."""
    if "encoding" not in form.data:
        return form
    try:
        for path in form.paths(folder).values():
            path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return form
    return replace(form, data={k: v for k, v in form.data.items() if k != "encoding"})


def _note_of_order(known: KnownSet, path: Path) -> str:
    if not known.content:
        return ""
    rows = read_frame(path, "interactions").select("user_id", "item_id", "rating", "timestamp")
    if digest(rows.sort(rows.columns)) != known.content:
        raise DataError(
            f"{path}: these are not the ratings of {known.title}: their checksum differs"
        )
    in_time = rows.sort("user_id", "timestamp", maintain_order=True)
    return "" if digest(in_time) == known.order else _OTHER_ORDER


def digest(rows: pl.DataFrame) -> str:
    """Return the sha256 of a frame of integers, written as lines of numbers between spaces."""
    text = rows.write_csv(include_header=False, separator=" ", line_terminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _as_data_error(known: KnownSet) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"not as {known.title} has it, or damaged: {said}") from error
