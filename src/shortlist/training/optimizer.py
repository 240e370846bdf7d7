"""The step: AdamW for what is small, and for large tables one that touches only the rows read."""

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
"""Tables of so many numbers or more are trained by rows, unless the recipe says otherwise.

A dense step costs about 3 ns a number of the table (one core), whatever the batch reads; a
row-wise one about 1 µs a row that the batch reads, whatever the table.
"""

ROW_PACE = 10.0
"""How many times further than one dense step a row goes when it is touched: 1 / (1 - 0.9), the
steps over which dense AdamW's momentum would spread the same gradient.
"""

EPSILON = 1e-10


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused; and row-wise Adagrad for large embedding tables.

    Row-wise Adagrad (Duchi et al. 2011, with one sum of squares a row as in Naumov et al. 2019,
    DLRM) costs what the rows of the batch cost, and one number of memory a row. Weight decay then
    acts on a row when it is touched.

    learned: parameters of the objective, which do not decay. Chosen tables are switched to sparse
    gradients here. Beside other ranks so are large ones that AdamW trains: rows travel then. (Not
    on a GPU: how many rows there are would have to be read from it.)
    dealt: the tables of items that lie by rows on all ranks, with optimizer = "sharded".
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
        """What AdamW trains: the model's own parameters, then the objective's, undecayed."""
        return [] if self._adam is None else self._adam.param_groups

    def sum_gradients(self) -> None:
        """Add up the gradients of all ranks."""
        self._ranks.sum_gradients(self._dense, self._tables)
        for parameter in self._dense:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in [*self._dense, *self._tables]:
            parameter.grad = None

    def step(self, share: float) -> None:
        """Take a step of `share` times the learning rate along the gradients, clipped if asked."""
        for table in self._tables:
            if table.grad is not None:
                # Dense where a part of the model has read the whole table.
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
        """Read the rows of items of the step that follows, of which `share` is that of `step`."""
        if self.dealt is not None:
            self.dealt.fetch(ids, ROW_PACE * self._training.learning_rate * share)

    def gather(self) -> None:
        """Make the model whole on the first rank, where its tables are dealt over all of them."""
        if self.dealt is not None:
            self.dealt.gather()

    def load_model(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Put whole weights into the model that it trains."""
        if self.dealt is None:
            model.load_state_dict(dict(weights))
        else:
            self.dealt.load(model, weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what it remembers of the steps before."""
        state = {f"rows.{number}": sums for number, sums in enumerate(self._sums)}
        if self.dealt is not None:
            state |= {f"dealt.{number}": sums for number, sums in enumerate(self.dealt.sums())}
        if self._adam is not None:
            for number, parameter in enumerate(self._dense):
                for name, value in self._adam.state[parameter].items():
                    state[f"adam.{number}.{name}"] = value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
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
        """Return what it remembers, by the names of the parameters (by their identity)."""
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
        """Take over what `memory` gave; parameters of which nothing fits begin anew."""
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
        """One step of the rows that have a gradient: table [N, D], sums of squares [N]."""
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
    """The embedding tables of a model."""
    return [module for module in model.modules() if isinstance(module, nn.Embedding)]


def row_wise_tables(model: nn.Module, training: Training) -> list[nn.Embedding]:
    """The embedding tables that are trained by rows; their gradients are made sparse here."""
    if training.ema is not None and training.optimizer in ("row-wise", "sharded"):
        raise ModelError(
            "training.ema averages every weight at each step, which optimizer = "
            f"'{training.optimizer}' is there to avoid: leave one of them out"
        )
    tables = embeddings(model)
    if training.optimizer == "dense" or training.ema is not None:
        tables = []
    if training.optimizer == "auto":
        tables = [table for table in tables if table.weight.numel() >= ROW_WISE_FROM]
    for table in tables:
        table.sparse = True
    return tables
