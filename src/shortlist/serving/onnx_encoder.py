"""How does ONNX Runtime encode a few queries faster than torch, with the same vectors?

For one query, eager torch spends most of its time between operations. Here numpy does the look-ups,
and one graph computes the rest (the sums of history segments and the perceptron). This needs the
extra "onnx"; without it, and for larger blocks, torch encodes.
"""

import itertools
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shortlist.asking.queries import Queries
from shortlist.asking.rows import RowQueries, row_blocks
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.features import FeatureTable
from shortlist.data.ragged import Ragged
from shortlist.serving.onnx_graph import Graph, UnsupportedTowerError
from shortlist.towers.pooling import MeanPooling, RecencyPooling

logger = logging.getLogger("shortlist.serving")

MOST_QUERIES = 16  # For more queries, batched torch is as fast.
TOLERANCE = 1e-5  # Largest allowed difference, relative plus absolute.
COMPARED = 16  # Queries whose vectors are compared with torch before the graph is used.

Floats = NDArray[np.float32]


def use_onnx(retriever: Any) -> bool:
    """Let a two-tower retriever encode queries by ONNX Runtime; return whether it does.

    It does not if the extra is not installed, the graph does not support the tower, or the vectors
    of some queries differ from torch's by more than TOLERANCE.
    """
    if type(retriever) is not TwoTower or retriever.device != "cpu":
        return False
    try:
        encoder = OnnxEncoder(retriever)
    except ImportError:
        return False
    except UnsupportedTowerError as reason:
        logger.info("torch encodes queries, as the ONNX graph does not support %s", reason)
        return False
    compared = COMPARED - 1 if retriever.data.knows_users else 0
    users = retriever.data.users.ids.head(compared).to_list()
    known = [next(row_blocks(Queries(users=[user]), retriever.data)) for user in users]
    for block in (*known, next(row_blocks(Queries(histories=[[]]), retriever.data))):
        wanted, given = retriever.encode_block(block), encoder(block)
        if not torch.allclose(wanted, given, rtol=TOLERANCE, atol=TOLERANCE):
            logger.warning("torch encodes queries, as ONNX Runtime gives different vectors")
            return False
    retriever.use_query_encoder(encoder, MOST_QUERIES)
    return True


class OnnxEncoder:
    """Encodes B queries like `TwoTower.encode_block`.

    The embedding tables stay in torch's memory; the graph gets rows of them.

    Errors: ImportError without onnx and onnxruntime; UnsupportedTowerError for a tower with a part
    that the graph does not support.
    """

    def __init__(self, retriever: TwoTower) -> None:
        tower: Any = retriever.towers.query
        self._trained = retriever.data.items.trained
        self._history = tower.history
        self._width = tower.dim
        inputs: dict[str, tuple[int, ...]] = {}
        if tower.biases:
            raise UnsupportedTowerError("biases")
        if tower.popularity is not None:
            raise UnsupportedTowerError("model.popularity")
        if tower.clock is not None:
            raise UnsupportedTowerError("the time of the request")
        if tower.past is not None or tower.context is not None:
            raise UnsupportedTowerError("features of events")
        if self._history is not None:
            if retriever.towers.reads_items:
                raise UnsupportedTowerError("histories read with the item tower's vectors")
            if type(self._history) not in (RecencyPooling, MeanPooling):
                raise UnsupportedTowerError(f"history {type(self._history).__name__}")
            shared = retriever.towers.item.id if retriever.towers.shape.shares_items else None
            table: Any = shared if shared is not None else tower.table
            self._items: Floats = table.weight.detach().numpy()
            self._edges = self._history.edges.numpy()
            inputs["events"] = (int(self._edges[-1]), self._width)
            inputs["scale"] = (self._history.segments, 1)
        self._id: Floats | None = None
        if tower.id is not None:
            self._id = tower.id.weight.detach().numpy()
            inputs["id"] = (self._width,)
        self._trained_users = retriever.data.users.trained
        self._fields = _lookups(tower.fields, retriever.data.user_features)
        inputs |= {name: (width,) for name, (width, _) in self._fields.items()}
        self._session = _session(tower, inputs, [*self._fields])

    def __call__(self, block: RowQueries) -> Tensor:
        """Return the vectors of B queries, [B, D]."""
        users = block.users.numpy()
        fed: dict[str, Any] = {name: look_up(users) for name, (_, look_up) in self._fields.items()}
        if self._id is not None:
            fed["id"] = self._id[np.where(users <= self._trained_users, users, 0)]
        if self._history is not None:
            fed["events"], fed["scale"] = self._pooling(block.history)
        return torch.from_numpy(self._session.run(None, fed)[0])

    def _pooling(self, history: Ragged) -> tuple[Floats, Floats]:
        """Vectors of the latest events, newest first, [B, L, D]; 1 / √n per segment, [B, K, 1]."""
        values, offsets = history.values.numpy(), history.offsets.tolist()
        length = int(self._edges[-1])
        events = np.zeros((len(offsets) - 1, length, self._width), dtype=np.float32)
        met = np.zeros((len(offsets) - 1, 1), dtype=np.int64)
        for query, (start, end) in enumerate(itertools.pairwise(offsets)):
            known = values[start:end]
            known = known[(known > 0) & (known <= self._trained)][-length:][::-1]
            events[query, : len(known)] = self._items[known]
            met[query] = len(known)
        count = np.diff(np.minimum(met, self._edges), axis=1)
        return events, (1 / np.sqrt(np.maximum(count, 1))).astype(np.float32)[:, :, None]


