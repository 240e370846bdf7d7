"""The page of figures shows the lines of the records, and nothing else."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    return importlib.import_module("records"), importlib.import_module("figures")


def line_of(cell, **changes):
    metrics = dict.fromkeys(("hit_rate@10", "ndcg@10", "recall@100", "recall@200"), 0.25)
    line = {
        "set": "ml-100k",
        "recipe": cell.path.stem,
        "row": cell.row,
        "seed": cell.seed,
        "digest": cell.digest,
        "fit": "train",
        "commit": "abc",
        "cpu": "some",
        "precision": None,
        "metrics": metrics,
        "fit_cpu_seconds": 1.0,
        "query_cpu_microseconds": 2.0,
    }
    return line | changes


def test_the_page_is_made_from_the_lines(modules):
    records, figures = modules
    assert figures.PAGE.read_text(encoding="utf-8") == figures.page(records.made(), records.cells())


def test_a_cell_is_left_until_its_line_is_of_the_recipe_as_it_is(modules, tmp_path):
    records, figures = modules
    one, *_ = [cell for cell in records.cells() if cell.path.stem == "ml-100k" and cell.seed == 0]
    old, new = line_of(one, digest="earlier"), line_of(one)
    assert records.missing([one], [old]) == [one]
    assert records.missing([one], [old, new]) == []
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps(old) + "\n")
    assert records.made(file) == [old]
    assert "## Not run" in figures.page([old], [one])
    assert "## Not run" not in figures.page([new], [one])


def test_seeds_of_an_earlier_recipe_are_not_averaged_with_those_of_todays(modules):
    records, figures = modules
    towers = [c for c in records.cells() if (c.path.stem, c.row) == ("ml-100k", "towers")]
    figure = {"hit_rate@10": 0.75, "ndcg@10": 0.75, "recall@100": 0.75, "recall@200": 0.75}
    lines = [line_of(cell, digest="earlier", metrics=figure) for cell in towers]
    lines += [line_of(cell) for cell in towers[:2]]
    said = next(text for text in figures.page(lines, []).splitlines() if "| ml-100k | tow" in text)
    assert "| 2 | .2500 ± .0000 |" in said
