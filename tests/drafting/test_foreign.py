"""Configurations of other libraries become recipes, and what cannot be carried is told."""

import json
import sys
import tomllib

import pytest

from shortlist.cli import main
from shortlist.drafting.foreign import FOREIGN, recbole, rectools
from shortlist.drafting.foreign.base import Carrying, Given
from shortlist.errors import RecipeError

SASREC = """
model: SASRec
dataset: shop
data_path: data
load_col: { inter: [user_id, item_id, stars, at] }
RATING_FIELD: stars
TIME_FIELD: at
val_interval: { stars: "[3,inf)" }
user_inter_num_interval: "[5,inf)"
eval_args: { split: { LS: valid_and_test }, order: TO, mode: uni100 }
train_neg_sample_args: ~
topk: [5, 10]
valid_metric: Hit@5
learning_rate: 1e-4
train_batch_size: 512
hidden_size: 32
n_heads: 1
loss_type: CE
show_progress: False
temperature_of_mine: 0.5
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    rows = [(f"u{n}", f"i{(n * k) % 11}", 1 + (n + k) % 5, k) for n in range(40) for k in range(9)]
    (tmp_path / "data" / "shop").mkdir(parents=True)
    head = "user_id:token\titem_id:token\tstars:float\tat:float\n"
    lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "data" / "shop" / "shop.inter").write_text(head + lines)
    log = "user_id,item_id,weight,datetime\n" + "".join(
        f"{user},{item},{stars},2024-01-{at + 1:02}\n" for user, item, stars, at in rows
    )
    (tmp_path / "log.csv").write_text(log)
    return tmp_path


def call(*arguments):
    """Run a command; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code or 0


def carried(*arguments):
    """What the command writes, and what it says was lost."""
    assert call("import", *arguments, "--out", "recipe.toml", "--overwrite") == 0
    with open("recipe.toml", encoding="utf-8") as file:
        text = file.read()
    return tomllib.loads(text), text.partition("# Not carried over:")[2]


def test_a_sequential_model_of_recbole_keeps_every_number(shop):
    (shop / "sas.yaml").write_text(SASREC)
    recipe, lost = carried("recbole", "sas.yaml")
    assert recipe["data"] == {
        "interactions": "data/shop/shop.inter",
        "user": "user_id",
        "item": "item_id",
        "time": "at",
        "tie": "file",
        "weight": "stars",
        "min_weight": 3.0,
    }
    assert recipe["split"] == {"kind": "leave-last-out"}
    assert recipe["model"] == {
        "history": "attention",
        "dim": 32,
        "history_layers": 2,
        "history_heads": 1,
        "history_length": 50,
        "dropout": 0.5,
    }
    assert recipe["training"] == {
        "loss": "softmax",
        "sampler": "catalogue",
        "similarity": "dot",
        "temperature": 1.0,
        "epochs": 300,
        "batch_size": 512,
        "learning_rate": 1e-4,
        "schedule": "constant",
        "patience": 10,
        "seed": 2020,
        "monitor": "hit_rate@5",
    }
    assert recipe["evaluation"] == {"k": [5, 10], "exclude_seen": False}
    for told in ("temperature_of_mine", "uni100", "user_inter_num_interval", "attn_dropout_prob"):
        assert told in lost
    assert "show_progress" not in lost  # changes no result


def test_later_files_and_the_command_line_stand_over_earlier_ones(shop):
    (shop / "a.yaml").write_text(SASREC)
    (shop / "b.yaml").write_text("hidden_size: 16\nloss_type: BPR\n")
    recipe, _ = carried("recbole", "a.yaml", "b.yaml", "--model", "BPR")
    assert recipe["model"] == {"history": "none", "user_id": True, "dim": 64, "dropout": 0.0}
    (shop / "c.yaml").write_text("model: SASRec\n")
    recipe, _ = carried("recbole", "a.yaml", "b.yaml", "c.yaml")
    assert (recipe["model"]["dim"], recipe["training"]["loss"]) == (16, "bpr")
    assert recipe["training"]["mask_known"] is True


