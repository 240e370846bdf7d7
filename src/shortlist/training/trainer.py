"""What happens in a training step? Batch, negatives, vectors, loss, step of the optimiser."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.data.batches import Batch, Batches
from shortlist.devices import free_to_read
from shortlist.errors import ModelError, TrainingError
from shortlist.losses.base import reads_values
from shortlist.sampling.base import Negatives, NegativeSampler, Remembering
from shortlist.towers.features import ItemTable
from shortlist.training.blocks import Encoders, in_blocks
from shortlist.training.checkpoint import State, part_of
from shortlist.training.compiling import compiled
from shortlist.training.hard import HardTerm
from shortlist.training.objective import Objective
from shortlist.training.optimizer import Optimizer
from shortlist.training.precision import chosen, in_bfloat16
from shortlist.training.presets import softmax_over_one_pool
from shortlist.training.ranks import ALONE, Ranks, Whole

CHECKED_EVERY = 16
"""Steps on a GPU between two checks of the losses: reading a loss waits for all earlier work."""


def step_share(step: int, schedule: str, warmup: int, total: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0.

    The factor rises linearly over `warmup` steps, and falls to 0 at `total` along a line or half a
    cosine.

    schedule: "linear", "cosine" or "constant".

    >>> [step_share(step, "linear", 2, 4) for step in range(4)]
    [0.5, 0.75, 0.5, 0.25]
    """
    rising = min(1.0, (step + 1) / max(warmup, 1))
    left = max(1 - step / total, 0.0)
    falling = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
    return rising * falling[schedule]


def _seed(seed: int, *numbers: int) -> int:
    """Derive a separate seed from a seed and some numbers, such as a rank and a step."""
    text = " ".join(map(str, (seed, *numbers)))
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest())


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, [n], and the position of each of `ids` [N] among them, [N].

    On a GPU, where the number n would have to be read from the device, the distinct ids are padded
    with 0 to [N].
    """
    if free_to_read(ids):
        found: tuple[Tensor, Tensor] = torch.unique(ids, return_inverse=True)
        return found
    ordered, order = ids.sort()
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    number = first.cumsum(0) - 1
    distinct = torch.zeros_like(ids).scatter(0, number, ordered)
    return distinct, torch.empty_like(order).scatter(0, order, number)


def _held_by_all(model: nn.Module, training: Training) -> Iterator[Tensor]:
    """Yield the weights and buffers that all processes hold: all but sharded tables."""
    tables = [module for module in model.modules() if isinstance(module, ItemTable)]
    sharded = {id(table.weight) for table in tables if training.optimizer == "sharded"}
    for value in model.state_dict(keep_vars=True).values():
        if id(value) not in sharded:
            yield value


def _tables(part: object) -> Iterator[Tensor]:
    """Yield the tensors that a sampler draws from, with those of the samplers it is made of."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple | list):
        for one in part:
            yield from _tables(one)
    elif is_dataclass(part) or hasattr(part, "sample"):
        yield from _tables(list(vars(part).values()))


def _is_shared(pool: Negatives) -> bool:
    """Tell whether ranks share the encoding of a pool: it serves all rows and is not empty."""
    return pool.ids.dim() == 1 and len(pool.ids) > 0


class Step(NamedTuple):
    """The result of one optimiser step.

    loss: mean loss; on a GPU a float64 tensor without dimensions that is not checked yet.
    positives: number of positives used.
    skipped: number of positives of a batch whose weights are all 0; then no step was taken.
    """

    loss: float | Tensor
    positives: int
    skipped: int = 0


