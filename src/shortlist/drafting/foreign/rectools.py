"""RecTools 0.19: the JSON or YAML of `model.get_config(simple_types=True)` becomes a recipe."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shortlist.drafting.draft import Draft, draft
from shortlist.drafting.foreign.base import Carrying, Given, known_model
from shortlist.drafting.foreign.yaml_files import read_yaml
from shortlist.errors import RecipeError

NEAR = {
    "BERT4RecModel": "SASRecModel, causal attention",
    "HSTUModel": "`shortlist init --model hstu`",
    "PureSVDModel": "channels kind 'ease' or 'als'",
    "LightFMWrapperModel": "`shortlist init` with features of users and items: two towers",
    "DSSMModel": "`shortlist init --model dssm`",
    "PopularInCategoryModel": "channels kind 'inverted'",
    "RandomModel": "none; every report compares with popularity",
}

HARMLESS = frozenset(
    {
        *("verbose", "dataloader_num_workers", "deterministic", "recommend_batch_size"),
        *("recommend_torch_device", "recommend_n_threads", "recommend_use_torch_ranking"),
        *("recommend_use_gpu_ranking", "data_preparator_type", "lightning_module_type"),
        *("get_trainer_func", "use_pos_emb", "use_causal_attn", "use_key_padding_mask"),
        *("pos_encoding_type", "transformer_layers_type", "train_min_user_interactions"),
        *("item_net_constructor_type", "similarity_module_type", "backbone_type"),
        *("add_cold", "num_threads"),
    }
)
"""Keys that change no result, or that configure parts which are built differently here."""


def from_rectools(given: Given) -> Draft:
    """Draft the recipe of a RecTools model for a log of interactions, whose columns are guessed."""
    if given.data is None:
        raise RecipeError(
            "a RecTools configuration holds a model and no data: name the log, --data FILE"
        )
    config: dict[str, Any] = {}
    for file in given.files:
        config |= _read(file)
    if given.dataset is not None:
        raise RecipeError("--dataset belongs to RecBole; for RecTools --data names the log")
    named = given.model or config.get("cls")
    if not isinstance(named, str):
        raise RecipeError(
            'the configuration names no model: it needs "cls": "SASRecModel", or add --model'
        )
    made = draft(str(given.data), base=given.base)
    carrying = Carrying(config, made)
    carrying.get("cls")
    carry = known_model(named.rpartition(".")[2], MODELS, "RecTools", NEAR)
    carry(carrying)
    carrying.lose_rest(HARMLESS)
    made.lost.append(
        "how the figures were measured: a RecTools configuration has no split; check [split]. "
        "Its recommend(filter_viewed=True) is evaluation.exclude_seen = true here, the default"
    )
    return made


def _read(file: Path) -> dict[str, Any]:
    if file.suffix.lower() in (".yaml", ".yml"):
        return read_yaml(file)
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{file}: cannot be read as JSON: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(read, dict):
        raise RecipeError(f"{file}: a RecTools configuration is one JSON object, got {read!r:.60}")
    return read


def _channel(carrying: Carrying, name: str, **options: Any) -> None:
    carrying.say(f"channels.{name}", {"kind": name, **options}, "")
    carrying.draft.clear("model", "training")


def _popular(carrying: Carrying) -> None:
    if (period := carrying.get("period")) is not None:
        carrying.lose(
            f"period = {period!r:.60}: half_life of the channel gives newer events more weight"
        )
    if (by := carrying.get("popularity", "n_users")) not in ("n_users", "n_interactions"):
        carrying.lose(f"popularity = {by}: events are counted here")
    if carrying.get("inverse"):
        carrying.lose("inverse: the most popular items come first here")
    _channel(carrying, "popular")


def _ease(carrying: Carrying) -> None:
    _channel(carrying, "ease", l2=carrying.number("regularization", 500.0))


def _item_knn(carrying: Carrying) -> None:
    inner = _inner(carrying)
    kind = inner.get("cls", "ItemItemRecommender")
    # implicit's K counts the item itself, which is its own nearest neighbour.
    options: dict[str, Any] = {"neighbours": max(int(inner.get("K", 20)) - 1, 1)}
    if kind == "TFIDFRecommender":  # it normalises the weighted columns
        options |= {"similarity": "cosine", "item_weighting": "tf-idf"}
    elif kind == "BM25Recommender":
        options |= {"similarity": "dot", "item_weighting": "bm25"}
        options |= {"bm25_k1": float(inner.get("K1", 1.2)), "bm25_b": float(inner.get("B", 0.75))}
    elif kind == "ItemItemRecommender":
        options |= {"similarity": "dot"}
    elif kind != "CosineRecommender":
        raise RecipeError(f"implicit's {kind!r:.40} has no counterpart here")
    _channel(carrying, "item-cf", **options)


def _als(carrying: Carrying) -> None:
    inner = _inner(carrying)
    if carrying.get("fit_features_together"):
        carrying.lose("fit_features_together: ALS here reads no features")
    alpha = float(inner.get("alpha", 1.0))
    carrying.lose(
        f"alpha = {alpha:g}: implicit's confidence of an event is alpha x weight, here it is 1 + "
        "alpha x weight, which is the same only at weight 1"
    )
    _channel(
        carrying,
        "als",
        factors=int(inner.get("factors", 100)),
        iterations=int(inner.get("iterations", 15)),
        alpha=max(alpha - 1, LEAST_ALPHA),
        regularisation=float(inner.get("regularization", 0.01)),
        frequency_scaling=0.0,  # implicit regularises all rows equally
    )


LEAST_ALPHA = 0.01
"""Stands for a confidence of implicit that is at most that of an unknown pair, 1."""


def _inner(carrying: Carrying) -> Mapping[str, Any]:
    """Return the configuration of implicit's model inside the wrapper's."""
    inner = carrying.get("model", {})
    if not isinstance(inner, Mapping):
        raise RecipeError(
            f'"model" must be the configuration of implicit\'s model, got {inner!r:.60}'
        )
    return inner


LOSSES = {
    "softmax": {"loss": "softmax", "sampler": "catalogue"},
    "BCE": {"loss": "bce", "sampler": "uniform"},
    "gBCE": {"loss": "gbce", "sampler": "uniform"},
    "sampled_softmax": {"loss": "softmax", "sampler": "uniform"},
}


def _sasrec(carrying: Carrying) -> None:
    say = carrying.say
    carrying.draft.clear("model", "training")
    say("model.history", "attention", "SASRecModel")
    say("model.dim", carrying.whole("n_factors", 256), "n_factors")
    say("model.history_layers", carrying.whole("n_blocks", 2), "n_blocks")
    say("model.history_heads", carrying.whole("n_heads", 4), "n_heads")
    say("model.history_length", carrying.whole("session_max_len", 100), "session_max_len")
    say("model.dropout", carrying.number("dropout_rate", 0.2), "dropout_rate")
    loss = carrying.get("loss", "softmax")
    if loss not in LOSSES:
        raise RecipeError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r:.60}")
    for key, value in LOSSES[loss].items():
        say(f"training.{key}", value, f"loss = {loss}")
    negatives, calibration = carrying.whole("n_negatives", 1), carrying.number("gbce_t", 0.2)
    if loss != "softmax":
        say("training.negatives", negatives, "n_negatives")
        say("training.shared", False, "each positive has negatives of its own")
    if loss == "gBCE":
        say("training.calibration", calibration, "gbce_t")
    if loss == "sampled_softmax":
        say("training.correct_sampling", False, "uniform draws need none")
    distance = str(carrying.get("u2i_dist", "dot")).lower().rpartition(".")[2]
    say("training.similarity", "cosine" if distance == "cosine" else "dot", "u2i_dist")
    say("training.temperature", 1.0, "")
    say("training.learning_rate", carrying.number("lr", 0.001), "lr")
    say("training.schedule", "constant", "the step size stays, as in RecTools")
    say("training.epochs", carrying.whole("epochs", 3), "epochs")
    rows = carrying.whole("batch_size", 128)
    length = carrying.draft.content["model"]["history_length"]
    say(
        "training.batch_size",
        min(rows * length, 8192),
        f"batch_size = {rows} sequences of up to {length} events there; positives here",
    )
    if any("Cat" in str(block) for block in carrying.get("item_net_block_types", ())):
        carrying.lose("CatFeaturesItemNet: name the features of the items in [features.items]")
    if carrying.get("get_val_mask_func") is None:
        say("training.patience", 0, "RecTools has no validation here: all epochs run")


MODELS = {
    "PopularModel": _popular,
    "EASEModel": _ease,
    "ImplicitItemKNNWrapperModel": _item_knn,
    "ImplicitALSWrapperModel": _als,
    "SASRecModel": _sasrec,
}