@pytest.mark.parametrize(
    ("args", "split"),
    [
        (
            "{split: {RS: [0.6, 0.2, 0.2]}, order: RO, group_by: user}",
            {"kind": "random", "at": 0.6},
        ),
        ("{split: {RS: [8, 1, 1]}, order: TO, group_by: none}", {"kind": "global-time", "at": 0.8}),
        ("{split: {LS: valid_and_test}, order: TO}", {"kind": "leave-last-out"}),
    ],
)
def test_splits_of_recbole_become_ours(shop, args, split):
    columns = "load_col: {inter: [user_id, item_id, at]}\nTIME_FIELD: at\n"
    head = "model: Pop\ndataset: shop\ndata_path: data\n"
    (shop / "a.yaml").write_text(f"{head}{columns}eval_args: {args}\n")
    recipe, _ = carried("recbole", "a.yaml")
    assert recipe["split"] == split
    assert recipe["channels"] == {"popular": {"kind": "popular"}}


def test_keys_of_training_are_lost_only_by_models_that_train(shop):
    loop = "epochs: 9\nlearner: sgd\ntrain_batch_size: 64\nseed: 3\n"
    for model, told in (("Pop", False), ("BPR", True)):
        (shop / "a.yaml").write_text(f"model: {model}\ndataset: shop\ndata_path: data\n{loop}")
        recipe, lost = carried("recbole", "a.yaml")
        assert ("learner = sgd" in lost) is told
        assert "nothing here corresponds" not in lost
        assert recipe.get("training", {}).get("epochs") == (9 if told else None)


def test_a_key_that_is_read_is_not_among_those_that_change_nothing(shop, monkeypatch):
    seen = set()
    monkeypatch.setattr(Carrying, "lose_rest", lambda carrying, _: seen.update(carrying.seen))
    for model in recbole.MODELS:
        (shop / "a.yaml").write_text(f"model: {model}\ndataset: shop\n")
        recbole.from_recbole(Given([shop / "a.yaml"], base=shop))
    assert not seen & recbole.HARMLESS
    seen.clear()
    for model in rectools.MODELS:
        (shop / "a.yaml").write_text(f"cls: {model}\nperiod: 9\n")
        rectools.from_rectools(Given([shop / "a.yaml"], data=shop / "log.csv", base=shop))
    assert not seen & rectools.HARMLESS


def test_the_encoding_of_atomic_files_is_carried_over(shop):
    shown = (shop / "data" / "shop" / "shop.inter").read_text().replace("stars", "é")
    (shop / "data" / "shop" / "shop.inter").write_text(shown, encoding="latin-1")
    head = "model: Pop\ndataset: shop\ndata_path: data\nTIME_FIELD: at\n"
    (shop / "a.yaml").write_text(f"{head}encoding: latin-1\n")
    recipe, _ = carried("recbole", "a.yaml")
    assert recipe["data"]["encoding"] == "iso8859-1"
    assert recipe["data"]["time"] == "at"


def test_an_inverse_popular_model_of_rectools_is_lost(shop):
    (shop / "p.yaml").write_text("cls: PopularModel\ninverse: true\n")
    assert "inverse" in carried("rectools", "p.yaml", "--data", "log.csv")[1]


def test_a_carried_recipe_trains(shop, capsys):
    (shop / "a.yaml").write_text("model: ItemKNN\ndataset: shop\nTIME_FIELD: at\nk: 7\n")
    recipe, lost = carried("recbole", "a.yaml", "--data", "data/shop")
    assert recipe["channels"]["item-cf"] == {"kind": "item-cf", "neighbours": 7}
    assert "random order" in lost
    (shop / "b.yaml").write_text("knn_method: user\nrepeatable: False\n")
    by_users, _ = carried("recbole", "a.yaml", "b.yaml", "--data", "data/shop")
    assert by_users["channels"] == {"user-cf": {"kind": "user-cf", "neighbours": 7}}
    assert by_users["evaluation"] == {"k": [10]}
    assert call("train", "recipe.toml", "--out", "bundle", "--json") == 0


