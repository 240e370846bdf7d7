"""FAISS (Douze et al. 2024) as an index: a flat scan, inverted lists, or a graph."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from shortlist.errors import ModelError
from shortlist.index.approximate import ApproximateIndex, Kept, Setting, raised
from shortlist.index.checks import BLOCK, longest
from shortlist.index.lists import Centres, nearest_lists
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import BuildBeam, Choices, Links, Refine


class _Library:
    """Imports FAISS at the first attribute access: bundles of exact indexes do not need it."""

    def __getattr__(self, name: str) -> Any:
        import faiss as library  # noqa: PLC0415

        found = getattr(library, name)
        setattr(self, name, found)  # The next access does not call __getattr__.
        return found


faiss: Any = _Library()  # Any: FAISS's type stubs are incomplete.


# FAISS names of the codes of a vector. Candidates are scored again in float32 afterwards.
QUANTIZERS = {"flat": "Flat", "fp16": "SQfp16", "sq8": "SQ8"}
LISTED_PER_CANDIDATE = 16  # Vectors that the default nprobe reads for each candidate.
POINTS_PER_LIST = 39  # Below it the centres of k-means are unreliable, and FAISS warns.
MOST_PER_LIST = 256  # FAISS's k-means uses at most so many vectors per list.
FEWEST_TRAINED = 100_000  # Least sample size, so that scalar quantizers see the range of values.
# Costs, as the number of vectors that an exact scan reads in that time; measured at width 64, one
# query, 100,000 clustered vectors. A filtered search scans if fewer items are allowed.
SCANNED_PER_STEP = 32  # Cost of one step of a beam.
# The same for dot, measured at 200,000 learned vectors: 150 at a beam of 4096, 217 at 8192.
SCANNED_PER_STEP_FOR_DOT = 128
SCANNED_PER_LISTED = 0.4  # Cost of one vector in a list.
BEAM, BEAM_FOR_DOT = 256, 8192  # Default ef_search of a graph.
REACH = 1.1  # Factor on the longest squared length: later items may be that much longer.
EPSILON = 4e-6  # Rounding of a score between ways to sum, relative to squared lengths.


class FaissIndex(ApproximateIndex):
    """Base of the FAISS indexes: metric, stored vectors, calls and serialisation.

    For dot, lists and graphs hold the vectors of `raised` under the euclidean metric. On factors of
    different lengths (16 links, a beam of 200) this finds 0.95 of the top 100; a graph over dot
    products finds 0.67.
    """

    def __init__(self, similarity: str, *, refine: float, **own: Setting) -> None:
        super().__init__(similarity, refine=refine, **own)
        self._library: Any = None
        self._reach = 0.0  # For dot, the `reach` of `raised`.
        self._parameters: dict[int, Any] = {}  # FAISS parameters by fetch; creating them is slow.

    @property
    def _metric(self) -> int:
        by_angle = self.similarity == "cosine"
        return int(faiss.METRIC_INNER_PRODUCT if by_angle else faiss.METRIC_L2)

    def _fit(self, vectors: Floats) -> None:
        self._reach = REACH * longest(torch.from_numpy(vectors)) ** 2
        library = self._trained(vectors)
        self._fill(library, vectors)
        self._library = library

    def _trained(self, vectors: Floats) -> Any:
        """Return an empty FAISS index, trained on vectors [N, D]."""
        placed = self._placed(vectors)
        library = self._new(placed.shape[1], len(placed))
        library.train(placed)
        return library

    def _fill(self, library: Any, vectors: Floats) -> None:
        """Add vectors [N, D] in the next slots of the FAISS index."""
        library.add(self._placed(vectors))

    def _extend(self, vectors: Floats) -> bool:
        if self.similarity == "dot" and longest(torch.from_numpy(vectors)) ** 2 > self._reach:
            return False
        self._fill(self._library, vectors)
        return True

    def _take_contents(self) -> None:
        super()._take_contents()
        self._parameters = {}

    def _placed(self, vectors: Floats) -> Floats:
        """Return vectors [N, D] as the FAISS index holds them: [N, D + 1] for dot."""
        return raised(vectors, self._reach) if self.similarity == "dot" else vectors

    def _placed_width(self, width: int) -> int:
        """Return the width of the stored vectors for items of this width."""
        return len(self._placed(np.zeros((1, width), dtype=np.float32))[0])

    def _ask(self, points: Floats, fetch: int, parameters: Any) -> Rows:
        """Return the slots [P, fetch] nearest to points [P, D].

        Calls the C++ method directly: FAISS's Python wrapper costs some microseconds.
        """
        points, count = self._widened(points), len(points)
        far = np.empty((count, fetch), dtype=np.float32)
        slots = np.empty((count, fetch), dtype=np.int64)
        at = faiss.swig_ptr
        self._library.search_c(count, at(points), fetch, at(far), at(slots), parameters)
        return slots

    def _parameters_of(self, fetch: int, kept: Kept | None) -> tuple[Any, Any]:
        """Return FAISS parameters of a search, and what they point to: keep both until its end.

        Those without a filter are made once for each `fetch`.
        """
        if kept is None:
            if fetch not in self._parameters:
                self._parameters[fetch] = self._new_parameters(fetch, 1.0)
            return self._parameters[fetch], None
        selector, memory = _selector(kept.slots)
        parameters = self._new_parameters(fetch, kept.share, sel=selector)
        return parameters, (selector, memory)

    def _new_parameters(self, fetch: int, share: float, **options: Any) -> Any:
        """Return new FAISS parameters.

        share: the share of the items that the filter of the search keeps.
        options: the filter, if there is one.
        """
        raise NotImplementedError

    def _widened(self, points: Floats) -> Floats:
        """Return points [P, D], padded with zeros to the width of the stored vectors."""
        count, width = points.shape
        if self._library.d == width:
            return points
        wider = np.zeros((count, self._library.d), dtype=np.float32)
        wider[:, :width] = points
        return wider

    def _dump(self) -> NDArray[np.uint8]:
        reach = np.array([self._reach]).view(np.uint8)
        return np.concatenate([reach, faiss.serialize_index(self._library)])

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        library = faiss.deserialize_index(dumped[8:])
        width = self._placed_width(width)
        found = (library.ntotal, library.d, library.metric_type, type(library))
        wanted = (slots, width, self._metric, self._kind(width, slots))
        if found != wanted:
            raise ModelError(f"the state holds another FAISS index: {found} instead of {wanted}")
        self._library = library
        self._reach = float(dumped[:8].copy().view(np.float64)[0])

    def _kind(self, width: int, count: int) -> type:
        """Return the class of the FAISS index."""
        return type(self._new(width, count))

    def _new(self, width: int, count: int) -> Any:
        """Return an empty, untrained FAISS index for about `count` vectors."""
        raise NotImplementedError


class FaissFlat(FaissIndex):
    """An exact scan of the float32 vectors by FAISS, offered for comparison with `ExactIndex`.

    Searches with a filter, and queries whose k-th place is nearly tied, are answered by the
    `ExactIndex` inside.
    """

    is_exact: ClassVar[bool] = True
    most_removed: ClassVar[float] = 0  # Slots must always be columns.
    SPARE = 16  # Candidates beyond k. If the last is as good as the k-th, a scan answers instead.

    def __init__(self, similarity: str) -> None:
        super().__init__(similarity, refine=1)

    def _fetch(self, k: int) -> int:
        self._fetches[k] = super()._fetch(k) + self.SPARE
        return self._fetches[k]

    def _fit(self, vectors: Floats) -> None:
        pass

    def _extend(self, vectors: Floats) -> bool:  # noqa: ARG002
        return False

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:  # noqa: ARG002
        vectors = self._exact.items.vectors.numpy()
        metric = faiss.METRIC_L2 if self.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
        far, slots = faiss.knn(points, vectors, min(fetch, len(vectors)), metric=metric)
        if fetch < len(vectors):
            lengths = np.sqrt(np.einsum("pd,pd->p", points, points)) + self._exact.longest
            gap = np.abs(far[:, -1] - far[:, -1 - self.SPARE])
            slots[gap <= EPSILON * lengths**2] = -1
        found: Rows = slots
        return found

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:  # noqa: ARG002
        return 0.0 if share == 1 else np.inf

    def _dump(self) -> NDArray[np.uint8]:
        return np.empty(0, dtype=np.uint8)

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        pass


class FaissIVF(FaissIndex):
    """Inverted lists (Jégou et al. 2011): a query reads the nprobe nearest of nlist lists.

    It is built in seconds, so it suits indexes that are rebuilt often. Items can be added; when the
    index has grown beyond twice its size at the last build, it is rebuilt.
    """

    search_settings: ClassVar[tuple[str, ...]] = ("nprobe",)
    grid: ClassVar[Choices] = {
        "quantizer": ("sq8", "pq"),
        "nprobe": (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024),
    }

    def __init__(
        self,
        similarity: str,
        *,
        nlist: Annotated[
            int | None,
            Field(
                ge=1,
                le=1_000_000,
                description="Number of lists; unset: 2 √N. At most one for each 39 items.",
            ),
        ] = None,
        nprobe: Annotated[
            int | None,
            Field(
                ge=1,
                le=1_000_000,
                description="Lists read per query; unset: an eighth of them, but at least 16 and "
                f"as many as hold {LISTED_PER_CANDIDATE} items per candidate (twice that for dot). "
                "With a filter it is divided by the share of items that the filter keeps.",
            ),
        ] = None,
        quantizer: Annotated[
            Literal["flat", "fp16", "sq8", "pq"],
            Field(
                description="Code of the vectors in a list: flat (float32), fp16, sq8 (one byte "
                "per number) or pq (half a byte per two numbers)."
            ),
        ] = "sq8",
        refine: Annotated[
            float | None,
            Field(
                ge=1,
                le=1000,
                description="Candidates scored again in float32, per item asked for; unset: 1.2, "
                "and 8 for pq.",
            ),
        ] = None,
    ) -> None:
        usual = 8 if quantizer == "pq" else 1.2
        super().__init__(
            similarity,
            refine=usual if refine is None else refine,
            nlist=nlist,
            nprobe=nprobe,
            quantizer=quantizer,
        )
        self.nlist, self.nprobe, self.quantizer = nlist, nprobe, quantizer
        self._built = 0

    def _new(self, width: int, count: int) -> Any:
        codes = QUANTIZERS.get(self.quantizer, f"PQ{width // 2}x4fs")
        wanted = self.nlist or round(2 * count**0.5)
        lists = max(min(wanted, count // POINTS_PER_LIST), 1)
        return faiss.index_factory(width, f"IVF{lists},{codes}", self._metric)

    def _placed(self, vectors: Floats) -> Floats:
        placed = super()._placed(vectors)
        if self.quantizer == "pq":  # It codes pairs of numbers, so the width must be even.
            placed = np.pad(placed, ((0, 0), (0, placed.shape[1] % 2)))
        return placed

    def _fit(self, vectors: Floats) -> None:
        super()._fit(vectors)
        self._built = len(vectors)
        self._take_centres()

    def _trained(self, vectors: Floats) -> Any:
        """Train on a sample of the size that FAISS itself would draw.

        The sample is evenly spaced over the vectors, which are in the order of their tie keys.
        """
        count = len(vectors)
        library = self._new(self._placed_width(vectors.shape[1]), count)
        most = max(MOST_PER_LIST * library.nlist, FEWEST_TRAINED)
        if most >= count:
            library.train(self._placed(vectors))
            return library
        sample, rows = np.empty((most, library.d), np.float32), np.arange(most) * count // most
        for start in range(0, most, BLOCK):
            some = slice(start, start + BLOCK)
            sample[some] = self._placed(vectors[rows[some]])
        library.train(sample)
        return library

    def _fill(self, library: Any, vectors: Floats) -> None:
        # Block by block, because `_placed` copies. The lists do not depend on the blocks.
        for start in range(0, len(vectors), BLOCK):
            super()._fill(library, vectors[start : start + BLOCK])

    def _extend(self, vectors: Floats) -> bool:
        return len(self) <= 2 * self._built and super()._extend(vectors)

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        parameters, _held = self._parameters_of(fetch, kept)
        points = self._widened(points)
        lists, near = nearest_lists(self._centres, points, parameters.nprobe)
        shape, at = (len(points), fetch), faiss.swig_ptr
        far, slots = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        self._library.search_preassigned_c(
            *(len(points), at(points), fetch, at(lists), at(near), at(far), at(slots)),
            *(False, parameters, None),
        )
        return slots

    def _new_parameters(self, fetch: int, share: float, **options: Any) -> Any:
        return faiss.SearchParametersIVF(nprobe=self._probes(fetch, share), **options)

    def _probes(self, fetch: int, share: float) -> int:
        """Return how many lists to read if a filter keeps `share` of the items."""
        lists = int(self._library.nlist)
        listed = LISTED_PER_CANDIDATE * (2 if self.similarity == "dot" else 1)
        deep = listed * fetch * lists // len(self._slots)
        probes = self.nprobe or max(lists // 8, 16, deep)
        return min(round(probes / share), lists)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        listed = self._probes(fetch, share) / self._library.nlist * len(self._slots)
        if fetch >= share * listed:
            return np.inf
        return SCANNED_PER_LISTED * listed if share < 1 else 0.0

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        super()._restore(dumped, slots, width)
        self._built = slots
        self._take_centres()

    def _take_centres(self) -> None:
        """Keep a copy of the centres of the lists for `nearest_lists`."""
        centres = self._library.quantizer.reconstruct_n(0, self._library.nlist)
        self._centres = Centres.of(centres, euclidean=self._metric == faiss.METRIC_L2)


class FaissHNSW(FaissIndex):
    """Hierarchical navigable small world graph (Malkov and Yashunin 2018): the fastest searches.

    It is slow to build (a minute for 300,000 items of width 64 on one core) and the fastest index
    to search at high recall. Items can be added. The graph depends on the number of threads that
    built it.

    If ef_search is unset, the beam is 256, and 8192 for dot. Under dot a graph needs a wide beam:
    at 200,000 learned vectors a beam of 8192 finds 0.957 of the top 100 (4096: 0.939) in 22 ms per
    query, while an exact scan takes 2.5 ms. So for dot, if ef_search is unset, up to a million
    items are scanned exactly; the recall of the graph beyond that was not measured.
    """

    search_settings: ClassVar[tuple[str, ...]] = ("ef_search",)
    grid: ClassVar[Choices] = {
        "m": (16, 32),
        "quantizer": ("sq8",),
        "ef_search": (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048),
    }

    def __init__(
        self,
        similarity: str,
        *,
        m: Links = 16,
        ef_construction: BuildBeam = 100,
        ef_search: Annotated[
            int | None,
            Field(
                ge=1,
                le=100_000,
                description="Beam width of a search, raised to the number of candidates if that is "
                "higher. Unset: 256, and 8192 for dot. With a filter it is divided by the share of "
                "items that the filter keeps.",
            ),
        ] = None,
        quantizer: Annotated[
            Literal["flat", "fp16", "sq8"],
            Field(
                description="Code of the vectors in the graph: flat (float32), fp16 or sq8 (one "
                "byte per number)."
            ),
        ] = "sq8",
        refine: Refine = 1.2,
    ) -> None:
        super().__init__(
            similarity,
            refine=refine,
            m=m,
            ef_construction=ef_construction,
            ef_search=ef_search,
            quantizer=quantizer,
        )
        self.m, self.ef_construction = m, ef_construction
        self.ef_search, self.quantizer = ef_search, quantizer

    def _new(self, width: int, count: int) -> Any:  # noqa: ARG002
        codes = QUANTIZERS[self.quantizer]
        library = faiss.index_factory(width, f"HNSW{self.m},{codes}", self._metric)
        library.hnsw.efConstruction = self.ef_construction
        return library

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        parameters, _held = self._parameters_of(fetch, kept)
        return self._ask(points, fetch, parameters)

    def _new_parameters(self, fetch: int, share: float, **options: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=self._beam(fetch, share), **options)

    def _beam(self, fetch: int, share: float) -> int:
        beam = self.ef_search or (BEAM_FOR_DOT if self.similarity == "dot" else BEAM)
        return round(float(max(beam, fetch)) / share)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        beam = self._beam(fetch, share)
        steps = SCANNED_PER_STEP_FOR_DOT if self.similarity == "dot" else SCANNED_PER_STEP
        return steps * beam if beam > (self.ef_search or BEAM) else 0.0


def _selector(keep: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return a FAISS selector of the slots to keep, and the memory it points to."""
    bits = np.packbits(keep, bitorder="little")
    return faiss.IDSelectorBitmap(len(keep), faiss.swig_ptr(bits)), bits
