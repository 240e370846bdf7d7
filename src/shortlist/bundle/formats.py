"""How do tensors, tables and plain values become bytes that cannot hold code, and come back?

There are three formats: safetensors, Parquet and strict JSON. An error about bytes that cannot be
parsed names their file.
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
"""Alignment of tensors in a file, in bytes: a cache line."""

EXPANDED = (2**28, 1000)
"""(a, b): a Parquet file of n bytes may unpack to a + b·n bytes. Logs need b of about 30."""

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
    r"""Return the value as UTF-8 JSON with sorted keys: equal values give equal bytes.

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
    """Parse strict JSON: no NaN, no infinity, no repeated key.

    name: the file's name, for errors. Errors: BundleError.
    """
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
    """Return named tensors as the bytes of one safetensors file.

    Tensors whose size is a multiple of ALIGNED come first, so that they are aligned when mapped;
    the writer of the safetensors library does not align them.
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
    """Return the bytes of a CPU tensor; a contiguous one is not copied."""
    if not tensor.numel():
        return memoryview(b"")  # an empty tensor may have strides that view() refuses
    flat: memoryview = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return flat


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map the named tensors of a safetensors file, on the CPU.

    A page is read when it is first used, and all processes that map the file share it. Writing to a
    tensor copies its pages and never changes the file. Errors: BundleError.
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
    """Parse a Parquet file.

    The headers are read first: a file with a wrong number of rows, or larger in memory than
    EXPANDED allows, is refused before it is decoded.

    name: the file's name, for errors.
    rows: the number of rows it must have; None for any.
    Errors: BundleError.
    """
    room = EXPANDED[0] + EXPANDED[1] * len(data)
    try:
        would = unpacked(data)
        if rows is not None and would.rows != rows:
            raise ValueError(f"it has {would.rows:,} rows where the manifest says {rows:,}")
        if would.size > room:
            raise ValueError(f"its {len(data):,} bytes would unpack to {would.size:,}")
        frame = pl.read_parquet(io.BytesIO(data))
        # In memory, equal texts share bytes that later processing copies for each row.
        texts = [frame[name].explode() for name, kind in frame.schema.items() if _is_text(kind)]
        if sum(text.str.len_bytes().sum() for text in texts) > room:
            raise ValueError(f"its {len(data):,} bytes hold texts of more than {room:,} bytes")
        return frame
    # A panic of the Rust parser is a BaseException, but here it only means a bad file.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise BundleError(f"{name} is not a Parquet file of this bundle: {error}.") from error


def _is_text(kind: pl.DataType) -> bool:
    """Tell whether a column holds texts or lists of texts."""
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
        raise ValueError(f"the key {twice!r} is repeated")
    return table
