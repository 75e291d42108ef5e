"""How well and how fast faces are aligned, by detector and by the number of views averaged.

    python benchmarks/align.py LFW_ZIP YUNET...      # minutes; LFW_ZIP and YUNETs may be left out

Accuracy, on drawn faces of 250x250, whose landmarks are known: the error of the landmarks in
percent of the distance between the eyes (mean; 95th percentile), all and with the detector's mean
offset for each landmark taken off (drawn noses and mouths are not where people have them, which
is no fault of the detector); and the mean distance in pixels of the true landmarks from the
template in the 112x96 crop, beside what the best similarity transform leaves. `jitter`: how far
the found landmarks scatter when the picture is shifted, scaled and turned by known amounts,
percent of the distance between the eyes. This is what averaging several views cuts.

Speed: photographs of LFW, 250x250, through `align_folder` from the zip to crops on the disk, on all
cores; the best of three runs, the cores that it got in that run (fewer than the machine has where
other work runs on it), and the least processor time a photograph. Results: `align.csv` beside this
file.
"""

import csv
import importlib.metadata
import os
import pathlib
import platform
import sys
import tempfile
import time
import zipfile
from typing import Any

import cv2
import numpy as np

from spherekeras.data import alignment, detection
from spherekeras.data.align_folder import align_folder
from spherekeras.data.drawn_faces import DrawnFace, draw_face

FACES, MOVED, SIDE = 300, 60, 250
MOVES = [(0, 0, 1.0, 0), (7, -4, 0.93, 4), (-5, 6, 1.06, -5), (3, 8, 0.88, -2), (-8, -3, 1.1, 3)]
TEMPLATE = np.array(alignment.TEMPLATES["sphereface_112x96"].landmarks)


def landmarks(detector: detection.Detector, image: np.ndarray) -> np.ndarray | None:
    found = detector.detect(image)
    return detection.choose_face(found, image.shape).landmarks if found else None


def moved(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ transform[:, :2].T + transform[:, 2]


def accuracy(detector: detection.Detector, faces: list[DrawnFace]) -> dict[str, Any]:
    offsets, crops = [], []
    for face in faces:
        found = landmarks(detector, face.image)
        if found is None:
            continue
        eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
        offsets.append((found - face.landmarks) / eyes * 100)
        transforms = (alignment.similarity_transform(p, TEMPLATE) for p in (found, face.landmarks))
        placed = [moved(transform, face.landmarks) for transform in transforms]
        crops.append([np.linalg.norm(points - TEMPLATE, axis=1).mean() for points in placed])
    errors = np.linalg.norm(offsets, axis=2)
    centred = np.linalg.norm(offsets - np.mean(offsets, axis=0), axis=2)
    crop, best = np.mean(crops, axis=0)
    return {
        "faces": len(faces),
        "missed": len(faces) - len(offsets),
        "error_percent": round(float(errors.mean()), 2),
        "error_95_percent": round(float(np.percentile(errors, 95)), 2),
        "centred_error_percent": round(float(centred.mean()), 2),
        "centred_error_95_percent": round(float(np.percentile(centred, 95)), 2),
        "crop_pixels": round(float(crop), 2),
        "crop_pixels_at_best": round(float(best), 2),
    }


def jitter(detector: detection.Detector, faces: list[DrawnFace]) -> float:
    scatter = []
    for face in faces:
        eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
        found = []
        for right, down, scale, degrees in MOVES:
            move = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), degrees, scale)
            move[:, 2] += right, down
            image = cv2.warpAffine(face.image, move, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
            points = landmarks(detector, image)
            if points is not None:
                found.append(moved(cv2.invertAffineTransform(move), points))
        scatter.append(np.linalg.norm(np.std(found, axis=0), axis=1).mean() / eyes * 100)
    return float(np.mean(scatter))


def speed(detector: detection.Detector, pictures: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(pictures) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        some = pathlib.Path(folder, "some.zip")
        with zipfile.ZipFile(some, "w") as chosen:
            for name in names[:: len(names) // count][:count]:
                chosen.writestr(name, archive.read(name))
        runs = []
        for run in range(3):
            start, spent = time.perf_counter(), time.process_time()
            report = align_folder(some, pathlib.Path(folder, str(run)), detector=detector)
            assert not report.failures, report.failures
            runs.append((time.perf_counter() - start, time.process_time() - spent))
    seconds, spent = min(runs)
    least = min(run[1] for run in runs)
    return {
        "photographs": count,
        "photographs_a_second": round(count / seconds, 1),
        "cores_got": round(spent / seconds, 2),
        "processor_milliseconds": round(1e3 * least / count, 1),
    }


def main(arguments: list[str]) -> None:
    pictures = next((a for a in arguments if a.endswith(".zip")), None)
    models = [a for a in arguments if a.endswith(".onnx")]
    faces = [draw_face(identity, 1, (SIDE, SIDE)) for identity in range(FACES)]
    cpu = [
        line.split(":")[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = f"{os.cpu_count()} cores of {cpu[0] if cpu else platform.machine()}"
    cases = [(pathlib.Path(m).stem, views, m) for m in models for views in (0, 1, 2, 4)]
    rows = []
    for name, views, model in [*cases, ("mtcnn", 0, None)]:
        detector: detection.Detector = (
            detection.YuNetDetector(model, views) if model else detection.MtcnnDetector()
        )
        packages = ["opencv-python-headless", "numpy", *([] if model else ["mtcnn"])]
        row = {"detector": name, "views": views, **accuracy(detector, faces)}
        row["jitter_percent"] = round(jitter(detector, faces[:MOVED]), 2)
        if pictures:
            row |= speed(detector, pictures, 300 if model else 40)
        row["machine"] = machine
        row["versions"] = " ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
        rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in list(row.items())[:-2]), flush=True)
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
