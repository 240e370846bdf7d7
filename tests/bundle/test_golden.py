"""What was written in any format since the first is read, and answers as it did then."""

import json
from pathlib import Path

import pytest

from answers import assert_same_up_to_rounding
from shortlist.bundle.bundle import load
from shortlist.errors import BundleError
from shortlist.retrievers.base import Queries

GOLDEN = Path(__file__).parent / "golden"
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
    with pytest.raises(BundleError, match=r"of format 1, written by shortlist 0\.1\.0: a version"):
        load(GOLDEN / "format-1" / "two-tower")
