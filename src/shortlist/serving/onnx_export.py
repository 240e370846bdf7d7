"""How can another program use a two-tower model? Its towers become ONNX files, its ids JSON.

Each part of a query tower becomes operations over B queries, with their histories padded to [B, L]:
oldest event first, then zeros. `vocabularies.json` maps ids and values to rows of the embedding
tables. `answer.py` reads the files without this package.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shortlist import outputs
from shortlist.asking.capabilities import Channel
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.features import MultiValuedEncoder, NumericEncoder
from shortlist.data.moments import unknown_time
from shortlist.errors import QueryError, install
from shortlist.serving.onnx_graph import Graph, UnsupportedTowerError
from shortlist.similarity import METRICS
from shortlist.towers.attention import Attention
from shortlist.towers.clock import BUCKETS, DAY, DAYS, HOURS, MONDAY, Clock
from shortlist.towers.features import Fields
from shortlist.towers.gru import GRU
from shortlist.towers.hstu import EPSILON, HSTU
from shortlist.towers.interests import ROUNDS, RoutedInterests, SelfAttentiveInterests
from shortlist.towers.pooling import MeanPooling, RecencyPooling

EXAMPLE = Path(__file__).with_name("answer_without_shortlist.txt")
"""The program that answers from an export; it is written there as answer.py."""

LARGEST = 2**31 - 2**20
"""Maximum bytes of a tower's weights: an .onnx file can hold 2 GiB."""

README = """# Towers as ONNX files

`answer.py` answers from this folder with numpy and onnxruntime alone:

    python answer.py . '{{"history": [...]}}'

A query is a JSON object with these keys, all of them optional:

{told}

A missing key counts as unknown, and so does an id or value that is not in `vocabularies.json`. The
folder has no data of users: the history and the features of a user come with the query. If all that
the tower reads is unknown, Shortlist answers with popular items. `answer.py` does not: it returns
arbitrary items, so answer such queries in another way.

`query.onnx` computes the vectors of any number of queries. `answer.py` shows how its inputs, rows
and numbers, are made from a query. Histories are padded to the length of the longest one: oldest
event first, then zeros.
{item}
`items.npy` holds the item vectors, in the order of `candidates` in `vocabularies.json`. The
`metric` there compares them with the vectors of a query. If a query has several vectors, the best
score of an item counts.
"""

FAR = -1e30
"""Added to a logit, it makes the softmax weight exactly 0."""

SMALLEST = 1e-12
"""The smallest norm that torch divides by in `normalize`."""

UNKNOWN_TIME = int(unknown_time(torch.int64))


def export_onnx(retriever: Channel, target: Path, bundle: str) -> list[str]:
    """Write the towers of a retriever to a new folder; return the names of its files.

    target: the new folder.
    bundle: id of the retriever's bundle.
    Errors: QueryError if the retriever does not have two towers, or a tower has a part that is not
    supported; OutputError.
    """
    found = refuse_others(retriever)
    try:
        query, reads = _query_tower(found)
        item, described = _item_tower(found) if found.towers.reads_item_features else (None, None)
    except ImportError as error:
        raise QueryError(f"export --onnx needs the package onnx: {install('onnx')}") from error
    except UnsupportedTowerError as reason:
        raise QueryError(
            f"this model cannot be exported to ONNX, because a tower has {reason}"
        ) from None
    ids, vectors = found.encode_items()
    vocabularies = {
        "bundle": bundle,
        "similarity": found.similarity,
        "metric": METRICS[found.similarity],
        "candidates": ids.to_list(),
        "query": reads,
        "item": described,
    }
    files: dict[str, bytes] = {
        "README.md": _readme(reads, described).encode(),
        "answer.py": EXAMPLE.read_bytes(),
        "query.onnx": query,
        "vocabularies.json": json.dumps(vocabularies, ensure_ascii=False).encode(),
    }
    if item is not None:
        files["item.onnx"] = item
    with outputs.whole_folder(target) as made:
        for name, content in files.items():
            (made / name).write_bytes(content)
        np.save(made / "items.npy", vectors.numpy())
    return sorted([*files, "items.npy"])


