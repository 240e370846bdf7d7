"""RecBole 1.2.1: YAML files over its defaults, and atomic files, become a recipe."""

import codecs
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shortlist.drafting.draft import Draft
from shortlist.drafting.foreign.base import Carrying, Given, known_model
from shortlist.drafting.foreign.yaml_files import read_yaml
from shortlist.errors import RecipeError

SEQUENTIAL = frozenset({"SASRec", "GRU4Rec"})
"""Models whose default split is leave-last-out."""

NEAR = {
    "LightGCN": "channels kind 'graph-filter', which needs no training",
    "NGCF": "channels kind 'graph-filter'",
    "SLIMElastic": "channels kind 'ease'",
    "ADMMSLIM": "channels kind 'ease'",
    "BERT4Rec": "`shortlist init --model sasrec`, causal attention",
    "Caser": "`shortlist init --model gru4rec`",
    "NARM": "`shortlist init --model gru4rec`",
    "NeuMF": "BPR, two vectors that meet at the score, which an index can search",
    "FPMC": "channels kind 'transitions'",
    "MultiVAE": "channels kind 'ease'",
}

HARMLESS = frozenset(
    {
        *("gpu_id", "use_gpu", "state", "reproducibility", "checkpoint_dir", "show_progress"),
        *("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path"),
        *("log_wandb", "wandb_project", "eval_batch_size", "metric_decimal_place", "worker"),
        *("loss_decimal_place", "metrics", "valid_metric_bigger", "LABEL_FIELD", "NEG_PREFIX"),
        *("ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD", "HEAD_ENTITY_ID_FIELD"),
        *("TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD", "seq_separator"),
        *("enable_amp", "enable_scaler", "tensorboard", "device", "seq_len", "unused_col"),
        *("hidden_act", "layer_norm_eps", "initializer_range", "inner_size", "require_pow"),
        *("train_stage", "shuffle"),
    }
)
"""Keys that change no result, or that configure parts which are built differently here."""

OF_TRAINING = frozenset(
    {
        *("epochs", "train_batch_size", "learner", "learning_rate", "weight_decay", "eval_step"),
        *("stopping_step", "clip_grad_norm", "seed", "train_neg_sample_args", "neg_sampling"),
    }
)
"""Keys of the training loop: they change nothing of a model that is counted, such as Pop."""

_INTERVAL = re.compile(r"^\s*([\[(])\s*([^,]*?)\s*,\s*([^,]*?)\s*([\])])\s*$")


def from_recbole(given: Given) -> Draft:
    """Draft the recipe of a RecBole run. Later YAML files override earlier ones."""
    config: dict[str, Any] = {}
    for file in given.files:
        config |= read_yaml(file)
    config |= {"model": given.model} if given.model else {}
    config |= {"dataset": given.dataset} if given.dataset else {}
    for key, option in (("model", "--model SASRec"), ("dataset", "--dataset ml-100k")):
        if not isinstance(config.get(key), str):
            raise RecipeError(
                f"the configuration names no {key}: add what your command line names, {option}"
            )
    draft = Draft(looked=" and ".join(file.name for file in given.files) or "RecBole's defaults")
    carrying = Carrying(config, draft)
    name = carrying.get("model")
    carry = known_model(name, MODELS, "RecBole", NEAR)
    _data(carrying, given, name)
    _split(carrying, sequential=name in SEQUENTIAL)
    carry(carrying)
    _evaluation(carrying, trained=name in TRAINED, sequential=name in SEQUENTIAL)
    carrying.lose_rest(HARMLESS if name in TRAINED else HARMLESS | OF_TRAINING)
    return draft


