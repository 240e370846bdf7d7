"""What do trained retrievers share: checked options, epochs, the best one, unknown queries?"""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar, Self
from warnings import warn

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shortlist.asking.capabilities import Channel, State
from shortlist.asking.clock import held_out_times
from shortlist.asking.explaining import REASONS, Explaining
from shortlist.asking.queries import Queries, as_queries, refuse_filters
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.asking.unfitted import check_data, check_split
from shortlist.channels.kept import check_rows, check_tensors
from shortlist.channels.learned.going_on import gone_on
from shortlist.channels.learned.item_updates import with_changed_items
from shortlist.config import Model, Training, section_from
from shortlist.config.parts import kept, keys_of, named_by
from shortlist.data.dataset import Split
from shortlist.data.interactions import Cut
from shortlist.data.ragged import Ragged, windows
from shortlist.data.training_data import Fit, TrainingData
from shortlist.data.vocabulary import Ids
from shortlist.errors import IndexServerError, ModelError, QueryError
from shortlist.index import INDEXES, kind_of
from shortlist.index.base import VectorIndex
from shortlist.index.servers import ServerIndex
from shortlist.losses.base import reads_values
from shortlist.metrics import hits as hit_slots
from shortlist.metrics import per_user
from shortlist.sections.training import NEG_RMSE
from shortlist.similarity import comparable, normalize
from shortlist.towers.neighbours import NeighbourMean
from shortlist.training.auto import Facts, autos, number_of, settle
from shortlist.training.checkpoint import Checkpoints, Stage, fingerprint
from shortlist.training.fitting import Epoch, Fitted, fit_towers
from shortlist.training.hard import check_hard_options
from shortlist.training.lesson import Lesson
from shortlist.training.presets import objective_of, sampler_of
from shortlist.training.progress import Progress, Quiet
from shortlist.training.ranks import here
from shortlist.training.tables import check_dealt, dealt_tables
from shortlist.training.trainer import Trainer

logger = logging.getLogger("shortlist.channels")


class Reads:
    """A class attribute: the keys of [model] and [training] that have an effect in a retriever.

    keys: such keys.
    parts: keys that name a part, whose options have an effect as well. They are looked up at each
    access, because plugins can add parts.
    but: options of parts that have no effect.
    """

    def __init__(self, keys: Iterable[str], parts: Iterable[str], but: Iterable[str] = ()) -> None:
        self.keys, self.parts, self.but = frozenset(keys), tuple(parts), frozenset(but)

    def __get__(self, instance: object, owner: type | None = None) -> frozenset[str]:
        """Return all keys that have an effect."""
        return (self.keys | {option for key in self.parts for option in keys_of(key)}) - self.but


ALWAYS_READ = frozenset(
    [
        *("dim", "dropout", "mode", "positives", "loss", "sampler", "negatives"),
        *("shared", "similarity", "temperature", "learn_temperature", "correct_sampling"),
        *("correct_positives",),
        *("mask_hits", "learning_rate", "weight_decay", "schedule", "warmup", "clip", "optimizer"),
        *("ema", "precision", "epochs", "batch_size", "compile", "encode_rows", "validate_every"),
        *("patience", "monitor", "seed", "refit"),
    ]
)
"""The keys of [model] and [training] that every retriever with towers reads. The options of the
loss come in addition."""

HARD_KEYS = ("hard", "hard_share", "hard_weight", "hard_known")
"""The keys of hard negatives; the options of their sources come in addition."""

NO_HARD = dict.fromkeys(
    HARD_KEYS, "hard negatives are chosen for a user's pairs with items: positives = 'u2i'"
)
"""Why retrievers other than TwoTower do not read the keys of hard negatives."""

SAMPLED = 256
"""Number of vectors of a bundle, at most, that are compared with the output of the towers."""

ALIKE = 0.01
"""Largest difference of a vector between devices, as a fraction of its norm."""

VALIDATION_USERS = 10_000
"""Largest number of users that are evaluated after each epoch; the sample is fixed."""


def usable_device(name: str) -> str:
    """Return the name of a device on which tensors can be created. Errors: ModelError."""
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device '{name}' cannot be used ({reason}); use 'cpu'") from error
    return name


