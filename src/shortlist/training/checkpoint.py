"""How does a killed training resume to the same result? Its state is saved to disk, atomically."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from shortlist import outputs
from shortlist.data.ragged import Ragged
from shortlist.data.training_data import TrainingData
from shortlist.errors import CheckpointError
from shortlist.outputs import Output
from shortlist.systems import check_system
from shortlist.training.ranks import here

FORMAT = 2
"""Format number of the files; other numbers are refused."""

EVERY = 300.0
"""Default number of seconds between two checkpoints."""

IDENTITY = "training.id"
"""File in the directory with the id of its training."""

_CURE = "remove the checkpoint to start again, or give another directory"
_NAME = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class State(NamedTuple):
    """The content of a checkpoint.

    plain: JSON values by name.
    tensors: tensors by name.
    """

    plain: dict[str, Any]
    tensors: dict[str, Tensor]


def part_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `name.`, with that prefix removed.

    >>> import torch
    >>> part_of({"a.x": torch.tensor(1), "b.x": torch.tensor(2)}, "b")
    {'x': tensor(2)}
    """
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


class Checkpoints:
    """A directory of checkpoints, one for each stage of a training, such as `train` or `all`.

    directory: the folder; it is created at the first checkpoint.
    every: seconds between two checkpoints; 0 writes one after each step.
    part: prefix of the names of the stages, if several retrievers train one after the other.
    Errors: CheckpointError for a negative `every`.
    """

    def __init__(self, directory: Path | str, *, every: float = EVERY, part: str = "") -> None:
        check_system()
        if not every >= 0:
            raise CheckpointError(f"seconds between checkpoints must be >= 0, got {every}")
        self.directory = Path(directory)
        self.every = every
        self._part = part
        self._stages: list[Stage] = []

    def of(self, part: str) -> "Checkpoints":
        """Return the checkpoints of one of several retrievers, in the same directory."""
        inner = Checkpoints(self.directory, every=self.every, part=f"{self._part}{part}.")
        inner._stages = self._stages
        return inner

    def stage(self, name: str, fingerprint: str, precision: str) -> "Stage":
        """Return the checkpoint of one stage.

        name: name of the stage.
        fingerprint: hash of everything that decides the result, from `fingerprint`.
        precision: precision of the training, which "auto" may choose differently on another device.
        Errors: OutputError for a directory that cannot be written, or that is inside a bundle.
        """
        self._check()
        stage = Stage(
            *(self.directory, self._part + name, fingerprint, self.every, precision),
            processes=here().size,
        )
        self._stages.append(stage)
        return stage

    @property
    def saved(self) -> bool:
        """True if the directory holds a checkpoint."""
        return any(self.directory.glob("*.checkpoint.json"))

    def identity(self) -> tuple[str, bool]:
        """Return a random id of the training, and whether it continues from a checkpoint.

        The id is kept beside the checkpoints, so it stays the same each time the training is
        resumed, also after the directory has moved.
        Errors: OutputError, CheckpointError for a directory that cannot be written.
        """
        self._check()
        path = self.directory / IDENTITY
        resumed = self.saved
        with _naming("write", path):
            identity = path.read_bytes().decode(errors="replace") if path.is_file() else ""
            if not resumed or not _IDENTITY.fullmatch(identity):
                identity = uuid4().hex
                self.directory.mkdir(parents=True, exist_ok=True)
                path.write_text(identity, encoding="utf-8")
        return identity, resumed

    def remove(self) -> None:
        """Remove the checkpoints of all stages that were used, and the directory if it is empty."""
        for stage in self._stages:
            stage.remove()
        with _naming("remove", self.directory):
            (self.directory / IDENTITY).unlink(missing_ok=True)
            if self.directory.is_dir() and not os.listdir(self.directory):
                os.rmdir(self.directory)

    def _check(self) -> None:
        outputs.check({"the checkpoint": Output(self.directory, "folder")})


