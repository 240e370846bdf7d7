"""ScaNN (Guo et al. 2020) as an index: product codes that keep the order of dot products."""

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shortlist.errors import MissingPackageError, ModelError, install
from shortlist.index.approximate import ApproximateIndex, Kept
from shortlist.index.pairs import Floats, Rows
from shortlist.index.settings import Refine

FEWEST = 64  # Below it ScaNN has too little to learn codes from, and a scan is as fast.
FEWEST_IN_CLUSTERS = 10_000  # Below it all codes are read in less time than centres are compared.
NUMBERS_A_CODE = 1  # Two halve the memory, and cost much recall on vectors that were learned.
ANISOTROPY = 0.2  # The threshold of the paper: errors along a vector cost more than across it.
SCANNED_PER_CODE = 0.25  # Vectors that an exact scan reads while ScaNN reads one code.
SCANNED_PER_CANDIDATE = 2.0


class Scann(ApproximateIndex):
    """Clusters of codes, half a byte a number, learned so that the order of high dot products is
    kept; the float32 vectors beside them decide.

    It is built some times faster than FaissHNSW, in less memory. It cannot grow: each `add` builds
    it anew, which takes seconds for 100,000 items. Linux only. Needs the extra "scann".
    """

    search_settings: ClassVar[tuple[str, ...]] = ("searched",)

    def __init__(
        self,
        similarity: str,
        *,
        leaves: Annotated[
            int | None,
            Field(
                ge=1,
                le=1_000_000,
                description="Clusters; unset: the square root of the number of vectors, and none "
                "below 10,000.",
            ),
        ] = None,
        searched: Annotated[
            float,
            Field(
                ge=1e-6,
                le=1,
                description="The share of the clusters read for a query. Filters raise it by the "
                "share of items they keep.",
            ),
        ] = 0.5,
        refine: Refine = 10,
    ) -> None:
        super().__init__(similarity, refine=refine, leaves=leaves, searched=searched)
        self.leaves, self.searched = leaves, searched
        self._library: Any = None

    def _fit(self, vectors: Floats) -> None:
        scann = _scann()
        self._library = None
        if len(vectors) < FEWEST:
            return
        dot = self.similarity != "euclidean"
        builder = scann.builder(vectors, 10, "dot_product" if dot else "squared_l2")
        builder.set_n_training_threads(1)
        leaves = self._leaves(len(vectors))
        if leaves > 1:
            builder.tree(
                num_leaves=leaves,
                num_leaves_to_search=leaves,
                training_sample_size=min(len(vectors), 250_000),
            )
        threshold = {"anisotropic_quantization_threshold": ANISOTROPY} if dot else {}
        self._library = builder.score_ah(NUMBERS_A_CODE, **threshold).build()

    def _leaves(self, count: int) -> int:
        """Clusters for so many vectors: no more than ScaNN can find centres for; 1 is none."""
        if self.leaves is None and count < FEWEST_IN_CLUSTERS:
            return 1
        return min(self.leaves or math.isqrt(count), count // 8)

    def _extend(self, vectors: Floats) -> bool:  # noqa: ARG002
        return False

    def _find(self, points: Floats, fetch: int, kept: Kept | None) -> Rows:
        share = 1.0 if kept is None else kept.share
        wanted = min(round(fetch / share), len(self._slots))
        leaves = self._searched(share)
        slots = np.full((len(points), wanted), -1, dtype=np.int64)
        # One by one: in a batch ScaNN rounds otherwise, and an answer would depend on the others.
        for row, point in enumerate(points):
            found, _ = self._library.search(
                point, final_num_neighbors=wanted, leaves_to_search=leaves
            )
            slots[row, : len(found)] = found
        if kept is not None:  # ScaNN cannot filter.
            slots[~kept.slots[slots] | (slots < 0)] = -1
        return slots

    def _searched(self, share: float) -> int:
        """How many clusters to read for a query, where a share of the items is kept."""
        leaves = self._leaves(len(self._slots))
        return max(min(round(leaves * self.searched / share), leaves), 1)

    def _scanned_meanwhile(self, fetch: int, share: float) -> float:
        if self._library is None:
            return np.inf
        if share == 1:
            return 0.0
        read = len(self._slots) * self._searched(share) / self._leaves(len(self._slots))
        return SCANNED_PER_CODE * read + SCANNED_PER_CANDIDATE * fetch / share

    def _dump(self) -> NDArray[np.uint8]:
        """ScaNN's files, one after another, and before them their names and sizes as a line."""
        files: dict[str, bytes] = {}
        if self._library is not None:
            with tempfile.TemporaryDirectory() as folder:
                self._library.serialize(folder, relative_path=True)
                files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        sizes = {name: len(content) for name, content in files.items()}
        return np.frombuffer(
            b"".join([json.dumps(sizes).encode(), b"\n", *files.values()]), dtype=np.uint8
        ).copy()

    def _restore(self, dumped: NDArray[np.uint8], slots: int, width: int) -> None:  # noqa: ARG002
        head, _, rest = dumped.tobytes().partition(b"\n")
        sizes = json.loads(head)
        # ScaNN would unpickle a file of ids: only tensors and protocol buffers are let through.
        if any(Path(name).name != name or Path(name).suffix not in _FORMATS for name in sizes):
            raise ModelError(f"the state holds files that are not ScaNN's: {sorted(sizes)}")
        self._library = None
        if not sizes:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, size in sizes.items():
                (Path(folder) / name).write_bytes(rest[:size])
                rest = rest[size:]
            self._library = _scann().load_searcher(folder, assets_backcompat_shim=False)
        if self._library.size() != slots:
            raise ModelError(f"the state holds {self._library.size()} items instead of {slots}")


_FORMATS = {".npy", ".pb", ".pbtxt"}


def _scann() -> Any:
    try:
        from scann import scann_ops_pybind  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(f"this index needs ScaNN: {install('scann')}") from error
    return scann_ops_pybind