def _data(carrying: Carrying, given: Given, model: str) -> None:
    """Carry over where the atomic files are, and the roles of their columns."""
    dataset = carrying.get("dataset")
    folder = given.data or Path(carrying.get("data_path", "dataset/")) / dataset
    carrying.get("data_path")
    log = folder / f"{dataset}.inter" if not folder.is_file() else folder
    placed = (
        Path(os.path.relpath(log, given.base)).as_posix() if not log.is_absolute() else str(log)
    )
    missing = "" if log.is_file() else f": it is not at {log}; give --data FOLDER"
    carrying.say(
        "data.interactions", placed, f"RecBole's atomic file{missing}", check=bool(missing)
    )
    for key, theirs, default in (
        ("user", "USER_ID_FIELD", "user_id"),
        ("item", "ITEM_ID_FIELD", "item_id"),
    ):
        carrying.say(f"data.{key}", carrying.get(theirs, default), theirs)
    loaded = (carrying.get("load_col", {}) or {}).get("inter") or []
    time, rating = carrying.get("TIME_FIELD", "timestamp"), carrying.get("RATING_FIELD", "rating")
    encoding = _encoding(carrying)
    held = _header(log, encoding)
    columns = loaded or held
    if time in columns:
        carrying.say("data.time", time, "TIME_FIELD")
        carrying.say("data.tie", "file", "equal times keep the order of the file, as in RecBole")
    if (separator := carrying.get("field_separator", "\t")) != "\t":
        carrying.say("data.separator", separator, "field_separator")
    if encoding != "utf-8":
        carrying.say("data.encoding", encoding, "encoding")
    _values(carrying, rating)
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        limits = carrying.get(key)
        if limits is not None and not re.fullmatch(r"[\[(]\s*0\s*,\s*inf\s*[\])]", str(limits)):
            carrying.lose(
                f"{key} = {limits!r}: users and items with few events are not removed here; "
                "filter the file, or compare figures by the length of the history"
            )
    carrying.get("filter_inter_by_user_or_item")
    if carrying.get("rm_dup_inter") is not None:
        carrying.lose("rm_dup_inter: repeated events stay; the doctor counts them")
    if (parts := carrying.get("benchmark_filename")) is not None:
        carrying.lose(
            f"benchmark_filename = {parts}: put the parts in one file with a column that says "
            'train, validation or test, and name it: [split] column = "split"'
        )
    if len((carrying.get("load_col", {}) or {}).keys() - {"inter"}):
        carrying.lose(
            f"the .user and .item columns of load_col: RecBole's {model} reads none either"
        )


def _encoding(carrying: Carrying) -> str:
    """Return Python's name of the encoding of the atomic files. Errors: RecipeError."""
    given = str(carrying.get("encoding", "utf-8"))
    try:
        "".encode(given)  # refuses codecs that are not of text, such as rot13
        return codecs.lookup(given).name
    except (LookupError, ValueError) as error:
        raise RecipeError(f"encoding = {given!r:.60} is no codec of Python for text") from error


def _header(log: Path, encoding: str) -> list[str]:
    """Return the columns of an atomic file without their types; none if the file is absent."""
    try:
        with log.open(encoding=encoding) as file:
            return [name.partition(":")[0].strip() for name in file.readline().split("\t")]
    except (OSError, UnicodeDecodeError):
        return []


def _values(carrying: Carrying, rating: str) -> None:
    """Carry over which ratings count: val_interval (from 1.1 on), or the older lowest_val."""
    limits = dict(carrying.get("val_interval", {}) or {})
    limits |= {key: f"[{low},inf)" for key, low in (carrying.get("lowest_val") or {}).items()}
    for column, interval in limits.items():
        found = _INTERVAL.match(str(interval))
        if column != rating or found is None or found[3] not in ("inf", "") or not found[2]:
            carrying.lose(f"val_interval {column} {interval}: filter the file")
            continue
        low = float(found[2])
        carrying.say("data.weight", rating, "RATING_FIELD")
        carrying.say("data.min_weight", low, f"val_interval {interval}")
        if found[1] == "(":
            carrying.lose(f"val_interval {interval} leaves {low:g} itself out: raise min_weight")
        carrying.lose(
            f"events with a smaller {rating} are kept: nothing is learned from them, but "
            "their items count as seen, and are not recommended again"
        )
    if carrying.get("threshold") is not None:
        carrying.lose(
            "threshold: it labels events for a pointwise loss; here every event read is a positive"
        )


def _split(carrying: Carrying, *, sequential: bool) -> None:
    """Carry over the split, order and group_by of eval_args."""
    args = dict(carrying.get("eval_args", {}) or {})
    split = args.get("split") or (
        {"LS": "valid_and_test"} if sequential else {"RS": [0.8, 0.1, 0.1]}
    )
    order = args.get("order") or ("TO" if sequential else "RO")
    group = args.get("group_by") or "user"
    if not isinstance(split, dict) or len(split) != 1:
        raise RecipeError(
            f"eval_args.split must be such as {{'LS': 'valid_and_test'}}, got {split!r}"
        )
    (kind, how), setting = next(iter(split.items())), f"eval_args: {split}, {order}, by {group}"
    if kind == "LS" and order == "TO":
        carrying.say("split.kind", "leave-last-out", setting)
        if how not in ("valid_and_test", 2):
            carrying.lose(f"eval_args split {split}: both validation and test are held out here")
    elif kind == "RS" and order == "TO" and str(group).lower() == "none":
        carrying.say("split.kind", "global-time", setting)
        carrying.say("split.at", _share(how), "the share of events before the test")
    elif kind == "RS" and order == "TO":
        carrying.say("split.kind", "leave-last-out", setting, check=True)
        carrying.lose(
            f"{setting}: RecBole tests on the last {how[-1]:g} of each user, this recipe on one "
            "event"
        )
    else:
        carrying.say("split.kind", "random", setting)
        if kind == "RS":
            carrying.say("split.at", _share(how), "the share of each user's events to train on")
        carrying.lose(
            f"{setting}: a random order lets a model see events that came after those it is tested "
            'on; where you have times, kind = "leave-last-out" or "global-time" is honest'
        )
    mode = args.get("mode", "full")
    modes = set(mode.values()) if isinstance(mode, dict) else {mode}
    if modes != {"full"}:
        carrying.lose(
            f"eval_args mode {mode}: figures over sampled negatives are higher, and can order "
            "models otherwise (Krichene & Rendle 2020); here the whole catalogue is always ranked"
        )


