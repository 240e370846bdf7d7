"""How is a text file written: separator, quotes, header, encoding, missing values?

Settings that are not given are inferred from the whole file before any of it is parsed. A file that
can be read in two ways is refused: nothing is guessed row by row.
"""

import codecs
import csv
import io
import mmap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import polars as pl

from shortlist.data.lines import (
    Bytes,
    Layout,
    are_quotes,
    blocks,
    count_lines,
    read_quotes,
    refuse_ragged,
)
from shortlist.errors import DataError

MISSING = ("", "\\N")
"""Fields that mean a missing value in every text file: empty ones, and `\\N` of Hive and MySQL."""

RECBOLE = (".inter", ".user", ".item")
_SEPARATORS = {
    ".csv": ",",
    ".tsv": "\t",
    ".dat": None,
    ".txt": None,
    **dict.fromkeys((".data", ".base", ".test", ".tab", ".psv"), None),
    **dict.fromkeys(RECBOLE, "\t"),
}
_TRIED = ("::", "\t", ";", "|", ",")
_UNUSED = tuple(bytes([code]) for code in (31, 30, 29, 28, 1, 2, 3, 4))
_HEAD = 1 << 16


@dataclass(frozen=True)
class TextFormat:
    """How text files are written. A setting that is None is inferred from each file and reported.

    Attributes:
        separator: text between two fields, one character or several ("::").
        quote: character around fields that hold a separator. "none" means that quotes are ordinary
            characters.
        encoding: name of a Python codec: "utf-8", "latin-1", "utf-16", "gb18030".
        decimal: "," where numbers are written 1,5.
        columns: column names of a log without a header.
        null_values: fields that mean a missing value, besides empty ones and `\\N`.
        item_separator: text between the items of a log whose rows hold several items each.

    >>> TextFormat(separator=";").line()
    "separator ';'"
    """

    separator: str | None = None
    quote: str | None = None
    encoding: str | None = None
    decimal: Literal[","] | None = None
    columns: tuple[str, ...] = ()
    null_values: tuple[str, ...] = ()
    item_separator: str | None = None

    def __post_init__(self) -> None:
        # TOML gives lists and people write them; a frozen format needs tuples.
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "null_values", tuple(self.null_values))
        if self.separator is not None and (not self.separator or set(self.separator) & set("\r\n")):
            raise DataError(f"separator must be text within a line, got {self.separator!r}.")
        if self.quote not in (None, "none") and not (
            len(self.quote) == 1 and "!" <= self.quote <= "~"
        ):
            raise DataError(f"quote must be one ASCII character or 'none', got {self.quote!r}.")
        if self.quote is not None and self.quote == self.separator:
            raise DataError(f"quote and separator are both {self.quote!r}.")
        if self.decimal not in (None, ","):
            raise DataError(f"decimal must be ',', or left out, got {self.decimal!r}.")
        if self.decimal is not None and self.decimal == self.separator:
            raise DataError("decimal and separator are both ','.")
        if self.item_separator is not None and self.item_separator in ("", self.separator):
            raise DataError("item_separator must be text, and not the separator of fields.")
        if self.encoding is not None:
            _codec(self.encoding)
        if len(set(self.columns)) < len(self.columns):
            raise DataError("columns must not name a column twice.")

    def given(self) -> tuple[str, ...]:
        """Return the names of the settings that are given."""
        return tuple(key for key in self.__dataclass_fields__ if getattr(self, key))

    def described(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        fields = asdict(self)
        if self.item_separator is None:  # keeps the files equal to those of older versions
            del fields["item_separator"]
        return {
            **fields,
            "columns": list(self.columns),
            "null_values": list(self.null_values),
        }

    def differences(self, other: "TextFormat") -> tuple[str, ...]:
        """Return the settings in which two formats contradict each other; None agrees with all."""
        pairs = {key: (getattr(self, key), getattr(other, key)) for key in self.given()}
        return tuple(key for key, (mine, its) in pairs.items() if its is not None and mine != its)

    def line(self) -> str:
        """Return the given settings as text for a report."""
        return ", ".join(f"{key} {getattr(self, key)!r}" for key in self.given())


class Text(NamedTuple):
    """A text file that was opened and checked.

    rows: number of lines, or of records where quoted fields hold line ends; blank lines at the end
        do not count.
    """

    lazy: pl.LazyFrame
    rows: int
    format: TextFormat


def is_text_file(path: Path) -> bool:
    """Return whether the file name has the suffix of a text table."""
    return suffix_of(path) in _SEPARATORS


def is_recbole(path: Path) -> bool:
    """Return whether a file is in RecBole's format, by its suffix and its first line."""
    if suffix_of(path) not in RECBOLE:
        return False
    try:
        first = unpacked(path, _HEAD)[:_HEAD].split(b"\n")[0]
    except (OSError, ValueError):  # the reader reports a file that cannot be read
        return True
    return b"\t" in first or b":token" in first or b":float" in first or b"|" not in first


def suffix_of(path: Path) -> str:
    """Return the suffix that names the format, in lower case: .csv for log.csv.gz."""
    suffixes = path.suffixes
    packed = len(suffixes) > 1 and suffixes[-1].lower() in (".gz", ".zst")
    return (suffixes[-2] if packed else path.suffix).lower()


class _OpenedText(NamedTuple):
    """A text file whose separator is known. mark: the separator as one byte of `data`."""

    where: str
    data: Bytes
    encoding: str
    start: int
    separator: str
    mark: bytes
    quote: str
    asked: TextFormat

    def first(self) -> tuple[str, ...]:
        """Return the fields of the first line."""
        line = _head(self.data, self.start)[0]
        try:
            return _header(line, self.mark.decode(), self.quote)
        except csv.Error as error:
            raise DataError(
                f"{self.where}: the first line cannot be read ({error}): the file is no text, or "
                'quotes in it are ordinary characters: set data.quote = "none".'
            ) from error


def first_fields(path: Path, asked: TextFormat, most: int | None = None) -> tuple[str, ...]:
    """Return the fields of the first line, whether it is a header or a row. Errors: DataError."""
    return _opened(path, asked, most).first()


def open_text(path: Path, asked: TextFormat, most: int | None = None) -> Text:
    """Infer how a file is written, check each of its lines, and return how to parse it.

    most: read only this many bytes, cut at the end of a line; None reads the whole file.

    Errors: DataError names the first row that does not fit and the setting to change; OSError for a
    damaged compressed file.
    """
    where = str(path)
    opened = _opened(path, asked, most)
    _, data, encoding, start, separator, mark, quote, asked = opened
    first = opened.first()
    names = asked.columns or first
    if both := [name for name in asked.columns if name in first]:
        raise DataError(
            f"{where}: the first line is a header, as it holds the name {both[0]!r}; leave out the "
            "names of columns in the recipe (data.columns, data.users_columns, data.items_columns)."
        )
    layout = Layout(where, start, mark, len(names), not asked.columns, separator)
    quoted: bool | None = None
    records = count_lines(data, layout, quote)
    if records is None:
        found = read_quotes(data, layout, quote)
        quoted = are_quotes(data, layout, quote, found, said=asked.quote is not None)
        if quoted:
            refuse_ragged(data, layout, found)
        records = found.records if quoted else count_lines(data, layout)
        if quoted and found.inner:
            data, start = _requoted(data, start, mark, quote), 0
    decided = TextFormat(
        separator=separator,
        quote=asked.quote or (None if quoted is None else quote if quoted else "none"),
        encoding=encoding,
        decimal=asked.decimal,
        columns=asked.columns,
        null_values=asked.null_values,
        item_separator=asked.item_separator,
    )
    as_it_is = isinstance(data, mmap.mmap) and (not start or not asked.columns)
    lazy = pl.scan_csv(
        path if as_it_is else io.BytesIO(data[start:]),
        separator=mark.decode(),
        quote_char=quote if quoted else None,
        infer_schema=False,
        null_values=[*MISSING, *asked.null_values],
        has_header=not asked.columns,
        new_columns=list(asked.columns) or None,
        glob=False,
    )
    return Text(lazy, records - layout.header, decided)


def _opened(path: Path, asked: TextFormat, most: int | None) -> _OpenedText:
    """Read a file, and determine its encoding and its separator."""
    where, suffix = str(path), suffix_of(path)
    if is_recbole(path):
        asked = TextFormat("\t", "none", null_values=asked.null_values)
    data, encoding, start = _as_utf8(path, asked.encoding, most)
    if data.find(b"\n") < 0 and data.find(b"\r") >= 0:
        data = data[:].replace(b"\r", b"\n")
    while data[start : start + 1] in (b"\n", b"\r"):
        start += 1
    if start == len(data):
        raise DataError(f"{where}: the file is empty.")
    separator = asked.separator or _separator(_head(data, start), suffix, where)
    if asked.decimal == separator:
        raise DataError(f"{where}: its separator is ',', so data.decimal = ',' is impossible.")
    mark = separator.encode()
    if len(mark) > 1:
        if asked.quote not in (None, "none"):
            raise DataError(
                f"{where}: quote = {asked.quote!r} does nothing with a separator of several "
                f"characters, {separator!r}; remove data.quote."
            )
        data, mark = _one_byte(data, start, mark, where)
        asked, start = replace(asked, quote="none"), 0
    quote = {None: '"', "none": ""}.get(asked.quote, asked.quote) or ""
    return _OpenedText(where, data, encoding, start, separator, mark, quote, asked)


def undecodable(path: Path, where: str) -> DataError | None:
    """Return the error for a file that is not valid UTF-8, or None. Called when parsing failed."""
    try:
        data, encoding, _ = _as_utf8(path, None)
        if encoding != "utf-8":
            return None
        data[:].decode()
    except UnicodeDecodeError as error:
        return _not_decoded(error, where)
    except (DataError, OSError):
        return None
    return None


def _not_decoded(error: UnicodeDecodeError, where: str) -> DataError:
    row = error.object.count(b"\n", 0, error.start)
    begin = error.object.rfind(b"\n", 0, error.start) + 1
    line = error.object[begin : begin + 60].split(b"\n")[0]
    cure = (
        'Set its encoding: data.encoding = "latin-1", "cp1251" or "gb18030" are usual'
        if error.encoding == "utf-8"
        else "Give data.encoding another value"
    )
    place = f"row {row:,}" if row else "the header"
    return DataError(f"{where}: {place}: {line!r} is not {error.encoding} text. {cure}.")


def _codec(name: str) -> str:
    try:
        known = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError) as error:
        raise DataError(
            f"encoding: there is no encoding of text named {name!r}; usual ones are utf-8, "
            "latin-1, cp1252, utf-16 and gb18030."
        ) from error
    return known.name