class Learner(Explaining):
    """A retriever with towers that are trained; the base of TwoTower, ItemToItem and UserToUser.

    Options are the keys of a recipe's [model] and [training] sections.

    positives: the value of training.positives that it learns from.
    placed: which vectors the index holds, 'item_vectors' or 'user_vectors'; also the name of the
    file in a bundle.
    reads: the keys of both sections that have an effect; all others are refused.
    unread: the reason for some of the refused keys.
    learned: scalars that the last fit learned beside the towers (temperature, biases), by name.
    precision: "float32" or "bfloat16", as used by the last fit; before a fit, training.precision.
    auto: for each key that was "auto", why the fit chose its number; before a fit it is empty and
    the sections hold "auto".
    """

    positives: ClassVar[str]
    reads_log: ClassVar[bool] = True
    placed: ClassVar[str]
    reasons_sum: ClassVar[bool] = False
    reads: ClassVar[Reads]
    unread: ClassVar[Mapping[str, str]]

    data: TrainingData
    towers: nn.Module
    index: VectorIndex

    def __init__(
        self,
        *,
        model: Model | None = None,
        training: Training | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        sections = sections_for(self.positives, model, training, options, self.reads, self.unread)
        # Build sampler and objective once now, so that bad options fail before data is read.
        training = settle(*sections, None).training
        sampler_of(training, torch.tensor([0, 1]))
        objective = objective_of(training)
        check_hard_options(training, objective)
        _check_values(training, fitted=reads_values(objective.loss), can="weighted" in self.reads)
        self._begin(*sections, device)

    def _begin(self, model: Model, training: Training, device: str) -> None:
        """Set sections that were checked, by the constructor or when a bundle was trained."""
        self.model_section, self.training_section = model, training
        self._asked = model, training
        self.auto: dict[str, str] = {}
        self.device = usable_device(device)
        self.epochs_run: tuple[Epoch, ...] = ()
        self.best_epoch = 0
        self.learned: dict[str, float] = {}
        self.precision: str = self.training_section.precision

    def fit(
        self,
        split: Split,
        fit: Fit | None = None,
        *,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Train on the training rows and keep the epoch that is best on the validation rows.

        fit: rows of the final towers. If it is more than 'train', the towers are trained again on
        those rows, for the best number of epochs. None: the value of training.refit.
        progress: receives the stages and epochs; None: nothing is shown.
        checkpoints: where the training is saved. After a kill, the same call with the same
        checkpoints continues it and gives the same bytes.
        Errors: ModelError or DataError for what the data cannot give, TrainingError if the loss
        diverges, CheckpointError for a checkpoint of another training.
        """
        check_split(split)
        fitted = self._train(split, "train", progress or Quiet(), checkpoints)
        self.epochs_run, self.best_epoch = fitted.epochs, fitted.best
        refit = self.training_section.refit if fit is None else fit
        if refit == "train+validation" or refit == "all":  # noqa: PLR1714 - mypy narrows by this
            self.refit(split, refit, progress=progress, checkpoints=checkpoints)
        return self

    def refit(
        self,
        split: Split,
        fit: Fit,
        *,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Train from the start on the rows `fit` names, for the best number of epochs of `fit`."""
        check_split(split)
        if not self.best_epoch:
            raise ModelError("refit needs a fit first, which finds the best number of epochs")
        self._train(split, fit, progress or Quiet(), checkpoints, epochs=self.best_epoch)
        return self

    def _train(
        self,
        split: Split,
        fit: Fit,
        progress: Progress,
        checkpoints: Checkpoints | None,
        *,
        epochs: int | None = None,
    ) -> Fitted:
        """Train on the rows that `fit` names.

        epochs: the exact number. None: the validation rows choose the best epoch.
        """
        data = split.training_data(fit)
        if fit == "train":
            self._settle(data)
        training = self.training_section
        check_dealt(training, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            with dealt_tables(training):
                self.set_data(data)
            if here().several:
                here().check_inputs(self._fingerprint(epochs, numeric_features=False))
            if here().first:  # the trainer gives these weights to the other processes
                self._begin_weights()
            trainer = self._trainer(self.data)
            self.precision = trainer.precision
            fitted = fit_towers(
                trainer,
                self.towers,
                training,
                progress,
                measure=self._measured if epochs is None else None,
                epochs=epochs or training.epochs,
                stage=self._stage(checkpoints, epochs),
            )
            self.learned = dict(fitted.learned)
            if here().first or training.optimizer != "sharded":
                self._place()
        return fitted

    def _settle(self, data: TrainingData) -> None:
        """Replace "auto" by numbers; a refit keeps the numbers of the fit before it."""
        found = settle(*self._asked, Facts.of(data, self._positives(data)))
        self.model_section, self.training_section = found.model, found.training
        self.auto = {key: one.reason for key, one in found.chosen.items()}

    def _settle_once(self, data: TrainingData) -> None:
        """Replace "auto" by numbers if no fit has done so: for towers that are not trained."""
        if autos(self.model_section, self.training_section):
            self._settle(data)

    @property
    def numbers(self) -> dict[str, int | float]:
        """The numbers that the last fit chose for the keys that were "auto"."""
        return {key: number_of(key, self.model_section, self.training_section) for key in self.auto}

    def _positives(self, data: TrainingData) -> int:
        """Return the approximate number of positives per epoch."""
        return len(data.training_targets)

    def _measured(self) -> float:
        """Return the monitored metric of the current towers on the validation rows."""
        self._place()
        return validation_score(self, self.training_section.monitor)

    @property
    def history(self) -> tuple[Epoch, ...]:
        """The old name of `epochs_run`."""
        warn("history is called epochs_run now", DeprecationWarning, stacklevel=2)
        return self.epochs_run

    def observe(self, data: TrainingData) -> Self:
        """Return this retriever with new events: `data` is the old data plus these.

        Histories and seen items grow; towers and vectors stay as they were trained.
        """
        check_data(data)
        return self.from_state(data, *self.state(), device=self.device)

    def refreshed(
        self, data: TrainingData, lesson: Lesson, *, progress: Progress | None = None
    ) -> Self:
        """Return this retriever after more training on other data; see `going_on` and `Lesson`."""
        check_data(data)
        return gone_on(self, data, lesson, progress)

    def change_items(
        self,
        *,
        add: Sequence[Mapping[str, Any]] = (),
        remove: Ids = (),
        restore: Ids = (),
    ) -> Self:
        """Return this retriever with other items, without training. All changes apply, or none.

        add: items without training events, new or of the catalogue, as rows of the items table
        ({"id": ..., column: value}); columns that are left out are missing values. The item tower
        must read features.
        remove: items that no answer may contain from now on, trained ones too; histories keep them.
        restore: removed items that become candidates again.
        Each call encodes the features and copies the index, so send many items at once.
        Errors: DataError or QueryError for an item, ModelError for what this model cannot do.
        """
        changed: Self = with_changed_items(self, add, remove, restore)
        return changed

    @property
    def item_columns(self) -> frozenset[str]:
        """The features that the item tower reads."""
        fields: Any = getattr(self.towers, "item", self.towers).fields
        return frozenset(() if fields is None else fields.names)

    @property
    def similarity(self) -> str:
        """How vectors are compared: 'cosine', 'dot' or 'euclidean'."""
        return self.training_section.similarity

    @property
    def width(self) -> int:
        """The width D of the vectors."""
        return self.model_section.dim

    def encodable_users(self) -> pl.Series:
        """Return the ids of the users that `encode_users` can encode: all trained users."""
        return self.data.users.ids.head(self.data.users.trained)

    def encode_users(self, queries: Queries | Ids) -> Tensor:
        """Return the vectors that the index is searched with, [B, D] float32.

        Ranking the indexed vectors by `METRICS[similarity]` gives the order of `recommend`. With
        model.history 'comirec' or 'mind' a query has K vectors, [B, K, D].
        Errors: QueryError for a query without anything to encode (`strangers`), and for a filter of
        items (`where`, `allow`, ...).
        """
        asked, blocks = as_queries(queries), []
        refuse_filters(asked, "the vector of a query")
        self.refuse_unread(asked)
        for block in row_blocks(asked, self.data, timed=self.timed):
            if (cold := self.strangers(block)).any():
                raise QueryError(
                    f"query {int(cold.nonzero()[0])} is an unknown user without known history: "
                    "there is nothing to make a vector of"
                )
            blocks.append(self._encode_block(block))
        if blocks:
            return comparable(torch.cat(blocks), self.training_section.similarity)
        interests = self.model_section.query_vectors
        several = () if interests is None else (interests,)
        return torch.zeros(0, *several, self.model_section.dim)

    def use_index(self, index: VectorIndex) -> Self:
        """Search with another index of the same vectors, from now on and in bundles.

        Errors: ModelError if the similarity or the number of vectors differs, and for an index of
        an unregistered kind, which a bundle could not name.
        """
        kind_of(index)
        similarity = self.training_section.similarity
        if index.similarity != similarity or len(index) != len(self.index):
            raise ModelError(
                f"the index holds {len(index):,} vectors under {index.similarity}, the retriever "
                f"{len(self.index):,} under {similarity}: build it from the retriever's own vectors"
            )
        self.index = index
        return self

    def use_exact_index(self) -> Self:
        """Search with an exact index again."""
        self._put_back(*self._placed())
        return self

    def placed_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what an index is built from: rows [N], vectors [N, D] and tie keys [N]."""
        rows, vectors = self._placed()
        vocabulary = self.data.users if self.placed == "user_vectors" else self.data.items
        return rows, vectors, torch.from_numpy(vocabulary.tie_keys)[rows]

    def state(self) -> State:
        """Return the sections of the training, the weights of the towers and the placed vectors."""
        settings = {
            "model": kept(self.model_section),
            "training": kept(self.training_section),
            "best_epoch": self.best_epoch,
            "precision": self.precision,
            "epochs": [epoch._asdict() for epoch in self.epochs_run],
        }
        placed = {"rows": self._placed_rows()}
        if not isinstance(self.index, ServerIndex):
            placed["vectors"] = self._placed()[1]
        states = {"towers": dict(self.towers.state_dict()), self.placed: placed}
        if self.auto:
            settings["auto"] = dict(self.auto)
        if self.learned:
            settings["learned"] = dict(self.learned)
        settings["index"] = kind_of(self.index)
        states["index"] = self.index.state()
        return settings, states

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the retriever that `state` came from; its answers are bit-equal.

        It uses the given tensors and no copies. They may be mapped from a file, and retrievers of
        one state share their weights.
        """
        retriever = cls.__new__(cls)
        untold = settle(Model(), Training(), None)  # keys that an older format lacks
        sections = section_from(
            *(untold.model, untold.training), {**settings["model"], **settings["training"]}
        )
        retriever._begin(*sections, device)
        retriever.epochs_run = tuple(Epoch(**epoch) for epoch in settings["epochs"])
        retriever.best_epoch = settings["best_epoch"]
        retriever.auto = dict(settings.get("auto", {}))
        retriever.learned = dict(settings.get("learned", {}))
        retriever.precision = settings.get("precision", retriever.precision)
        with torch.random.fork_rng(devices=[]), _Unfilled():
            retriever.set_data(data)
        # Use the given weights without copying: only the pages that are read of a mapped file load.
        own = retriever.towers.state_dict()
        wanted = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in own.items()}
        check_tensors("towers", states["towers"], wanted)
        retriever.towers.load_state_dict(dict(states["towers"]), assign=True)
        retriever.towers.to(retriever.device).eval()
        for part in retriever.towers.modules():
            if isinstance(part, NeighbourMean):
                check_rows("towers: neighbours", part.rows.flatten().cpu(), 0, data.items.trained)
        index = None
        if "index" in settings:
            similarity = retriever.training_section.similarity
            index = INDEXES[settings["index"]].from_state(similarity, dict(states["index"]))
        there = isinstance(index, ServerIndex) and "vectors" not in states[cls.placed]
        rows, vectors = retriever._checked(states[cls.placed], there=there)
        if vectors is None:
            retriever._check_server(index, rows)
        elif index is not None:
            retriever._check_index(states["index"], rows, vectors)
        retriever._put_back(rows, vectors, index)
        return retriever

    def _checked(
        self, placed: Mapping[str, Tensor], *, there: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the rows and vectors of a bundle after checking them against data and towers.

        there: True if the vectors are in a server and the bundle has only the rows.
        """
        shape = ("N", self.model_section.dim)
        expected = {"rows": (torch.int64, ("N",)), "vectors": (torch.float32, shape)}
        if there:
            del expected["vectors"]
        check_tensors(self.placed, placed, expected)
        rows, vectors = placed["rows"], placed.get("vectors")
        of_users = self.placed == "user_vectors"
        most = self.data.users.trained if of_users else len(self.data.items)
        check_rows(f"{self.placed}: rows", rows, 1, most, distinct=True)
        if not of_users and vectors is not None:
            some = _spread(len(rows))
            with torch.no_grad():
                again = self._encode_items(rows[some]).cpu()
            _check_alike(f"{self.placed}: the vector of row", rows[some], vectors[some], again)
        return rows, vectors

    def _check_server(self, index: Any, rows: Tensor) -> None:
        """Refuse an index in a server that has another number of vectors, or other vectors.

        If the server does not answer, a warning is logged and its vectors are not checked.
        """
        if index.similarity != self.training_section.similarity or len(index) != len(rows):
            raise ModelError(f"the index holds other rows than {self.placed}")
        some = rows[_spread(len(rows))]
        if self.placed == "user_vectors" or not len(some):
            return
        with torch.no_grad():
            again = comparable(self._encode_items(some).cpu(), index.similarity)
        try:
            kept = index.vectors_of(some)
        except IndexServerError as error:
            logger.warning("the vectors in the index server were not checked: %s", error)
            return
        _check_alike("index: the vector of row", some, kept, again)

    def _check_index(self, state: Mapping[str, Tensor], rows: Tensor, vectors: Tensor) -> None:
        """Refuse an index with other rows, tie keys or vectors than the placed ones."""
        ids, vocabulary = state["ids"], self.data.users
        if self.placed != "user_vectors":
            vocabulary = self.data.items
        ordered, place = rows.sort()
        if not torch.equal(ids.sort().values, ordered):
            raise ModelError(f"the index holds other rows than {self.placed}")
        if not torch.equal(state["tie_keys"], torch.from_numpy(vocabulary.tie_keys)[ids]):
            raise ModelError("the index orders equal scores by other keys than those of its rows")
        some = _spread(len(ids))
        placed = vectors[place[torch.searchsorted(ordered, ids[some])]]
        if self.training_section.similarity == "cosine":
            placed = normalize(placed)
        _check_alike("index: the vector of row", ids[some], state["vectors"][some], placed)

    def _stage(self, checkpoints: Checkpoints | None, epochs: int | None) -> Stage | None:
        """Return where this training is saved."""
        if checkpoints is None:
            return None
        return checkpoints.stage(self.data.fit, self._fingerprint(epochs), self.precision)

    def _fingerprint(self, epochs: int | None, *, numeric_features: bool = True) -> str:
        """Return the hash of everything that decides the result of a training.

        It leaves out `refit`, which does not change a stage, and `precision`, because a checkpoint
        stores the one that was chosen.

        numeric_features: include the values of numeric features.
        """
        described = {
            "retriever": type(self).__name__,
            "model": kept(self.model_section),
            "training": {
                key: value
                for key, value in kept(self.training_section).items()
                if key not in ("refit", "precision")
            },
            "fit": self.data.fit,
            "epochs": epochs,
            "versions": [version("shortlist"), torch.__version__],
        }
        return fingerprint(described, self.data, numeric_features=numeric_features)

    @abstractmethod
    def scores_of(self, block: RowQueries, rows: Tensor) -> Tensor:
        """Return the score of each item row [n] for each query, [B, n]; -inf for no candidate."""

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return by how much each score drops without each item of the history, kind "event".

        Every query is encoded again, once without each item of its history that is read: at most
        history_length + 1 times (or latest_items + 1). The joint effect of two items is counted for
        both, so the contributions need not sum to the score.
        """
        parts = [pl.DataFrame(schema=REASONS)]
        for query, wanted in enumerate(items):
            one = block.take(torch.tensor([query]))
            met = one.history.values[-self._events_read() :]
            met = torch.unique(met[met > 0])
            rows = wanted[wanted > 0]
            if not len(met) or not len(rows):
                continue
            scores = self.scores_of(_each_left_out(one, met), rows)
            lost = (scores[:1] - scores[1:]).double()  # [items of the history, n]
            event, item = (lost.isfinite() & (lost != 0)).nonzero().unbind(1)
            part = {
                "query": np.full(len(event), query),
                "item": rows[item].numpy(),
                "kind": ["event"] * len(event),
                "because": met[event].numpy().astype(str).tolist(),
                "contribution": lost[event, item].numpy(),
            }
            parts.append(pl.DataFrame(part, schema=REASONS))
        return pl.concat(parts)

    def _events_read(self) -> int:
        """Return the largest number of latest events that a query reads."""
        return self.model_section.history_length

    @abstractmethod
    def _encode_block(self, block: RowQueries) -> Tensor:
        """Return the vectors that B queries search with, [B, D] or [B, K, D]."""

    @abstractmethod
    def set_data(self, data: TrainingData) -> None:
        """Build untrained towers for this data."""

    @abstractmethod
    def _trainer(self, data: TrainingData) -> Trainer:
        """Return the trainer of the towers of `set_data` on the training rows of this data."""

    @abstractmethod
    def _place(self) -> None:
        """Encode the vectors of the index with the current towers and search these from now on."""

    def _begin_weights(self) -> None:
        """Set the weights of new towers that are initialised from the log, if there are any."""

    def _mark_readable(self) -> None:
        """Update which items of a history the tower can read, if that depends on the items."""

    def _encode_items(self, rows: Tensor) -> Tensor:
        """Return the vectors of item rows [n] as the index holds them, [n, D]."""
        raise NotImplementedError

    @abstractmethod
    def _placed(self) -> tuple[Tensor, Tensor]:
        """Return the rows and vectors in the index, [N] int64 and [N, D]."""

    @abstractmethod
    def _placed_rows(self) -> Tensor:
        """Return the rows in the index, [N] int64."""

    @abstractmethod
    def _put_back(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        """Search these vectors from now on.

        vectors: None if only the server of the index has them.
        index: an index of these vectors; None builds an exact one.
        """


def _each_left_out(block: RowQueries, met: Tensor) -> RowQueries:
    """Return one query with its whole history, and once without each item `met` [n]: [n + 1]."""
    values = block.history.values
    kept = torch.ones(len(met) + 1, len(values), dtype=torch.bool)
    kept[1:] = values != met[:, None]
    offsets = torch.zeros(len(kept) + 1, dtype=torch.int64)
    torch.cumsum(kept.sum(dim=1), 0, out=offsets[1:])

    def of_events(column: Tensor | None) -> Tensor | None:
        return None if column is None else column.expand(len(kept), -1)[kept]

    history = Ragged(values.expand(len(kept), -1)[kept], offsets)
    users = block.users.repeat(len(kept))
    described = block.described
    return RowQueries(
        *(users, history, False, of_events(block.weight), None, of_events(block.time)),
        described=None
        if described is None
        else described.take(torch.zeros(len(kept), dtype=torch.int64)),
        asked=None if block.asked is None else block.asked.repeat(len(kept)),
        columns={
            name: column.expand(len(kept), -1)[kept] for name, column in block.columns.items()
        },
        context={name: column.repeat(len(kept)) for name, column in block.context.items()},
    )


class _Unfilled(TorchFunctionMode):
    """While active, weights are not initialised, as loaded weights will replace them.

    A large table is then never in memory twice, and no time is spent on drawing its numbers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _spread(count: int) -> Tensor:
    """Return evenly spaced positions below `count`: all of them, or at most SAMPLED."""
    return torch.arange(0, count, max(1, -(-count // SAMPLED)))


def _check_alike(what: str, rows: Tensor, given: Tensor, expected: Tensor) -> None:
    """Refuse a vector that differs from the expected one by more than devices may differ."""
    if given.shape != expected.shape:
        raise ModelError(f"{what} {int(rows[0])} must be {expected.shape[1]} wide")
    size = torch.linalg.vector_norm(expected, dim=1) + torch.finfo(torch.float32).tiny
    off = ~(torch.linalg.vector_norm(given - expected, dim=1) <= ALIKE * size)
    if off.any():
        raise ModelError(f"{what} {int(rows[off][0])} is not what the towers give")


def validation_score(retriever: Channel, monitor: str) -> float:
    """Return the monitored metric on the validation rows, through `recommend` as in serving."""
    data = retriever.data
    if monitor == NEG_RMSE:
        return -value_error(retriever, "validation")
    name, k = monitor.split("@")
    users, items, offsets = data.targets("validation")
    time = held_out_times(retriever, "validation")
    if len(users) > VALIDATION_USERS:
        pick = np.sort(np.random.default_rng(0).permutation(len(users))[:VALIDATION_USERS])
        chosen = windows(
            torch.from_numpy(items),
            torch.from_numpy(offsets[:-1][pick]),
            torch.from_numpy(np.diff(offsets)[pick]),
        )
        users, items, offsets = users[pick], chosen.values.numpy(), chosen.offsets.numpy()
        time = None if time is None else time[torch.from_numpy(pick)]
    queries = Queries(data.users.external(users), before="validation", time=time)
    rows = retriever.recommend(queries, int(k)).rows
    # Lists are shorter than k if the catalogue is: empty slots are misses.
    rows = np.pad(rows, ((0, 0), (0, int(k) - rows.shape[1])), constant_values=-1)
    found = hit_slots(rows, items, offsets)
    return float(per_user(found, np.diff(offsets), [int(k)])[f"{name}@{k}"].mean())


def value_error(retriever: Any, on: Cut) -> float:
    """Return the root mean squared error of the values of the events held out at a cut.

    With model.biases a score is the predicted value. For an unknown user or item, the score is the
    mean plus the bias of the known one.
    """
    events, time = retriever.data.log.at(on), held_out_times(retriever, on)
    values = events.weights_for("the error of values")
    users, which = np.unique(events.user, return_inverse=True)
    ids = retriever.data.users.external(users)
    asked = Queries(ids, before=on, time=time)
    blocks = row_blocks(asked, retriever.data, timed=retriever.timed)
    queries = torch.cat([retriever.encode_block(block) for block in blocks])
    rows, item = np.unique(events.item, return_inverse=True)
    items = retriever.encode_item_rows(torch.from_numpy(rows).long())
    scores = (queries[torch.from_numpy(which)] * items[torch.from_numpy(item)]).sum(1)
    return float((scores.double() - torch.from_numpy(values)).square().mean().sqrt())


def _check_values(training: Training, *, fitted: bool, can: bool) -> None:
    """Refuse a loss on values if pairs have none, and the monitor of values without such a loss."""
    if fitted and not can:
        raise ModelError(
            f"values = 'explicit' fits scores to data.weight of an event of a user, and positives "
            f"= '{training.positives}' are pairs of another kind: use positives = 'u2i'"
        )
    if training.monitor == NEG_RMSE and not fitted:
        raise ModelError(
            f"training.monitor = '{NEG_RMSE}' is the error of predicted values, and this loss "
            "predicts none: use loss = 'squared' with values = 'explicit', or another monitor"
        )


def sections_for(
    positives: str,
    model: Model | None,
    training: Training | None,
    options: Mapping[str, object],
    reads: frozenset[str],
    unread: Mapping[str, str],
) -> tuple[Model, Training]:
    """Return the checked sections of a retriever that learns from these positives.

    reads: the keys of both sections that have an effect; any other that is not at its default is
    refused.
    unread: the reason for some of the refused keys.
    Errors: ModelError.
    """
    base = training or Training.model_validate({"positives": positives})
    sections = section_from(model or Model(), base, options)
    given = sections[1].positives
    if given != positives:
        raise ModelError(
            f"this retriever learns from positives = '{positives}', got '{given}': "
            "TwoTower is for 'u2i', ItemToItem for 'i2i', UserToUser for 'u2u'"
        )
    for section in sections:
        for key in type(section).model_fields:
            if key not in reads and section.is_changed(key) and getattr(section, key) != ():
                reason = unread.get(key) or unread.get(named_by(key) or "", "leave it out")
                raise ModelError(f"{key} does nothing with positives = '{positives}': {reason}")
    return sections