def _lookups(fields: Any, users: FeatureTable) -> dict[str, tuple[int, Any]]:
    """The input width of each field, and a function from user rows to its input, [B, width]."""
    found: dict[str, tuple[int, Any]] = {}
    if fields is None:
        return found
    for number, (name, table) in enumerate(zip(fields.names, fields.maps, strict=True)):
        column = users.columns[name]
        if isinstance(column, Ragged):
            raise UnsupportedTowerError(f"the multi-valued feature '{name}'")
        rows: Any = column.numpy()
        if isinstance(table, nn.Embedding):
            weight: Any = table.weight.detach().numpy()
            found[f"field{number}"] = (
                weight.shape[1],
                lambda users, rows=rows, weight=weight: weight[rows[users]],
            )
        else:
            found[f"field{number}"] = (rows.shape[1], lambda users, rows=rows: rows[users])
    return found


def _session(tower: Any, inputs: dict[str, tuple[int, ...]], fields: list[str]) -> Any:
    """An inference session for the graph of a query tower, which uses the calling thread only."""
    import onnxruntime  # noqa: PLC0415

    graph = Graph()
    width, direct, parts = tower.dim, [], []
    if tower.history is not None:
        edges, segments = tower.history.edges.tolist(), tower.history.segments
        member = np.zeros((segments, edges[-1]), dtype=np.float32)
        for segment in range(segments):
            member[segment, edges[segment] : edges[segment + 1]] = 1
        sums = graph.node("MatMul", graph.constant(member), "events")  # [B, K, D]
        pooled = graph.node("Mul", sums, "scale")
        decayed = graph.node("MatMul", graph.constant(tower.decay[None]), pooled)  # [B, 1, D]
        direct.append(graph.node("Reshape", decayed, graph.constant(np.array([-1, width]))))
        flat = graph.constant(np.array([-1, segments * width]))
        parts.append(graph.node("Reshape", pooled, flat))
    if tower.id is not None:
        direct.append("id")
    for name, table in zip(fields, () if tower.fields is None else tower.fields.maps, strict=True):
        parts.append(name if isinstance(table, nn.Embedding) else graph.linear(name, table))
    if tower.top is not None:
        top = graph.node("Concat", *parts, axis=1)
        for layer in tower.top:
            if isinstance(layer, nn.Linear):
                top = graph.linear(top, layer)
            elif isinstance(layer, nn.GELU) and layer.approximate == "none":
                top = graph.node("Gelu", top)
            elif not isinstance(layer, nn.Dropout):
                raise UnsupportedTowerError(f"a layer {type(layer).__name__}")
        direct.append(top)
    vector = graph.node("Sum", *direct)
    for name, shape in inputs.items():
        graph.takes(name, "float32", "B", *shape)
    graph.gives(vector, "float32", "B", width)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.model("user tower"), options, providers=["CPUExecutionProvider"]
    )