def _as_utf8(path: Path, encoding: str | None, most: int | None = None) -> tuple[Bytes, str, int]:
    """Return the bytes of a file as UTF-8, their original encoding, and where the text starts."""
    where, data = str(path), unpacked(path, most)
    marked = data[:3] == codecs.BOM_UTF8
    if encoding is None and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    if encoding is None and not marked and data[:64].count(0) >= min(len(data), 64) // 4 > 0:
        raise DataError(f'{where}: every other byte is 0. Set data.encoding = "utf-16-le".')
    name = "utf-8" if encoding is None else _codec(encoding)
    if name in ("utf-8", "utf-8-sig", "ascii"):
        return data, "utf-8", 3 if marked else 0
    try:
        written, plain = _recoded(data, name)
    except UnicodeDecodeError as error:
        raise _not_decoded(_whole(error, data, name), where) from error
    except UnicodeError as error:  # for example UTF-16 without a byte order mark
        raise DataError(
            f"{where}: this is no text in {name}: {error}. Set another data.encoding, such as "
            '"utf-16-le" for text without a byte order mark.'
        ) from error
    if name.startswith(("iso8859", "cp125")) and not plain and _is_utf8(data):
        # Any bytes are valid in these encodings, but accented text is hardly valid UTF-8 by chance.
        raise DataError(f"{where}: this is UTF-8 text; leave out data.encoding = {encoding!r}.")
    return written, name, 0


