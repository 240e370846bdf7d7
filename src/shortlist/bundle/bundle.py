"""How are a retriever, its data, recipe and figures saved as one verified directory, and loaded?"""

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
"""Errors that parsers and libraries raise for faulty content that the checks do not cover."""


@dataclass(frozen=True, repr=False)
class Bundle(Showing):
    """A loaded bundle.

    Attributes:
        retriever: the fitted retriever.
        manifest: the verified manifest, with the files' sizes and sha256.
    """

    retriever: Channel
    manifest: Manifest

    def facts(self) -> Facts:
        """Return the start of the id, the kind of retriever, and recall and ndcg at 10."""
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
        """The saved report, as `Report.to_dict` gives it; None if nothing was measured.

        Its field `split.fit` names the fit that was measured.
        """
        metrics: Mapping[str, Any] | None = self.manifest.fields["metrics"]
        return metrics

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The recipe that it was trained from; None if it was trained in Python."""
        recipe: Mapping[str, Any] | None = self.manifest.fields["recipe"]
        return recipe

    @property
    def watermark(self) -> Watermark | None:
        """The newest event of an event store that its log holds; None if unknown."""
        mark: Mapping[str, Any] | None = self.manifest.fields.get("watermark")
        return None if mark is None else Watermark(**mark)

    @property
    def items_watermark(self) -> Watermark | None:
        """The newest change of items of a store that its items table holds; None for none."""
        mark: Mapping[str, Any] | None = self.manifest.fields.get("items_watermark")
        return None if mark is None else Watermark(**mark)

    @property
    def forgets_met(self) -> bool:
        """True for an older bundle that did not keep the events below min_weight."""
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

    The write is atomic: the directory appears complete, or nothing changes.

    Args:
        retriever: a fitted retriever.
        directory: where the bundle is written.
        metrics: `Report.to_dict()`.
        recipe: `Recipe.to_dict()`.
        findings: `Finding.to_dict()` of each finding of the doctor in training.
        index: measurements of its index.
        watermark: the newest event of an event store that is in the log.
        items_watermark: the newest change of items that is in the items table. A service applies
            only later ones to it.
        log: save the events. Without them, histories come with the queries, or from a store that
            is given to `load`.
        overwrite: replace an existing bundle, which is otherwise refused.

    Raises:
        BundleError: if the retriever cannot be saved, or the disk refuses.
        OutputError: if the directory cannot be written or exists.
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
    """Check that no channel needs the log in order to answer. Errors: BundleError."""
    for name, channel in parts(retriever).items():
        if getattr(channel, "reads_log", True):
            raise BundleError(
                f"{name} answers from the log itself, so it cannot be saved without the log"
            )


def save_or_keep(
    retriever: Channel, directory: str | Path, *, overwrite: bool = False, **fields: Any
) -> str:
    """Call `save`; if it fails, save the bundle elsewhere, so that no training is lost.

    The other place is beside `directory`, or else the system's temporary folder, under a name that
    begins with that of the bundle.
    fields: the other arguments of `save`.
    Errors: those of `save`, with the place.
    """
    try:
        return save(retriever, directory, overwrite=overwrite, **fields)
    except (BundleError, OutputError) as error:
        place = _kept(retriever, Path(directory).absolute(), fields)
        said = f"It is kept as {place}" if place else "It could not be kept elsewhere either"
        raise type(error)(f"{str(error).removesuffix('.')}. {said}") from error


def _kept(retriever: Channel, directory: Path, fields: Mapping[str, Any]) -> Path | None:
    """Save a bundle in the first folder that accepts it; return its path, None if none does."""
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

    Args:
        directory: the bundle.
        device: torch device of the towers, such as "cpu" or "cuda".
        plugins: modules, or their names, that define parts outside Shortlist; see `use_plugins`. A
            bundle names the parts that it needs, but never imports anything itself.
        store: source of users' histories, in place of the bundle's log; see `data.histories`.

    Raises:
        BundleError: for a damaged bundle, or one that Shortlist could not have written; it names
            the file.
        ModelError: if this machine lacks the device or the index.
        PluginError: for an invalid plugin.
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
    """Turn errors into BundleErrors that name the bundle and, if it is old, who can read it.

    Faults that the checks miss can raise any of UNFORESEEN where the content is used.
    """
    older = ""
    if manifest.format < FORMAT:
        older = (
            f" It has format {manifest.format}, written by {manifest.created_by}: a version of "
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
    """Refuse to write a manifest that `load` would refuse. Errors: BundleError."""
    try:
        check_fields(load_json(dump_json(fields), "the manifest"), exact=True)
    except ValueError as error:
        raise BundleError(f"this retriever cannot be saved: {error}") from error


def _states(manifest: Manifest) -> dict[str, dict[str, Tensor]]:
    """Memory-map the tensors of every safetensors file."""
    return {
        name.removesuffix(".safetensors"): manifest.tensors(name)
        for name in manifest.files
        if name.endswith(".safetensors")
    }


def _check_tensors(manifest: Manifest, states: Mapping[str, dict[str, Tensor]]) -> None:
    """Refuse numbers that are not finite, and files of different towers. Errors: BundleError.

    This reads every weight except those of an index, which checks its own. The caller drops these
    mappings afterwards and maps the files again, so that the service holds only the pages it uses.
    """
    fields = manifest.fields
    spaces = {}
    for name, state in states.items():
        if "embedding_space" not in state:
            raise BundleError(f"{manifest.directory}: {name} has no embedding_space.")
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
    """Return a sha256 that identifies the embedding space, uint8 [32].

    It covers the tower weights, the settings (with similarity and width), the encoders and the
    fingerprint of the log. Vectors can only be compared if their spaces are equal.
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
