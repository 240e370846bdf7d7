"""How do parameters take a step? By AdamW; large tables by an optimiser for single rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.devices import free_to_read
from shortlist.errors import ModelError
from shortlist.towers.features import ItemTable
from shortlist.training.ranks import ALONE, Ranks
from shortlist.training.tables import DealtTables

ROW_WISE_FROM = 8_000_000
"""Size of a table, in numbers, from which optimizer = "auto" trains it row by row.

A dense step costs about 3 ns (one core) per number of the table, whatever the batch reads. A
row-wise step costs about 1 µs per row that the batch reads, whatever the size of the table.
"""

ROW_PACE = 10.0
"""Row-wise learning-rate multiplier, 1/(1 - β₁) = 10: makes one sparse update as large as AdamW's
momentum would in total.
"""

EPSILON = 1e-10
"""Added to the sum of squares of a row before the root."""


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused; and row-wise Adagrad for large embedding tables.

    Row-wise Adagrad (Duchi et al. 2011, with one sum of squares per row as in DLRM, Naumov et al.
    2019) needs time for the rows of the batch only, and one number of memory per row. Weight decay
    applies to a row when it is updated.

    Tables trained by row-wise Adagrad are switched to sparse gradients here. With several processes
    so are large tables that AdamW trains, so that only rows are sent. (Not on a GPU: their number
    would have to be read from it.)

    model: the towers.
    learned: parameters of the objective, which have no weight decay.
    training: the [training] section.
    ranks: the processes of the training.
    dealt (attribute): with optimizer = "sharded", the item tables whose rows are distributed over
    all processes; else None.
    """

    def __init__(
        self,
        model: nn.Module,
        learned: list[nn.Parameter],
        training: Training,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self._training = training
        self._ranks = ranks
        self.dealt: DealtTables | None = None
        chosen = row_wise_tables(model, training)
        if training.optimizer == "sharded" and ranks.several:
            items = [table for table in chosen if isinstance(table, ItemTable)]
            chosen = [table for table in chosen if not isinstance(table, ItemTable)]
            self.dealt = DealtTables(items, ranks, begin=EPSILON)
        self._tables = [table.weight for table in chosen]
        large = {id(table) for table in self._tables}
        if self.dealt is not None:
            large |= {id(table.weight) for table in self.dealt.tables}
        for table in embeddings(model) if ranks.several else ():
            weight = table.weight
            table.sparse |= free_to_read(weight) and weight.numel() >= ranks.large_from
        dense = [p for p in model.parameters() if id(p) not in large]
        groups: list[dict[str, Any]] = [{"params": dense, "weight_decay": training.weight_decay}]
        if learned:
            groups.append({"params": learned, "weight_decay": 0.0})
        self._dense = [p for group in groups for p in group["params"]]
        self._adam = (
            torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
            if self._dense
            else None
        )
        self._sums = [table.new_zeros(len(table)) for table in self._tables]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of AdamW: the model's parameters, then the objective's without decay."""
        return [] if self._adam is None else self._adam.param_groups

    def sum_gradients(self) -> None:
        """Replace gradients by their sum over all processes."""
        self._ranks.sum_gradients(self._dense, self._tables)
        for parameter in self._dense:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for parameter in [*self._dense, *self._tables]:
            parameter.grad = None

    def step(self, share: float) -> None:
        """Take a step of `share` times the learning rate; training.clip bounds the gradients."""
        for table in self._tables:
            if table.grad is not None:
                # The gradient is dense if a module has read the whole table.
                grad = table.grad if table.grad.is_sparse else table.grad.to_sparse(1)
                table.grad = grad.coalesce()
        if self._training.clip is not None:
            self._clip(self._training.clip)
        rate = self._training.learning_rate * share
        if self._adam is not None:
            for group in self.param_groups:
                group["lr"] = rate
            self._adam.step()
        for table, sums in zip(self._tables, self._sums, strict=True):
            if table.grad is not None:
                self._step_rows(table, sums, ROW_PACE * rate)
        if self.dealt is not None:
            self.dealt.step()

    def fetch(self, ids: Tensor, share: float) -> None:
        """Fetch the rows of a sharded table that the next step reads.

        ids: item rows, [n].
        share: the share of the learning rate that `step` will get.
        """
        if self.dealt is not None:
            self.dealt.fetch(ids, ROW_PACE * self._training.learning_rate * share)

    def gather(self) -> None:
        """Collect the rows of sharded tables on the first process."""
        if self.dealt is not None:
            self.dealt.gather()

    def load_model(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load complete weights into the model; sharded tables are distributed again."""
        if self.dealt is None:
            model.load_state_dict(dict(weights))
        else:
            self.dealt.load(model, weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Return its state, for a checkpoint of the same model."""
        state = {f"rows.{number}": sums for number, sums in enumerate(self._sums)}
        if self.dealt is not None:
            state |= {f"dealt.{number}": sums for number, sums in enumerate(self.dealt.sums())}
        if self._adam is not None:
            for number, parameter in enumerate(self._dense):
                for name, value in self._adam.state[parameter].items():
                    state[f"adam.{number}.{name}"] = value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        for name, value in state.items():
            kind, number, *rest = name.split(".", 2)
            if kind == "rows":
                self._sums[int(number)].copy_(value)
            elif kind == "dealt":
                assert self.dealt is not None
                self.dealt.take_sums(int(number), value)
            elif self._adam is not None:
                parameter = self._dense[int(number)]
                self._adam.state[parameter][rest[0]] = value.to(parameter.device)

    def memory(self, names: Mapping[int, str]) -> dict[str, Tensor]:
        """Return its state by parameter names, for a later training of other data (a refresh).

        names: name of each parameter by its id().
        """
        kept = {
            f"{names[id(table)]}.sums": sums
            for table, sums in zip(self._tables, self._sums, strict=True)
        }
        if self._adam is not None:
            for parameter in self._dense:
                for name, value in self._adam.state[parameter].items():
                    kept[f"{names[id(parameter)]}.{name}"] = value
        return kept

    def remember(self, names: Mapping[int, str], kept: Mapping[str, Tensor]) -> None:
        """Restore the state that `memory` returned; where shapes differ, the state starts empty.

        names: name of each parameter by its id().
        """
        for table, sums in zip(self._tables, self._sums, strict=True):
            value = kept.get(f"{names[id(table)]}.sums")
            if value is not None and value.shape == sums.shape:
                sums.copy_(value)
        if self._adam is None:
            return
        for parameter in self._dense:
            found = {
                name: kept.get(f"{names[id(parameter)]}.{name}")
                for name in ("step", "exp_avg", "exp_avg_sq")
            }
            moments = [found["exp_avg"], found["exp_avg_sq"]]
            if found["step"] is None or any(
                value is None or value.shape != parameter.shape for value in moments
            ):
                continue
            for name, value in found.items():
                assert value is not None
                self._adam.state[parameter][name] = value.clone().to(parameter.device)

    @torch.no_grad()
    def _step_rows(self, table: Tensor, sums: Tensor, rate: float) -> None:
        """Update the rows that have a gradient: table [N, D], sums of squares [N]."""
        assert table.grad is not None
        rows, slope = table.grad.indices()[0], table.grad.values()
        sums.index_add_(0, rows, slope.square().mean(1))
        pace = (sums[rows] + EPSILON).rsqrt_().mul_(-rate)
        move = slope * pace.unsqueeze(1)
        if self._training.weight_decay:
            move.sub_(table[rows], alpha=rate * self._training.weight_decay)
        table.index_add_(0, rows, move)

    @torch.no_grad()
    def _clip(self, limit: float) -> None:
        if not self._tables:
            nn.utils.clip_grad_norm_(self._dense, limit)
            return
        slopes = [p.grad for p in self._dense if p.grad is not None]
        slopes += [t.grad.values() for t in self._tables if t.grad is not None]
        length = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(s) for s in slopes])
        )
        share = (limit / (length + 1e-6)).clamp(max=1.0)
        for slope in slopes:
            slope.mul_(share)


def embeddings(model: nn.Module) -> list[nn.Embedding]:
    """Return the embedding tables of a model."""
    return [module for module in model.modules() if isinstance(module, nn.Embedding)]


def row_wise_tables(model: nn.Module, training: Training) -> list[nn.Embedding]:
    """Return the embedding tables that are trained row by row, switched to sparse gradients.

    Errors: ModelError for training.ema with a row-wise optimiser.
    """
    if training.ema is not None and training.optimizer in ("row-wise", "sharded"):
        raise ModelError(
            "training.ema averages all weights at each step, and optimizer = "
            f"'{training.optimizer}' updates only the rows that a step reads: leave one of them out"
        )
    tables = embeddings(model)
    if training.optimizer == "dense" or training.ema is not None:
        tables = []
    if training.optimizer == "auto":
        tables = [table for table in tables if table.weight.numel() >= ROW_WISE_FROM]
    for table in tables:
        table.sparse = True
    return tables
