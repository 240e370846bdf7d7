"""How do tensors, tables and plain values become bytes and come back, with no code in them?

Three formats and no others: safetensors, Parquet and strict JSON. Bytes that cannot be parsed are
refused with the name of the file they came from.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shortlist.bundle.parquet import unpacked
from shortlist.errors import BundleError

JSON: TypeAlias = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None
"""A value that strict JSON can hold: numbers are finite and keys are strings."""

ALIGNED = 64
"""Bytes: what a mapped tensor should begin at a multiple of: a cache line."""

EXPANDED = (2**28, 1000)
"""Bytes a Parquet file may unpack to: so many, and so many times its own. Logs come to some 30."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def dump_json(value: JSON) -> bytes:
    r"""Return the value as UTF-8 JSON: keys sorted, so that equal values give equal bytes.

    >>> dump_json({"b": 1, "a": [0.5, "片"]}).decode()
    '{\n  "a": [\n    0.5,\n    "片"\n  ],\n  "b": 1\n}\n'
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
        return (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"a value cannot be stored as JSON: {error}. "
            "Expected text, finite numbers, true, false, null, lists and tables of them."
        ) from error


def load_json(data: bytes, name: str) -> Any:
    """Parse strict JSON from the file `name`: no NaN, no infinity, no key twice."""
    try:
        return json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_table,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not strict JSON: {error}.") from error


def dump_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return named tensors, of any shape, as one safetensors file; copied to the CPU first.

    Those of a multiple of ALIGNED bytes stand first and begin at one, which the library's own
    writer does not see to: mapped, they are as good as tensors in memory.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = sorted(plain, key=lambda n: (plain[n].nbytes % ALIGNED != 0, -plain[n].itemsize, n))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor, start, end = plain[name], end, end + plain[name].nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    parts: list[Any] = [len(text).to_bytes(8, "little"), text]
    return b"".join(parts + [bytes_of(plain[name]) for name in names])


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, not copied where it is contiguous."""
    if not tensor.numel():
        return memoryview(b"")  # of no numbers: its strides may be any
    flat: memoryview = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return flat


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file, on the CPU, without reading them.

    The file is mapped: a page of it is read when it is first touched, shared with every process
    that maps it, and dropped where memory is short. To write to a tensor gives it pages of its
    own; the file stays as it is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path} is not a safetensors file: {error}.") from error


def dump_frame(frame: pl.DataFrame) -> bytes:
    """Return a table as one Parquet file, compressed with zstd."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def load_frame(data: bytes, name: str, rows: int | None = None) -> pl.DataFrame:
    """Parse the Parquet file `name`; rows: how many it must have, where that is known.

    Its headers are read first. A file that would have other rows, or fill more memory than
    EXPANDED allows, is refused before it is decoded.
    """
    room = EXPANDED[0] + EXPANDED[1] * len(data)
    try:
        would = unpacked(data)
        if rows is not None and would.rows != rows:
            raise ValueError(f"it has {would.rows:,} rows, and {rows:,} were announced")
        if would.size > room:
            raise ValueError(f"its {len(data):,} bytes would unpack to {would.size:,}")
        frame = pl.read_parquet(io.BytesIO(data))
        # Equal texts share their bytes until something is made of each of them.
        texts = [frame[name].explode() for name, kind in frame.schema.items() if _is_text(kind)]
        if sum(text.str.len_bytes().sum() for text in texts) > room:
            raise ValueError(f"its {len(data):,} bytes hold texts of more than {room:,} bytes")
        return frame
    # A panic of the Rust parser is a BaseException, yet no more than a bad file.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise BundleError(f"{name} is not a Parquet file of this bundle: {error}.") from error


def _is_text(kind: pl.DataType) -> bool:
    """Whether a column holds texts, or lists of them."""
    return kind == pl.String or (isinstance(kind, pl.List) and kind.inner == pl.String)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of a float")
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return table