def _decoded(data: Bytes, name: str) -> Iterator[str]:
    """Yield the decoded text of a file in parts, to keep only one part in memory."""
    decoder = codecs.getincrementaldecoder(name)()
    for start in range(0, len(data), _HEAD):
        yield decoder.decode(data[start : start + _HEAD], start + _HEAD >= len(data))


def _recoded(data: Bytes, name: str) -> tuple[bytes, bool]:
    """Return the bytes as UTF-8 without a byte order mark, and whether all of them are ASCII."""
    target, plain = io.BytesIO(), True
    for part in _decoded(data, name):
        target.write((part if target.tell() else part.removeprefix("\ufeff")).encode())
        plain = plain and part.isascii()
    return target.getvalue(), plain


def _is_utf8(data: Bytes) -> bool:
    try:
        for _ in _decoded(data, "utf-8"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _whole(error: UnicodeDecodeError, data: Bytes, name: str) -> UnicodeDecodeError:
    """Turn a decoding error of one part into that of the whole file, so that rows are countable."""
    try:
        data[:].decode(name)
    except UnicodeDecodeError as found:
        return found
    return error


def unpacked(path: Path, most: int | None = None) -> Bytes:
    """Return the bytes of a file; a compressed file is decompressed.

    most: return at most this many bytes, cut at the end of a line.
    """
    if _packing(path) is not None:
        with opened(path) as stream:
            return _whole_lines(stream.read() if most is None else stream.read(most), most)
    with path.open("rb") as file:
        if most is not None:
            return _whole_lines(file.read(most), most)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def opened(path: Path) -> IO[bytes]:
    """Open a file as a stream of bytes; a compressed file is decompressed."""
    if (packing := _packing(path)) is None:
        return path.open("rb")
    import pyarrow as pa  # noqa: PLC0415

    stream: IO[bytes] = pa.input_stream(str(path), compression=packing)
    return stream


def _packing(path: Path) -> str | None:
    return {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())


def _whole_lines(data: bytes, most: int | None) -> bytes:
    """Drop the last line if it was cut, together with a quoted field that starts before it."""
    if most is None or len(data) < most:
        return data
    end = _line_end(data, len(data))
    while end > most // 2 and data.count(b'"', 0, end) % 2:
        end = _line_end(data, data.rfind(b'"', 0, end))
    return data[:end] or data


def _line_end(data: bytes, before: int) -> int:
    """Return where the last line before a position ends (a line end has two bytes in UTF-16)."""
    zeros = data[:2] == codecs.BOM_UTF16_LE or data[1:2] == b"\0"
    mark = b"\n\0" if zeros else b"\n"
    width = 2 if zeros or data[:2] == codecs.BOM_UTF16_BE or data[:1] == b"\0" else 1
    end = data.rfind(mark, 0, before) + len(mark)
    while end % width and end > len(mark):
        end = data.rfind(mark, 0, end - 1) + len(mark)
    return end if end >= len(mark) else 0


def _head(data: Bytes, start: int) -> list[str]:
    """Return the first lines of a file, without blank ones and without one that may be cut."""
    piece = data[start : start + _HEAD]
    lines = piece.decode(errors="replace").replace("\r\n", "\n").split("\n")
    whole = lines if start + _HEAD >= len(data) or len(lines) == 1 else lines[:-1]
    return [line for line in whole if line][:100]


def _header(line: str, mark: str, quote: str) -> tuple[str, ...]:
    if not quote or quote not in line:
        return tuple(line.split(mark))
    return tuple(next(csv.reader([line], delimiter=mark, quotechar=quote)))


def _separator(head: list[str], suffix: str, where: str) -> str:
    """Return the separator: the usual one of the suffix, or one that fits all first lines."""
    usual = _SEPARATORS.get(suffix)
    if usual is not None and usual in head[0]:
        return usual
    found = [
        mark
        for mark in _TRIED
        if (count := head[0].count(mark)) and all(line.count(mark) == count for line in head)
    ]
    if len(found) > 1:
        listed = " or ".join(f"data.separator = {mark!r}" for mark in found)
        raise DataError(f"{where}: the separator is not certain; set {listed}.")
    if not found and usual is None and (near := [mark for mark in _TRIED if mark in head[0]]):
        raise DataError(
            f"{where}: the separator is not certain; set data.separator = {near[0]!r}, if it is."
        )
    return found[0] if found else usual or "\t"


def _one_byte(data: Bytes, start: int, mark: bytes, where: str) -> tuple[bytes, bytes]:
    """Replace a separator of several bytes by one byte that the file does not hold."""
    for unused in _UNUSED:
        if not any(unused in block for block in blocks(data, start)):
            target = io.BytesIO()
            target.writelines(block.replace(mark, unused) for block in blocks(data, start))
            return target.getvalue(), unused
    raise DataError(
        f"{where}: the file holds control characters, and a separator of several characters cannot "
        "be told from them; write it with one character."
    )


def _requoted(data: Bytes, start: int, mark: bytes, quote: str) -> bytes:
    """Rewrite a file with all quotes escaped, as quotes also stand inside unquoted fields."""
    shape: Any = {"delimiter": mark.decode(), "quotechar": quote}
    target = io.BytesIO()
    limit = csv.field_size_limit(len(data) + 1)
    try:
        lines = chain.from_iterable(
            io.StringIO(block.decode(errors="surrogateescape"), newline="")
            for block in blocks(data, start)
        )
        text = io.TextIOWrapper(target, "utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n", **shape)
        writer.writerows(row or [""] for row in csv.reader(lines, **shape))
        text.flush()
    finally:
        csv.field_size_limit(limit)
    return target.getvalue()
