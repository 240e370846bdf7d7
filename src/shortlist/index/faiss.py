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
    """FAISS, imported when it is first asked for something: bundles of exact indexes need none."""

    def __getattr__(self, name: str) -> Any:
        import faiss as library  # noqa: PLC0415

        found = getattr(library, name)
        setattr(self, name, found)  # the next look finds it here
        return found


faiss: Any = _Library()  # Its type stubs know only half of it.


# Codes of one vector in the library's index. The candidates are scored again in float32 anyhow.
QUANTIZERS = {"flat": "Flat", "fp16": "SQfp16", "sq8": "SQ8"}
LISTED_PER_CANDIDATE = 16
POINTS_PER_LIST = 39  # k-means with fewer is noise, and FAISS warns.
MOST_PER_LIST = 256  # k-means of FAISS takes no more.
FEWEST_TRAINED = 100_000  # Vectors that the codes of FAISS learn their range from, if there are.
# Vectors that an exact scan reads in the time of one step of a beam, or of one listed vector:
# width 64, one query, 100,000 clustered vectors. Below it filtered searches scan.
SCANNED_PER_STEP = 32
# The same for dot, at 200,000 learned vectors: 150 at a beam of 4096, 217 at one of 8192.
SCANNED_PER_STEP_FOR_DOT = 128
SCANNED_PER_LISTED = 0.4
BEAM, BEAM_FOR_DOT = 256, 8192  # Of a graph, by default.
REACH = 1.1  # Over the longest item's square: items added later may be that much longer.
EPSILON = 4e-6  # What scores of one pair may differ by, in squared lengths, over the ways to sum.


class FaissIndex(ApproximateIndex):
    """What the indexes of FAISS share: the metric, distances by column, the bytes.

    For dot, lists and graphs hold `raised` vectors: a graph over dot products themselves finds .67
    of the top 100 where this finds .95 (factors whose lengths differ, 16 links, a beam of 200).
    """

    def __init__(self, similarity: str, *, refine: float, **own: Setting) -> None:
        super().__init__(similarity, refine=refine, **own)
        self._library: Any = None
        self._reach = 0.0  # For dot, what `raised` needs.
        self._parameters: dict[int, Any] = {}  # By fetch: they are dear to make.

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
        """An empty index of the library that knows how to keep vectors like these, [N, D]."""
        placed = self._placed(vectors)
        library = self._new(placed.shape[1], len(placed))
        library.train(placed)
        return library

    def _fill(self, library: Any, vectors: Floats) -> None:
        """Put vectors [N, D] in the next slots of the library's index."""
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
        """Vectors [N, D] as the library holds them: [N, D + 1] for dot."""
        return raised(vectors, self._reach) if self.similarity == "dot" else vectors

    def _placed_width(self, width: int) -> int:
        """How wide the library's vectors are."""
        return len(self._placed(np.zeros((1, width), dtype=np.float32))[0])

    def _ask(self, points: Floats, fetch: int, parameters: Any) -> Rows:
        """Search the library's index without its Python wrapper, which costs some microseconds."""
        points, count = self._widened(points), len(points)
        far = np.empty((count, fetch), dtype=np.float32)
        slots = np.empty((count, fetch), dtype=np.int64)
        at = faiss.swig_ptr
        self._library.search_c(count, at(points), fetch, at(far), at(slots), parameters)
        return slots

    def _widened(self, points: Floats) -> Floats:
        """Points [P, D] as wide as the library's vectors, by zeros."""
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
        """The class of the library's index."""
        return type(self._new(width, count))

    def _new(self, width: int, count: int) -> Any:
        """An empty index of the library for about so many vectors."""
        raise NotImplementedError


