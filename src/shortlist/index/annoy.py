"""Annoy (Bernhardsson 2015) as an index: a forest of random-projection trees."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from shortlist.errors import MissingPackageError, ModelError, install
from shortlist.index.approximate import ApproximateIndex, Kept, raised
from shortlist.index.checks import longest
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import Choices, Refine

# Cost of one of search_k, as the number of vectors that an exact scan reads in that time.
SCANNED_PER_LOOK = 1.5


class AnnoyForest(ApproximateIndex):
    """A forest of random-projection trees, offered for comparison with systems that use Annoy.

    FaissHNSW is at least ten times faster at the same recall. A forest cannot be extended: each
    `add` rebuilds it, which takes seconds for 300,000 items. Needs the extra "annoy".
    """

    search_settings: ClassVar[tuple[str, ...]] = ("search_k",)
    grid: ClassVar[Choices] = {
        "trees": (10, 50),
        "search_k": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000),
    }

    def __init__(
        self,
        similarity: str,
        *,
        trees: Annotated[int, Field(ge=1, le=10_000, description="Trees in the forest.")] = 10,
        search_k: Annotated[
            int | None,
            Field(
                ge=1,
                le=1_000_000_000,
                description="Vectors inspected per query; unset: 20 for each candidate and tree. "
                "With a filter it is divided by the share of items that the filter keeps.",
            ),
        ] = None,
        refine: Refine = 1,
    ) -> None:
        super().__init__(similarity, refine=refine, trees=trees, search_k=search_k)
        self.trees, self.search_k = trees, search_k
        self._library: Any = None

    def _new(self, width: int) -> Any:
        try:
            from annoy import AnnoyIndex  # noqa: PLC0415
        except ImportError as error:
            raise MissingPackageError(f"this index needs Annoy: {install('annoy')}") from error
        # Annoy's own "dot" metric missed the best items where the vectors' lengths differ.
        raises = self.similarity == "dot"
        metric = "angular" if self.similarity == "cosine" else "euclidean"
        make: Any = AnnoyIndex
        library = make(width + raises, metric)
        library.set_seed(1)
        return library

    def _fit(self, vectors: Floats) -> None:
        library = self._new(vectors.shape[1])
        placed = vectors
        if self.similarity == "dot":
            placed = raised(vectors, longest(torch.from_numpy(vectors)) ** 2)
        for slot, vector in enumerate(placed):
            library.add_item(slot, vector)
        library.build(self.trees, n_jobs=1)  # With several threads the trees differ between runs.
        self._library = library

    def _extend(self, vectors: Floats) -> bool:  # noqa: ARG002
        return False

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        share = 1.0 if kept is None else kept.share
        looks, wanted = self._looks(fetch, share), min(round(fetch / share), len(self._slots))
        slots = np.full((len(points), wanted), -1, dtype=np.int64)
        if self.similarity == "dot":
            points = np.pad(points, ((0, 0), (0, 1)))
        for row, point in enumerate(points):
            found = self._library.get_nns_by_vector(point, wanted, looks)
            slots[row, : len(found)] = found
        if kept is not None:  # Annoy has no filters: drop the other items afterwards.
            slots[~kept.slots[slots] | (slots < 0)] = -1
        return slots

    def _looks(self, fetch: int, share: float) -> int:
        return round(float(self.search_k or 20 * fetch * self.trees) / share)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        return SCANNED_PER_LOOK * self._looks(fetch, share) if share < 1 else 0.0

    def _dump(self) -> NDArray[np.uint8]:
        with tempfile.TemporaryDirectory() as folder:  # Annoy writes files only.
            path = Path(folder) / "forest"
            self._library.save(str(path))
            # After `save` the forest is mapped from this file; the mapping outlives the file.
            return np.fromfile(path, dtype=np.uint8)

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:
        library = self._new(width)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "forest"
            dumped.tofile(path)
            # The file stays mapped, and so readable, after the folder is deleted.
            library.load(str(path))
        if library.get_n_items() != slots:
            raise ModelError(f"the state holds {library.get_n_items()} items instead of {slots}")
        self._library = library
