"""How are item tables trained that do not fit one process? TorchRec shards their rows over ranks.

Only this file imports torchrec and fbgemm_gpu, and only with optimizer = "sharded".
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.errors import ModelError
from shortlist.towers.features import ItemTable, keeping_rows
from shortlist.training.ranks import Ranks, here

INSTALL = "pip install --no-deps -r requirements-torchrec.txt, in the folder of Shortlist"
"""How to install them: without dependencies, which name versions of torch that are not needed."""

_REFUSED: Mapping[str, str] = {
    "weight_decay": "is not supported by the optimiser of TorchRec",
    "clip": "needs the whole gradient before any row is updated, and here the backward pass "
    "updates rows",
    "ema": "averages all weights at each step",
    "hard": "chooses rows after the vectors of a step are known, and here rows are read once",
    "encode_rows": "reads tables block by block, and here rows are read once a step",
    "compile": "has not been tested with sharded tables",
}
"""Keys of [training] that cannot be used with sharded tables, and the reason."""


def check_dealt(training: Training, device: str = "cpu") -> None:
    """Refuse optimizer = 'sharded' if it cannot be used. Errors: ModelError."""
    if training.optimizer != "sharded":
        return
    start = "training.optimizer = 'sharded'"
    for key, reason in _REFUSED.items():
        if getattr(training, key):
            raise ModelError(
                f"{start} shards tables over processes, and training.{key} {reason}: leave it out, "
                "or take another optimizer"
            )
    if training.positives != "u2i":
        raise ModelError(
            f"{start} needs positives = 'u2i', and this recipe has positives = "
            f"'{training.positives}': take optimizer = 'row-wise'"
        )
    if device != "cpu":
        raise ModelError(f"{start} runs on CPUs only: take device = 'cpu', or another optimizer")
    if not here().several:
        raise ModelError(
            f"{start} shards tables over several processes, and there is only one: start it with "
            "torchrun --nproc-per-node 2 (or more), or take optimizer = 'row-wise'"
        )
    check_versions()


def check_versions() -> None:
    """Refuse versions of torch, torchrec and fbgemm_gpu that do not fit each other.

    Errors: ModelError.
    """
    found: dict[str, str] = {"torch": str(torch.__version__)}
    for name, names in (("torchrec", ("torchrec",)), ("fbgemm", ("fbgemm-gpu-cpu", "fbgemm-gpu"))):
        found[name] = next(filter(None, map(_version, names)), "none")
    match = re.match(r"2\.(\d+)", found["torch"])
    wanted = f"1.{int(match[1]) - 5}" if match else "none"
    if not all(f"{found[name]}.".startswith(f"{wanted}.") for name in ("torchrec", "fbgemm")):
        raise ModelError(
            f"training.optimizer = 'sharded' needs torchrec and fbgemm-gpu-cpu {wanted} with "
            f"torch {found['torch']} (1.X fits torch 2.(X + 5)), and found torchrec "
            f"{found['torchrec']} and fbgemm-gpu-cpu {found['fbgemm']}: {INSTALL}"
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def dealt_tables(training: Training) -> AbstractContextManager[None]:
    """Let item tables made in the `with` block hold this process's rows only, if they are sharded.

    So no process draws a whole table.
    """
    ranks = here()
    if training.optimizer != "sharded" or not ranks.several:
        return nullcontext()

    def own(rows: int) -> slice:
        most = -(-rows // ranks.size)
        return slice(min(ranks.rank * most, rows), min((ranks.rank + 1) * most, rows))

    return keeping_rows(own)


class DealtTables:
    """Item tables sharded by rows over the ranks, trained by row-wise Adagrad in the backward pass.

    In each step `fetch` gives every table the rows that this rank reads. `step` sends their
    gradients back; the rank that holds a row sums the gradients of all ranks and updates it. To
    measure or save, the first rank collects whole tables, and drops them at the next step; the
    other ranks hold only their part.

    tables: the item tables, made within `dealt_tables`.
    ranks: the processes of the training.
    begin: start value of the sums of squares, which replaces the epsilon under the root in
    Optimizer.
    Errors: ModelError without tables, and for a table with fewer rows than the ranks need.
    """

    def __init__(self, tables: Sequence[ItemTable], ranks: Ranks, *, begin: float) -> None:
        if not tables:
            raise ModelError(
                "training.optimizer = 'sharded' shards tables of item ids, and these towers have "
                "none: take optimizer = 'row-wise'"
            )
        for table in tables:
            rows = table.num_embeddings
            if -(-rows // ranks.size) * (ranks.size - 1) >= rows:
                raise ModelError(
                    f"training.optimizer = 'sharded' shards a table of {rows} rows over "
                    f"{ranks.size} processes, and the last one would have none: start fewer "
                    "processes, or take optimizer = 'row-wise'"
                )
        check_versions()
        self.tables = list(tables)
        self._ranks = ranks
        self._names = [f"table{number}" for number in range(len(tables))]
        with _quietly():
            self._module = _sharded(self.tables, self._names, ranks.size)
        weights = self._module.state_dict()
        self._parts = [_part(weights[f"embeddings.{name}.weight"]) for name in self._names]
        self._fused = self._module.fused_optimizer
        sums = {name: one for state in self._fused.state.values() for name, one in state.items()}
        self._sums = [_part(sums[f"{name}.momentum1"]) for name in self._names]
        for own, _ in self._sums:
            own.fill_(begin)
        self._read: list[Tensor] = []
        with torch.no_grad():
            for table, (own, _) in zip(self.tables, self._parts, strict=True):
                own.copy_(table.weight)
        self._release()

    def _release(self) -> None:
        """Drop the weights of the tables, so that only the parts remain."""
        for table in self.tables:
            if len(table.weight):
                table.weight = nn.Parameter(table.weight.new_zeros(0, table.embedding_dim))

    def make_whole(self) -> None:
        """Give the tables of the first rank room for all rows."""
        for table in self.tables if self._ranks.first else ():
            if len(table.weight) < table.num_embeddings:
                whole = torch.empty(table.num_embeddings, table.embedding_dim)
                table.weight = nn.Parameter(whole)

    @torch.no_grad()
    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load complete weights into the model; each rank takes its rows of the tables."""
        self._release()
        names = {id(module): name for name, module in model.named_modules()}
        kept = dict(weights)
        for table, (own, rows) in zip(self.tables, self._parts, strict=True):
            name = f"{names[id(table)]}.weight"
            own.copy_(kept[name][rows])
            kept[name] = kept[name][:0]
        model.load_state_dict(kept)

    def gather(self) -> None:
        """Collect whole tables on the first rank. Collective: all ranks call it."""
        self.make_whole()
        for table, (own, _) in zip(self.tables, self._parts, strict=True):
            self._ranks.collect(own, table.weight.data)

    def sums(self) -> list[Tensor]:
        """Return the sums of squares of each table: [N + 1] on the first rank, empty on others."""
        found = []
        for table, (own, _) in zip(self.tables, self._sums, strict=True):
            whole = own.new_zeros(table.num_embeddings if self._ranks.first else 0)
            self._ranks.collect(own, whole)
            found.append(whole)
        return found

    def take_sums(self, number: int, whole: Tensor) -> None:
        """Restore this rank's part of the sums of table `number` from `whole`, [N + 1]."""
        own, rows = self._sums[number]
        own.copy_(whole[rows])

    def fetch(self, ids: Tensor, rate: float) -> None:
        """Read the rows of these ids and give them to each table for one step.

        ids: item rows, [n], in any order, possibly repeated.
        rate: learning rate of the step; fbgemm_gpu needs it when rows are read.
        """
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        self._release()
        rows = torch.unique(torch.cat([ids.new_zeros(1), ids]))
        count = len(self._names)
        asked = KeyedJaggedTensor(
            keys=self._names,
            values=rows.repeat(count),
            lengths=torch.ones(len(rows) * count, dtype=torch.int32),
        )
        for group in self._fused.param_groups:
            group["lr"] = rate
        self._fused.step()  # only passes on the learning rate
        with _quietly():
            answer = self._module(asked).wait()
        self._read = [answer[name].values() for name in self._names]
        for table, read in zip(self.tables, self._read, strict=True):
            table.lend(rows, read.detach().requires_grad_())

    def step(self) -> None:
        """Send the gradients back: row-wise Adagrad updates each row that was read."""
        from torchrec.distributed import comm_ops

        slopes = [table.take_back() for table in self.tables]
        for slope in slopes:
            slope[0] = 0.0  # row 0, the unknown item, stays zero
        mean = comm_ops.get_gradient_division()
        comm_ops.set_gradient_division(False)
        try:
            with _quietly():
                torch.autograd.backward(self._read, slopes)
        finally:
            comm_ops.set_gradient_division(mean)
        self._read = []


