"""Identification (1:N): the gallery embeddings that are most like a probe's, up to millions."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.files import DAMAGED_ZIP, atomic_path

Method = Literal["exact", "approximate"]
_Found = tuple[NDArray[np.float64], NDArray[np.int64]]  # cosines and positions
_PROBES = 256  # compared at a time
_BLOCK = 1 << 16  # gallery embeddings compared at a time: 64 MiB of similarities
_SAMPLE = 1 << 12  # of the first block, to see early how alike the best ones are
_NUMBERS = 1 << 22  # in float64 at a time


class Gallery:
    """Embeddings with names, to search for those most like a probe's.

    "exact" compares every probe with the whole gallery: products in float32 find the candidates,
    with room for their rounding error, and sums in float64 rank them, so the order is that of
    float64; equal similarities stand in the gallery's order. "approximate" parts the gallery into
    about `2 sqrt(n)` cells (faiss, inverted file) and looks only into those nearest to the probe,
    which may miss a best one: `recall` measures how often. It pays for probes that come one by one
    to a million embeddings; many at once are searched exactly about as fast as in a quarter of the
    cells (`benchmarks/search.csv`). The same input gives the same answer.

    Args:
        embeddings: `(n, dim)` of any length above 0; kept as float32 of unit length. A
            `numpy.memmap` is read a block at a time.
        names: whose they are, `(n,)` strings or integers; by default their positions.
        method: "exact" or "approximate".
        visited: "approximate": share of the cells that a probe looks into, in (0, 1].

    Attributes:
        embeddings: `(n, dim)` float32, unit length.
        names: `(n,)`.

    Raises:
        DataError: on arrays that do not fit, an embedding that is not finite or of length 0, an
            option out of range, or where faiss is wanted and missing.

    Example:

    >>> gallery = Gallery([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], ["Ann", "Bob", "Bob"])
    >>> similarities, positions = gallery.search([[0.6, 0.8]], k=2)
    >>> similarities.round(3).tolist(), positions.tolist()
    ([[0.99, 0.8]], [[2, 1]])
    >>> [(name, round(similarity, 3)) for name, similarity in gallery.identify([[0.6, 0.8]])[0]]
    [('Bob', 0.99), ('Ann', 0.6)]
    """

    def __init__(
        self,
        embeddings: ArrayLike,
        names: ArrayLike | None = None,
        method: Method = "exact",
        visited: float = 1 / 16,
    ) -> None:
        if method not in get_args(Method) or not 0 < visited <= 1:
            raise DataError(
                'Expected method "exact" or "approximate" and `visited` in (0, 1]. Received: '
                f"method={method!r}, visited={visited}. Call `Gallery(embeddings, names)`."
            )
        self.embeddings = _unit(np.asanyarray(embeddings), "gallery")
        size = len(self.embeddings)
        self.names = np.arange(size) if names is None else np.asarray(names)
        if not size or self.names.shape != (size,) or self.names.dtype.kind not in "iuU":
            raise DataError(
                "Expected at least one embedding, and `names` as one string or integer for each. "
                f"Received: {size} embeddings, names of shape {self.names.shape}, dtype "
                f"{self.names.dtype}. Pass `numpy.array(names)`."
            )
        self._index: Any = _cells(self.embeddings, visited) if method == "approximate" else None

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, probes: ArrayLike, k: int = 1) -> _Found:
        """Returns the embeddings most like each probe, the best first.

        Args:
            probes: `(probes, dim)` of any length above 0.
            k: how many for each probe.

        Returns:
            Cosines and positions in the gallery, each `(probes, min(k, n))`.

        Raises:
            DataError: on probes that do not fit the gallery, or a k below 1.
        """
        return self._search(probes, k, self._exact if self._index is None else self._approximate)

    def identify(self, probes: ArrayLike, k: int = 5) -> list[list[tuple[Any, float]]]:
        """Returns the names most like each probe, each with the cosine of its best embedding.

        Args:
            probes: `(probes, dim)`.
            k: how many different names for each probe.

        Returns:
            For each probe up to k pairs (name, cosine), the best first.

        Raises:
            DataError: as `search`.
        """
        deep = k
        while True:
            ranked = []
            for similarities, positions in zip(*self.search(probes, deep), strict=True):
                best: dict[Any, float] = {}
                for name, cosine in zip(
                    self.names[positions].tolist(), similarities.tolist(), strict=True
                ):
                    best.setdefault(name, cosine)
                ranked.append(list(best.items())[:k])
            fewest = min((len(best) for best in ranked), default=k)
            if deep >= len(self) or fewest == k or fewest == self._people:
                return ranked
            deep *= 4

    @functools.cached_property
    def _people(self) -> int:
        """How many different names there are: a look at all of them."""
        return len(np.unique(self.names))

    def recall(self, probes: ArrayLike, k: int = 1) -> float:
        """Returns the share of each probe's k best embeddings that `search` finds; 1 if exact."""
        pairs = zip(self._search(probes, k, self._exact)[1], self.search(probes, k)[1], strict=True)
        return float(np.mean([np.isin(best, found) for best, found in pairs]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes embeddings and names as an .npz file; the cells are built anew by `load`."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, embeddings=self.embeddings, names=self.names)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], method: Method = "exact", visited: float = 1 / 16
    ) -> "Gallery":
        """Reads what `save` wrote.

        Raises:
            DataError: on a file that is missing, damaged, or something else.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                embeddings, names = file["embeddings"], file["names"]
        except (*DAMAGED_ZIP, KeyError, RuntimeError, TypeError) as bad:
            raise DataError(
                f"Expected a gallery, an .npz file of `embeddings` and `names`. Received: {path} "
                f"({bad}). Write it anew: `gallery.save(path)`."
            ) from bad
        return cls(embeddings, names, method, visited)

    def _search(self, probes: ArrayLike, k: int, nearest: Callable[..., _Found]) -> _Found:
        wanted = _unit(np.asarray(probes), "probe")
        if wanted.shape[1] != self.embeddings.shape[1] or k < 1:
            raise DataError(
                f"Expected probes (probes, {self.embeddings.shape[1]}) and a k of at least 1. "
                f"Received: shape {wanted.shape}, k={k}. Embed both with the same preset."
            )
        k = min(k, len(self))
        similarities, positions = np.empty((len(wanted), k)), np.empty((len(wanted), k), np.int64)
        step = max(1, _PROBES * _BLOCK // max(_BLOCK, k))
        for start in range(0, len(wanted), step):
            rows = slice(start, start + step)
            similarities[rows], positions[rows] = nearest(wanted[rows], k)
        return np.clip(similarities, -1, 1), positions

    def _approximate(self, probes: NDArray[np.float32], k: int) -> _Found:
        positions = self._index.search(probes, k)[1]
        few = (positions < 0).any(axis=1)  # the cells that it looked into hold fewer than k
        positions[few] = self._exact(probes[few], k)[1]
        return self._rank(probes, k, np.repeat(np.arange(len(probes)), k), positions.ravel())

    def _exact(self, probes: NDArray[np.float32], k: int) -> _Found:
        # A sum of `dim` products in float32 errs by less, whatever its order (Higham, "Accuracy
        # and stability of numerical algorithms", 2002, equation 3.5).
        error = 1.01 * probes.shape[1] * 2.0**-24
        block = max(_BLOCK, k)
        best = np.empty((len(probes), 0)), np.empty((len(probes), 0), np.int64)
        for start in range(0, len(self), block):
            products = probes @ self.embeddings[start : start + block].T
            if start == 0:
                sample = products[:, : max(k, _SAMPLE)]
                floor = np.partition(sample, -k, axis=1)[:, -k].astype(np.float64) - error
            limit = np.nextafter((floor - error).astype(np.float32), np.float32(-np.inf))
            rows, columns = np.nonzero(products >= limit[:, None])
            known = np.repeat(np.arange(len(probes)), best[1].shape[1])
            best = self._rank(
                probes,
                k,
                np.concatenate([known, rows]),
                np.concatenate([best[1].ravel(), columns + start]),
            )
            floor = best[0][:, -1]
        return best

    def _rank(
        self,
        probes: NDArray[np.float32],
        k: int,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> _Found:
        """The k best by float64 of the candidates, k or more for each probe; ties by position."""
        values = np.empty(rows.size)
        step = max(1, _NUMBERS // probes.shape[1])
        for start in range(0, rows.size, step):
            part = slice(start, start + step)
            left = self.embeddings[positions[part]].astype(np.float64)
            values[part] = np.sum(left * probes[rows[part]], axis=1)
        order = np.lexsort((positions, -values, rows))
        firsts = np.searchsorted(rows[order], np.arange(len(probes)))
        chosen = order[firsts[:, None] + np.arange(k)]
        return values[chosen], positions[chosen]


def _unit(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    """Float32 vectors of unit length, made a block at a time to spare memory."""
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "iuf":
        raise DataError(
            f"Expected {what} embeddings (n, dim). Received: shape {vectors.shape}, dtype "
            f"{vectors.dtype}. A single embedding is `embedding[None]`."
        )
    unit = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        part = np.asarray(vectors[start : start + _BLOCK], np.float64)
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
        if bad.size:
            raise DataError(
                "Expected finite embeddings with a direction. Received: "
                f"{what} embedding {start + bad[0]} has length {lengths[bad[0], 0]:g}. Remove it, "
                "or check the model that made it."
            )
        np.divide(part, lengths, out=unit[start : start + _BLOCK], casting="same_kind")
    return unit


def _cells(embeddings: NDArray[np.float32], visited: float) -> Any:
    """An inverted file of the embeddings: k-means of a fixed seed, 39 embeddings or more a cell."""
    try:
        import faiss
    except ImportError as error:
        raise DataError(
            f'method="approximate" searches by faiss, which cannot be imported ({error}). '
            'Run `pip install "spherekeras[search]"`, or leave `method` at "exact".'
        ) from error
    size, dim = embeddings.shape
    cells = max(1, min(int(2 * size**0.5), size // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.max_points_per_centroid = True, 10, 64
    index.train(embeddings)
    index.add(embeddings)
    index.nprobe = max(1, round(visited * cells))
    return index