def refuse_others(retriever: Channel) -> TwoTower:
    """Return the retriever if it can be exported. Errors: QueryError."""
    if type(retriever) is not TwoTower:
        raise QueryError(
            "an ONNX export needs a model with a query tower and an item tower, and this is "
            f"{type(retriever).__name__}: train one (positives = 'u2i') as a bundle of its own"
        )
    size = max(
        sum(weights.nbytes for weights in tower.state_dict().values())
        for tower in (retriever.towers.query, retriever.towers.item)
    )
    if size > LARGEST:
        raise QueryError(
            f"a tower of {size:,} bytes does not fit into an .onnx file, which holds 2 GiB: train "
            "with a smaller model.dim"
        )
    return retriever


class _Query:
    """The graph of a query tower, while it is built.

    reads: description of the inputs for vocabularies.json.
    parts: inputs of the perceptron, [B, 1, *], or [B, K, *] for a user with K interests.
    direct: vectors that are summed to the query vector, [B, 1, D] or [B, K, D].
    """

    def __init__(self, retriever: TwoTower) -> None:
        self.graph = Graph()
        self.node = self.graph.node
        self.retriever = retriever
        self.tower: Any = retriever.towers.query
        self.data = retriever.data
        self.reads: dict[str, Any] = {}
        self.parts: list[str] = []
        self.direct: list[str] = []
        self.interests = 1

    def written(self) -> tuple[bytes, dict[str, Any]]:
        """Return the model, and the description of its inputs for vocabularies.json."""
        tower, graph = self.tower, self.graph
        if tower.history is not None:
            self._see_history()
        if tower.clock is not None or tower.timed:
            self._see_times()
        if tower.clock is not None:
            moment = self._clock(tower.clock)
            self.direct.append(moment)
            if tower.layered:
                self.parts.append(moment)
        if tower.history is not None:
            self._history()
        if tower.fields is not None:
            encoders = self.data.user_features.encoders
            self.parts.append(self._fields("features", tower.fields, encoders))
        if tower.context is not None:
            encoders = self.data.event_features.encoders
            self.parts.append(self._fields("context", tower.context, encoders))
        if tower.id is not None:
            users = self.data.users
            self.reads["users"] = _rows(users.ids.head(users.trained).to_list())
            row = graph.takes("user", "int64", "B")
            self.direct.append(self._one(self.node("Gather", tower.id.weight, row)))
        if tower.top is not None:
            parts = [self._for_each_interest(part) for part in self.parts]
            self.direct.append(graph.perceptron(self.node("Concat", *parts, axis=-1), tower.top))
        vectors = self.node("Sum", *self.direct)
        if tower.biases:
            kept = self.node("Slice", vectors, [0], [-1], [-1])
            vectors = self.node("Concat", kept, self._one_of(vectors), axis=-1)
        if tower.popularity is not None:
            kept = _comparable(graph, self.node("Slice", vectors, [0], [-1], [-1]), "cosine")
            vectors = self.node("Concat", kept, self._one_of(vectors), axis=-1)
        vectors = _comparable(graph, vectors, self.retriever.similarity)
        several = [self.interests] if self._several else []
        if not several:
            vectors = self.node("Squeeze", vectors, [1])
        graph.gives(vectors, "float32", "B", *several, tower.dim)
        return graph.model("query tower"), self.reads

    @property
    def _several(self) -> bool:
        return isinstance(self.tower.history, SelfAttentiveInterests | RoutedInterests)

    def _one(self, vectors: str) -> str:
        return self.node("Unsqueeze", vectors, [1])

    def _one_of(self, vectors: str) -> str:
        """A one for each of these vectors."""
        return self.node("Add", self.node("Mul", self._part(vectors, -1), 0.0), 1.0)

    def _for_each_interest(self, part: str) -> str:
        if not self._several:
            return part
        return self.node("Expand", part, [1, self.interests, 1])

    def _part(self, vectors: str, place: int) -> str:
        """The values at one place of the last dimension, which stays as size 1."""
        return self.node("Gather", vectors, [place], axis=-1)

    def _see_history(self) -> None:
        """Declare the histories, and compute masks, lengths, ages and vectors of their events."""
        rows = self.retriever.readable_rows
        self.table = _table(self.retriever, rows)
        items = self.data.items.external(rows.numpy()).to_list()
        length = self.retriever.model_section.history_length
        self.reads["history"] = {"items": _rows(items), "length": length}
        given = self.graph.takes("history", "int64", "B", "L")
        there = self.node("Greater", given, 0)
        self.there = self.node("Cast", there, to=1)  # [B, L]
        size = self.node("Gather", self.node("Shape", given), 1)
        self.place = self.node("Range", np.int64(0), size, np.int64(1))  # [L]
        counted = self.node("Cast", there, to=7)
        self.count = self.node("ReduceSum", counted, [1], keepdims=1)  # [B, 1]
        age = self.node("Sub", self.node("Sub", self.count, 1), self.place)
        self.last = self.node("Equal", age, 0)  # [B, L], false of an empty history
        self.age = self.node("Max", age, np.int64(0))
        self.events = self.node("Gather", self.table, given)  # [B, L, D]
        if self.tower.past is not None:
            self._past(self.tower.past)

    def _past(self, past: Any) -> None:
        """Scale and shift the vectors of events by their features."""
        events = self.data.event_features
        found = self.graph.perceptron(
            self._fields("events", past.fields, events.encoders), past.top
        )
        if events.of_kind in past.fields.names and self.data.log.kinds is not None:
            unnamed = self.data.log.kinds.unnamed + 1
            self.reads["events"][events.of_kind]["missing"] = unnamed
        scale = self.node("Mul", self.node("Sigmoid", self._part(found, -1)), 2.0)
        shift = self.node("Slice", found, [0], [-1], [-1])
        changed = self.node("Add", self.node("Mul", self.events, scale), shift)
        self.events = self.node("Mul", changed, self.node("Unsqueeze", self.there, [2]))

    def _history(self) -> None:
        history = self.tower.history
        write: Any = {
            RecencyPooling: self._pooled,
            MeanPooling: self._pooled,
            SelfAttentiveInterests: self._self_attentive,
            RoutedInterests: self._routed,
            Attention: self._attention,
            GRU: self._recurrent,
            HSTU: self._hstu,
        }.get(type(history))
        if write is None:
            raise UnsupportedTowerError(f"the history tower {type(history).__name__}")
        write(history)

    def _direction(self, vectors: str) -> str:
        length = self.node("ReduceL2", vectors, [-1], keepdims=1)
        return self.node("Div", vectors, self.node("Max", length, SMALLEST))

    def _at_last(self, states: str) -> str:
        """The state after the last event, [B, 1, D]; zeros for an empty history."""
        last = self.node("Cast", self.last, to=1)
        return self.node("MatMul", self._one(last), states)

    def _weighed(self, weights: str, vectors: str) -> str:
        """Weighted sums of vectors [B, L, D] with weights [B, L, K]: [B, K, D]."""
        return self.node("MatMul", self.node("Transpose", weights, perm=[0, 2, 1]), vectors)

    def _pooled(self, history: Any) -> None:
        edges, segments = history.edges.tolist(), history.segments
        member = np.zeros((edges[-1], segments), dtype=np.float32)
        for segment in range(segments):
            member[edges[segment] : edges[segment + 1], segment] = 1
        there = self.node("Unsqueeze", self.there, [2])
        weights = self.node("Mul", self.node("Gather", member, self.age), there)  # [B, L, K]
        count = self.node("Max", self.node("ReduceSum", weights, [1], keepdims=0), 1.0)
        scale = self.node("Unsqueeze", self.node("Reciprocal", self.node("Sqrt", count)), [2])
        pooled = self.node("Mul", self._weighed(weights, self.events), scale)  # [B, K, D]
        self.direct.append(self.node("MatMul", self.tower.decay[None], pooled))
        self.parts.append(self.node("Reshape", pooled, [-1, 1, segments * self.tower.dim]))

    def _self_attentive(self, history: Any) -> None:
        seen = self.node("Mul", self._direction(self.events), math.sqrt(self.tower.dim))
        seen = self.node("Add", seen, self.node("Gather", history.position, self.age))
        wide = self.node("Tanh", self.graph.dense(seen, history.widen.weight))
        logits = self.graph.dense(wide, history.weigh.weight)  # [B, L, K]
        missing = self.node("Mul", self.node("Sub", self.there, 1.0), -FAR)
        logits = self.node("Add", logits, self.node("Unsqueeze", missing, [2]))
        weights = self.node("Softmax", logits, axis=1)
        self._interests(self._weighed(weights, self.events), history.interests)

    def _routed(self, history: Any) -> None:
        mapped = self.graph.dense(self._direction(self.events), history.map.weight)
        least = [0, *(2 ** min(power, 62) for power in range(2, history.interests + 1))]
        closed = self.node("Less", self.count, least)  # [B, K]
        start = self.node("Gather", history.start, self.age)
        logits = self.node("Where", self._one(closed), FAR, start)  # [B, L, K]
        there = self.node("Unsqueeze", self.there, [2])
        for done in range(ROUNDS):
            shares = self.node("Mul", self.node("Softmax", logits, axis=2), there)
            found = self._squashed(self._weighed(shares, mapped))
            if done < ROUNDS - 1:
                agreed = self.node("MatMul", mapped, self.node("Transpose", found, perm=[0, 2, 1]))
                logits = self.node("Add", logits, agreed)
        first = self.node("Slice", found, [0], [1], [1])
        closed = self.node("Unsqueeze", closed, [2])
        self._interests(self.node("Where", closed, first, found), history.interests)

    def _squashed(self, vectors: str) -> str:
        square = self.node("ReduceSumSquare", vectors, [-1], keepdims=1)
        shorter = self.node("Div", self.node("Sqrt", square), self.node("Add", square, 1.0))
        return self.node("Mul", vectors, shorter)

    def _interests(self, found: str, interests: int) -> None:
        self.interests = interests
        self.direct.append(found)
        self.parts.append(found)

    def _recurrent(self, history: Any) -> None:
        read = self.node("Mul", self._direction(self.events), math.sqrt(self.tower.dim))
        read = self.node("Transpose", read, perm=[1, 0, 2])  # [L, B, D]
        for layer in range(history.layers.num_layers):
            weights = [
                _gates(getattr(history.layers, f"{name}_l{layer}"))
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            both = torch.cat(weights[2:])
            states = self.node(
                "GRU",
                *(read, weights[0][None], weights[1][None], both[None]),
                hidden_size=self.tower.dim,
                linear_before_reset=1,
            )
            read = self.node("Squeeze", states, [1])
        self.direct.append(self._at_last(self.node("Transpose", read, perm=[1, 0, 2])))

    def _hstu(self, history: Any) -> None:
        now, then = self.node("Unsqueeze", self.place, [1]), self.node("Unsqueeze", self.place, [0])
        before = self.node("Sub", now, then)  # [L, L]
        later = self.node("Less", before, np.int64(0))
        before = self.node("Max", before, np.int64(0))
        hidden = self.node("Mul", self._direction(self.events), math.sqrt(self.tower.dim))
        gaps = self._gaps() if history.timed else None
        for unit in history.units:
            hidden = self._unit(unit, hidden, before, later, gaps)
        norm = history.norm
        self.direct.append(self._at_last(self._layer_norm(hidden, norm.weight, norm.bias)))

    def _unit(self, unit: Any, hidden: str, before: str, later: str, gaps: str | None) -> str:
        heads, dim = unit.heads, self.tower.dim
        projected = self._silu(self.graph.dense(self._layer_norm(hidden), unit.project.weight))
        apart = self.node("Reshape", projected, [0, 0, 4, heads, dim // heads])
        apart = self.node("Transpose", apart, perm=[2, 0, 3, 1, 4])  # [4, B, heads, L, d]
        gate, value, query, key = (self.node("Gather", apart, place) for place in range(4))
        logits = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 1, 3, 2]))
        logits = self.node("Add", logits, self.node("Gather", unit.place, before))
        if gaps is not None:
            bias = self.node("Gather", unit.time, gaps)  # [B, L, L, 1]
            logits = self.node("Add", logits, self.node("Transpose", bias, perm=[0, 3, 1, 2]))
        weights = self.node("Div", self._silu(logits), float(unit.length))
        seen = self.node("MatMul", self.node("Where", later, 0.0, weights), value)
        gate, seen = (
            self.node("Reshape", self.node("Transpose", part, perm=[0, 2, 1, 3]), [0, 0, dim])
            for part in (gate, seen)
        )
        gated = self.node("Mul", gate, self._layer_norm(seen))
        return self.node("Add", hidden, self.graph.dense(gated, unit.out.weight, unit.out.bias))

    def _layer_norm(
        self, vectors: str, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> str:
        """Layer normalization of vectors [*, D]."""
        given = [torch.ones(self.tower.dim) if weight is None else weight]
        given += [] if bias is None else [bias]
        return self.node("LayerNormalization", vectors, *given, epsilon=EPSILON)

    def _silu(self, given: str) -> str:
        return self.node("Mul", given, self.node("Sigmoid", given))

    def _attention(self, history: Any) -> None:
        size = self.node("Unsqueeze", self.node("Gather", self.node("Shape", self.place), 0), [0])
        turns = [self.node("Slice", turn, [0], size, [0]) for turn in history.turn]
        later = self.node(
            "Greater",
            self.node("Unsqueeze", self.place, [0]),
            self.node("Unsqueeze", self.place, [1]),
        )
        hidden = self.node("Mul", self._direction(self.events), math.sqrt(self.tower.dim))
        gaps = self._gaps() if history.timed else None
        for block in history.blocks:
            hidden = self._block(block, hidden, turns, later, gaps)
        self.direct.append(self._at_last(self._scaled(hidden, history.norm)))

    def _block(
        self, block: Any, hidden: str, turns: list[str], later: str, gaps: str | None
    ) -> str:
        heads, dim = block.heads, self.tower.dim
        looked = self.graph.dense(self._scaled(hidden, block.attention_norm), block.look.weight)
        apart = self.node("Reshape", looked, [0, 0, 3, heads, dim // heads])
        apart = self.node("Transpose", apart, perm=[2, 0, 3, 1, 4])  # [3, B, heads, L, d]
        query, key, value = (self.node("Gather", apart, place) for place in range(3))
        turned = self.node("Transpose", self._turned(key, turns), perm=[0, 1, 3, 2])
        logits = self.node("MatMul", self._turned(query, turns), turned)
        logits = self.node("Mul", logits, 1 / math.sqrt(dim // heads))
        if gaps is not None:
            bias = self.node("Gather", block.time, gaps)  # [B, L, L, heads]
            logits = self.node("Add", logits, self.node("Transpose", bias, perm=[0, 3, 1, 2]))
        weights = self.node("Softmax", self.node("Where", later, FAR, logits), axis=-1)
        seen = self.node("Transpose", self.node("MatMul", weights, value), perm=[0, 2, 1, 3])
        seen = self.graph.dense(self.node("Reshape", seen, [0, 0, dim]), block.found.weight)
        hidden = self.node("Add", hidden, seen)
        wide = self.graph.dense(self._scaled(hidden, block.hidden_norm), block.widen.weight)
        half = block.narrow.in_features
        gate, content = self._halves(wide, half)
        narrow = self.graph.dense(self.node("Mul", self._silu(gate), content), block.narrow.weight)
        return self.node("Add", hidden, narrow)

    def _halves(self, vectors: str, half: int) -> tuple[str, str]:
        first = self.node("Slice", vectors, [0], [half], [-1])
        return first, self.node("Slice", vectors, [half], [2 * half], [-1])

    def _turned(self, vectors: str, turns: list[str]) -> str:
        """Rotary position encoding, as in the tower."""
        cosine, sine = turns
        half = self.tower.history.turn.shape[2]
        first, second = self._halves(vectors, half)

        def product(one: str, other: str) -> str:
            return self.node("Mul", one, other)

        left = self.node("Sub", product(first, cosine), product(second, sine))
        right = self.node("Add", product(first, sine), product(second, cosine))
        return self.node("Concat", left, right, axis=-1)

    def _scaled(self, vectors: str, weight: Tensor) -> str:
        """Root-mean-square normalization with a weight per dimension."""
        mean = self.node("ReduceMean", self.node("Mul", vectors, vectors), [-1], keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, torch.finfo(torch.float32).eps))
        return self.node("Mul", self.node("Div", vectors, root), weight)

    def _see_times(self) -> None:
        """Declare the times of events and, for a clock, the time of each query."""
        log = self.data.log.time
        if log is None or log.dtype.kind != "i":
            raise UnsupportedTowerError("times with fractions of a step")
        self.reads["time"] = {"unit": self.data.time_unit, "unknown": UNKNOWN_TIME}
        if self.tower.history is not None:
            self.times = self.graph.takes("times", "int64", "B", "L")
            own = self.node("Where", self.last, self.times, np.int64(0))
            newest = self.node("ReduceSum", own, [1], keepdims=0)  # [B]
            none = self.node("Equal", self.node("Squeeze", self.count, [1]), np.int64(0))
            self.newest = self.node("Where", none, np.int64(UNKNOWN_TIME), newest)
        if self.tower.clock is not None:
            self.reads["time"]["asked"] = True
            self.asked = self.graph.takes("asked", "int64", "B")
            if self.tower.history is not None:
                self.asked = self.node("Where", self._known(self.asked), self.asked, self.newest)

    def _known(self, times: str) -> str:
        return self.node("Not", self.node("Equal", times, np.int64(UNKNOWN_TIME)))

    def _whole(self, times: str, step: float) -> str:
        """The number of whole steps in times, rounded down."""
        size = np.int64(round(step))
        return self.node("Div", self.node("Sub", times, self.node("Mod", times, size)), size)

    def _clock(self, clock: Clock) -> str:
        known = self._known(self.asked)
        day = self.node("Add", self._whole(self.asked, DAY * clock.steps), np.int64(MONDAY))
        found = [(clock.weekday, self.node("Mod", day, np.int64(DAYS)), known)]
        if clock.steps * DAY > HOURS and bool(clock.hours):
            hour = self._whole(self.asked, DAY / HOURS * clock.steps)
            found.append((clock.hour, self.node("Mod", hour, np.int64(HOURS)), known))
        if clock.since is not None:
            both = self.node("And", known, self._known(self.newest))
            since = self._bucket(self.node("Sub", self.asked, self.newest))
            found.append((clock.since, since, both))
        vectors = []
        for table, code, sure in found:
            row = self.node("Where", sure, self.node("Add", code, np.int64(1)), np.int64(0))
            vectors.append(self.node("Gather", table.weight, row))
        return self._one(self.node("Sum", *vectors))

    def _bucket(self, gap: str) -> str:
        """The bucket of a time difference: the number of bounds that it reaches."""
        bounds = np.array([2**power - 1 for power in range(1, BUCKETS)], dtype=np.int64)
        reached = self.node("GreaterOrEqual", self.node("Unsqueeze", gap, [-1]), bounds)
        return self.node("ReduceSum", self.node("Cast", reached, to=7), [-1], keepdims=0)

    def _gaps(self) -> str:
        """The bucket of the time between any two events, [B, L, L]; BUCKETS if unknown."""
        now = self.times
        if self.tower.clock is not None:  # gaps are seen from the time of the next event
            far = np.iinfo(np.int64).max
            after = self.node("Slice", now, [1], [far], [1])
            after = self.node("Concat", after, self.node("Slice", now, [0], [1], [1]), axis=1)
            now = self.node("Where", self.last, self._one(self.asked), after)
        now, when = self.node("Unsqueeze", now, [2]), self._one(self.times)
        known = self.node("And", self._known(now), self._known(when))
        buckets = self._bucket(self.node("Sub", now, when))
        return self.node("Where", known, buckets, np.int64(BUCKETS))

    def _fields(self, kind: str, fields: Fields, encoders: Mapping[str, Any]) -> str:
        """Features of queries, [B, 1, *], or of their events, [B, L, *]."""
        sizes = ("B", "L") if kind == "events" else ("B",)
        side = f"{kind}."
        vectors, self.reads[kind] = _fields(self.graph, side, fields, encoders, sizes)
        return vectors if kind == "events" else self._one(vectors)


def _query_tower(retriever: TwoTower) -> tuple[bytes, dict[str, Any]]:
    """The query tower as a model, and the description of its inputs."""
    retriever.towers.eval()
    with torch.no_grad():
        return _Query(retriever).written()


@torch.no_grad()
def _item_tower(retriever: TwoTower) -> tuple[bytes, dict[str, Any]]:
    """The item tower as a model over B items, and the description of its inputs."""
    retriever.towers.eval()
    graph, tower, items = Graph(), retriever.towers.item, retriever.data.items
    reads: dict[str, Any] = {}
    summed = []
    if tower.id is not None or tower.popularity is not None:
        reads["items"] = _rows(items.ids.head(items.trained).to_list())
        item = graph.takes("item", "int64", "B")
    if tower.id is not None:
        summed.append(graph.node("Gather", tower.id.weight, item))
        if (near := tower.neighbours) is not None:
            vectors = graph.node("Gather", tower.id.weight, graph.node("Gather", near.rows, item))
            weights = graph.node("Gather", near.weights.unsqueeze(2), item)
            weighed = graph.node("Mul", vectors, weights)
            summed.append(graph.node("ReduceSum", weighed, [1], keepdims=0))
    if tower.fields is not None:
        encoders = retriever.data.item_features.encoders
        described, reads["features"] = _fields(graph, "features.", tower.fields, encoders, ("B",))
        summed.append(graph.perceptron(described, tower.top))
    vectors = graph.node("Sum", *summed)
    if tower.biases:
        kept = graph.node("Slice", vectors, [0], [-2], [-1])
        last = graph.node("Gather", vectors, [-1], axis=-1)
        one = graph.node("Add", graph.node("Mul", last, 0.0), 1.0)
        last = graph.node("Add", last, tower.mean)
        vectors = graph.node("Concat", kept, one, last, axis=-1)
    if tower.popularity is not None:
        kept = _comparable(graph, graph.node("Slice", vectors, [0], [-1], [-1]), "cosine")
        often = graph.node("Gather", tower.popularity * tower.met.unsqueeze(1), item)
        vectors = graph.node("Concat", kept, often, axis=-1)
    vectors = _comparable(graph, vectors, retriever.similarity)
    graph.gives(vectors, "float32", "B", tower.dim)
    return graph.model("item tower"), reads


def _fields(
    graph: Graph, side: str, fields: Fields, encoders: Mapping[str, Any], sizes: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """The concatenated features, [*sizes, n], and how values of each become inputs."""
    found, told = [], {}
    for name, table in zip(fields.names, fields.maps, strict=True):
        encoder = encoders[name]
        if encoder.kind == "text":
            raise UnsupportedTowerError(f"the text feature '{name}'")
        told[name] = entry = {"kind": encoder.kind}
        if isinstance(encoder, NumericEncoder):
            entry |= {"mean": encoder.mean, "std": encoder.std}
        elif isinstance(table, nn.Embedding):
            entry["values"] = _rows(encoder.values)
        else:
            entry["width"] = encoder.width
        if isinstance(table, nn.Linear):
            given = graph.takes(side + name, "float32", *sizes, encoder.width)
            found.append(graph.dense(given, table.weight, table.bias))
        elif isinstance(encoder, MultiValuedEncoder):
            entry["separator"] = encoder.separator
            given = graph.takes(side + name, "int64", *sizes, f"values of {name}")
            summed = graph.node(
                "ReduceSum", graph.node("Gather", table.weight, given), [-2], keepdims=0
            )
            there = graph.node("Cast", graph.node("Greater", given, np.int64(0)), to=1)
            count = graph.node("Max", graph.node("ReduceSum", there, [-1], keepdims=1), 1.0)
            found.append(graph.node("Div", summed, count))
        else:
            given = graph.takes(side + name, "int64", *sizes)
            found.append(graph.node("Gather", table.weight, given))
    return graph.node("Concat", *found, axis=-1), told


def _comparable(graph: Graph, vectors: str, similarity: str) -> str:
    """Normalize vectors if the similarity is cosine; zero vectors stay zero."""
    if similarity != "cosine":
        return vectors
    length = graph.node("ReduceL2", vectors, [-1], keepdims=1)
    none = graph.node("Equal", length, 0.0)
    return graph.node("Div", vectors, graph.node("Where", none, 1.0, length))


def _table(retriever: TwoTower, rows: Tensor) -> Tensor:
    """The vectors of history items: zeros, then those of these item rows, [n + 1, D]."""
    towers: Any = retriever.towers
    if towers.reads_items:
        vectors = retriever.encode_item_rows(rows)
    else:
        shared = towers.item.id if towers.shape.shares_items else None
        vectors = (towers.query.table if shared is None else shared).weight[rows]
    return torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])


def _gates(weights: Tensor) -> Tensor:
    """Reorder GRU gates from torch (reset, update, new) to ONNX (update, reset, hidden)."""
    reset, update, new = weights.chunk(3)
    return torch.cat([update, reset, new])


def _rows(values: Any) -> dict[str, int]:
    """Map each id or value, as text, to its row from 1; row 0 is the unknown one."""
    return {str(value): row for row, value in enumerate(values, 1)}


def _readme(reads: Mapping[str, Any], described: Mapping[str, Any] | None) -> str:
    """The README of the folder, with the keys of a query."""
    keys = {
        "events": (
            "event_features",
            "one list per feature, with a value for each event of the history",
        ),
        "features": ("features", "features of the user by name"),
        "context": ("context", "features of the moment by name"),
    }
    told = ["- `history`: item ids, oldest first"] if "history" in reads else []
    for kind, (key, said) in keys.items():
        if kind in reads:
            told.append(f"- `{key}`: {said}: {_named(reads[kind])}")
    if "users" in reads:
        told.append("- `user`: the user id")
    if "time" in reads:
        unit = f"as an integer in the unit of the log ({reads['time']['unit']})"
        if "history" in reads:
            told.append(f"- `times`: the time of each event of the history, {unit}")
        if "asked" in reads["time"]:
            told.append(f"- `time`: the time of the query, {unit}")
    item = ""
    if described is not None:
        item = (
            "\n`item.onnx` computes the vector of an item. It reads the features "
            f"{_named(described['features'])}.\n`item_vector` in `answer.py` runs it.\n"
        )
    return README.format(told="\n".join(told), item=item)


def _named(features: Mapping[str, Any]) -> str:
    """The names and kinds of features."""
    return ", ".join(f"`{name}` ({entry['kind']})" for name, entry in features.items())
