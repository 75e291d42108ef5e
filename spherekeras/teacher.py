"""The embeddings of a teacher: computed once for all crops, then imitated.

A crop tells a small network more through the embedding that a strong one gives it than through
its label. Targets are those of the undisturbed crop and of its mirror image together; the
imitator sees the crop varied.
"""

import hashlib
import os
import pathlib

import numpy as np
from absl import logging

from spherekeras.data import alignment
from spherekeras.data.records import Records
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError
from spherekeras.files import atomic_path
from spherekeras.presets import PresetConfig, stamp

_BLOCK = 1024


def imitated(
    teacher: FaceEmbedder,
    records: Records,
    positions: np.ndarray,
    folder: str | os.PathLike[str],
) -> np.ndarray:
    """Returns what a teacher says of crops: embeddings of unit length, float32 `(n, dim)`.

    The mean of all is subtracted: what every face has in common teaches nothing, and a network
    that is trained on distances may put it at nine tenths of an embedding's length.

    Args:
        teacher: a loaded preset.
        records: the crops, 112x112 or 112x96.
        positions: which of them.
        folder: keeps finished blocks, so that work that was cut off goes on; those of another
            teacher or of other crops are never taken.

    Raises:
        DataError: see `turned`.

    Source: Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    known = stamp(teacher.folder) if teacher.folder else {}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    blocks = []
    for start in range(0, len(positions), _BLOCK):
        part = positions[start : start + _BLOCK]
        key = hashlib.sha256(f"{known} {records.checksum} {part.tolist()}".encode())
        path = folder / f"{key.hexdigest()[:32]}.npy"
        if not path.is_file():
            logging.info("embeddings of the teacher: %d of %d", start, len(positions))
            crops = turned(records, part, teacher.config)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, teacher.embed_crops(crops, mirror="sum"), allow_pickle=False)
        blocks.append(np.load(path, allow_pickle=False))
    embeddings = np.concatenate(blocks)
    embeddings = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def turned(records: Records, positions: np.ndarray, config: PresetConfig) -> np.ndarray:
    """Returns crops as a preset takes them, whatever template they were aligned to.

    They are turned by the similarity transform between the two templates; where the preset's crop
    shows more, edge pixels repeat.

    Args:
        records: the crops, 112x112 or 112x96.
        positions: which of them.
        config: the preset's.

    Raises:
        DataError: crops of a size that no template has.
    """
    own = [
        template
        for template in alignment.TEMPLATES.values()
        if (template.height, template.width) == (records.height, records.width)
    ]
    if not own:
        raise DataError(
            f"No template is {records.height}x{records.width}, the size of the crops of "
            f"{records.folder}. Align with one of {', '.join(alignment.TEMPLATES)}."
        )
    wanted = alignment.find_template(config.template)
    turn = alignment.similarity_transform(np.array(own[0].landmarks), np.array(wanted.landmarks))
    crops = records.crops(positions)
    if np.array_equal(turn, np.eye(2, 3)):
        return crops
    return np.stack([alignment.warp(crop, turn, config.height, config.width) for crop in crops])
