"""What do all trained retrievers share? Options checked, epochs run, the best kept, strangers."""

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
from shortlist.asking.queries import Queries, as_queries
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.asking.unfitted import check_data, check_split
from shortlist.channels.kept import check_rows, check_tensors
from shortlist.channels.learned.going_on import gone_on
from shortlist.channels.learned.item_updates import with_changed_items
from shortlist.config import Model, Training, section_from
from shortlist.config.parts import kept, keys_of, named_by
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.data.interactions import Cut
from shortlist.data.ragged import Ragged, windows
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
from shortlist.training.auto import Facts, number_of, settle
from shortlist.training.checkpoint import Checkpoints, Stage, fingerprint
from shortlist.training.fitting import Epoch, Fitted, fit_towers
from shortlist.training.hard import check_hard_options
from shortlist.training.lesson import Lesson
from shortlist.training.presets import objective_of, sampler_of
from shortlist.training.progress import Progress, Quiet
from shortlist.training.ranks import here
from shortlist.training.tables import check_dealt
from shortlist.training.trainer import Trainer

logger = logging.getLogger("shortlist.channels")


class Reads:
    """The keys of [model] and [training] that do something in a retriever, as a class attribute.

    keys: such keys. parts: those that name a part, whose options are read, too: they are asked for
    anew each time, as parts may come. but: options that are not read all the same.
    """

    def __init__(self, keys: Iterable[str], parts: Iterable[str], but: Iterable[str] = ()) -> None:
        self.keys, self.parts, self.but = frozenset(keys), tuple(parts), frozenset(but)

    def __get__(self, instance: object, owner: type | None = None) -> frozenset[str]:
        """Return all of them."""
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
"""The keys of [model] and [training] that every retriever with towers reads, beside options of the
loss."""

HARD_KEYS = ("hard", "hard_share", "hard_weight", "hard_known")
"""The keys of hard negatives, beside the options of their sources."""

NO_HARD = dict.fromkeys(
    HARD_KEYS, "hard negatives are chosen for a user's pairs with items: positives = 'u2i'"
)
"""Why a retriever does not read them."""

SAMPLED = 256
"""Vectors of a bundle, at most, that are compared with what the towers give."""

ALIKE = 0.01
"""What a vector may differ by from one device to another, as a share of its length."""

VALIDATION_USERS = 10_000
"""At most so many users are asked after each epoch; which ones is fixed."""


def usable_device(name: str) -> str:
    """Return the name of a device that tensors can be put on, or refuse it (ModelError)."""
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device '{name}' cannot be used ({reason}); use 'cpu'") from error
    return name