class FaissFlat(FaissIndex):
    """Every item against every query by FAISS, over the float32 vectors themselves: exact.

    A peer to measure `ExactIndex` by, which also answers filters and near-ties here.
    """

    is_exact: ClassVar[bool] = True
    most_removed: ClassVar[float] = 0  # A slot is a column, always.
    SPARE = 16  # Fetched beyond k: where the last of them is as good as the k-th, a scan decides.

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
    """Inverted lists (Jégou et al. 2011): only the nprobe of nlist lists nearest to a query.

    Built in seconds, so for an index that is often built anew. Takes adds; past twice the items it
    was built from the lists no longer fit and are made anew.
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
                description="Lists; unset: 2 √N. Never more than one for each 39 items.",
            ),
        ] = None,
        nprobe: Annotated[
            int | None,
            Field(
                ge=1,
                le=1_000_000,
                description="Lists looked into; unset: an eighth of them, 16 at least, and as many "
                f"as hold {LISTED_PER_CANDIDATE} items for each candidate asked for, twice that "
                "for dot. Filters raise it by the share of items they keep.",
            ),
        ] = None,
        quantizer: Annotated[
            Literal["flat", "fp16", "sq8", "pq"],
            Field(
                description="How a list keeps vectors: flat, fp16, sq8 (a byte a number), or pq "
                "(half a byte for two numbers)."
            ),
        ] = "sq8",
        refine: Annotated[
            float | None,
            Field(
                ge=1,
                le=1000,
                description="Candidates scored again in float32 for each answer wanted; unset: 1.2 "
                "or, for pq, 8.",
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
        if self.quantizer == "pq":  # It takes two numbers at a time.
            placed = np.pad(placed, ((0, 0), (0, placed.shape[1] % 2)))
        return placed

    def _fit(self, vectors: Floats) -> None:
        super()._fit(vectors)
        self._built = len(vectors)
        self._take_centres()

    def _trained(self, vectors: Floats) -> Any:
        """As for all, from a sample: as many as FAISS would look at of the whole.

        It is spread evenly over the vectors, which stand in the order of their tie keys.
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
        # Block by block, as what is placed is a copy. The lists are those of one piece.
        for start in range(0, len(vectors), BLOCK):
            super()._fill(library, vectors[start : start + BLOCK])

    def _extend(self, vectors: Floats) -> bool:
        return len(self) <= 2 * self._built and super()._extend(vectors)

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        parameters = self._parameters.get(fetch) if kept is None else None
        if parameters is None:
            probes = self._probes(fetch, 1.0 if kept is None else kept.share)
            selector = None if kept is None else _selector(kept.slots)
            options = {} if selector is None else {"sel": selector[0]}
            parameters = faiss.SearchParametersIVF(nprobe=probes, **options)
            if kept is None:
                self._parameters[fetch] = parameters
        points = self._widened(points)
        lists, near = nearest_lists(self._centres, points, parameters.nprobe)
        shape, at = (len(points), fetch), faiss.swig_ptr
        far, slots = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        self._library.search_preassigned_c(
            *(len(points), at(points), fetch, at(lists), at(near), at(far), at(slots)),
            *(False, parameters, None),
        )
        return slots

    def _probes(self, fetch: int, share: float) -> int:
        """The lists to look into where `share` of the items are wanted."""
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
        """Hold on to the centres of the lists."""
        centres = self._library.quantizer.reconstruct_n(0, self._library.nlist)
        self._centres = Centres.of(centres, euclidean=self._metric == faiss.METRIC_L2)


class FaissHNSW(FaissIndex):
    """A graph to walk towards the query (Malkov and Yashunin 2018): the default for speed.

    Slow to build (a minute for 300,000 items of width 64 on one core), the fastest to search at
    high recall. Takes adds; the graph depends on the number of threads that built it.

    Unset, the beam of a search is 256, and 8192 for dot, where the best items lie far from most
    and a graph finds its way badly: at 200,000 learned vectors it then finds .957 of the top 100
    (.939 with 4096) in 22 ms a query, and a scan takes 2.5 ms. So up to a million items a scan is
    what is done instead, unless a beam is given; beyond that its recall was not measured.
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
                description="The beam while searching; never less than the candidates asked for. "
                "Unset: 256, and 8192 for dot. Filters raise it by the share of items they keep.",
            ),
        ] = None,
        quantizer: Annotated[
            Literal["flat", "fp16", "sq8"],
            Field(description="What the walk compares with: flat, fp16, or sq8 (a byte a number)."),
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
        parameters = self._parameters.get(fetch) if kept is None else None
        if parameters is None:
            beam = self._beam(fetch, 1.0 if kept is None else kept.share)
            selector = None if kept is None else _selector(kept.slots)
            options = {} if selector is None else {"sel": selector[0]}
            parameters = faiss.SearchParametersHNSW(efSearch=beam, **options)
            if kept is None:
                self._parameters[fetch] = parameters
        return self._ask(points, fetch, parameters)

    def _beam(self, fetch: int, share: float) -> int:
        beam = self.ef_search or (BEAM_FOR_DOT if self.similarity == "dot" else BEAM)
        return round(float(max(beam, fetch)) / share)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        beam = self._beam(fetch, share)
        steps = SCANNED_PER_STEP_FOR_DOT if self.similarity == "dot" else SCANNED_PER_STEP
        return steps * beam if beam > (self.ef_search or BEAM) else 0.0


def _selector(keep: NDArray[np.bool_]) -> tuple[Any, Any]:
    """A selector of the slots to keep, and the memory it points to."""
    bits = np.packbits(keep, bitorder="little")
    return faiss.IDSelectorBitmap(len(keep), faiss.swig_ptr(bits)), bits
