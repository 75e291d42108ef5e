"""dlib's face recognition network on LFW, through this project's detector, alignment and protocol.

    python benchmarks/lfw_dlib.py DAT LFW_ZIP YUNET       # view 2, minutes; a last 1 for view 1

DAT: dlib_face_recognition_resnet_model_v1.dat (in the Python package `face_recognition_models`);
LFW_ZIP: lfw-deepfunneled.zip with LFW's lists; YUNET: a YuNet face detector as .onnx.

A network from elsewhere, whose accuracy its author published, proves aligner and evaluator: 99.13 %
for one crop, 99.38 % for 100 slightly different ones added up (dlib's face_recognition.py). Chosen
on view 1 (test pairs; the other way round in brackets): the measured `LANDMARKS` 98.90 % (99.36 %),
dlib's mean face 98.50 % (99.27 %); the mirrored crop added 98.90 % (99.36 %), left out 98.90 %
(98.95 %); no mean subtracted 98.90 % (99.36 %), subtracted 98.30 % (98.68 %); four turned and
shifted crops more 98.80 % (99.41 %), five times the work for nothing. View 2, which chose nothing:
99.15 %, 95 % interval 98.90 % to 99.39 %, over groups of pairs that share nobody (yunet 2026may, 4
views).
"""

import os
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherekeras.converters.dlib_resnet import convert_dlib
from spherekeras.data import alignment, detection, images
from spherekeras.errors import NoFaceError
from spherekeras.evaluation.lfw import lfw

SIDE = 150
LANDMARKS = np.array(alignment.TEMPLATES["dlib_150x150"].landmarks)


class DlibFaces:
    """Crops and embeds as `spherekeras.evaluation.lfw.Faces` asks."""

    def __init__(self, weights: str, detector: str) -> None:
        self.model = convert_dlib(weights)
        self.detector = detection.YuNetDetector(detector)
        self.detector_name = self.detector.name

    def crop(self, source: Any, name: str) -> NDArray[np.uint8]:
        picture = images.read_image(source, name)
        found = self.detector.detect(picture)
        if not found:
            raise NoFaceError(name)
        face = detection.choose_face(found, picture.shape)
        transform = alignment.similarity_transform(face.landmarks, LANDMARKS)
        return alignment.warp(picture, transform, SIDE, SIDE)

    def centre_crop(self, source: Any) -> NDArray[np.uint8]:
        """About where the faces of LFW lie: 0.4 of the picture, a little below its middle."""
        picture = images.read_image(source)
        side = 0.4 * min(picture.shape[:2])
        corner = np.array([0.5, 0.56]) * picture.shape[1::-1] - side / 2
        scale = SIDE / side
        transform = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
        return alignment.warp(picture, transform, SIDE, SIDE)

    def embed_crops(
        self, crops: NDArray[np.uint8], mirror: str, normalize: bool
    ) -> NDArray[np.float32]:
        views = [crops] if mirror == "none" else [crops, crops[:, :, ::-1]]
        parts = [self._forward(view) for view in views]
        concat = mirror == "concat"
        embeddings = np.concatenate(parts, axis=1) if concat else np.sum(parts, axis=0)
        if normalize:
            embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings

    def _forward(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        inputs = (crops.astype(np.float32) - 127.5) / 128
        return np.asarray(self.model.predict_on_batch(inputs))


def main(weights: str, pictures: str, detector: str, view: str = "2") -> None:
    start = time.perf_counter()
    faces = DlibFaces(weights, detector)
    result = lfw(faces, pictures, int(view), mirror="sum", subtract_mean=False, progress=show)
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{result}\n{minutes:.1f} minutes, {os.cpu_count()} CPUs")


def show(done: int, total: int) -> None:
    print(f"\r{done} of {total} pictures", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
