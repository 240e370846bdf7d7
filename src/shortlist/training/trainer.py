"""The loop: batches, negatives, vectors, loss, step. It knows no files, metrics or ids."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shortlist.data.batches import Batch, Batches
from shortlist.errors import TrainingError
from shortlist.sampling.base import NegativeSampler
from shortlist.training.hard import HardTerm
from shortlist.training.objective import Objective


class Encoders(NamedTuple):
    """How a batch becomes vectors: its queries [B, D], and any item rows [N] -> [N, D]."""

    queries: Callable[[Batch], Tensor]
    items: Callable[[Tensor], Tensor]


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
        learning_rate: float,
        weight_decay: float,
        epochs: int,
        seed: int,
        hard: HardTerm | None = None,
    ) -> None:
        self._model = model
        self._encoders = encoders
        self._objective = objective
        self._sampler = sampler
        self._batches = batches
        self._hard = hard
        self._generator = torch.Generator().manual_seed(seed)
        groups = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
        learned = list(objective.parameters())  # a temperature or bias must not decay
        if hard is not None:  # the temperature is the same one
            learned = list(dict.fromkeys([*learned, *hard.parameters()]))
        if learned:
            groups.append({"params": learned, "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        total = epochs * len(batches)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: max(1 - step / total, 0.0)
        )

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
        loss: Tensor = self._objective(
            queries,
            positives,
            pooled,
            positive_ids=batch.positive,
            positive_log_q=positive_log_q,
            negatives=pool,
            known=batch.known,
        )
        if self._hard is not None:
            hard, vectors = (
                (drawn, rest[0])
                if drawn is not None
                else self._hard.choose(batch, queries, positives, pool, pooled)
            )
            loss = loss + self._hard.loss(batch, queries, positives, hard, vectors, positive_log_q)
        return (loss * batch.weight).sum() / batch.weight.sum()

    def _encoded(self, rows: list[Tensor]) -> list[Tensor]:
        """Return the vectors of tensors of item rows, each distinct row encoded once."""
        ids, place = torch.unique(torch.cat([r.flatten() for r in rows]), return_inverse=True)
        vectors = self._encoders.items(ids)
        places = place.split([r.numel() for r in rows])
        # Not vectors[p]: with threads its gradient adds up in another order each time.
        return [
            vectors.index_select(0, p).view(*r.shape, -1) for r, p in zip(rows, places, strict=True)
        ]