class Learner(Explaining):
    """A retriever with towers that are trained: what the three kinds do alike.

    positives: the value of training.positives it learns from. placed: what of the data has a
    vector in its index, as a bundle names the file. reads: the keys of the sections that do
    something here; all others are refused, with the reason in `unread` where it has one.
    learned: what the last fit learned beside the towers, the temperature and biases, by name.
    precision: in which the last fit multiplied, "float32" or "bfloat16", where training.precision
    may say "auto". auto: why the fit chose the number of each key that said "auto"; until then the
    sections say "auto". Options are the keys of a recipe's [model] and [training] sections.
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
        # These refuse what cannot work, before any data.
        training = settle(*sections, None).training
        sampler_of(training, torch.tensor([0, 1]))
        objective = objective_of(training)
        check_hard_options(training, objective)
        _check_values(training, fitted=reads_values(objective.loss), can="weighted" in self.reads)
        self._begin(*sections, device)

    def _begin(self, model: Model, training: Training, device: str) -> None:
        """Take over sections that were checked, now or when a bundle was trained."""
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
        """Train on the training rows, keep the epoch that does best on the validation rows.

        fit: if it names more rows than 'train', the towers are then trained again on those, for as
        many epochs as were best. None: what training.refit says.
        checkpoints: where the training is saved as it goes on. Asked again with the same ones after
        it was killed, it goes on from there, to the same bytes.
        Raises ModelError or DataError for what the data cannot give, TrainingError if the loss
        runs away, CheckpointError for a checkpoint of another training.
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
        """Train from the start on the rows `fit` names, for as many epochs as were best."""
        check_split(split)
        if not self.best_epoch:
            raise ModelError("refit needs a fit first: it trains for the epochs that were best")
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
        """Train on the rows `fit` names: exactly so many epochs, or (None) as many as help.

        Then only is there something to measure: the validation rows choose the epoch.
        """
        data = split.training_data(fit)
        if fit == "train":
            self._settle(data)
        training = self.training_section
        check_dealt(training, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.set_data(data)
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
        """Put numbers in place of "auto"; a refit keeps those of the fit before it."""
        found = settle(*self._asked, Facts.of(data, self._positives(data)))
        self.model_section, self.training_section = found.model, found.training
        self.auto = {key: one.reason for key, one in found.chosen.items()}

    @property
    def numbers(self) -> dict[str, int | float]:
        """What the last fit put in place of "auto", by key."""
        return {key: number_of(key, self.model_section, self.training_section) for key in self.auto}

    def _positives(self, data: TrainingData) -> int:
        """About how many positives an epoch has."""
        return len(data.training_targets)

    def _measured(self) -> float:
        """The monitored figure on the validation rows, of the towers as they are."""
        self._place()
        return validation_score(self, self.training_section.monitor)

    @property
    def history(self) -> tuple[Epoch, ...]:
        """The old name of `epochs_run`."""
        warn("history is called epochs_run now", DeprecationWarning, stacklevel=2)
        return self.epochs_run

    def observe(self, data: TrainingData) -> Self:
        """Return this retriever with new events: `data` is the old data with them.

        Histories and seen items grow with them; towers and vectors stay as they were trained.
        """
        check_data(data)
        return self.from_state(data, *self.state(), device=self.device)

    def refreshed(
        self, data: TrainingData, lesson: Lesson, *, progress: Progress | None = None
    ) -> Self:
        """Return this retriever trained on, on other data: see `going_on` and `Lesson`."""
        check_data(data)
        return gone_on(self, data, lesson, progress)

    def change_items(
        self,
        *,
        add: Sequence[Mapping[str, Any]] = (),
        remove: Ids = (),
        restore: Ids = (),
    ) -> Self:
        """Return this retriever with other items, without training: all changes or an error.

        add: items nobody has touched in training, new ones or of the catalogue, as rows of the
        items table ({"id": ..., column: value}; what is left out is missing). The item tower must
        read features. remove: candidates never to be answered again, trained ones too; histories
        keep them. restore: removed ones to take back. The index's own `add` and `remove` are used.
        Every time the items' features are encoded and the index copied, so send many at once.
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
        """How its vectors are compared: 'cosine', 'dot' or 'euclidean'."""
        return self.training_section.similarity

    @property
    def width(self) -> int:
        """The width D of its vectors."""
        return self.model_section.dim

    def encodable_users(self) -> pl.Series:
        """Return the ids of the users that `encode_users` has a vector of: all trained ones."""
        return self.data.users.ids.head(self.data.users.trained)

    def encode_users(self, queries: Queries | Ids) -> Tensor:
        """Return the vector that each query is answered with, [B, D].

        Their order of the indexed vectors, under `METRICS[similarity]`, is that of `recommend`.
        With model.history 'comirec' or 'mind' it is K vectors a query, [B, K, D]. Errors:
        QueryError for a query of which nothing is known (`strangers`).
        """
        asked, blocks = as_queries(queries), []
        self.check_told(asked)
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

        Raises ModelError if it compares otherwise than the towers were trained to, and for an index
        whose kind has no name, which no bundle could say.
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
        """Search exactly again."""
        self._put_back(*self._placed())
        return self

    def placed_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what an index is built from: rows [N], vectors [N, D] and tie keys [N]."""
        rows, vectors = self._placed()
        vocabulary = self.data.users if self.placed == "user_vectors" else self.data.items
        return rows, vectors, torch.from_numpy(vocabulary.tie_keys)[rows]

    def state(self) -> State:
        """Return the sections it was trained with, the tower weights and the placed vectors."""
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
        """Return the retriever that `state` came from: it gives the same answers, bit for bit.

        It holds the tensors it is given, not copies: they may lie in a mapped file, and two
        retrievers of one state share their weights.
        """
        retriever = cls.__new__(cls)
        sections = section_from(Model(), Training(), {**settings["model"], **settings["training"]})
        retriever._begin(*sections, device)
        retriever.epochs_run = tuple(Epoch(**epoch) for epoch in settings["epochs"])
        retriever.best_epoch = settings["best_epoch"]
        retriever.auto = dict(settings.get("auto", {}))
        retriever.learned = dict(settings.get("learned", {}))
        retriever.precision = settings.get("precision", retriever.precision)
        with torch.random.fork_rng(devices=[]), _Unfilled():
            retriever.set_data(data)
        # The weights are those given, not copies: of a mapped file only what is read is in memory.
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
        """The rows and vectors of a bundle, once they fit the data and the towers.

        there: whether the vectors are in a server, so that the bundle has rows alone.
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
        """Refuse an index in a server that holds another number of items, or other vectors.

        Where the server does not answer now, its vectors are believed: nobody else writes there.
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
            logger.warning("the index was not looked at: %s", error)
            return
        _check_alike("index: the vector of row", some, kept, again)

    def _check_index(self, state: Mapping[str, Tensor], rows: Tensor, vectors: Tensor) -> None:
        """Refuse an index of other rows, of other tie keys, or of other vectors than are placed."""
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
        """Where this training is saved; refit is left out, as it changes nothing of a stage.

        So is precision, of which the stage keeps what was chosen.
        """
        if checkpoints is None:
            return None
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
        known = fingerprint(described, self.data)
        return checkpoints.stage(self.data.fit, known, self.precision)

    @abstractmethod
    def scores_of(self, block: RowQueries, rows: Tensor) -> Tensor:
        """Return the score of each item row [n] for each query, [B, n]; -inf for no candidate."""

    def reasons(self, block: RowQueries, items: Sequence[Tensor]) -> pl.DataFrame:
        """Return what each score loses without each item of the history, kind "event".

        Every query is encoded again, once without each item that is read of its history: at most
        history_length + 1 times (or latest_items + 1). What two items say together is lost with
        either of them, so these shares need not sum to the score.
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
        """How many of the latest events of a history a query is made of, at most."""
        return self.model_section.history_length

    @abstractmethod
    def _encode_block(self, block: RowQueries) -> Tensor:
        """The vectors that B queries are answered with, [B, D] or [B, K, D]."""

    @abstractmethod
    def set_data(self, data: TrainingData) -> None:
        """Build untrained towers for this data."""

    @abstractmethod
    def _trainer(self, data: TrainingData) -> Trainer:
        """What trains the towers of `set_data` on the training rows of this data."""

    @abstractmethod
    def _place(self) -> None:
        """Encode what the index holds with the towers as they are, and search that from now on."""

    def _begin_weights(self) -> None:
        """Put towers that are drawn where their training begins, if the log says where."""

    def _mark_readable(self) -> None:
        """Note which items of a history can be read, where that depends on the data's items."""

    def _encode_items(self, rows: Tensor) -> Tensor:
        """Vectors of item rows [n] as they are placed, [n, D], where items have any."""
        raise NotImplementedError

    @abstractmethod
    def _placed(self) -> tuple[Tensor, Tensor]:
        """The rows and vectors in the index: [N] int64, [N, D]."""

    @abstractmethod
    def _placed_rows(self) -> Tensor:
        """The rows in the index, [N] int64."""

    @abstractmethod
    def _put_back(
        self, rows: Tensor, vectors: Tensor | None, index: VectorIndex | None = None
    ) -> None:
        """Search these vectors from now on; index: one of them, else an exact one is built.

        vectors: None where only the server of the index has them.
        """


def _each_left_out(one: RowQueries, met: Tensor) -> RowQueries:
    """Return one query as it is, and once without each of the items `met` [n]: [n + 1] queries."""
    values = one.history.values
    kept = torch.ones(len(met) + 1, len(values), dtype=torch.bool)
    kept[1:] = values != met[:, None]
    offsets = torch.zeros(len(kept) + 1, dtype=torch.int64)
    torch.cumsum(kept.sum(dim=1), 0, out=offsets[1:])

    def of_events(column: Tensor | None) -> Tensor | None:
        return None if column is None else column.expand(len(kept), -1)[kept]

    history = Ragged(values.expand(len(kept), -1)[kept], offsets)
    users = one.users.repeat(len(kept))
    told = one.described
    return RowQueries(
        *(users, history, False, of_events(one.weight), None, of_events(one.time)),
        described=None if told is None else told.take(torch.zeros(len(kept), dtype=torch.int64)),
        asked=None if one.asked is None else one.asked.repeat(len(kept)),
        columns={name: column.expand(len(kept), -1)[kept] for name, column in one.columns.items()},
        context={name: column.repeat(len(kept)) for name, column in one.context.items()},
    )


class _Unfilled(TorchFunctionMode):
    """While it is entered, weights are not drawn: towers about to be loaded stay untouched memory.

    A large table is then never in memory twice, nor are its numbers drawn for nothing.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _spread(count: int) -> Tensor:
    """Positions from 0 to count - 1: all of a few, some of many, evenly apart."""
    return torch.arange(0, count, max(1, -(-count // SAMPLED)))


def _check_alike(what: str, rows: Tensor, given: Tensor, expected: Tensor) -> None:
    """Refuse a vector that differs from the expected one by more than devices may."""
    if given.shape != expected.shape:
        raise ModelError(f"{what} {int(rows[0])} must be {expected.shape[1]} wide")
    size = torch.linalg.vector_norm(expected, dim=1) + torch.finfo(torch.float32).tiny
    off = ~(torch.linalg.vector_norm(given - expected, dim=1) <= ALIKE * size)
    if off.any():
        raise ModelError(f"{what} {int(rows[off][0])} is not what the towers give")


def validation_score(retriever: Channel, monitor: str) -> float:
    """The monitored figure on the validation rows, through `recommend`: the code that serves."""
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
    # Lists are shorter than k where the catalogue is: empty slots are misses.
    rows = np.pad(rows, ((0, 0), (0, int(k) - rows.shape[1])), constant_values=-1)
    found = hit_slots(rows, items, offsets)
    return float(per_user(found, np.diff(offsets), [int(k)])[f"{name}@{k}"].mean())


def value_error(retriever: Any, on: Cut) -> float:
    """The root of the mean squared error of the values of the events held out at a cut.

    A score is the value where model.biases are on. An unknown user or item has the mean, and the
    other's bias.
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
    """Refuse a loss fitted to values where pairs have none, and its figure where there is none."""
    if fitted and not can:
        raise ModelError(
            f"values = 'explicit' fits scores to data.weight of an event of a user, and positives "
            f"= '{training.positives}' are pairs of another kind: take positives = 'u2i'"
        )
    if training.monitor == NEG_RMSE and not fitted:
        raise ModelError(
            f"training.monitor = '{NEG_RMSE}' is the error of values, and nothing is fitted to "
            "them: take loss = 'squared' with values = 'explicit', or another figure"
        )


def sections_for(
    positives: str,
    model: Model | None,
    training: Training | None,
    options: Mapping[str, object],
    reads: frozenset[str],
    unread: Mapping[str, str],
) -> tuple[Model, Training]:
    """Return the sections of a retriever that learns from these positives, checked.

    reads: the keys of either section that do something; any other that is not at its default is
    refused. unread: why, for some. Errors: ModelError.
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
        for key, field in type(section).model_fields.items():
            if key not in reads and getattr(section, key) not in (field.default, ()):
                reason = unread.get(key) or unread.get(named_by(key) or "", "leave it out")
                raise ModelError(f"{key} does nothing with positives = '{positives}': {reason}")
    return sections
