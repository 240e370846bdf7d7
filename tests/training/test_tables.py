"""Tables of items divided over ranks train like one process that has all of them."""

import json
from types import SimpleNamespace

import pytest
import torch

from shortlist.bundle.bundle import load
from shortlist.config import Training
from shortlist.errors import ModelError
from shortlist.runs.pipeline import check_together
from shortlist.towers import features
from shortlist.towers.features import item_table
from shortlist.training import ranks as ranks_module
from shortlist.training import tables
from shortlist.training.ranks import Ranks
from training import dealt, several
from training.test_ranks import further_than_orders, recipe_of, run_ranks

needs_torchrec = pytest.mark.skipif(
    tables._version("torchrec") is None, reason="torchrec is not installed: make torchrec"
)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("dealt"), dealt.CASES
    (folder / "recipe.toml").write_text(dealt.RECIPE)
    several.planted().interactions.write_csv(folder / "log.csv")
    trained = run_ranks(folder, 2, list(cases.values()), program=dealt)
    told = [json.loads((folder / f"told.{rank}").read_text()) for rank in range(2)]
    return SimpleNamespace(folder=folder, trained=dict(zip(cases, trained, strict=True)), told=told)


@needs_torchrec
@pytest.mark.parametrize("case", dealt.CASES)
def test_twenty_steps_of_dealt_tables_are_those_of_whole_ones(case, two_ranks):
    """Losses, weights and sums of squares, of two processes and of one."""
    options = {**dealt.CASES[case], "optimizer": "row-wise"}
    first, second = two_ranks.trained[case]
    further = {"steps": dealt.STEPS, "kept_besides": dealt.sums_of, "grads": first["gradients"]}
    assert further_than_orders(options, [first, second], **further) == {}
    assert len(first["losses"]) == 20
    torch.testing.assert_close(first["losses"], second["losses"], rtol=0, atol=0)


@needs_torchrec
def test_each_rank_holds_its_rows_alone_and_the_first_all_when_they_are_gathered(two_ranks):
    first, second = two_ranks.trained["two tables"]
    for name in ("query.table.weight", "item.id.weight"):
        rows = len(first["weights"][name])
        assert rows == 61  # sixty items and the unknown one
        assert len(second["weights"][name]) == 0
    assert (first["held"] + second["held"]).tolist() == [61, 61]
    assert max(second["held"]) <= 31


@needs_torchrec
def test_no_process_holds_a_whole_table_before_or_between_steps(two_ranks):
    for rank, rows in enumerate((31, 30)):
        begun, between = two_ranks.trained["two tables"][rank]["rows"].tolist()
        assert begun == [rows, rows]
        assert between == [0, 0]


@pytest.mark.parametrize(("rows", "dim"), [(5, 2), (33, 1), (100, 7), (127, 64)])
def test_the_parts_of_a_table_hold_the_numbers_of_the_whole(rows, dim, monkeypatch):
    monkeypatch.setattr(features, "DRAWN_AT_A_TIME", 32)
    torch.manual_seed(3)
    whole, after, parts = item_table(rows, dim).weight, torch.rand(1), []
    for rank in range(2):
        monkeypatch.setattr(ranks_module, "_joined", [Ranks(rank, 2)])
        torch.manual_seed(3)
        with tables.dealt_tables(Training(optimizer="sharded")):
            parts.append(item_table(rows, dim).weight)
        assert torch.equal(torch.rand(1), after), "later weights are others"
    assert torch.equal(torch.cat(parts), whole)
    assert len(parts[0]) < rows


@needs_torchrec
def test_dealt_tables_put_down_and_taken_up_again_come_to_the_same_bytes(two_ranks):
    assert len(set(two_ranks.told[0]["resumed"])) == 1


@needs_torchrec
def test_train_makes_a_bundle_of_dealt_tables_that_one_process_loads(two_ranks):
    first, second = (told["printed"] for told in two_ranks.told)
    loaded = load(two_ranks.folder / "bundle")
    assert second == ""
    assert json.loads(first)["metrics"] == loaded.metrics["metrics"]
    users = loaded.retriever.data.users.ids.head(3)
    assert len(loaded.retriever.recommend(users, k=5).to_frame()) == 15


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ema": 0.9}, "and training.ema averages all weights"),
        ({"clip": 1.0}, "and training.clip needs the whole gradient"),
        ({"hard": "hardest"}, "and training.hard chooses rows after"),
        ({"positives": "i2i"}, "positives = 'i2i': take optimizer = 'row-wise'"),
    ],
)
def test_what_dealt_tables_cannot_train_is_refused_by_its_key(options, said, monkeypatch):
    monkeypatch.setattr(ranks_module, "_joined", [Ranks(0, 2)])
    with pytest.raises(ModelError, match=said):
        tables.check_dealt(Training(optimizer="sharded", **options))


def test_a_table_that_leaves_a_process_without_rows_is_refused():
    with pytest.raises(
        ModelError, match="a table of 4 rows over 3 processes, and the last one would"
    ):
        tables.DealtTables([item_table(4, 2)], Ranks(0, 3), begin=0.0)


def test_a_recipe_is_refused_before_anything_is_read(tmp_path):
    recipe = recipe_of(tmp_path, '[training]\noptimizer = "sharded"\n')
    with pytest.raises(ModelError, match="there is only one"):
        check_together(recipe)


def test_one_process_is_told_to_start_several():
    with pytest.raises(ModelError, match=r"there is only one: start it with torchrun"):
        several.built({"optimizer": "sharded"}).fit(several.split())


def test_one_process_goes_on_with_such_a_model_by_rows():
    """A refresh trains what several processes have trained, and whoever asks reads whole tables."""
    found = []
    for optimizer in ("sharded", "row-wise"):
        options = {"optimizer": optimizer}
        retriever = several.begun(options)
        trainer = retriever._trainer(several.rows_of(options))
        found.append(several.told(retriever, trainer, steps=2))
        assert trainer._optimizer.dealt is None
    assert several.apart(*found) == {"losses": 0.0, "gradients": 0.0, "weights": 0.0}


@pytest.mark.parametrize(
    ("versions", "pair"),
    [
        ({"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, True),
        ({"torch": "2.9.1", "torchrec": "1.4.0", "fbgemm-gpu": "1.4.2"}, True),
        ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.7.0"}, False),
        ({"torch": "2.6.0", "torchrec": "1.10.0", "fbgemm-gpu-cpu": "1.10.0"}, False),
        ({"torch": "2.13.0", "torchrec": "1.8.0"}, False),
        ({"torch": "2.13.0"}, False),
    ],
)
def test_versions_that_do_not_pair_are_named_in_one_sentence(versions, pair, monkeypatch):
    monkeypatch.setattr(torch, "__version__", versions["torch"])
    monkeypatch.setattr(tables, "_version", versions.get)
    if pair:
        tables.check_versions()
        return
    with pytest.raises(ModelError) as error:
        tables.check_versions()
    text = str(error.value)
    assert f"with torch {versions['torch']} (1.X fits torch 2.(X + 5))" in text
    assert f"found torchrec {versions.get('torchrec', 'none')} and" in text
    assert "pip install --no-deps -r requirements-torchrec.txt, in the folder of Shortlist" in text
