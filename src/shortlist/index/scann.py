"""ScaNN (Guo et al. 2020) as an index: anisotropic product quantization."""

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

FEWEST = 64  # With fewer vectors ScaNN cannot learn codes, and an exact scan is as fast.
FEWEST_IN_CLUSTERS = 10_000  # With fewer vectors, reading all codes is faster than clusters.
NUMBERS_A_CODE = 1  # Dimensions per code. 2 halves the memory but loses much recall on embeddings.
ANISOTROPY = 0.2  # Threshold T of the paper: errors parallel to a vector have more weight.
# Costs, as the number of vectors that an exact scan reads in that time.
SCANNED_PER_CODE = 0.25
SCANNED_PER_CANDIDATE = 2.0


class Scann(ApproximateIndex):
    """Clusters of quantized vectors, half a byte per number, scored again in float32.

    The quantization preserves the order of high dot products. It is built several times faster than
    FaissHNSW, in less memory. It cannot be extended: each `add` rebuilds it, which takes seconds
    for 100,000 items. Linux only. Needs the extra "scann".
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
                description="Number of clusters; unset: the square root of the number of vectors, "
                "and no clusters below 10,000 vectors.",
            ),
        ] = None,
        searched: Annotated[
            float,
            Field(
                ge=1e-6,
                le=1,
                description="Share of the clusters read per query. With a filter it is divided by "
                "the share of items that the filter keeps.",
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
        """Return the number of clusters for `count` vectors, at most one per 8; 1 means none."""
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
        # One by one: ScaNN's rounding depends on the batch, and an answer must not.
        for row, point in enumerate(points):
            found, _ = self._library.search(
                point, final_num_neighbors=wanted, leaves_to_search=leaves
            )
            slots[row, : len(found)] = found
        if kept is not None:  # ScaNN has no filters: drop the other items afterwards.
            slots[~kept.slots[slots] | (slots < 0)] = -1
        return slots

    def _searched(self, share: float) -> int:
        """Return how many clusters to read per query if a filter keeps `share` of the items."""
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
        """Return ScaNN's files, concatenated, after one JSON line with their names and sizes."""
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
        # ScaNN would unpickle a file of ids, so only arrays and protocol buffers are accepted.
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