class Stage:
    """One checkpoint: NAME.checkpoint.json, and a file of tensors whose sha256 is in the JSON.

    The tensors are written first, to a file with a new name. Then the JSON is replaced atomically,
    and the old tensors are removed. So the JSON names a complete file even if the writer is killed.

    directory: folder of the files.
    name: name of the stage.
    fingerprint: hash of everything that decides the result.
    every: seconds between two checkpoints.
    precision: precision of the training.
    processes: number of processes of the training.
    digest (attribute): sha256 of the checkpoint that `load` has returned; empty without one.
    Errors: CheckpointError for an invalid name.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        fingerprint: str,
        every: float,
        precision: str = "float32",
        processes: int = 1,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"a checkpoint cannot be named {name!r}")
        self._directory = directory
        self._name = name
        self._fingerprint = fingerprint
        self._every = every
        self._precision = precision
        self._processes = processes
        self.digest = ""
        self._latest = time.monotonic()

    @property
    def path(self) -> Path:
        """Path of the JSON file."""
        return self._directory / f"{self._name}.checkpoint.json"

    def due(self) -> bool:
        """Tell whether it is time to write the next checkpoint."""
        return time.monotonic() - self._latest >= self._every

    def load(self) -> State | None:
        """Return the saved state; None if there is none.

        Errors: CheckpointError for damaged files, and for a checkpoint of another recipe, other
        data, another version, another precision or another number of processes.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            content = json.loads(text)
            number, of = content["format"], content["fingerprint"]
            name, digest, plain = content["tensors"], content["sha256"], content["state"]
            precision = content["precision"] if number == FORMAT else self._precision
            processes = int(content.get("processes", 1))  # not stored for a single process
            sound = bool(_DIGEST.fullmatch(digest)) and name == self._file(name.split(".")[-3])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{self.path} is damaged: {_CURE}") from error
        if not sound or not isinstance(plain, dict):
            raise CheckpointError(f"{self.path} is damaged: {_CURE}")
        if number != FORMAT or of != self._fingerprint:
            raise CheckpointError(
                f"{self.path} is a checkpoint of another recipe, other data or another version: "
                f"{_CURE}"
            )
        if precision != self._precision:
            raise CheckpointError(
                f"{self.path} belongs to a training in {precision!s:.20}, and this training runs "
                f"in {self._precision}: set training.precision = '{precision!s:.20}' to resume, "
                f"or {_CURE}"
            )
        if processes != self._processes:
            raise CheckpointError(
                f"{self.path} belongs to a training with {processes} process{_es(processes)}, and "
                f"this training has {self._processes}: start as many to resume, or {_CURE}"
            )
        tensors = self._tensors(name, digest)
        self.digest = hashlib.sha256(text).hexdigest()
        return State(plain, tensors)

    def save(self, state: State) -> None:
        """Write the state atomically: a reader finds either this state or the previous one."""
        name = self._file(uuid4().hex)
        path = self._directory / name
        with _naming("write", path):
            self._directory.mkdir(parents=True, exist_ok=True)
            tensors = {
                key: value.detach().cpu().contiguous() for key, value in state.tensors.items()
            }
            safetensors.torch.save_file(tensors, path)
            _sync(path)
            content = {
                "format": FORMAT,
                "fingerprint": self._fingerprint,
                "precision": self._precision,
                **({"processes": self._processes} if self._processes > 1 else {}),
                "tensors": name,
                "sha256": _sha256(path),
                "state": state.plain,
            }
            text = json.dumps(content, allow_nan=False, indent=1).encode()
            temporary = self.path.with_name(f"{self._name}.{uuid4().hex}.checkpoint.tmp")
            temporary.write_bytes(text)
            _sync(temporary)
            os.replace(temporary, self.path)
            _sync(self._directory)
        self._remove_all(but={self.path.name, name})
        self._latest = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint, and files that a killed writer has left."""
        self.path.unlink(missing_ok=True)  # first, so that it never names a missing file
        self._remove_all(but=set())

    def _file(self, unique: str) -> str:
        return f"{self._name}.{unique}.checkpoint.safetensors"

    def _tensors(self, name: str, digest: str) -> dict[str, Tensor]:
        path = self._directory / name
        try:
            if _sha256(path) != digest:
                raise CheckpointError(f"{path} was changed after it was written: {_CURE}")
            return safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}; {_CURE}") from error

    def _remove_all(self, but: set[str]) -> None:
        own = re.compile(re.escape(self._name) + r"\.[0-9a-f]{32}\.checkpoint\.(safetensors|tmp)")
        with _naming("clear", self._directory):
            for path in self._directory.glob("*.checkpoint.*"):
                if own.fullmatch(path.name) and path.name not in but:
                    path.unlink(missing_ok=True)


def _es(count: int) -> str:
    return "" if count == 1 else "es"


def fingerprint(
    described: Mapping[str, Any], data: TrainingData, *, numeric_features: bool = True
) -> str:
    """Return the sha256, in hex, of a description (JSON values) and of all training data.

    numeric_features: include the values of numeric features, not only their shapes. They are scaled
    by means and deviations, which another processor may round differently.
    """
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, array in _arrays(data):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        if numeric_features or not (_is_feature(name) and array.dtype.kind == "f"):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_feature(name: str) -> bool:
    return name.partition(".")[0] in ("user", "item", "logged")


def _arrays(data: TrainingData) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield every array that a training depends on: ids, logs with split, features, negatives.

    data.met is included because the validation figure, which stops the training, excludes the
    items in it.
    """
    yield "users", data.users.tie_keys
    yield "items", data.items.tie_keys
    for name, log in (("log", data.log), ("met", data.met)):
        for column in () if log is None else fields(log):
            if isinstance(array := getattr(log, column.name), np.ndarray):
                yield f"{name}.{column.name}", array
    for side, table in (("user", data.user_features), ("item", data.item_features)):
        for name, values in table.columns.items():
            yield from _lists(f"{side}.{name}", values)
    for name, lists in data.logged.items():
        yield from _lists(f"logged.{name}", lists)


def _lists(name: str, values: Tensor | Ragged) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(values, Ragged):
        yield f"{name}.offsets", values.offsets.numpy()
        values = values.values
    yield name, values.numpy()


@contextmanager
def _naming(action: str, path: Path) -> Iterator[None]:
    """Turn an error of the file system into a CheckpointError that names the path."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot {action} {path}: {error}. Check the path, its permissions and the free space."
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
