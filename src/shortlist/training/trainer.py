"""The loop: batches, negatives, vectors, loss, step. It knows no files, metrics or ids."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.data.batches import Batch, Batches
from shortlist.errors import TrainingError
from shortlist.sampling.base import NegativeSampler
from shortlist.training.hard import HardTerm
from shortlist.training.objective import Objective


class Encoders(NamedTuple):
    """How a batch becomes vectors: its queries [B, D], and any item rows [N] -> [N, D]."""

    queries: Callable[[Batch], Tensor]
    items: Callable[[Tensor], Tensor]


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
    """One optimiser step: its mean loss, and how many positives it used."""

    loss: float
    positives: int


class Trainer:
    """Trains towers on an objective; seeded, so that the same call gives the same bytes.

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
        self._encoders = encoders
        self._objective = objective
        self._sampler = sampler
        self._batches = batches
        self._hard = hard
        self._training = training
        self._generator = torch.Generator().manual_seed(training.seed)
        groups: list[dict[str, Any]] = [
            {"params": list(model.parameters()), "weight_decay": training.weight_decay}
        ]
        learned = list(objective.parameters())  # a temperature or bias must not decay
        if hard is not None:  # the temperature is the same one
            learned = list(dict.fromkeys([*learned, *hard.parameters()]))
        if learned:
            groups.append({"params": learned, "weight_decay": 0.0})
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            partial(
                step_share,
                schedule=training.schedule,
                warmup=training.warmup,
                total=training.epochs * len(batches),
            ),
        )

    @property
    def positives(self) -> int:
        """How many positives an epoch has."""
        return self._batches.positives

    def epoch(self) -> Iterator[Step]:
        """Train on each positive once; TrainingError at the first loss that is not finite."""
        if self._hard is not None:
            self._model.eval()
            with torch.no_grad():
                self._hard.refresh(self._encoders.items)
        self._model.train()
        for batch in self._batches.epoch(self._generator):
            loss = self._loss(batch)
            value = float(loss.detach())
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {value}: lower training.learning_rate or raise the temperature"
                )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._training.clip is not None:
                nn.utils.clip_grad_norm_(self._parameters, self._training.clip)
            self._optimizer.step()
            self._schedule.step()
            yield Step(value, len(batch.positive))

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
            bfloat16=self._training.precision == "bfloat16",
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
            vectors.index_select(0, p).view(*r.shape, -1) for r, p in zip(rows, places, strict=True)
        ]