def _share(how: Any) -> float:
    """Return the training share of a list such as [0.8, 0.1, 0.1]."""
    try:
        parts = [float(part) for part in how]
        return round(parts[0] / sum(parts), 6)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RecipeError(
            f"eval_args.split RS needs shares such as [0.8,0.1,0.1], got {how!r}"
        ) from error


def _evaluation(carrying: Carrying, *, trained: bool, sequential: bool) -> None:
    """Carry over topk, repeatable, and the metric for early stopping."""
    topk = carrying.get("topk", [10])
    topk = [topk] if isinstance(topk, int) else list(topk)
    carrying.say("evaluation.k", topk, "topk")
    if carrying.get("repeatable", sequential):
        carrying.say(
            "evaluation.exclude_seen", False, "repeatable, the default of sequential models there"
        )
    metric = str(carrying.get("valid_metric", "MRR@10")).lower().replace("hit@", "hit_rate@")
    if trained:
        known = {"mrr", "ndcg", "recall", "hit_rate", "precision", "map"}
        if metric.partition("@")[0] in known:
            carrying.say("training.monitor", metric, "valid_metric")
        else:
            carrying.lose(f"valid_metric = {metric}: ndcg@10 chooses the epoch here")


def _training(carrying: Carrying) -> None:
    """Carry over the keys of every trained model."""
    carrying.say("training.epochs", carrying.whole("epochs", 300), "epochs")
    carrying.say(
        "training.batch_size", carrying.whole("train_batch_size", 2048), "train_batch_size"
    )
    carrying.say("training.learning_rate", carrying.number("learning_rate", 0.001), "learning_rate")
    carrying.say("training.schedule", "constant", "the step size stays, as in RecBole")
    carrying.say("training.patience", carrying.whole("stopping_step", 10), "stopping_step")
    if (every := carrying.whole("eval_step", 1)) > 1:
        carrying.say("training.validate_every", every, "eval_step")
    if decay := carrying.number("weight_decay", 0.0):
        carrying.say("training.weight_decay", decay, "weight_decay")
    clip = carrying.get("clip_grad_norm")
    if isinstance(clip, Mapping) and "max_norm" in clip:
        carrying.say("training.clip", float(clip["max_norm"]), "clip_grad_norm")
    carrying.say("training.seed", carrying.whole("seed", 2020), "seed")
    learner = str(carrying.get("learner", "adam")).lower()
    if learner not in ("adam", "adamw"):
        carrying.lose(f"learner = {learner}: the optimizer is Adam here")


def _negatives(carrying: Carrying) -> None:
    """Carry over train_neg_sample_args (from 1.1 on), or the older neg_sampling."""
    args = carrying.get("train_neg_sample_args")
    old = carrying.get("neg_sampling")
    if not isinstance(args, Mapping):
        law, count = next(iter(old.items())) if isinstance(old, Mapping) and old else ("uniform", 1)
        args = {"distribution": law, "sample_num": count}
    law = str(args.get("distribution", "uniform"))
    if law not in ("uniform", "popularity"):
        carrying.lose(f"negatives by '{law}': drawn uniformly here")
        law = "uniform"
    carrying.say("training.sampler", law, "train_neg_sample_args")
    if law == "popularity":
        carrying.say("training.alpha", float(args.get("alpha", 1.0)), "alpha")
        carrying.say("training.correct_sampling", False, "RecBole does not correct for it")
    carrying.say("training.negatives", int(args.get("sample_num", 1)), "sample_num")
    carrying.say("training.shared", False, "each positive has negatives of its own")
    carrying.say("training.mask_known", True, "none of them is an item the user has met")
    if args.get("dynamic"):
        carrying.lose('dynamic negatives: training.hard = "mined" is the nearest')


