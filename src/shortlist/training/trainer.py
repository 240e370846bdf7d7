"""The loop: batches, negatives, vectors, loss, step. It knows no files, metrics or ids."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.data.batches import Batch, Batches
from shortlist.errors import TrainingError
from shortlist.sampling.base import NegativeSampler, Remembering
from shortlist.training.blocks import Encoders, in_blocks
from shortlist.training.checkpoint import State, part_of
from shortlist.training.compiling import compiled
from shortlist.training.hard import HardTerm
from shortlist.training.objective import Objective
from shortlist.training.optimizer import Optimizer
from shortlist.training.precision import chosen, in_bfloat16
from shortlist.training.presets import softmax_over_one_pool


def step_share(step: int, schedule: str, warmup: int, total: int) -> float:
    """Return the share of the learning rate that a step takes, from 0 on.

    It rises over `warmup` steps, and falls to nothing at `total` in a line or half a cosine.

    >>> [step_share(step, "linear", 2, 4) for step in range(4)]
    [0.5, 0.75, 0.5, 0.25]
    """
    rising = min(1.0, (step + 1) / max(warmup, 1))
    left = max(1 - step / total, 0.0)
    falling = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
    return rising * falling[schedule]


class Step(NamedTuple):
    """One optimiser step: its mean loss, and how many positives it used.

    skipped: positives of a batch whose weights are all 0; then no step was made, and none used.
    """

    loss: float
    positives: int
    skipped: int = 0


class Trainer:
    """Trains towers on an objective; seeded: the same call gives the same bytes.

    That is on the same machine and with as many threads: matrix products round by their number.
    precision: in which it multiplies, "float32" or "bfloat16": what training.precision came to.
    An epoch is a generator of steps: progress, early stopping and time limits are the caller's.
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
    ) -> None:
        self._model = model
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
        self._total = training.epochs * len(batches)
        learned = list(objective.parameters())  # a temperature or bias must not decay
        if hard is not None:  # the temperature is the same one
            learned = list(dict.fromkeys([*learned, *hard.parameters()]))
        self._optimizer = Optimizer(model, learned, training)
        self._average: dict[str, Tensor] = {}
        if training.ema is not None:
            self._average = {name: value.clone() for name, value in model.state_dict().items()}
        self._steps = 0
        self._done = 0  # batches of the epoch that runs
        self._skip = 0  # of those, done before a restart
        self._begin = self._generator.get_state()  # where the epoch that runs began

    @property
    def positives(self) -> int:
        """How many positives an epoch has."""
        return self._batches.positives

    def epoch(self) -> Iterator[Step]:
        """Train on each positive once; TrainingError at the first loss that is not finite.

        After `load_state` in the middle of an epoch: on those of its positives that are left.
        """
        batches = self._resumed() if self._skip else self._begun()
        self._done, self._skip = self._skip, 0
        self._model.train()
        for batch in batches:
            if self._training.weighted and not batch.weight.any():
                self._steps += 1  # the schedule goes by batches
                self._done += 1
                yield Step(0.0, 0, len(batch.positive))
                continue
            loss = self._loss(batch)
            value = float(loss.detach())
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {value}: lower training.learning_rate or raise the temperature"
                )
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            training = self._training
            self._optimizer.step(
                step_share(self._steps, training.schedule, training.warmup, self._total)
            )
            self._steps += 1
            self._done += 1
            if training.ema is not None:
                self._take_average(training.ema)
            yield Step(value, len(batch.positive))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average of the weights into the model for a while, if there is one."""
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
        """Return all that the next step depends on: ask after a step.

        It covers torch's generator of the CPU, which dropout draws from; not that of a GPU.
        """
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
        tensors = {
            f"{part}.{k}": value for part, state in parts.items() for k, value in state.items()
        }
        return State({"steps": self._steps, "batches": self._done}, tensors)

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave: the next `epoch` is the rest of the one it was taken in."""
        self._steps, self._skip = state.plain["steps"], state.plain["batches"]
        self._model.load_state_dict(part_of(state.tensors, "model"))
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

    def memory(self) -> dict[str, Tensor]:
        """Return what outlives a training that goes on with other data: see `remember`.

        That is what the optimiser remembers, and the objective's own weights, by name.
        """
        kept = {
            f"optimizer.{name}": value
            for name, value in self._optimizer.memory(self._names()).items()
        }
        own = self._objective.state_dict().items()
        return kept | {f"objective.{name}": value.clone() for name, value in own}

    def remember(self, kept: Mapping[str, Tensor]) -> None:
        """Go on with what the `memory` of an earlier training was, of weights of equal shapes."""
        self._optimizer.remember(self._names(), part_of(kept, "optimizer"))
        own = self._objective.state_dict()
        before = part_of(kept, "objective")
        if before.keys() == own.keys():
            self._objective.load_state_dict(before)

    def _names(self) -> dict[int, str]:
        parts: dict[str, nn.Module] = {"model": self._model, "objective": self._objective}
        named = {
            id(parameter): name
            for part, module in parts.items()
            for name, parameter in module.named_parameters(prefix=part)
        }
        if self._hard is not None:  # the temperature is the same one
            named = {id(p): f"hard.{n}" for n, p in enumerate(self._hard.parameters())} | named
        return named

    def _begun(self) -> Iterator[Batch]:
        """The batches of a new epoch."""
        self._begin = self._generator.get_state()
        if self._hard is not None:
            self._model.eval()
            with torch.no_grad():
                self._hard.refresh(self._encoders.items)
        return self._batches.epoch(self._generator)

    def _resumed(self) -> Iterator[Batch]:
        """The batches that are left of an epoch begun before a restart.

        The epoch is dealt again from where its generator began; what the batches that are done
        drew is then put right by the generator's own later state.
        """
        now = self._generator.get_state()
        self._generator.set_state(self._begin)
        batches = self._batches.epoch(self._generator)
        deque(islice(batches, self._skip), maxlen=0)
        self._generator.set_state(now)
        return batches

    @torch.no_grad()
    def _take_average(self, decay: float) -> None:
        """Move the average towards the weights; early on faster, to forget where they began."""
        kept = min(decay, self._steps / (self._steps + 10))
        for name, value in self._model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - kept)
            else:
                average.copy_(value)

    def _loss(self, batch: Batch) -> Tensor:
        """Encode unique(positives, negatives) once and gather: any mix of samplers is free."""
        pool = self._sampler.sample(batch, self._generator)
        queries = self._encoders.queries(batch)
        drawn = None
        if self._hard is not None:
            drawn = self._hard.draw(batch, queries, pool, self._generator)
        rows = [batch.positive, pool.ids, *([] if drawn is None else [drawn.ids])]
        positives, pooled, *rest = self._encoded(rows)
        positive_log_q = self._sampler.log_q(batch.positive, batch)
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
            bfloat16=self._half,
        )
        if self._hard is not None:
            hard, vectors = (
                (drawn, rest[0])
                if drawn is not None
                else self._hard.choose(batch, queries, positives, pool, pooled)
            )
            costs = self._hard.loss(batch, queries, positives, hard, vectors, positive_log_q)
            loss = loss + (costs * batch.weight).sum() / batch.weight.sum()
        return loss

    def _encoded(self, rows: list[Tensor]) -> list[Tensor]:
        """Return the vectors of tensors of item rows, each distinct row encoded once."""
        ids, place = torch.unique(torch.cat([r.flatten() for r in rows]), return_inverse=True)
        vectors = self._encoders.items(ids)
        places = place.split([r.numel() for r in rows])
        # Not vectors[p]: with threads its gradient adds up in another order each time.
        return [
            vectors.index_select(0, p).view(*r.shape, vectors.shape[1])
            for r, p in zip(rows, places, strict=True)
        ]
