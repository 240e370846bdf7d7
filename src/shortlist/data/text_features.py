"""Which texts are similar? Hashed words and pieces of words become a short vector."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from shortlist.sections.kinds import FeatureKind

MOST_TERMS = 30_000
"""The number of terms that are kept: those in the most texts."""

SPARE, ROUNDS, SEED = 16, 4, 0
"""The singular value decomposition: extra columns, rounds, and the seed of its start."""

_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))
"""Code points of Thai and Lao, Burmese, and Khmer, which are written without spaces."""


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Turns a text into a vector of length 1, close to the vectors of texts with similar words.

    Latent semantic analysis (Deerwester et al. 1990): words and character n-grams are hashed,
    weighted by their rarity, and projected on the leading right singular vectors of the training
    texts. A missing text, and one without a known term, becomes zeros.

    terms: hashes of the known terms, [T] uint32, ascending.
    vectors: what each term adds to the vector of a text, [T, width] float32.

    >>> films = pl.Series(["Star Wars", "Star Trek", "Love Story", "Love Letter"])
    >>> seen = TextEncoder.fit(films, 2)
    >>> new = seen.encode(pl.Series(["star wars 2", "a love story"]))
    >>> (seen.encode(films) @ new.T).round().int().tolist()
    [[1, 0], [1, 0], [0, 1], [0, 1]]
    """

    terms: NDArray[np.uint32]
    vectors: NDArray[np.float32]
    kind: FeatureKind = "text"

    @property
    def width(self) -> int:
        """The number of values in a row."""
        return int(self.vectors.shape[1])

    @classmethod
    def fit(cls, column: pl.Series, width: int) -> "TextEncoder":
        """Learn the projection from the texts of the training users or items.

        If these have fewer than `width` independent directions, the remaining values are zeros.
        """
        texts = _read(column)
        owner, place = _expanded(texts)
        pairs, at = np.unique(owner << 32 | texts.hashes[place], return_inverse=True)
        weights = np.bincount(at, texts.weights[place], len(pairs))
        owner, hashes = pairs >> 32, pairs & 0xFFFFFFFF
        terms, code, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        most = np.sort(np.argsort(-counts, kind="stable")[:MOST_TERMS])
        code = np.where(np.isin(code, most), np.searchsorted(most, code), -1)
        kept, counts = code >= 0, counts[most]
        rarity = np.log((1 + len(np.unique(owner))) / (1 + counts)) + 1
        owner, code = owner[kept], code[kept]
        weights = weights[kept] * rarity[code]
        weights /= np.sqrt(np.bincount(owner, weights**2, len(column)))[owner]
        found = _singular_vectors(owner, code, weights, (len(column), len(most)), width)
        vectors = np.zeros((len(most), width), dtype=np.float32)
        vectors[:, : found.shape[1]] = found * rarity[:, None]
        return cls(terms[most].astype(np.uint32), vectors)

    def encode(self, column: pl.Series) -> Tensor:
        """Return [n, width] float32; the vector of a text does not depend on the other texts."""
        rows = torch.zeros(len(column), self.width)
        if not len(self.terms):
            return rows
        texts = _read(column)
        at = np.searchsorted(self.terms, texts.hashes).clip(max=len(self.terms) - 1)
        weights = np.where(self.terms[at] == texts.hashes, texts.weights, 0.0)
        words = _sums(torch.from_numpy(self.vectors).double(), at, texts.starts, weights)
        sums = _sums(words, texts.words, np.searchsorted(texts.owner, np.arange(len(column))))
        length = (sums * sums).cumsum(dim=1)[:, -1:].sqrt()  # cumsum adds in a fixed order
        return (sums / length.where(length > 0, torch.ones_like(length))).float()


class _Texts(NamedTuple):
    """N words of texts, and the terms of the U distinct words.

    owner: [N] int64, the text of each word; a word counts once a text.
    words: [N] int64, the number of each word.
    starts: [U] int64, where the terms of each distinct word start.
    hashes, weights: the terms, int64 and float64.
    """

    owner: NDArray[np.int64]
    words: NDArray[np.int64]
    starts: NDArray[np.int64]
    hashes: NDArray[np.int64]
    weights: NDArray[np.float64]


