"""The loop: batches, negatives, vectors, loss, step. It knows no files, metrics or ids."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shortlist.data.batches import Batch, Batches
from shortlist.errors import TrainingError
from shortlist.sampling.base import NegativeSampler
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
    ) -> None:
        self._model = model
        self._encoders = encoders
        self._objective = objective
        self._sampler = sampler
        self._batches = batches
        self._generator = torch.Generator().manual_seed(seed)
        groups = [{"params": list(model.parameters()), "weight_decay": weight_decay}]
        if learned := list(objective.parameters()):  # a temperature or bias must not decay
            groups.append({"params": learned, "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        total = epochs * len(batches)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: max(1 - step / total, 0.0)
        )

    def epoch(self) -> Iterator[Step]:
        """Train on each positive once; TrainingError at the first loss that is not finite."""
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
        negatives = self._sampler.sample(batch, self._generator)
        rows = len(batch.positive)
        wanted = torch.cat([batch.positive, negatives.ids.flatten()])
        ids, place = torch.unique(wanted, return_inverse=True)
        vectors = self._encoders.items(ids)
        loss: Tensor = self._objective(
            self._encoders.queries(batch),
            vectors[place[:rows]],
            vectors[place[rows:]].view(*negatives.ids.shape, -1),
            positive_ids=batch.positive,
            positive_log_q=self._sampler.log_q(batch.positive, batch),
            negatives=negatives,
            known=batch.known,
        )
        return (loss * batch.weight).sum() / batch.weight.sum()