def _dot(carrying: Carrying) -> None:
    carrying.say("training.similarity", "dot", "scores are inner products")
    carrying.say("training.temperature", 1.0, "and are not scaled")


def _sequence_loss(carrying: Carrying) -> None:
    """Carry over loss_type of the sequential models: all items, or pairs."""
    loss = str(carrying.get("loss_type", "CE"))
    if loss == "CE":
        carrying.say("training.loss", "softmax", "loss_type = CE")
        carrying.say("training.sampler", "catalogue", "over all items")
        if carrying.get("train_neg_sample_args") or carrying.get("neg_sampling"):
            carrying.lose("negatives of loss_type = CE: it has none, and RecBole refuses them")
    elif loss == "BPR":
        carrying.say("training.loss", "bpr", "loss_type = BPR")
        _negatives(carrying)
    else:
        raise RecipeError(f"loss_type must be CE or BPR, got {loss!r:.60}")
    _dot(carrying)


def _pop(carrying: Carrying) -> None:
    carrying.say("channels.popular", {"kind": "popular"}, "")


def _item_knn(carrying: Carrying) -> None:
    kind = f"{carrying.get('knn_method', 'item')}-cf"
    if kind not in ("item-cf", "user-cf"):
        raise RecipeError(f"knn_method must be item or user, got {kind.removesuffix('-cf')!r:.60}")
    channel: dict[str, Any] = {"kind": kind, "neighbours": carrying.whole("k", 100)}
    if shrink := carrying.number("shrink", 0.0):
        carrying.lose(
            f"shrink = {shrink:g} is added to the product of the norms there; shrinkage = n here "
            "multiplies a cosine by shared / (shared + n)"
        )
    carrying.say(f"channels.{kind}", channel, "")


def _ease(carrying: Carrying) -> None:
    carrying.say("channels.ease", {"kind": "ease", "l2": carrying.number("reg_weight", 250.0)}, "")


def _bpr(carrying: Carrying) -> None:
    carrying.say("model.history", "none", "a vector a user and an item, no history")
    carrying.say("model.user_id", True, "")
    carrying.say("model.dim", carrying.whole("embedding_size", 64), "embedding_size")
    carrying.say("model.dropout", 0.0, "")
    carrying.say("training.loss", "bpr", "BPR")
    _negatives(carrying)
    _dot(carrying)
    _training(carrying)


def _sasrec(carrying: Carrying) -> None:
    carrying.say("model.history", "attention", "SASRec")
    carrying.say("model.dim", carrying.whole("hidden_size", 64), "hidden_size")
    carrying.say("model.history_layers", carrying.whole("n_layers", 2), "n_layers")
    carrying.say("model.history_heads", carrying.whole("n_heads", 2), "n_heads")
    carrying.say("model.history_length", carrying.whole("MAX_ITEM_LIST_LENGTH", 50), "")
    carrying.say(
        "model.dropout", carrying.number("hidden_dropout_prob", 0.5), "hidden_dropout_prob"
    )
    attention = carrying.number("attn_dropout_prob", 0.5)
    carrying.lose(
        f"attn_dropout_prob = {attention:g}: attention weights are not dropped here; the block has "
        "rotary positions, root-mean-square norms and a gated hidden layer"
    )
    _sequence_loss(carrying)
    _training(carrying)


def _gru4rec(carrying: Carrying) -> None:
    width, hidden = carrying.whole("embedding_size", 64), carrying.whole("hidden_size", 128)
    carrying.say("model.history", "gru", "GRU4Rec")
    carrying.say("model.dim", width, "embedding_size")
    if hidden != width:
        carrying.lose(f"hidden_size = {hidden}: the state is as wide as the items' vectors here")
    carrying.say("model.history_layers", carrying.whole("num_layers", 1), "num_layers")
    carrying.say("model.history_length", carrying.whole("MAX_ITEM_LIST_LENGTH", 50), "")
    carrying.say("model.dropout", carrying.number("dropout_prob", 0.3), "dropout_prob")
    _sequence_loss(carrying)
    _training(carrying)


MODELS = {
    "Pop": _pop,
    "ItemKNN": _item_knn,
    "EASE": _ease,
    "BPR": _bpr,
    "SASRec": _sasrec,
    "GRU4Rec": _gru4rec,
}
TRAINED = frozenset({"BPR", "SASRec", "GRU4Rec"})
