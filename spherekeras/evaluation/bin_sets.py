"""Verification sets in insightface's `.bin` files: CFP-FP, AgeDB-30, CALFW, CPLFW, LFW.

Such a file is a pickle of (encoded crops, same flags): crops 2 i and 2 i + 1 are pair i, each a
JPEG or PNG of 112x112 pixels, aligned to the `arcface_112x112` template. It is read by
`safe_pickle`, so a hostile file can run nothing.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spherekeras.data import images
from spherekeras.errors import DataError
from spherekeras.evaluation.fold_result import FoldResult, consecutive_folds, fold_result
from spherekeras.evaluation.safe_pickle import load_plain

_BATCH = 64
_SIDE = 112
_MAX_PICTURE = 1_000_000
_MAX_PAIRS = 100_000
_COLUMNS = {"arcface_112x112": slice(0, 112), "sphereface_112x96": slice(8, 104)}
_MIRRORS = {
    "none": "no mirror image",
    "sum": "the embeddings of a crop and of its mirror image are added",
    "concat": "the embeddings of a crop and of its mirror image are concatenated",
}


class CropFaces(Protocol):
    """What `bin_set` asks of a face embedder: `config.template`, and embeddings of crops."""

    config: Any

    def embed_crops(
        self, crops: NDArray[np.uint8], mirror: str, normalize: bool
    ) -> NDArray[np.float32]:
        """Returns the embeddings (n, dim) of crops (n, height, width, 3)."""


class BinSet(NamedTuple):
    """Encoded crops, two for each pair, and whether each pair shows one person."""

    pictures: list[bytes]
    same: NDArray[np.bool_]


def read_bin_set(path: str | os.PathLike[str]) -> BinSet:
    """Reads a `.bin` verification set.

    Args:
        path: of the file. Its entries may be bytes, or uint8 arrays of encoded bytes as older
            tools of Python 2 and 3 wrote them.

    Raises:
        DataError: the file cannot be read, holds anything but such pictures and flags, or more
            than 100,000 pairs, or a picture of more than a million bytes.

    Example:

    >>> import pickle, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.bin")
    >>> _ = path.write_bytes(pickle.dumps(([b"one", b"other"], [True])))
    >>> read_bin_set(path).same.tolist()
    [True]
    """
    name = pathlib.Path(path).name
    content = load_plain(path, name)
    if type(content) not in (tuple, list) or len(content) != 2:
        raise DataError(
            f"{name} is no verification set. Expected a pickle of (encoded crops, same flags). "
            f"Received: {type(content).__name__}. Use a .bin file such as cfp_fp.bin."
        )
    pictures, same = _listed(content[0]), _listed(content[1])
    if len(pictures) != 2 * len(same) or not 0 < len(same) <= _MAX_PAIRS:
        raise DataError(
            f"{name} does not hold two crops a pair, for 1 to {_MAX_PAIRS:,} pairs. Received: "
            f"{len(pictures)} crops, {len(same)} flags. Get the file from its source again."
        )
    if any(type(flag) not in (bool, int) or flag not in (0, 1) for flag in same):
        raise DataError(
            f"{name} has flags other than true/false and 1/0. Get the file from its source again."
        )
    encoded = [_bytes(entry, f"crop {place} of {name}") for place, entry in enumerate(pictures)]
    return BinSet(encoded, np.array(same, np.bool_))


def bin_set(
    faces: CropFaces,
    path: str | os.PathLike[str],
    name: str | None = None,
    mirror: str = "sum",
    subtract_mean: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FoldResult:
    """Measures a face embedder on a `.bin` verification set, ten folds of consecutive pairs.

    The defaults are insightface's protocol: the embeddings of a crop and of its mirror image are
    added, no mean is subtracted. It tries distances in steps of 0.01 as thresholds, here every
    cosine is a candidate. The crops are aligned already, so no face is detected; a
    `sphereface_112x96` embedder gets columns 8 to 103, which are that template's crop.

    Args:
        faces: embeds crops; see `CropFaces`.
        path: of the file.
        name: of the test set; by default the file's without its suffix.
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        subtract_mean: subtract the mean embedding of the other folds' pairs before the cosine.
        progress: called with (crops done, crops in all).

    Raises:
        DataError: as `read_bin_set`, or on an unknown mirror or template, a crop of another size,
            or fewer than ten pairs.
        ImageError: a crop that cannot be decoded.

    Example::

        print(bin_set(FaceEmbedder.from_preset("..."), "cfp_fp.bin"))
    """
    template = faces.config.template
    if mirror not in _MIRRORS or template not in _COLUMNS:
        raise DataError(
            'Expected mirror "none", "sum" or "concat" and an embedder of the template '
            f"{' or '.join(_COLUMNS)}. Received: mirror={mirror!r}, template={template!r}. Call "
            "`bin_set(faces, path)` for the protocol that is reported."
        )
    pictures, same = read_bin_set(path)
    file = pathlib.Path(path)
    folds = consecutive_folds(same.size)
    parts = []
    for first in range(0, len(pictures), _BATCH):
        batch = pictures[first : first + _BATCH]
        crops = [
            _crop(picture, f"crop {first + place} of {file.name}")
            for place, picture in enumerate(batch)
        ]
        columns = np.ascontiguousarray(np.stack(crops)[:, :, _COLUMNS[template]])
        parts.append(faces.embed_crops(columns, mirror=mirror, normalize=False))
        if progress is not None:
            progress(first + len(batch), len(pictures))
    embeddings = np.concatenate(parts)
    cut = "" if template == "arcface_112x112" else ", columns 8 to 103"
    return fold_result(
        file.stem if name is None else name,
        embeddings[::2],
        embeddings[1::2],
        same,
        folds,
        subtract_mean,
        len(pictures),
        f"consecutive pairs of {file.name}, its {len(pictures)} crops as they are{cut}, no pair "
        f"dropped; {_MIRRORS[mirror]}",
    )


def _listed(entries: Any) -> list[Any]:
    if isinstance(entries, np.ndarray) and entries.ndim == 1:
        return entries.tolist()
    return list(entries) if type(entries) in (list, tuple) else []


def _bytes(entry: Any, name: str) -> bytes:
    if isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.size == len(entry):
        entry = entry.tobytes()
    if type(entry) is not bytes or not 0 < len(entry) <= _MAX_PICTURE:
        kind = f"{len(entry):,} bytes" if type(entry) is bytes else type(entry).__name__
        if isinstance(entry, np.ndarray):
            kind = f"{entry.dtype}, shape {entry.shape}"
        raise DataError(
            f"Expected {name} as the bytes of a JPEG or PNG file, up to {_MAX_PICTURE:,}. "
            f"Received: {kind}. Get the file from its source again."
        )
    return entry


def _crop(picture: bytes, name: str) -> NDArray[np.uint8]:
    crop = images.read_image(picture, name)
    if crop.shape != (_SIDE, _SIDE, 3):
        raise DataError(
            f"Expected {name} as {_SIDE}x{_SIDE} pixels, aligned to arcface_112x112. Received: "
            f"{crop.shape[1]}x{crop.shape[0]} (width x height). Use a .bin file of that template."
        )
    return crop
