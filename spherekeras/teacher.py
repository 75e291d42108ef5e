"""The embeddings of a teacher, for a small network to imitate.

A crop tells a small network more through the embedding that a strong one gives it than through
its label. Either the teacher looks once at every undisturbed crop and its mirror image, and the
imitator sees the crop varied; or the teacher sees each crop as it was varied, anew at every step.
"""

import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable

import keras
import numpy as np
from absl import logging

from spherekeras import presets
from spherekeras.data import alignment
from spherekeras.data.records import Records
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, ExportError, RecipeError
from spherekeras.export import to_tflite
from spherekeras.files import atomic_path
from spherekeras.litert import LiteRTModel
from spherekeras.presets import PresetConfig, stamp

_BLOCK = 1024


def embeddings_of(
    teacher: FaceEmbedder,
    records: Records,
    positions: np.ndarray,
    folder: str | os.PathLike[str],
) -> np.ndarray:
    """Returns a teacher's embeddings of crops, mirror image included, of unit length, `(n, dim)`.

    Args:
        teacher: a loaded preset.
        records: the crops, 112x112 or 112x96.
        positions: which of them.
        folder: keeps finished blocks, so that work that was cut off goes on; those of another
            teacher or of other crops are never taken.

    Raises:
        DataError: see `turned`.
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
    return np.concatenate(blocks)


def centred(embeddings: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns embeddings less their mean, or a share of it, of unit length: what is imitated.

    What every face has in common teaches little, and a network that was trained on distances may
    put it at nine tenths of an embedding's length. Yet the length of what is left tells something,
    too: a face near the mean is hard to tell from any. Where some of the mean stays, so does that.

    Args:
        embeddings: float32 `(n, dim)`.
        mean: of all crops, or a share of it, `(dim,)`.

    Source: Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    apart = embeddings - mean.astype(np.float32)
    return apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)


def onlooker(
    teacher: FaceEmbedder,
    records: Records,
    mean: np.ndarray,
    folder: str | os.PathLike[str],
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from varied crops to the teacher's embeddings of them, centred.

    It runs a TFLite file of the teacher in the threads that prepare batches: on TensorFlow one with
    dynamic range where the network bears it, a third of the time of the float one; elsewhere the
    one that the preset carries.

    Args:
        teacher: a loaded preset.
        records: whose crops are varied; what comes has their size.
        mean: of all embeddings, or a share of it, which is subtracted.
        folder: where the file is written.

    Raises:
        DataError: see `turned`.
        RecipeError: there is no TensorFlow to write the file, and the preset carries none.

    Source: Knowledge distillation: A good teacher is patient and consistent, arXiv 2106.05237.
    """
    path = pathlib.Path(folder) / presets.TFLITE
    if teacher.config.mirror == "concat":  # as many dimensions as are imitated: see `embeddings_of`
        config = dataclasses.replace(teacher.config, mirror="sum")
        teacher = FaceEmbedder(teacher.backbone, config)
    if keras.backend.backend() == "tensorflow":
        try:
            to_tflite(teacher, path, "dynamic")
        except ExportError:  # a network that does not bear it
            to_tflite(teacher, path)
    elif teacher.folder and (teacher.folder / presets.TFLITE).is_file():
        path = teacher.folder / presets.TFLITE
    else:
        raise RecipeError(
            "`teacher.varied` runs the teacher as a TFLite file, which is written on TensorFlow. "
            f"Received: the {keras.backend.backend()} backend and a preset without "
            f"{presets.TFLITE}. Train with KERAS_BACKEND=tensorflow."
        )
    config, turn, thread = teacher.config, _turn(records, teacher.config), threading.local()

    def embed(crops: np.ndarray) -> np.ndarray:
        if not hasattr(thread, "model"):
            thread.model = LiteRTModel(path, threads=1)
        seen = _turned(crops, turn, config)
        return centred(np.concatenate([thread.model(crop[None]) for crop in seen]), mean)

    return embed


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
    return _turned(records.crops(positions), _turn(records, config), config)


def _turn(records: Records, config: PresetConfig) -> np.ndarray:
    """The transform from the records' template to a preset's."""
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
    return alignment.similarity_transform(np.array(own[0].landmarks), np.array(wanted.landmarks))


def _turned(crops: np.ndarray, turn: np.ndarray, config: PresetConfig) -> np.ndarray:
    if np.array_equal(turn, np.eye(2, 3)):
        return crops
    return np.stack([alignment.warp(crop, turn, config.height, config.width) for crop in crops])
