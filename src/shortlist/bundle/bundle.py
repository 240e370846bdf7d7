"""The artifact: a retriever with its data, recipe and figures, in one verified directory."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from shortlist.asking.capabilities import Channel
from shortlist.blending.retrievers import RETRIEVERS, parts
from shortlist.bundle.data_files import data_fields, data_files, read_data
from shortlist.bundle.formats import JSON, bytes_of, dump_json, dump_tensors, load_json
from shortlist.bundle.migration import migrated
from shortlist.bundle.schema import check_fields, check_manifest, named_parts
from shortlist.bundle.store import FORMAT, Manifest, publish, verify
from shortlist.channels.kept import check_finite, check_tensors
from shortlist.channels.learned.base import usable_device
from shortlist.data.histories import Histories
from shortlist.errors import BundleError, MissingPackageError, OutputError, ShortlistError, nameless
from shortlist.histories.events import Watermark
from shortlist.outputs import kept_name
from shortlist.plugins import Plugin, own_parts, use_plugins
from shortlist.showing import Facts, Showing

SPACE = {"embedding_space": (torch.uint8, (32,))}

UNFORESEEN = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError),
    *(ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException),
)
"""What parsers and libraries raise over content that no check had thought of."""


@dataclass(frozen=True, repr=False)
class Bundle(Showing):
    """A loaded bundle. metrics: the report saved with it, which names the fit it measured."""

    retriever: Channel
    manifest: Manifest

    def facts(self) -> Facts:
        """Return the start of the id, and what is in it."""
        return {"id": self.id[:12], "retriever": self.manifest.fields["retriever"]} | {
            name: figure["mean"]
            for name, figure in ((self.metrics or {}).get("metrics") or {}).items()
            if name in ("recall@10", "ndcg@10")
        }

    @property
    def id(self) -> str:
        """The sha256 of the manifest: equal ids mean equal bytes in every file."""
        return self.manifest.id

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """What was measured before saving, as `Report.to_dict` gives it; None if nothing was."""
        metrics: Mapping[str, Any] | None = self.manifest.fields["metrics"]
        return metrics

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The recipe it was trained from; None where it was trained in Python."""
        recipe: Mapping[str, Any] | None = self.manifest.fields["recipe"]
        return recipe

    @property
    def watermark(self) -> Watermark | None:
        """Up to which event of which store it has learned; None where nobody has said."""
        mark: Mapping[str, Any] | None = self.manifest.fields.get("watermark")
        return None if mark is None else Watermark(**mark)

    @property
    def items_watermark(self) -> Watermark | None:
        """Up to which change of items of which store its items table knows them; None for none."""
        mark: Mapping[str, Any] | None = self.manifest.fields.get("items_watermark")
        return None if mark is None else Watermark(**mark)

    @property
    def forgets_met(self) -> bool:
        """Whether it was made before bundles kept what users rated below min_weight."""
        data = (self.recipe or {}).get("data", {})
        kept = self.retriever.data
        return data.get("min_weight") is not None and kept.met is None and kept.counts is None


def save(
    retriever: Channel,
    directory: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    findings: Sequence[Mapping[str, str]] = (),
    index: Mapping[str, Any] | None = None,
    watermark: Watermark | None = None,
    items_watermark: Watermark | None = None,
    log: bool = True,
    overwrite: bool = False,
) -> str:
    """Write a fitted retriever with its data as a bundle; return the bundle's id.

    metrics: `Report.to_dict()`. recipe: `Recipe.to_dict()`. findings: `Finding.to_dict()` of each
    mistake the doctor found in training. index: what was measured of its index. watermark: the last
    event of a store that is in its log. items_watermark: the last change of items that its items
    table holds: later ones alone are made to it when it is served. log: whether the events are
    kept; without them histories come with the queries, or from a store given to `load`. The
    directory appears whole or not at all; one that exists is refused unless `overwrite` is set.
    Errors: BundleError.
    """
    name = next((n for n, kind in RETRIEVERS.items() if type(retriever) is kind), None)
    if name is None:
        own = type(retriever).__name__
        raise BundleError(f"a {own} cannot be saved: it {nameless('CHANNELS', own)}")
    settings, states = retriever.state()
    data = retriever.data
    if not log:
        check_without_log(retriever)
        data = data.without_log()
    files = data_files(data)
    described = data_fields(data, files)
    space = embedding_space(settings, states, described)
    for file, tensors in states.items():
        files[f"{file}.safetensors"] = dump_tensors(tensors | {"embedding_space": space})
    fields: dict[str, JSON] = {
        "retriever": name,
        "settings": settings,
        "data": described,
        "embedding_space": _hex(space),
        "metrics": metrics,
        "recipe": recipe,
        "findings": [dict(finding) for finding in findings],
        "index": index,
    }
    if watermark is not None:
        fields["watermark"] = watermark._asdict()
    if items_watermark is not None:
        fields["items_watermark"] = items_watermark._asdict()
    if parts := own_parts(named_parts(fields)):
        fields["parts"] = [part._asdict() for part in parts]
    _check_written(fields)
    return publish(Path(directory), files, fields, overwrite)


def check_without_log(retriever: Channel) -> None:
    """Refuse to save a retriever without its log that answers from it. Errors: BundleError."""
    for name, channel in parts(retriever).items():
        if getattr(channel, "reads_log", True):
            raise BundleError(
                f"{name} answers from the log itself, so a bundle of it cannot be saved without it"
            )


