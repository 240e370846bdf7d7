"""Bundles of every format since the first can be read, and answer as they did when written."""

import json
from pathlib import Path

import polars as pl
import pytest

from answers import assert_same_up_to_rounding
from bundle.make_golden import described
from shortlist.asking.queries import Queries
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.bundle.bundle import load, save
from shortlist.bundle.formats import map_tensors
from shortlist.bundle.store import FORMAT
from shortlist.errors import BundleError

GOLDEN = Path(__file__).parent / "golden"
OF_TODAY = GOLDEN / f"format-{FORMAT}"
KEPT = [kind for kind in RETRIEVERS if (OF_TODAY / kind).exists()]
"""Kinds that have a golden bundle; one that came since gets it before it is released."""

BUNDLES = sorted(path.parent for path in GOLDEN.glob("*/*/manifest.json"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_bundle_of_any_format_answers_as_when_it_was_written(bundle):
    retriever = load(bundle).retriever
    for asked in json.loads(bundle.with_suffix(".json").read_text(encoding="utf-8")):
        found = retriever.recommend(Queries(**asked["queries"]), asked["k"])
        then = [answer["items"] for answer in asked["lists"]]
        scores = [answer["scores"] for answer in asked["lists"]]
        now = [line[: len(ids)] for line, ids in zip(found.scores, found.ids, strict=True)]
        assert_same_up_to_rounding((found.ids, now), (then, scores))
        assert found.fallback.tolist() == [answer["fallback"] for answer in asked["lists"]]


def test_an_older_bundle_that_cannot_be_read_names_the_version_that_can(tmp_path, monkeypatch):
    def migration(manifest, states):
        raise BundleError("its towers are of another kind.")

    monkeypatch.setattr("shortlist.bundle.bundle.migrated", migration)
    with pytest.raises(BundleError, match=r"has format 1, written by shortlist 0\.1\.0: a version"):
        load(GOLDEN / "format-1" / "two-tower")


# What a bundle of this format may hold. A change here is a change of format: docs/decisions/0012.


def test_what_a_bundle_holds_is_what_is_pinned_for_its_format():
    pinned = OF_TODAY / "keys.txt"
    new = tuple(f"options of {kind}:" for kind in RETRIEVERS if kind not in KEPT)
    lines = [line for line in described().splitlines() if not line.startswith(new)]
    assert lines == pinned.read_text(encoding="utf-8").splitlines(), (
        "what a bundle holds has changed: give it the next FORMAT, as docs/decisions/0012 says"
    )


@pytest.mark.parametrize("kind", KEPT)
def test_a_bundle_of_today_holds_the_files_and_tensors_of_its_formats_golden_one(kind, tmp_path):
    golden = OF_TODAY / kind
    save(load(golden).retriever, tmp_path / "again")
    now, then = shapes(tmp_path / "again"), shapes(golden)
    assert now == then, "what a bundle holds has changed: docs/decisions/0012"


def shapes(bundle):
    """The tensors and columns of each file, with their types and shapes."""
    found = {}
    for path in sorted(bundle.iterdir()):
        if path.suffix == ".safetensors":
            tensors = map_tensors(path)
            found[path.name] = {
                name: (str(tensor.dtype), list(tensor.shape))
                for name, tensor in sorted(tensors.items())
                if name != "library"  # what FAISS writes differs by its version
            }
        elif path.suffix == ".parquet":
            found[path.name] = dict(pl.read_parquet_schema(path))
    return found