def _read(column: pl.Series) -> _Texts:
    frame = pl.DataFrame({"owner": np.arange(len(column)), "word": column.cast(pl.String)})
    frame = frame.with_columns(pl.col("word").str.to_lowercase().str.extract_all(r"\w+"))
    frame = frame.explode("word").drop_nulls().unique(maintain_order=True)
    known = frame["word"].unique(maintain_order=True)
    code = pl.DataFrame({"word": known, "code": np.arange(len(known))})
    words = frame.join(code, on="word", how="left", maintain_order="left")["code"]
    terms = [list(_terms(unicodedata.normalize("NFKC", word).casefold())) for word in known]
    counts = np.array([len(of) for of in terms], dtype=np.int64)
    return _Texts(
        frame["owner"].to_numpy().astype(np.int64),
        words.to_numpy().astype(np.int64),
        np.cumsum(counts) - counts,
        np.array([crc32(term.encode()) for of in terms for term, _ in of], dtype=np.int64),
        np.array([weight for of in terms for _, weight in of], dtype=np.float64),
    )


def _terms(word: str) -> Iterator[tuple[str, float]]:
    """Yield the terms of a word with their weights: the word itself, and its pieces.

    Pieces are three letters, with marks at both ends of the word. Scripts without spaces, whose
    "words" are whole sentences, use one and two characters. Numbers have no pieces.

    >>> [term for term, _ in _terms("cats")]
    ['w cats', 'g <ca', 'g cat', 'g ats', 'g ts>']
    >>> [term for term, _ in _terms("猫と犬")]
    ['w 猫と犬', 'g 猫', 'g と', 'g 犬', 'g 猫と', 'g と犬']
    """
    yield f"w {word}", 1.0
    if word.isdigit():
        return
    if any(map(_is_unspaced, word)):
        pieces = [*word, *(word[at : at + 2] for at in range(len(word) - 1))]
    else:
        marked = f"<{word}>"
        pieces = [marked[at : at + 3] for at in range(len(word))]
    for piece in pieces:
        yield f"g {piece}", len(pieces) ** -0.5


def _is_unspaced(sign: str) -> bool:
    code = ord(sign)
    return code >= 0x0E00 and (
        unicodedata.east_asian_width(sign) in "WF"
        or any(first <= code <= last for first, last in _UNSPACED)
    )


def _expanded(texts: _Texts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the text of each term of its words, and the position of the term."""
    counts = np.diff(np.append(texts.starts, len(texts.hashes)))[texts.words]
    shift = np.repeat(texts.starts[texts.words] - (np.cumsum(counts) - counts), counts)
    return np.repeat(texts.owner, counts), np.arange(counts.sum()) + shift


def _sums(
    table: Tensor,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> Tensor:
    """Return the sum of the rows of each list, in order. starts: where each list begins, [n]."""
    return embedding_bag(
        torch.from_numpy(rows),
        table,
        torch.from_numpy(starts),
        mode="sum",
        per_sample_weights=None if weights is None else torch.from_numpy(weights),
    )


def _singular_vectors(
    owner: NDArray[np.int64],
    code: NDArray[np.int64],
    weights: NDArray[np.float64],
    shape: tuple[int, int],
    width: int,
) -> NDArray[np.float64]:
    """Return the leading right singular vectors of a matrix of texts by terms, [terms, <= width].

    Subspace iteration from seeded noise (Halko, Martinsson and Tropp 2011), which is exact for few
    texts. The sign of each vector makes its largest value positive.

    owner, code, weights: the text, the term and the value of each entry; `owner` ascends.
    shape: (texts, terms).
    """
    size = min(width + SPARE, *shape)
    basis = torch.from_numpy(np.random.default_rng(SEED).standard_normal((shape[1], size)))
    by_term = np.argsort(code, kind="stable")
    rows = np.searchsorted(owner, np.arange(shape[0]))
    columns = np.searchsorted(code[by_term], np.arange(shape[1]))
    for _ in range(ROUNDS if size else 0):
        basis, _ = torch.linalg.qr(basis)
        image = _sums(basis, code, rows, weights)
        basis = _sums(image, owner[by_term], columns, weights[by_term])
    basis, _ = torch.linalg.qr(basis)
    image = _sums(basis, code, rows, weights) if size else basis[:0]
    squares, turn = np.linalg.eigh((image.T @ image).numpy())
    held = squares[::-1][:width] > 1e-9 * squares.max(initial=0)
    found: NDArray[np.float64] = (basis.numpy() @ turn[:, ::-1])[:, :width][:, held]
    largest = np.abs(found).argmax(axis=0) if found.size else np.zeros(0, dtype=np.int64)
    found *= np.sign(found[largest, np.arange(found.shape[1])])
    return found