def save_or_keep(
    retriever: Channel, directory: str | Path, *, overwrite: bool = False, **fields: Any
) -> str:
    """Do as `save`; what took hours to make and cannot be published there is kept elsewhere.

    Beside `directory`, else in the system's folder for temporary files, under a name that begins
    with that of the bundle. Errors: those of `save`, with the place.
    """
    try:
        return save(retriever, directory, overwrite=overwrite, **fields)
    except (BundleError, OutputError) as error:
        place = _kept(retriever, Path(directory).absolute(), fields)
        said = f"It is kept as {place}" if place else "It could not be kept elsewhere either"
        raise type(error)(f"{str(error).removesuffix('.')}. {said}") from error


def _kept(retriever: Channel, directory: Path, fields: Mapping[str, Any]) -> Path | None:
    """Save a bundle where it can be; return the place, None if there is none."""
    for folder in (directory.parent, Path(tempfile.gettempdir())):
        place = folder / kept_name(directory)
        with suppress(BundleError, OutputError):
            save(retriever, place, **fields)
            return place
    return None


def load(
    directory: str | Path,
    *,
    device: str = "cpu",
    plugins: Iterable[Plugin] = (),
    store: Histories | None = None,
) -> Bundle:
    """Verify every byte of a bundle, then load it.

    store: where the histories of users are, instead of in the bundle's log (`data.histories`).

    plugins: the modules, or their names, of parts that are not Shortlist's: see `use_plugins`. The
    bundle itself says what it needs, and imports nothing.

    Errors: BundleError, naming the file, for one that is damaged, or sealed anew over what no
    training has made; ModelError for a device or an index that this machine does not have;
    PluginError.
    """
    use_plugins(plugins)
    manifest = verify(Path(directory))
    device = usable_device(device)
    with _refusing(manifest):
        check_manifest(manifest)
        _check_tensors(manifest, _states(manifest))
        states = _states(manifest)
        for state in states.values():
            del state["embedding_space"]
        settings, states = migrated(manifest, states)
        kind = RETRIEVERS[manifest.fields["retriever"]]
        retriever = kind.from_state(read_data(manifest, store), settings, states, device=device)
    return Bundle(retriever, manifest)


@contextmanager
def _refusing(manifest: Manifest) -> Iterator[None]:
    """Say of a bundle that cannot be used which one it is, and which version can read it.

    The checks name what is wrong. What they miss fails where it is used, in whatever way: that is
    a bundle that cannot be used, too.
    """
    older = ""
    if manifest.format < FORMAT:
        older = (
            f" It is of format {manifest.format}, written by {manifest.created_by}: a version of "
            "that time can read it."
        )
    try:
        yield
    except MissingPackageError:
        raise
    except BundleError as error:
        raise BundleError(f"{error}{older}") from error
    except ShortlistError as error:
        raise BundleError(f"{manifest.directory} cannot be used: {error}.{older}") from error
    except UNFORESEEN as error:
        raise BundleError(
            f"{manifest.directory} cannot be used: its files do not fit each other "
            f"({type(error).__name__}: {error!s:.200}). Restore it from a copy, or make it "
            f"again.{older}"
        ) from error


def _check_written(fields: Mapping[str, Any]) -> None:
    """Refuse to write what `load` would refuse to read."""
    try:
        check_fields(load_json(dump_json(fields), "the manifest"), exact=True)
    except ValueError as error:
        raise BundleError(f"this retriever cannot be kept: {error}") from error


def _states(manifest: Manifest) -> dict[str, dict[str, Tensor]]:
    """Map the tensors of every file."""
    return {
        name.removesuffix(".safetensors"): manifest.tensors(name)
        for name in manifest.files
        if name.endswith(".safetensors")
    }


def _check_tensors(manifest: Manifest, states: Mapping[str, dict[str, Tensor]]) -> None:
    """Refuse numbers that are not finite, and files that belong to different towers: BundleError.

    All weights are read for it; an index looks through its own. The states are the caller's last
    hold on these maps: with them those pages go, and the service later maps anew and reads only
    what it asks for.
    """
    fields = manifest.fields
    spaces = {}
    for name, state in states.items():
        if "embedding_space" not in state:
            raise BundleError(f"{manifest.directory}: {name} does not say whose vectors it holds.")
        check_tensors(name, {"embedding_space": state["embedding_space"]}, SPACE)
        spaces[name] = _hex(state.pop("embedding_space"))
        if name.split(".")[-1] != "index":
            check_finite(name, state)
    real = _hex(embedding_space(fields["settings"], states, fields["data"]))
    for name, space in {**spaces, "manifest": fields["embedding_space"]}.items():
        if space != real:
            raise BundleError(
                f"{manifest.directory}: {name} belongs to other towers (embedding space "
                f"{space[:12]}, not {real[:12]}); restore the bundle from a copy, or make it again."
            )


def embedding_space(
    settings: Mapping[str, JSON],
    states: Mapping[str, Mapping[str, Tensor]],
    data: Mapping[str, JSON],
) -> Tensor:
    """Return the sha256 that ties towers and vectors together, [32] uint8.

    Of the tower weights, the settings (similarity and width among them), the encoders and the log
    they were fitted on: vectors of equal spaces can be compared, vectors of others cannot.
    """
    digest = hashlib.sha256(dump_json(settings))
    described = {name: data[name] for name in ("user_encoders", "item_encoders", "fingerprint")}
    if "event_encoders" in data:
        described["event_encoders"] = data["event_encoders"]
    digest.update(dump_json(described))
    for file, tensors in sorted(states.items()):
        if file.split(".")[-1] == "towers":
            for name, tensor in sorted(tensors.items()):
                digest.update(name.encode())
                digest.update(bytes_of(tensor.cpu()))
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _hex(space: Tensor) -> str:
    return bytes(space.tolist()).hex()
