"""How does a trained retriever train on with new data? Tables grow, and old rows are kept."""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shortlist.channels.learned.item_graph import read_log
from shortlist.data.features import FeatureTable
from shortlist.data.interactions import BEFORE
from shortlist.data.ragged import windows
from shortlist.data.training_data import FIT_BEFORE, TrainingData
from shortlist.errors import ModelError, NothingToLearnError
from shortlist.index import build_index, kind_of
from shortlist.index.exact import ExactIndex
from shortlist.index.servers import ServerIndex
from shortlist.towers.features import Fields
from shortlist.towers.two_tower import ItemTower, QueryTower, TwoTowers
from shortlist.training.fitting import fit_towers
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress, Quiet

Trained = TypeVar("Trained", bound=Any)
Rows = NDArray[np.int64]

BEFORE_IT = 10
"""A new item's row starts as the mean of the rows of up to so many items met before it."""


def gone_on(
    retriever: Trained, data: TrainingData, lesson: Lesson, progress: Progress | None = None
) -> Trained:
    """Return a copy of this retriever that starts from its weights and trains on other data.

    data: it must have at least the ids to keep; row numbers may differ. `_begin_new` initialises
    the rows of new ids.
    lesson: which events are learned, for how many epochs; see `Lesson`.
    The trainer is that of `fit`, with a constant learning rate. If the new events have no positive,
    only histories and tables grow. Errors: those of `fit`.
    """
    check_index(retriever)
    # A new item that is not trained yet has no table row, so its events are left out here.
    known = data.log.item <= data.items.trained
    own = replace(data, log=data.log.keep(known))
    section = retriever.training_section
    changes = {"epochs": lesson.epochs, "schedule": "constant", "warmup": 0}
    new = copy(retriever)
    new.training_section = section.model_copy(update=changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        new.set_data(own)
        moves = dict(_moves(new.towers, retriever.data, own))
        _take_over(new.towers, retriever.towers.state_dict(), moves)
        for part in new.towers.modules():
            if isinstance(part, ItemTower):
                read_log(part, own)
        _begin_new(new.towers, retriever.data, own)
        learn = lesson.positives(_positives(data))[known]
        practice = replace(own, log=replace(own.log, asked=learn)) if learn.any() else own
        before = _moved(lesson.before.get(lesson.part, {}), new.towers, moves)
        try:
            trainer = new._trainer(practice)
        except NothingToLearnError as error:
            lesson.nothing[lesson.part] = str(error)
            lesson.after[lesson.part] = before
        else:
            trainer.remember(before, retriever.learned)
            if learn.any():
                fitted = fit_towers(
                    *(trainer, new.towers, new.training_section, progress or Quiet()),
                    measure=None,
                    epochs=lesson.epochs,
                )
                new.learned = dict(fitted.learned)
            lesson.after[lesson.part] = {k: v.detach().cpu() for k, v in trainer.memory().items()}
            new.precision = trainer.precision
        new._place()
    new.training_section = section
    _index_as(new, retriever.index)
    whole: Trained = type(retriever).from_state(data, *new.state(), device=retriever.device)
    return whole


def check_index(retriever: Any) -> None:
    """Refuse an index that a refresh must not replace. Errors: ModelError."""
    if isinstance(retriever.index, ServerIndex):
        raise ModelError(
            "the index is in a server, where other programs read it: refresh the bundle with its "
            "exact index, and publish that anew (shortlist index)"
        )


def _positives(data: TrainingData) -> NDArray[np.bool_]:
    """Return which events are positives of the training rows with an item row, bool [events]."""
    log = data.log
    assert log.role is not None
    rows: NDArray[np.bool_] = log.role < BEFORE[FIT_BEFORE[data.fit]]
    rows &= log.item <= data.items.trained
    return rows if log.target is None else rows & log.target


def _index_as(new: Any, old: Any) -> None:
    """Build an index of the same kind and settings as the old one."""
    if isinstance(old, ExactIndex):
        return
    settings = dict(old.settings()) if hasattr(old, "settings") else {}
    index = build_index(kind_of(old), old.similarity, **settings)
    new._put_back(*new._placed(), index.build(*new.placed_vectors()))


def _moves(
    towers: nn.Module, old: TrainingData, new: TrainingData
) -> Iterator[tuple[str, tuple[Rows, Rows]]]:
    """Yield the name of each table whose rows are ids or values, and which rows move where.

    The two arrays are the row numbers in the old table and in the new table.
    """
    of = {side: _same_ids(getattr(old, f"{side}s"), getattr(new, f"{side}s")) for side in _SIDES}
    for name, module in towers.named_modules():
        if not isinstance(module, QueryTower | ItemTower):
            continue
        start = f"{name}." if name else ""
        side = "user" if isinstance(module, QueryTower) else "item"
        if module.id is not None:
            yield f"{start}id.weight", of[side]
        if hasattr(module, "table"):
            yield f"{start}table.weight", of["item"]
        if module.fields is not None:
            was: FeatureTable = getattr(old, f"{side}_features")
            for number, width in _codes(module.fields, was):
                same = np.arange(width, dtype=np.int64)
                yield f"{start}fields.maps.{number}.weight", (same, same)


_SIDES = ("user", "item")


def _codes(fields: Fields, was: FeatureTable) -> Iterator[tuple[int, int]]:
    """Yield the number of each embedding table of the features, and its old number of codes."""
    for number, name in enumerate(fields.names):
        if isinstance(fields.maps[number], nn.Embedding):
            yield number, was.encoders[name].width


def _same_ids(old: Any, new: Any) -> tuple[Rows, Rows]:
    """Return the old and new rows of ids that both vocabularies trained, with row 0."""
    rows = old.rows(new.ids.head(new.trained))
    there = np.flatnonzero((rows > 0) & (rows <= old.trained))
    none = np.zeros(1, dtype=np.int64)
    return np.concatenate([none, rows[there]]), np.concatenate([none, there + 1])


@torch.no_grad()
def _take_over(
    towers: nn.Module,
    weights: Mapping[str, Tensor],
    moves: Mapping[str, tuple[Rows, Rows]],
) -> None:
    """Copy the old weights; those of tables row by row.

    Values that an item tower computes from the log are left out, as they are computed again.
    """
    state = towers.state_dict()
    for name, own in state.items():
        if name.removeprefix("item.") in ItemTower.FROM_LOG:
            continue
        given = weights[name].to(own.device)
        if name in moves:
            before, after = (torch.from_numpy(rows).to(own.device) for rows in moves[name])
            own[after] = given[before]
        else:
            own.copy_(given)


def _moved(
    kept: Mapping[str, Tensor], towers: nn.Module, moves: Mapping[str, tuple[Rows, Rows]]
) -> dict[str, Tensor]:
    """Return the optimiser's state with its rows moved to the new tables; new rows get 0."""
    sizes = {name: len(value) for name, value in towers.state_dict().items() if value.dim()}
    moved = {}
    for name, value in kept.items():
        table = name.removeprefix("optimizer.model.").rpartition(".")[0]
        if table in moves and value.dim():
            before, after = (torch.from_numpy(rows) for rows in moves[table])
            if int(before.max()) >= len(value):
                continue  # of a table of another size, so its state starts anew
            grown = value.new_zeros(sizes[table], *value.shape[1:])
            grown[after] = value[before]
            moved[name] = grown
        else:
            moved[name] = value
    return moved


@torch.no_grad()
def _begin_new(towers: nn.Module, old: TrainingData, new: TrainingData) -> None:
    """Initialise the rows of new ids.

    An item whose vector is only its row starts as the mean of the rows of the items that its users
    met before it; without any, the random initialisation stays. An item with features starts at 0,
    so that its features alone make the vector. A user with a history or features starts at 0 too;
    a user that is only a row starts as the mean of the rows of their items.
    """
    fresh = {
        side: np.setdiff1d(
            np.arange(1, getattr(new, f"{side}s").trained + 1),
            _same_ids(getattr(old, f"{side}s"), getattr(new, f"{side}s"))[1],
        )
        for side in _SIDES
    }
    query = next((m for m in towers.modules() if isinstance(m, QueryTower)), None)
    item = next((m for m in towers.modules() if isinstance(m, ItemTower)), None)
    if len(fresh["item"]):
        before = _met_before(new, fresh["item"])
        if item is not None and item.id is not None:
            if item.fields is None:
                _mean_of(item.id.weight, item.id.weight, *before)
            else:
                item.id.weight[torch.from_numpy(fresh["item"])] = 0
        if query is not None and hasattr(query, "table"):
            _mean_of(query.table.weight, query.table.weight, *before)
    if len(fresh["user"]) and query is not None and query.id is not None:
        rows = torch.from_numpy(fresh["user"])
        query.id.weight[rows] = 0
        alone = query.history is None and query.fields is None
        if alone and isinstance(towers, TwoTowers) and towers.item.id is not None:
            _mean_of(query.id.weight, towers.item.id.weight, *_met_by(new, fresh["user"]))


def _met_before(data: TrainingData, items: Rows) -> tuple[Tensor, Tensor]:
    """Return pairs: the row of a new item, and of an old item met just before by the same user."""
    log = data.training_log
    place = np.flatnonzero(np.isin(log.item, items))
    begin = np.maximum(log.indptr[log.user[place]], place - BEFORE_IT)
    met = windows(
        torch.from_numpy(log.item), torch.from_numpy(begin), torch.from_numpy(place - begin)
    )
    of = torch.from_numpy(log.item[place].astype(np.int64))[met.owners()]
    old = ~torch.isin(met.values, torch.from_numpy(items))
    return of[old], met.values[old].long()


def _met_by(data: TrainingData, users: Rows) -> tuple[Tensor, Tensor]:
    """Return pairs: the row of a new user, and the row of an item they met."""
    log = data.training_log
    there = np.isin(log.user, users)
    return tuple(torch.from_numpy(part[there].astype(np.int64)) for part in (log.user, log.item))  # type: ignore[return-value]


def _mean_of(table: Tensor, source: Tensor, rows: Tensor, others: Tensor) -> None:
    """Set each row of the table to the mean of the rows of `source` that it is paired with."""
    rows, others = rows.to(table.device), others.to(table.device)
    sums = torch.zeros_like(table).index_add_(0, rows, source[others])
    count = torch.bincount(rows, minlength=len(table)).unsqueeze(1)
    some = (count > 0).squeeze(1)
    table[some] = sums[some] / count[some]
