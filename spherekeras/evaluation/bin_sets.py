"""Verification sets in insightface's `.bin` files: CFP-FP, AgeDB-30, CALFW, CPLFW, LFW.

Such a file is a pickle of (encoded crops, same flags): crops 2 i and 2 i + 1 are pair i, each a
JPEG or PNG of 112x112 pixels, aligned to the `arcface_112x112` template. It is read by
`safe_pickle`, so a hostile file can run nothing.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherekeras.data import images
from spherekeras.errors import DataError
from spherekeras.evaluation.crops import CropFaces, Crops, check_mirror, embed
from spherekeras.evaluation.safe_pickle import load_plain
from spherekeras.evaluation.verification import (
    VerificationResult,
    consecutive_folds,
    verify_pairs,
)

_MAX_PICTURE = 1_000_000
_MAX_PAIRS = 100_000


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
    known: dict[int, bytes] = {}  # one array may stand for many crops, and is copied once
    for place, entry in enumerate(pictures):
        if id(entry) not in known:
            known[id(entry)] = _bytes(entry, f"crop {place} of {name}")
    encoded = [known[id(entry)] for entry in pictures]
    return BinSet(encoded, np.array(same, np.bool_))


def bin_set(
    faces: CropFaces,
    path: str | os.PathLike[str],
    name: str | None = None,
    mirror: str = "sum",
    subtract_mean: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationResult:
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
    check_mirror(mirror)
    pictures, same = read_bin_set(path)
    file = pathlib.Path(path)
    folds = consecutive_folds(same.size)
    crops = Crops(faces)

    def crop(name: str) -> NDArray[np.uint8]:
        picture = images.read_image(encoded[name], f"{name} of {file.name}")
        crop = crops.aligned(picture)
        if crop is None:
            raise DataError(
                f"Expected {name} of {file.name} as a crop aligned to {faces.config.template} (or "
                f"112x112 pixels for sphereface_112x96). Received: {picture.shape[1]}x"
                f"{picture.shape[0]} (width x height). Use a .bin file of that template."
            )
        return crop

    encoded = {f"crop {place}": picture for place, picture in enumerate(pictures)}
    names = list(encoded)
    embeddings = embed(faces, names, crop, mirror, progress)
    return verify_pairs(
        file.stem if name is None else name,
        embeddings[::2],
        embeddings[1::2],
        same,
        folds,
        subtract_mean,
        pictures=len(pictures),
        how=f"consecutive pairs of {file.name}, {crops.how(mirror)}",
        names=list(zip(names[::2], names[1::2], strict=True)),
        crop=crop,
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