class Trainer:
    """Trains towers on an objective. The same call gives bit-equal weights.

    This holds on the same machine with the same number of threads, on which the rounding of matrix
    products depends. With several processes a step equals that of one process with the rows of all
    of them, so all processes have the same weights. Progress, early stopping and time limits are up
    to the caller, who iterates over `epoch`.

    model: the towers.
    encoders: encode queries and items with the towers.
    objective: similarity, temperature, masks and loss.
    sampler: draws negatives.
    batches: the positives and histories.
    training: the [training] section.
    hard: the term of hard negatives; None for none.
    ranks: the processes that train the same model, each on batches of its own users. All of them
    start from the weights, buffers and sampling tables of the first one.
    precision (attribute): "float32" or "bfloat16", the resolved training.precision.
    Errors: ModelError for options that do not work together.
    """

    def __init__(
        self,
        model: nn.Module,
        encoders: Encoders,
        objective: Objective,
        sampler: NegativeSampler,
        batches: Batches,
        *,
        training: Training,
        hard: HardTerm | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model = model
        self._ranks = ranks
        device = next(model.parameters()).device
        usable = encoders.perceptrons or softmax_over_one_pool(training, objective)
        self.precision = chosen(training.precision, usable=usable, device=device)
        self._half = self.precision == "bfloat16"
        if self._half:
            encoders = in_bfloat16(encoders, device.type)
        if training.compile:
            encoders = compiled(encoders)
        if training.encode_rows is not None:
            encoders = in_blocks(encoders, training.encode_rows, model)
        self._encoders = encoders
        self._objective = objective
        self._sampler = sampler
        self._batches = batches
        self._hard = hard
        self._training = training
        self._generator = torch.Generator().manual_seed(training.seed)
        self._order = self._generator
        if ranks.several:  # each process orders its own users; negatives are drawn for all rows
            self._order = torch.Generator().manual_seed(_seed(training.seed, ranks.rank))
            objectives = [objective, *([] if hard is None else [hard.objective])]
            for one in objectives:
                one.ranks = ranks
            begun = [module.state_dict().values() for module in objectives]
            ranks.begin_alike([*_held_by_all(model, training), *chain(*begun), *_tables(sampler)])
        self._total = training.epochs * len(batches)
        learned = list(objective.parameters())  # a temperature or bias must not decay
        if hard is not None:  # both share the temperature
            learned = list(dict.fromkeys([*learned, *hard.parameters()]))
        self._optimizer = Optimizer(model, learned, training, ranks=ranks)
        self._average: dict[str, Tensor] = {}
        if training.ema is not None:
            self._average = {name: value.clone() for name, value in model.state_dict().items()}
        self._unchecked: list[Tensor] = []  # losses that are not checked yet
        self._steps = 0
        self._done = 0  # batches of the current epoch
        self._skip = 0  # batches of the current epoch before a restart
        self._begin = self._order.get_state()  # generator state at the start of the current epoch
        self._of_others = 0  # positives of the other processes
        if ranks.several:
            everyones = ranks.total(torch.tensor(batches.positives))
            self._of_others = int(everyones) - batches.positives

    @property
    def positives(self) -> int:
        """Number of positives in an epoch, over all processes."""
        return self._batches.positives + self._of_others

    def epoch(self) -> Iterator[Step]:
        """Train on each positive once, and yield each step.

        After `load_state` in the middle of an epoch, it trains on the remaining positives of that
        epoch.

        Errors: TrainingError at the first loss that is not finite. On a GPU losses are checked
        every CHECKED_EVERY steps, and before anything is saved or measured.
        """
        batches = self._resumed() if self._skip else self._begin_epoch()
        self._done, self._skip = self._skip, 0
        self._model.train()
        for batch in batches:
            whole = None
            if self._ranks.several:
                whole = self._ranks.whole(batch)
                torch.manual_seed(_seed(self._training.seed, self._ranks.rank, self._steps))
            dealt = batch if whole is None else whole.batch
            rows = len(dealt.positive)
            if self._training.weighted and not dealt.weight.any():
                self._steps += 1  # the schedule goes by batches
                self._done += 1
                yield Step(0.0, 0, rows)
                continue
            loss = self._loss(batch, whole)
            value = self._seen(loss.detach() if whole is None else self._ranks.total(loss))
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if whole is not None:
                self._optimizer.sum_gradients()
            self._optimizer.step(self._share())
            self._steps += 1
            self._done += 1
            training = self._training
            if training.ema is not None:
                self._take_average(training.ema)
            yield Step(value, rows)
        self._check()

    def _share(self) -> float:
        """Return the factor of the learning rate at the current step."""
        training = self._training
        return step_share(self._steps, training.schedule, training.warmup, self._total)

    def _seen(self, loss: Tensor) -> float | Tensor:
        """Return a loss; on a CPU, and on a GPU every CHECKED_EVERY steps, check it first."""
        self._unchecked.append(loss)
        if free_to_read(loss):
            return self._check()
        if len(self._unchecked) == CHECKED_EVERY:
            self._check()
        return loss.double()

    def _check(self) -> float:
        """Check all losses since the last check, and return the latest one.

        Errors: TrainingError for a loss that is not finite.
        """
        values = torch.stack(self._unchecked).tolist() if self._unchecked else [0.0]
        self._unchecked.clear()
        for value in values:
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value}: lower training.learning_rate or raise the temperature"
                )
        return float(values[-1])

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Load these weights into the model at the end of a training.

        With sharded tables only the first process has the whole model, and the others do nothing.
        """
        if self._optimizer.dealt is None:
            self._model.load_state_dict(dict(weights))
        elif self._ranks.first:
            self._optimizer.dealt.make_whole()
            self._model.load_state_dict(dict(weights))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Collect sharded tables, and use the moving average of the weights in the `with` block.

        Without training.ema the weights stay as they are. Collective: all processes call it.
        """
        self._optimizer.gather()
        if not self._average:
            yield
            return
        own = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(own)

    def state(self) -> State:
        """Return everything that the next step depends on. Call it after a step.

        This includes torch's CPU generator, which dropout uses, but not that of a GPU. Collective:
        all processes call it, and the state is that of all of them.
        """
        self._check()
        self._optimizer.gather()
        parts = {
            "model": self._model.state_dict(),
            "objective": self._objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
            "hard": {} if self._hard is None else self._hard.state_dict(),
            "sampler": self._sampler.state_dict() if isinstance(self._sampler, Remembering) else {},
            "generator": {
                "begin": self._begin,
                "now": self._generator.get_state(),
                "torch": torch.get_rng_state(),
            },
        }
        if self._ranks.several:
            order = torch.stack([self._begin, self._order.get_state()])
            parts["ranks"] = {"order": self._ranks.everyones(order)}  # [ranks, 2, bytes]
        tensors = {
            f"{part}.{k}": value for part, state in parts.items() for k, value in state.items()
        }
        return State({"steps": self._steps, "batches": self._done}, tensors)

    def load_state(self, state: State) -> None:
        """Restore what `state` returned; the next `epoch` is the rest of the interrupted one."""
        self._steps, self._skip = state.plain["steps"], state.plain["batches"]
        self._optimizer.load_model(self._model, part_of(state.tensors, "model"))
        self._objective.load_state_dict(part_of(state.tensors, "objective"))
        self._optimizer.load_state_dict(part_of(state.tensors, "optimizer"))
        average = part_of(state.tensors, "average")
        for name, value in self._average.items():
            value.copy_(average[name])
        if self._hard is not None:
            self._hard.load_state_dict(part_of(state.tensors, "hard"))
        if isinstance(self._sampler, Remembering):
            self._sampler.load_state_dict(part_of(state.tensors, "sampler"))
        generator = part_of(state.tensors, "generator")
        self._begin = generator["begin"]
        self._generator.set_state(generator["now"])
        torch.set_rng_state(generator["torch"])
        if self._ranks.several:
            order = part_of(state.tensors, "ranks")["order"][self._ranks.rank]
            self._begin = order[0].clone()
            self._order.set_state(order[1].clone())

    def memory(self) -> dict[str, Tensor]:
        """Return the optimiser's state by parameter name, for a later training, see `remember`."""
        return {
            f"optimizer.{name}": value
            for name, value in self._optimizer.memory(self._names()).items()
        }

    def remember(self, kept: Mapping[str, Tensor], learned: Mapping[str, float]) -> None:
        """Continue with the state of an earlier training; shapes of weights must be equal.

        kept: what its `memory` returned.
        learned: what its `learned` returned.
        Errors: ModelError for a learned number that this training does not have.
        """
        self._optimizer.remember(self._names(), part_of(kept, "optimizer"))
        known = {f"objective.{name}" for name in self._objective.take_over(learned, "objective.")}
        if self._hard is not None:
            known |= {f"hard.{name}" for name in self._hard.objective.take_over(learned, "hard.")}
        if strange := sorted(learned.keys() - known):
            raise ModelError(
                f"the bundle holds a learned number {strange[0]!r:.60}, and its recipe has none of "
                "that name: train again"
            )

    def learned(self) -> dict[str, float]:
        """Return the learned temperature (as "log_scale", log 1/τ) and biases by name."""
        found = {f"objective.{k}": value for k, value in self._objective.learned().items()}
        if self._hard is not None:
            own = self._hard.objective.learned()
            own.pop("log_scale", None)  # shared with the easy term
            found |= {f"hard.{name}": value for name, value in own.items()}
        return found

    def _names(self) -> dict[int, str]:
        parts: dict[str, nn.Module] = {"model": self._model, "objective": self._objective}
        named = {
            id(parameter): name
            for part, module in parts.items()
            for name, parameter in module.named_parameters(prefix=part)
        }
        if self._hard is not None:  # both share the temperature
            named = {id(p): f"hard.{n}" for n, p in enumerate(self._hard.parameters())} | named
        return named

    def _begin_epoch(self) -> Iterator[Batch]:
        """Return the batches of a new epoch."""
        self._begin = self._order.get_state()
        if self._hard is not None:
            self._model.eval()
            with torch.no_grad():
                self._hard.refresh(self._encoders.items)
        return self._batches.epoch(self._order)

    def _resumed(self) -> Iterator[Batch]:
        """Return the remaining batches of an epoch that began before a restart.

        The epoch is made again from the generator state at its start, and the finished batches are
        skipped. Then the generator gets its later state back, because the finished steps had drawn
        from it as well.
        """
        now = self._order.get_state()
        self._order.set_state(self._begin)
        batches = self._batches.epoch(self._order)
        deque(islice(batches, self._skip), maxlen=0)
        self._order.set_state(now)
        return batches

    @torch.no_grad()
    def _take_average(self, decay: float) -> None:
        """Move the average towards the weights; faster in early steps, to drop initial weights."""
        kept = min(decay, self._steps / (self._steps + 10))
        for name, value in self._model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - kept)
            else:
                average.copy_(value)

    def _loss(self, batch: Batch, whole: Whole | None = None) -> Tensor:
        """Return the mean loss of a batch. Each distinct item is encoded once.

        whole: the batches of all processes. The loss is then this process's part of their mean.
        """
        dealt = batch if whole is None else whole.batch
        pool = for_all = self._sampler.sample(dealt, self._generator)
        total = None
        if whole is not None:
            pool = self._ranks.own(for_all, whole)
            total = whole.weight
            if reads_values(self._objective.loss):
                total = total.new_tensor(sum(whole.sizes))
        if self._optimizer.dealt is not None:
            self._optimizer.fetch(self._items_read(batch, for_all, pool), self._share())
        queries = self._encoders.queries(batch)
        drawn = None
        if self._hard is not None:
            drawn = self._hard.draw(batch, queries, pool, self._order)
        further = [] if drawn is None else [drawn.ids]
        if whole is None or not _is_shared(pool):
            positives, pooled, *rest = self._encoded([batch.positive, pool.ids, *further])
        else:
            positives, pooled, *rest = self._shared(batch, for_all, further)
        positive_log_q = self._sampler.log_q(batch.positive, dealt)
        loss = self._objective.mean(
            queries,
            positives,
            pooled,
            weight=batch.weight,
            positive_ids=batch.positive,
            positive_log_q=positive_log_q,
            negatives=pool,
            known=batch.known,
            groups=None if batch.place is None else batch.users,
            total=total,
            bfloat16=self._half,
        )
        if self._hard is not None:
            hard, vectors = (
                (drawn, rest[0])
                if drawn is not None
                else self._hard.choose(batch, queries, positives, pool, pooled)
            )
            costs = self._hard.loss(batch, queries, positives, hard, vectors, positive_log_q)
            sum_of_weights = batch.weight.sum() if whole is None else whole.weight
            loss = loss + (costs * batch.weight).sum() / sum_of_weights
        return loss

    def _items_read(self, batch: Batch, for_all: Negatives, pool: Negatives) -> Tensor:
        """Return the item rows that this process reads in a step, possibly repeated."""
        drawn = pool.ids
        if _is_shared(pool):
            drawn = for_all.ids[self._ranks.turns(for_all.ids) == self._ranks.rank]
        return torch.cat([batch.positive, drawn.flatten(), batch.history.values])

    def _shared(self, batch: Batch, pool: Negatives, further: list[Tensor]) -> list[Tensor]:
        """Return the same as `_encoded`, for a pool that was drawn for all processes.

        Each distinct item of the pool is encoded by one process, which sends the vector and gets
        its gradient back. Positives that are in the pool use that vector; the others are encoded by
        their own process.
        """
        ids, slots = torch.unique(pool.ids, return_inverse=True)
        turns = self._ranks.turns(ids)
        place = torch.searchsorted(ids, batch.positive).clamp(max=len(ids) - 1)
        beside = ids[place] != batch.positive
        mine = [ids[turns == self._ranks.rank], batch.positive[beside]]
        part, others, *rest = self._encoded([*mine, *further])
        vectors = self._ranks.joined(part, turns)
        place = torch.where(beside, len(ids) - 1 + beside.cumsum(0), place)
        positives = torch.cat([vectors, others]).index_select(0, place)
        return [positives, vectors.index_select(0, slots), *rest]

    def _encoded(self, rows: list[Tensor]) -> list[Tensor]:
        """Return the vectors of each tensor of item rows; each distinct row is encoded once."""
        ids, place = _distinct(torch.cat([r.flatten() for r in rows]))
        vectors = self._encoders.items(ids)
        places = torch.split(place, [r.numel() for r in rows])
        # Not vectors[p]: with threads, its gradient is summed in a varying order.
        return [
            vectors.index_select(0, p).view(*r.shape, vectors.shape[1])
            for r, p in zip(rows, places, strict=True)
        ]
