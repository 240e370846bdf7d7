"""The command `job`: its stages one after the other, and what does nothing with another of them."""

import sys

import polars as pl
import pytest

from jobs.worlds import recipe_of, world
from shortlist.bundle.bundle import load
from shortlist.cli import main
from shortlist.config import to_toml
from shortlist.errors import DataError, JobError
from shortlist.jobs.local import files_in
from shortlist.jobs.stages import Stages
from shortlist.runs.whole import train


def call(monkeypatch, *arguments):
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["shortlist", "job", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    world(tmp_path, 30)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe_of(tmp_path)), encoding="utf-8")
    return path


def test_the_stages_end_in_the_bundle_of_train_and_its_candidates(
    recipe, tmp_path, capsys, monkeypatch
):
    file, work, bundle = recipe, tmp_path / "work", tmp_path / "bundle"
    assert call(monkeypatch, "item-cf", file, "--work", work, "--parts", 3) == 0
    assert call(monkeypatch, "bundle", file, "--work", work, "--out", bundle) == 0
    said = capsys.readouterr().err
    assert "making item-cf-cf-train" in said
    assert "item-cf-cf-train is there already" in said
    assert load(bundle).id == train(recipe, tmp_path / "other").bundle
    assert call(monkeypatch, "recommend", file, "--work", work, "--bundle", bundle, "--k", 2) == 0
    found = pl.concat([pl.read_parquet(path) for path in files_in(work / "recommended-2")])
    assert found.columns == ["user", "rank", "item", "score", "fallback"]


IDLE = {
    "--out is for the stage bundle": ["counts", "--out", "b"],
    "the stage bundle needs --out": ["bundle"],
    "the stage recommend needs --bundle": ["recommend"],
    "--k is for the stage recommend": ["prepare", "--k", "3"],
    "--time is for the stage recommend": ["bundle", "--out", "b", "--time", "3"],
    "--without-log is for the stage bundle": ["counts", "--without-log"],
    "--overwrite does nothing without --out": ["counts", "--overwrite"],
    "--master is for --engine spark": ["counts", "--master", "local[2]"],
    "--processes is for --engine local": ["counts", "--engine", "spark", "--processes", "2"],
    "--conf is key=value": ["counts", "--engine", "spark", "--conf", "memory"],
}


@pytest.mark.parametrize("said", IDLE)
def test_options_that_do_nothing_are_refused_before_anything_is_read(
    said, capsys, tmp_path, monkeypatch
):
    stage, *rest = IDLE[said]
    assert call(monkeypatch, stage, tmp_path / "no.toml", "--work", tmp_path / "work", *rest) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "work").exists()


def test_what_jobs_do_not_do_is_one_sentence_before_anything_is_read(tmp_path, capsys, monkeypatch):
    (tmp_path / "log").mkdir()
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe_of(tmp_path, split={"kind": "rolling"})))
    assert call(monkeypatch, "item-cf", path, "--work", tmp_path / "work") != 0
    said = " ".join(capsys.readouterr().err.split())
    assert 'jobs do not make split.kind = "rolling"' in said
    assert "or use shortlist train" in said
    assert not (tmp_path / "work").exists()


def test_a_stage_of_other_settings_is_refused_with_each_of_them_and_both_values(
    recipe, tmp_path, capsys, monkeypatch
):
    work = tmp_path / "work"
    assert call(monkeypatch, "prepare", recipe, "--work", work) == 0
    capsys.readouterr()
    other = recipe_of(tmp_path, data={"null_ids": "drop"}, split={"kind": "random"})
    recipe.write_text(to_toml(other), encoding="utf-8")
    assert call(monkeypatch, "prepare", recipe, "--work", work) != 0
    said = "".join(capsys.readouterr().err.split())
    assert (
        f"{work}/logwasmadewithothersettings:data.null_idswas'refuse',now'drop';"
        "split.kindwasnotset,now'random':removethefolder,orgiveanother--work"
    ) in said


def test_an_error_names_three_settings_at_most_and_where_long_values_differ(tmp_path):
    stages = Stages(tmp_path)
    with stages.making("log", {"a": "x" * 500 + "old", "b": {"c": 1, "d": 2}, "e": {}}):
        pass
    with pytest.raises(JobError) as refused:
        stages.is_made("log", {"a": "x" * 500 + "new", "b": {"c": 2}, "e": {"f": None}}, ())
    cut = "..." + "x" * 20
    assert str(refused.value) == (
        f"{tmp_path}/log was made with other settings: a was {cut}old', now {cut}new'; b.c was 1, "
        "now 2; b.d was 2, now absent; and 1 more: remove the folder, or give another --work"
    )


TABLES = {
    "items": ({"i": [1], "color": ["red"]}, {"kind": "inverted", "attribute": "colour"}),
    "users": ({"ident": [1], "colour": ["red"]}, {"kind": "popular", "segment": "colour"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_a_column_is_refused_as_by_train_before_the_log_is_prepared(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    world(tmp_path, 30)
    columns, channel = TABLES[name]
    pl.DataFrame(columns).write_parquet(tmp_path / "table.parquet")
    recipe = recipe_of(
        tmp_path,
        data={name: "table.parquet"},
        features={name: {"colour": "categorical"}},
        channels={"one": channel},
    )
    path, work = tmp_path / "recipe.toml", tmp_path / "work"
    path.write_text(to_toml(recipe), encoding="utf-8")
    with pytest.raises(DataError, match=r"table\.parquet: no column") as refused:
        train(path, tmp_path / "bundle")
    assert call(monkeypatch, "prepare", path, "--work", work) != 0
    said = "".join(capsys.readouterr().err.split())
    assert "".join(str(refused.value).split()) in said
    assert not work.exists()


def test_a_bundle_that_is_not_there_is_refused_before_the_log_is_prepared(
    recipe, tmp_path, capsys, monkeypatch
):
    work = tmp_path / "work"
    assert call(monkeypatch, "recommend", recipe, "--work", work, "--bundle", tmp_path / "no") == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "there is no bundle at" in said
    assert "making log" not in said