def _sharded(tables: Sequence[ItemTable], names: Sequence[str], size: int) -> Any:
    """Return an EmbeddingCollection sharded by rows over all ranks, with the fused optimiser."""
    import torchrec
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv

    whole = torchrec.EmbeddingCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingConfig(
                name=name,
                embedding_dim=table.embedding_dim,
                num_embeddings=table.num_embeddings,
                feature_names=[name],
            )
            for name, table in zip(names, tables, strict=True)
        ],
    )
    sharder = EmbeddingCollectionSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": 0.0}
    )
    plan = construct_module_sharding_plan(
        whole,
        {name: row_wise(compute_kernel="fused") for name in names},
        sharder=sharder,
        local_size=size,
        world_size=size,
        device_type="cpu",
    )
    env = ShardingEnv.from_process_group(dist.group.WORLD)
    return sharder.shard(whole, plan, env, torch.device("cpu"))


def _part(table: Any) -> tuple[Tensor, slice]:
    """Return this rank's part of a ShardedTensor, and the slice of rows that it holds."""
    (shard,) = table.local_shards()
    start = shard.metadata.shard_offsets[0]
    return shard.tensor.detach(), slice(start, start + len(shard.tensor))


@contextmanager
def _quietly() -> Iterator[None]:
    """Ignore warnings of torchrec and fbgemm_gpu, which are about their own use of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