def test_models_of_rectools_keep_every_number(shop):
    (shop / "m.json").write_text(
        json.dumps(
            {
                "cls": "rectools.models.nn.transformers.sasrec.SASRecModel",
                "n_factors": 48,
                "n_blocks": 3,
                "loss": "gBCE",
                "n_negatives": 64,
                "gbce_t": 0.4,
                "u2i_dist": "cosine",
                "session_max_len": 20,
                "odd": 1,
            }
        )
    )
    recipe, lost = carried("rectools", "m.json", "--data", "log.csv")
    assert recipe["data"]["user"] == "user_id"
    assert (recipe["model"]["dim"], recipe["model"]["history_layers"]) == (48, 3)
    wanted = {"loss": "gbce", "calibration": 0.4, "negatives": 64, "similarity": "cosine"}
    assert recipe["training"].items() >= wanted.items()
    assert "odd = 1" in lost
    (shop / "k.json").write_text(
        '{"cls": "ImplicitItemKNNWrapperModel",'
        ' "model": {"cls": "BM25Recommender", "K": 9, "K1": 1.5, "B": 0.2}}'
    )
    recipe, _ = carried("rectools", "k.json", "--data", "log.csv")
    assert recipe["channels"]["item-cf"] == {
        "kind": "item-cf",
        "neighbours": 8,  # implicit's 9 include the item itself
        "similarity": "dot",
        "item_weighting": "bm25",
        "bm25_k1": 1.5,
        "bm25_b": 0.2,
    }
    (shop / "t.json").write_text(
        '{"cls": "ImplicitItemKNNWrapperModel", "model": {"cls": "TFIDFRecommender", "K": 5}}'
    )
    recipe, _ = carried("rectools", "t.json", "--data", "log.csv")
    wanted = {"neighbours": 4, "similarity": "cosine", "item_weighting": "tf-idf"}
    assert recipe["channels"]["item-cf"].items() >= wanted.items()
    for alpha, ours in ((8, 7.0), (1, 0.01)):  # confidence alpha there, 1 + alpha here
        model = {"cls": "AlternatingLeastSquares", "alpha": alpha}
        written = json.dumps({"cls": "ImplicitALSWrapperModel", "model": model})
        (shop / "als.json").write_text(written)
        recipe, lost = carried("rectools", "als.json", "--data", "log.csv")
        assert recipe["channels"]["als"]["alpha"] == ours
        assert "alpha x weight" in lost
    assert "training" not in recipe


@pytest.mark.parametrize(
    ("library", "text", "message"),
    [
        ("recbole", "model: LightGCN\ndataset: shop\n", "graph-filter"),
        ("recbole", "model: SASRec\n", "names no dataset"),
        ("recbole", "[1, 2", "cannot be read as YAML"),
        ("recbole", "- 1\n- 2\n", "table of keys"),
        ("recbole", "model: BPR\ndataset: shop\nepochs: many\n", "epochs must be a number"),
        ("recbole", "model: BPR\ndataset: shop\neval_args: {split: {RS: 3}}\n", "needs shares"),
        ("recbole", "!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("rectools", "cls: SASRecModel\nloss: mystery\n", "loss must be one of"),
        ("recbole", "model: Pop\ndataset: shop\nencoding: utf-9\n", "no codec of Python"),
        ("recbole", "model: Pop\ndataset: shop\nencoding: rot13\n", "no codec of Python"),
        ("recbole", "model: ItemKNN\ndataset: shop\nknn_method: both\n", "knn_method must be"),
        ("rectools", "n_factors: 3\n", "names no model"),
        ("rectools", "cls: HSTUModel\n", "init --model hstu"),
    ],
)
def test_what_cannot_be_carried_at_all_is_refused_in_one_sentence(shop, library, text, message):
    (shop / "a.yaml").write_text(text)
    data = shop / "log.csv" if library == "rectools" else None
    with pytest.raises(RecipeError, match=message):
        FOREIGN[library](Given([shop / "a.yaml"], data=data, base=shop))


def test_data_that_are_elsewhere_leave_a_line_to_check(shop, capsys):
    (shop / "a.yaml").write_text("model: Pop\ndataset: nowhere\n")
    assert call("import", "recbole", "a.yaml", "--json", "--out", "r.toml") == 0
    said = json.loads(capsys.readouterr().out)
    assert [guess["key"] for guess in said["guesses"] if guess["confidence"] == "check"] == [
        "data.interactions"
    ]
